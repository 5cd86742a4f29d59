"""The three hosts of the core write what it decided; each log is decided alike again, and an edited line is named."""

import random
from dataclasses import replace

import pytest
from click.testing import CliRunner

from interlock.cli.scheduler import command
from interlock.contracts.scheduling import Granted, GrantProgress, Settlement, SettleOutcome
from interlock.scheduler import Dialect, EngineSpec, FrontService, PoolSpec, SchedulerConfig
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.service.recording import Journals
from tests.scheduler.calls import UNHURRIED, grant_request
from tests.support.clocks import HandClock

CALLS = {"simulator": "order.next_grant", "remote": "arrive", "embedded": "engine_paced"}


def simulated(folder, _ids):
    """`scheduler replay TRACE --decisions FILE`: the log of two policies, one after the other."""
    dice, trace, log = random.Random(7), folder / "trace.csv", folder / "simulator.jsonl"
    rows = [f"{number / 8},{dice.randrange(1, 3000)},{dice.randrange(1, 60)}" for number in range(60)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    options = ["--policy", "interlock,vtc", "--load", "2.0", "--slots", "4", "--decisions", str(log)]
    written = CliRunner().invoke(command, ["replay", str(trace), *options])
    assert written.exit_code == 0, written.output
    plain = CliRunner().invoke(command, ["replay", str(trace), *options[:-2]])
    assert plain.output == written.output
    return log


def fronted(dialect):
    """The front of a pool, asked as an edge asks; of our own engine it hears how far the prompts are read."""

    async def host(folder, ids):
        clock, journals = HandClock(), Journals(folder, 1 << 20)
        clock.stop()
        spec = PoolSpec("p", UNHURRIED, (EngineSpec("unix:/e", "m", 2, 2_048, prefill_tps=500, dialect=dialect),))
        front = FrontService([spec], clock=clock, ids=ids, config=SchedulerConfig(), journals=journals)
        [engine] = front.engines("p")
        if dialect is Dialect.EMBEDDED:
            front.engine_paced("p", engine.engine_id, 200, 0.5)
        front.engine_changed("p", replace(engine, condition=EngineCondition.READY))
        for number in range(12):
            answer = await front.acquire(grant_request(f"r{number}", pool="p", input_tokens=40))
            assert isinstance(answer, Granted)
            clock.forward += 0.2
            front.read([(answer.grant_id, 1, 20)] if dialect is Dialect.EMBEDDED else [])
            await front.progress([GrantProgress(answer.grant_id, 2, 110)])
            front.run_once()
            await front.settle(answer.grant_id, Settlement(SettleOutcome.OK, 40, 0, 5, 110, 190))
        journals.close()
        return folder / "p.jsonl"

    return host


@pytest.fixture(params=["simulator", "remote", "embedded"])
async def log(request, tmp_path, ids):
    if request.param == "simulator":
        found = simulated(tmp_path, ids)
    else:
        dialect = Dialect.EMBEDDED if request.param == "embedded" else Dialect.VLLM
        found = await fronted(dialect)(tmp_path, ids)
    assert f'"call":"{CALLS[request.param]}"' in found.read_text()
    return found


def again(log):
    return CliRunner().invoke(command, ["replay", "--decisions", str(log)])


def test_a_log_is_decided_alike_again(log):
    done = again(log)
    assert (done.exit_code, done.output.endswith("decided alike\n")) == (0, True), done.output


def test_an_edited_line_is_named(log):
    lines = log.read_bytes().splitlines()
    at = next(number for number, line in enumerate(lines) if b'"final"' in line or b'"fate":"queued"' in line)
    lines[at] = lines[at].replace(b'"final"', b'"provisional"').replace(b'"fate":"queued"', b'"fate":"displaced"')
    log.write_bytes(b"\n".join(lines))
    done = again(log)
    assert (done.exit_code, done.output.startswith(f"line {at + 1} ")) == (1, True), done.output


def test_a_log_that_is_cut_or_begins_in_the_middle_is_refused(log):
    lines = log.read_bytes().splitlines()
    for broken in (lines[1:], [lines[0], lines[1][:-5]]):
        log.write_bytes(b"\n".join(broken))
        done = again(log)
        assert (done.exit_code, "decisions_invalid line" in done.output) == (2, True), done.output
