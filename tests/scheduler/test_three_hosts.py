"""One script through the three hosts of the core gives the same decision log, byte for byte.

What is not compared, because a host has it from its own world: the step loop has one engine, itself, and reports what
it made as it is made; the front hears of engines from its watch, and its edges report every 250 ms.
"""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler import FrontService
from interlock.scheduler.domain.decisions import replay_decisions
from interlock.scheduler.domain.step_host import StepHost
from interlock.scheduler.domain.types import EngineCondition
from tests.scheduler.three_hosts import (
    Fronted,
    Moment,
    Stepped,
    at_odd_moments,
    first_difference,
    fronted,
    simulated,
    stepped,
)

KEPT = sorted((Path(__file__).parent / "scripts").glob("*.json"))
REQUESTS = 12
UP = Moment(0, "engine", condition=EngineCondition.READY)


def is_apart(script, looks):
    """No host's own look falls on a moment of the script: their order would be chance."""
    return not {each.at_us for each in script} & set(looks)


@st.composite
def scripts(draw):
    what = st.sampled_from(
        ["arrives"] * 6 + ["generates"] * 5 + ["ends"] * 3 + ["leaves"] * 2 + ["ticks"] * 3 + ["engine"]
    )
    moments, now_us = [UP], 0
    for _ in range(draw(st.integers(4, 60))):
        now_us += draw(st.sampled_from([0, 1_000, 20_000, 90_000, 250_000, 600_000, 2_000_000]))
        moments.append(
            Moment(
                now_us, draw(what), number=draw(st.integers(0, REQUESTS)),
                tokens=draw(st.sampled_from([1, 8, 60, 300, 900, 1_900])), tenant=draw(st.integers(1, 3)),
                service_class=draw(st.sampled_from(list(ServiceClass))),
                condition=draw(st.sampled_from([EngineCondition.READY, EngineCondition.READY, EngineCondition.DOWN])),
            )
        )  # fmt: skip
    return at_odd_moments(moments)


def hold_equal(script):
    by_simulator, looks = simulated(script)
    assert is_apart(script, looks)
    for name, log in (("front", fronted(script)), ("step loop", stepped(script))):
        assert first_difference(by_simulator, log) is None, f"the {name}: {first_difference(by_simulator, log)}"
    assert replay_decisions(by_simulator)[1] is None
    return by_simulator


@settings(max_examples=60)
@given(scripts())
@example(at_odd_moments([UP]))
def test_any_script_gives_three_equal_logs(script):
    assume(is_apart(script, simulated(script)[1]))
    hold_equal(script)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_script_gives_three_equal_logs(path):
    log = hold_equal(read(path))
    calls = {msgspec.json.decode(line)["call"] for line in log}
    assert {"open", "arrive", "next_grants"} <= calls


def read(path):
    return msgspec.json.decode(path.read_bytes(), type=list[Moment])


def test_the_kept_scripts_reach_what_matters():
    """Grants, each kind of refusal that the script can cause, displaced and lost requests, and looks between events."""
    seen, looks = set(), 0
    for path in KEPT:
        log, own = simulated(read(path))
        looks += len(own)
        for line in log:
            seen |= words_of(msgspec.json.decode(line))
    assert {"granted", "final", "provisional", "lost", "queued", "displaced", "no_capacity"} <= seen, seen
    assert {"deadline_infeasible", "fair_share_exceeded", "queue_time_exceeded", "tenant_queue_full"} <= seen, seen
    assert looks > 0


def words_of(line):
    call, result = line["call"], line["result"]
    if call == "next_grants":
        return {"granted"} if result else set()
    if call == "arrive":
        outcome = result["outcome"]
        displaced = {refusal["code"] for _, refusal in result["displaced"]}
        return {outcome.get("code", "queued"), outcome.get("promise", "none")} | displaced
    if call == "expire":
        return ({"lost"} if result["lost"] else set()) | {refusal["code"] for _, refusal in result["refused"]}
    if call == "engine_changed":
        return {refusal["code"] for _, refusal in result}
    return {result} if isinstance(result, str) else set()


class ForgetfulFront(FrontService):
    """The planted difference: who stands behind a caller that left is granted at the next event only."""

    def _abandon(self, pool, request_id, seat):
        pool.seats.pop(request_id, None)
        pool.policy.cancel(self._now_us(), request_id)


class SlowFront(FrontService):
    """The planted difference: nobody is granted between two events."""

    def _look_now(self, pool):
        pool.look = None


class LateFront(FrontService):
    """The planted difference: its clock is a microsecond behind."""

    def _now_us(self):
        return max(0, super()._now_us() - 1)


class MutedFront(FrontService):
    """The planted difference: the core does not hear when a first token came."""

    async def progress(self, grants):
        return await super().progress([replace(each, ttft_ms=None) for each in grants])


class GreedyHost(StepHost):
    """The planted difference: a prompt is granted with the step and not with its arrival."""

    def submit(self, now_us, request):
        self.turns.core.arrive(now_us, request)


class DeafHost(StepHost):
    """The planted difference: who leaves the queue is forgotten, and its seat with it."""

    def leave(self, now_us, request_id):
        return self.holds(request_id) and super().leave(now_us, request_id)


def finds(run, host, attribute, planted):
    """Return whether any kept script shows the planted host to differ."""
    variant = type(planted.__name__, (host,), {attribute: planted})
    return any(first_difference(simulated(read(path))[0], run(read(path), variant)) is not None for path in KEPT)


@pytest.mark.parametrize("planted", [ForgetfulFront, SlowFront, LateFront, MutedFront], ids=lambda one: one.__name__)
def test_a_front_that_hosts_it_otherwise_is_found(planted):
    assert finds(fronted, Fronted, "front_class", planted)


@pytest.mark.parametrize("planted", [GreedyHost, DeafHost], ids=lambda one: one.__name__)
def test_a_step_loop_that_hosts_it_otherwise_is_found(planted):
    assert finds(stepped, Stepped, "host_class", planted)
