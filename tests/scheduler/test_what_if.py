"""The last hour as a trace, and the simulator asked about it: with the figures of the command, within its bounds."""

import asyncio
from dataclasses import replace
from uuid import UUID

import msgspec
import pytest
from click.testing import CliRunner

from interlock.cli.scheduler import command
from interlock.console.pool_capacity import apart, asked_of, form_values, row
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import OrganizationId
from interlock.scheduler import SchedulerConfig
from interlock.scheduler.adapters.apart import replayed
from interlock.scheduler.domain.last_hour import Asked, as_it_was, as_simulated, fleet_of, options
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.trace import read_trace
from interlock.scheduler.service.leading import StoredLeaders
from interlock.scheduler.service.pool_view import pool_view
from interlock.scheduler.service.reading import Decisions
from interlock.scheduler.service.what_if import WhatIf
from interlock.scheduler.store import write_decisions
from tests.scheduler.calls import grant_request
from tests.scheduler.test_leading import A
from tests.scheduler.test_policy import pool as policy_of

CONFIG = SchedulerConfig(what_if_rows_max=40, what_if_s=600.0)
ARRIVED = {"step": "arrived", "input_tokens": 300}


@pytest.fixture
async def pool(store, clock, ids):
    """A pool in which 30 were answered and 10 refused, two a second; another pool's request is not among them."""
    name, now_us = f"pool-{ids.new().hex}", clock.now_us()
    await StoredLeaders(store).take([name, f"{name}-2"], A, 600.0, from_late=False)
    records = []
    for number in range(40):
        tenant = OrganizationId(UUID(int=number % 3 + 1))
        request = grant_request(f"{name}-{number}", pool=name, organization=tenant)
        at_us = now_us - number * 500_000
        answered = DecisionRecord(
            request, "ok", at_us, "eng_1", queue_wait_ms=5, ttft_ms=200 + number, total_ms=400, input_tokens=100,
            output_tokens=20, is_in_slo=True,
        )  # fmt: skip
        refused = DecisionRecord(request, "refused", at_us, code="deadline_infeasible", steps=(ARRIVED,))
        records.append(refused if number % 4 == 0 else answered)
    other = replace(records[1], request=replace(records[1].request, pool=f"{name}-2", request_id=f"{name}-x"))
    old = replace(records[1], request=replace(records[1].request, request_id=f"{name}-y"), at_us=now_us - 4_000_000_000)
    async with store.ops("what ended") as tx:
        await write_decisions(tx, [*records, other, old], {name: 1, f"{name}-2": 1})
    return name


def what_if(store, clock, config=CONFIG, asking=replayed):
    return WhatIf(Decisions(store), asking, clock, config)


async def asked_here(trace, options, within_s):
    """Run the command in this process: what it says is the same, and a process of its own costs seconds."""
    done = CliRunner().invoke(command, ["replay", "-", *options], input=trace)
    return msgspec.json.decode(done.output)


def fleet():
    found = fleet_of(pool_view(policy_of().statistics(0), "host"), 0.8)
    assert found.profile.startswith("a100-llama3-8b@")
    return replace(found, profile="a100-llama3-8b")


async def test_the_last_hour_is_a_trace_of_what_came(store, clock, pool):
    hour = await what_if(store, clock).hour(pool)
    rows = read_trace(hour.trace.splitlines())
    assert (len(rows), hour.is_cut) == (40, True)
    assert sum(each.answer is not None for each in hour.rows) == 30
    assert {(each.input_tokens, each.output_tokens) for each in rows} == {(100, 20), (300, 20)}
    assert len({each.tenant for each in rows}) == 3
    assert rows[0].at_us == 0
    assert 2.0 < hour.rate_rps < 2.1
    was = as_it_was(hour.rows)
    assert (was["attainment"], was["refused"], was["p99"]) == (0.75, 0.25, 239)
    assert await what_if(store, clock).hour("nothing-here") is None


async def test_the_page_has_the_figures_of_the_command(store, clock, pool, tmp_path):
    hour, asked = await what_if(store, clock).hour(pool), Asked(2.0, 2)
    found = await what_if(store, clock).simulate(hour, fleet(), asked)
    trace = tmp_path / "hour.csv"
    trace.write_text(hour.trace)
    done = CliRunner().invoke(command, ["replay", str(trace), *options(fleet(), hour.rate_rps, asked)])
    assert found == as_simulated(msgspec.json.decode(done.output))
    assert 0 < found["attainment"] <= 1
    shown = row("simulated as asked", asked, found)
    assert (shown["load"], shown["replicas"]) == ("2 x", 2)


async def test_more_load_is_served_worse_and_objectives_are_the_pools_own(store, clock, pool):
    asking = what_if(store, clock, asking=asked_here)
    hour, slow = await asking.hour(pool), replace(fleet(), slots=1)
    calm = await asking.simulate(hour, slow, Asked(0.25, 4))
    flood = await asking.simulate(hour, slow, Asked(4.0, 1))
    assert flood["attainment"] < calm["attainment"]
    lax = replace(slow, objectives="interactive=600000/60000,standard=600000/60000,batch=600000/-")
    assert (await asking.simulate(hour, lax, Asked(4.0, 1)))["attainment"] == 1.0


async def test_who_comes_while_another_simulates_is_told_so(store, clock, pool):
    began, may_end = asyncio.Event(), asyncio.Event()

    async def waits(*_):
        began.set()
        await may_end.wait()
        return {"rows": [{"attainment": 1.0, "rejected_share": 0.0, "displaced_share": 0.0,
                          "time_to_first_token_s": {"p50": None, "p99": None}}]}  # fmt: skip

    asking = what_if(store, clock, asking=waits)
    hour = await asking.hour(pool)
    first = asyncio.ensure_future(asking.simulate(hour, fleet(), Asked(1.0, 1)))
    await began.wait()
    with pytest.raises(InterlockError, match="simulations run already") as refused:
        await asking.simulate(hour, fleet(), Asked(1.0, 1))
    assert (refused.value.code, refused.value.http_status) == ("what_if_busy", 429)
    may_end.set()
    await first
    assert asking.statistics() == {"running": 0, "running_max": 1}


async def test_a_simulation_that_takes_too_long_is_ended():
    with pytest.raises(InterlockError, match=r"did not end within 0.01 s") as refused:
        await replayed("TIMESTAMP,ContextTokens,GeneratedTokens\n0,1,1\n1,1,1\n", [], 0.01)
    assert refused.value.code == "deadline_exceeded"


@pytest.mark.parametrize(
    "query",
    [{"load": "x", "replicas": "1"}, {"load": "nan", "replicas": "1"}, {"load": "5", "replicas": "1"},
     {"load": "1", "replicas": "0"}, {"load": "1", "replicas": "65"}, {"load": "1"}, {"load": "1", "replicas": "1e9"},
     {"load": "1", "replicas": "000164"}, {"load": "1", "replicas": "9" * 5_000}],
)  # fmt: skip
def test_what_no_slider_can_ask_for_is_refused(query):
    with pytest.raises(InterlockError, match="is ") as refused:
        asked_of(query)
    assert refused.value.code == "invalid_request"


def test_the_page_says_how_far_its_simulation_is_from_the_hour_it_began_with():
    was = {"attainment": 0.9}
    assert apart(was, {"attainment": 0.81}).endswith("9.0 points below what it was; what was asked may be as far off.")
    assert "62.0 points below what it was, so compare" in apart(was, {"attainment": 0.28})
    assert "11.0 points above what it was, so compare" in apart({"attainment": 0.5}, {"attainment": 0.61})


def test_a_pool_without_a_past_or_an_engine_says_what_fills_it():
    assert form_values("p", None, fleet(), {})["sentence"] == "Too little came in the last hour to simulate it."
    assert form_values("p", None, None, {})["sentence"] == "The pool has no engine."
