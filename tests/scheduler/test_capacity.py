"""Sizes: the smallest number of replicas that the production policy needs, and what one less would do."""

import io
import json
import random

import pytest
from click.testing import CliRunner

from interlock.cli.capacity import command
from interlock.cli.progress import Progress
from interlock.cli.scheduler import command as scheduler
from interlock.scheduler.domain import capacity
from interlock.scheduler.domain.asks import StepSeen
from interlock.scheduler.domain.capacity import LINES
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.simulate import Hardware
from interlock.scheduler.domain.trace import TraceRow

SMALL = ("--rps", 12, "--input-tokens", 1_200, "--output-tokens", 450, "--window-s", 30)


def run(*args):
    return CliRunner().invoke(command, ["scheduler", *map(str, args)])


def test_a_size_is_confirmed_by_a_replay_and_one_less_is_refuted(tmp_path):
    trace = tmp_path / "sized.csv"
    done = run(*SMALL, "--save-trace", trace)
    assert done.exit_code == 0, done.output
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert tuple(lines) == LINES
    assert (lines["requests_per_second"], lines["prefill_tokens_per_second"]) == ("12.0", "14400")
    assert float(lines["attainment"]) >= 0.99 > float(lines["attainment_one_less"])
    for less, name in enumerate(("attainment", "attainment_one_less")):
        replicas = str(int(lines["replicas"]) - less)
        args = ["replay", str(trace), "--policy", "interlock", "--load-rps", "12", "--replicas", replicas, "--json"]
        row = json.loads(CliRunner().invoke(scheduler, args).output)["rows"][0]
        assert row["attainment"] == pytest.approx(float(lines[name]))
    assert json.loads(run(*SMALL, "--json").stdout).keys() == lines.keys()


def test_one_replica_has_nothing_below_it():
    found = json.loads(run("--rps", 1, "--input-tokens", 200, "--output-tokens", 50, "--window-s", 60, "--json").stdout)
    assert (found["replicas"], found["attainment_one_less"]) == (1, None)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--kv-tokens", 500), "request_exceeds_kv"),
        (("--profile", "embedded-cpu"), "ttft_below_prefill"),
        (("--replicas-max", 1), "replicas_max"),
    ],
)
def test_an_unreachable_goal_says_why(args, reason):
    done = run(*SMALL, *args)
    assert done.exit_code == 1
    assert "error: goal_unreachable best=0." in done.output
    assert f"reason={reason}" in done.output


def test_a_trace_or_a_rate_is_given_not_both(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,10\n1,100,10\n")
    assert run(trace, "--rps", 1).exit_code == run("--rps", 1).exit_code == run().exit_code == 2
    assert run(trace).exit_code == 0


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--rps", ("nan", "inf", "0")),
        ("--input-tokens", ("nan", "inf", "0")),
        ("--output-tokens", ("nan", "-1")),
        ("--goal", ("nan", "0", "1.01")),
        ("--load", ("nan", "inf", "0")),
        ("--window-s", ("nan", "inf", "0")),
        ("--classes", ("interactive=-1", "interactive=nan")),
        ("--price-usd-hour", ("nan", "inf", "-1")),
    ],
)
def test_an_option_that_no_size_could_have_is_a_usage_error(option, values):
    for value in values:
        refused = run(*SMALL, option, value)
        assert refused.exit_code == 2, (value, refused.output)
        assert option in refused.output


def test_a_pool_of_replicas_is_as_fast_as_all_of_them():
    """What one replica's steps teach is said of the pool."""
    rates = Rates.declared(10_000, replicas=4)
    assert rates.rho == 40_000
    rates.learn(StepSeen(1_000_000, prefill=20_000, weighted=20_000, is_backlogged=True))
    assert rates.rho == 42_000


def test_a_large_load_is_sized_by_an_equal_part_of_it(monkeypatch):
    """A third of the requests over the same time on a third of the replicas: in a third of the time three would do."""
    args = ("--rps", 24, *SMALL[2:-1], 60, "--json")
    whole = json.loads(run(*args).stdout)
    monkeypatch.setattr(capacity, "REQUESTS_MAX", 480)
    part = json.loads(run(*args).stdout)
    requests = [int(each["verified_by"].rpartition("=")[2]) for each in (part, whole)]
    assert requests[0] == pytest.approx(requests[1] / 3, rel=0.15)
    assert (part["replicas"] % 3, part["replicas_by_arithmetic"]) == (0, whole["replicas_by_arithmetic"])
    assert whole["replicas"] <= part["replicas"] < whole["replicas"] + 3
    assert part["concurrent_sequences"] > 0.45 * whole["concurrent_sequences"]


def test_too_few_replicas_for_a_load_that_no_simulation_holds_are_refused_by_what_no_order_exceeds(monkeypatch):
    monkeypatch.setattr(capacity, "REQUESTS_MAX", 100)
    monkeypatch.setattr(capacity, "Simulation", None)
    done = run(*SMALL, "--replicas-max", 1)
    assert done.exit_code == 1
    assert "error: goal_unreachable best=0." in done.output
    assert "replicas=1 reason=replicas_max" in done.output


class Seconds:
    def __init__(self):
        self.passed = 0.0

    def monotonic(self):
        return self.passed


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_one_line_written_over_and_is_left_clean():
    clock, terminal, file = Seconds(), Terminal(), io.StringIO()
    shown, logged = Progress(clock, terminal), Progress(clock, file)
    for second in range(21):
        clock.passed = float(second)
        shown(12, second * 100, 2_000)
        logged(12, second * 100, 2_000)
    assert terminal.getvalue().count("\r") == 20
    assert "12 replicas: 1,900 of 2,000 requests simulated" in terminal.getvalue()
    shown.clear()
    assert terminal.getvalue().endswith(" \r")
    logged.clear()
    assert len(file.getvalue().splitlines()) == 2


def test_a_long_simulation_is_heard_of():
    heard = []
    found = capacity.size(
        [TraceRow(number * 10_000, 20, 4) for number in range(1_200)],
        capacity.SizingOptions(Hardware(A100_LLAMA3_8B), replicas_max=4),
        random.Random,
        lambda *told: heard.append(told),
    )
    assert found["replicas"] == 1
    assert heard == [(1, come, 1_200) for come in (0, 500, 1_000)]


def test_a_search_that_begins_where_a_few_of_the_requests_lead_ends_at_the_same_size(monkeypatch):
    args = ("--rps", 30, "--input-tokens", 1_200, "--output-tokens", 200, "--window-s", 20, "--json")
    plain = json.loads(run(*args).stdout)
    sizes = []
    simulation = capacity.Simulation
    monkeypatch.setattr(capacity, "Simulation", lambda *given: sizes.append(given[1].replicas) or simulation(*given))
    monkeypatch.setattr(capacity, "_ROUGH_REQUESTS", 300)
    monkeypatch.setattr(capacity, "_ROUGH_REPLICAS", 2)
    assert json.loads(run(*args).stdout) == plain
    assert min(sizes) <= plain["replicas"] / 2
