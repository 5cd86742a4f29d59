"""A candidate beside the live core: the same policy decides alike, another is told apart, and no grant is touched."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from interlock.cli.scheduler import command
from interlock.scheduler.domain.decisions import RecordedPolicy, decided_again
from interlock.scheduler.domain.shadow import SHOWN_MAX, Shadow
from tests.scheduler.lived import ENGINE, RULES_OF_A_LIFE, Life, recording
from tests.scheduler.test_decisions import recorded
from tests.scheduler.test_policy import RULES, SECOND


def shadowed(lines, rules, *, begin=0):
    """Return what a candidate that joins after some calls makes of a recorded life."""
    shadow = None
    for number, (_, _, live, call) in enumerate(decided_again(lines)):
        if shadow is not None:
            shadow.hear(call)
        elif number >= begin:
            shadow = Shadow(live, rules, call.at_us)
    return shadow


def lived(rules, *, seed=1, load=1.5, seconds=25):
    """Return a life that a candidate of these rules watched from its beginning."""
    core = recording()
    life = Life(core, seed, load=load)
    shadow = Shadow(core, rules, 0)
    core.tap = shadow.hear
    return life.run(seconds), shadow


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("begin", [0, 300])
def test_the_same_policy_decides_alike_from_any_moment_on(seed, begin):
    figures = shadowed(recorded(seed), RULES, begin=begin).figures()
    assert figures["requests"] > 20
    assert sum(figures["differences"].values()) == 0
    assert figures["live"] == figures["candidate"]


@pytest.mark.parametrize("seed", range(2))
def test_an_overloaded_pool_is_told_apart_from_first_come_first_served_and_not_from_itself(seed):
    _, same = lived(RULES_OF_A_LIFE, seed=seed)
    assert sum(same.figures()["differences"].values()) == 0
    life, other = lived(replace(RULES_OF_A_LIFE, policy="fcfs"), seed=seed)
    figures = other.figures()
    # Who arrives first waits without a refusal; who is admitted so waits longer than it would have.
    assert figures["differences"]["admitted"] > 20
    assert figures["differences"]["refused"] == 0
    assert figures["candidate"]["refused"] < figures["live"]["refused"]
    assert len(figures["newest"]) <= SHOWN_MAX
    names = {f"r{number}" for number in range(life.number)}
    assert {each["request_id"] for each in figures["newest"]} <= names


@pytest.mark.parametrize("policy", ["fcfs", "fcfs-bound", "sjf", "priority", "edf", "vtc", "bands"])
def test_a_book_holds_no_more_than_its_engines_and_ends_with_the_pool(policy):
    core = recording()
    life = Life(core, 5, load=1.4)
    shadow = Shadow(core, replace(RULES_OF_A_LIFE, policy=policy), 0)

    def hear(call):
        shadow.hear(call)
        [replica] = shadow.core.fleet.sorted()
        assert 0 <= replica.granted <= ENGINE.slots

    core.tap = hear
    life.run(20)
    assert core.is_idle
    # What it granted to nobody in truth ends as it predicted itself.
    core.expire(life.now_us + 3_600 * SECOND)
    core.next_grants(life.now_us + 3_600 * SECOND)
    core.expire(life.now_us + 7_200 * SECOND)
    assert shadow.core.is_idle


def test_a_life_is_the_same_with_and_without_a_candidate():
    watched, _ = lived(replace(RULES_OF_A_LIFE, policy="sjf"))
    alone = Life(recording(), 1, load=1.5).run(25)
    assert [each.request.request_id for each in alone.granted] == [each.request.request_id for each in watched.granted]
    assert alone.in_slo == watched.in_slo


def test_a_log_is_compared_with_another_policy_on_the_command_line(tmp_path):
    lines, log = [], tmp_path / "fast.jsonl"
    Life(RecordedPolicy(RULES_OF_A_LIFE, {}, lines.append), 2, load=1.5).run(20)
    log.write_bytes(b"\n".join(lines) + b"\n")

    def rows(*options):
        done = CliRunner().invoke(command, ["replay", "--decisions", str(log), *options, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)["rows"]

    same, other = rows("--policy", "interlock,fcfs")
    assert (same["policy"], sum(same["differences"].values())) == ("interlock", 0)
    assert other["differences"]["admitted"] > 5
    [late] = rows("--policy", "fcfs", "--last-s", "5")
    assert 0 < late["requests"] < other["requests"] / 2
    [level] = rows("--share-level", "0.1")
    assert sum(level["differences"].values()) > 0
    table = CliRunner().invoke(command, ["replay", "--decisions", str(log), "--policy", "fcfs"])
    assert table.output.splitlines()[0].split()[:4] == ["policy", "requests", "refused", "admitted"]
    log.write_bytes(b"{}\n")
    broken = CliRunner().invoke(command, ["replay", "--decisions", str(log), "--policy", "fcfs"])
    assert (broken.exit_code, "decisions_invalid" in broken.output) == (2, True)
