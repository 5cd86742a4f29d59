"""Usage by the minute: what ended is summed once, and costs are read from the sums."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from interlock.foundation.audit import AuditLog
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, KeyId, OrganizationId, WorkspaceId, format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.store import Query
from interlock.foundation.telemetry import Retention, TelemetryConfig
from interlock.scheduler import EMBEDDED_OBJECTIVES, EngineSpec, FrontService, PoolSpec, SchedulerConfig
from interlock.scheduler.domain.leading import Candidate
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.domain.usage import MINUTE_US, NOBODY, minutes_of
from interlock.scheduler.service.leading import StoredLeaders
from interlock.scheduler.service.pools import PoolService
from interlock.scheduler.service.recording import Recorder, days_kept
from tests.scheduler.calls import grant_request
from tests.support.clocks import HandClock

FORGET = Query("forget", "as after two weeks", "DELETE FROM scheduler_decisions WHERE pool = $1")
KEPT = Query("kept", "when a checkpoint was written", "SELECT at_us FROM scheduler_checkpoints WHERE pool = $1")
DECIDED = Query("decided", "what was written", "SELECT request_id FROM scheduler_decisions WHERE pool = $1 ORDER BY 1")
ROWS = Query("rows", "what was summed", "SELECT * FROM scheduler_usage_minutes WHERE pool = $1")


def record(pool, organization, at_us, **changes):
    asked = replace(grant_request("r", pool=pool, organization=organization), workspace_id=WorkspaceId(UUID(int=7)))
    return DecisionRecord(asked, "ok", at_us, **changes)


def test_what_ended_is_summed_by_tenant_class_and_minute():
    one, other = OrganizationId(UUID(int=1)), OrganizationId(UUID(int=2))
    used = {"input_tokens": 10, "output_tokens": 5, "charged_tokens": 20, "cost_usd": 0.5, "is_in_slo": True}
    refused = {"code": "deadline_infeasible"}
    records = [
        record("p", other, 59_999_999, **used),
        record("p", one, 60_000_000, **used),
        record("p", one, 119_999_999, **used | {"is_in_slo": False, "wasted_tokens": 15}),
        replace(record("p", one, 60_000_001, **refused), outcome="refused"),
        record("p", one, 120_000_000, **used),
    ]
    first, second, third = minutes_of(records)
    assert (first.organization_id, first.minute_us, first.key_id) == (one, MINUTE_US, NOBODY)
    assert (first.requests, first.successful, first.tokens, first.charged) == (3, 1, 30, 40)
    assert (first.wasted, first.cost_usd, dict(first.refused)) == (15, 1.0, {"deadline_infeasible": 1})
    assert (second.organization_id, second.minute_us, second.requests) == (one, 2 * MINUTE_US, 1)
    assert (third.organization_id, third.minute_us) == (other, 0)


async def test_costs_are_read_from_sums_that_outlive_the_decisions(store, clock, ids):
    pool, organization = f"pool-{ids.new().hex}", OrganizationId(ids.new())
    engine = EngineSpec("http://a", "m", 2, 2_048, price_usd_hour=3_600_000.0)
    spec = PoolSpec(pool, EMBEDDED_OBJECTIVES, (engine,))
    front = FrontService([spec], clock=clock, ids=ids, config=SchedulerConfig())
    [state] = front.engines(pool)
    front.engine_changed(pool, replace(state, condition=EngineCondition.READY))
    fences = await StoredLeaders(store).take([pool], Candidate("me", "seat", "unix:/me.sock:"), 600.0, from_late=False)
    recorder, now_us = Recorder(store, clock, SchedulerConfig(), lambda: fences), clock.now_us()
    key = KeyId(ids.new())
    for number in range(3):
        used = record(pool, organization, now_us, charged_tokens=20, cost_usd=0.5, is_in_slo=number > 0)
        recorder.ended(replace(used, request=replace(used.request, request_id=f"r{number}", key_id=key)))
        refused = replace(record(pool, organization, now_us, code="displaced"), outcome="refused")
        recorder.ended(replace(refused, request=replace(refused.request, request_id=f"x{number}")))
        front.run_once()
        await recorder.write(front)
        await clock.sleep(0.02)
    pools = PoolService(AuditLog(clock, Redactor([])), clock, ids)
    span = (now_us, now_us + MINUTE_US)
    async with store.ops("decisions of a test") as tx:
        await tx.execute(FORGET, pool)
        [whole] = await pools.costs(tx, pool, "organization", span)
        by_key = await pools.costs(tx, pool, "key", span)
        rows = await tx.fetch(ROWS, pool)
    assert whole == {
        "target": format_id("org", organization), "requests": 6, "successful": 2, "cost_usd": 1.5,
        "cost_per_successful_request_usd": 0.75, "charged_tokens": 60, "wasted_tokens": 0,
    }  # fmt: skip
    assert [(each["target"], each["requests"]) for each in by_key] == [(format_id("key", key), 3)]
    assert sum(1 for row in rows if "displaced" in row["refused"]) >= 1
    idle = [row for row in rows if row["organization_id"] == SYSTEM_ORGANIZATION_ID]
    assert sum(row["idle_usd"] for row in idle) > 0
    assert all(row["requests"] == 0 for row in idle)


async def test_a_checkpoint_is_written_when_it_is_new_and_now_and_then(store, ids):
    clock, pool = HandClock(), f"pool-{ids.new().hex}"
    clock.stop()
    spec = PoolSpec(pool, EMBEDDED_OBJECTIVES, (EngineSpec("http://a", "m", 2, 2_048),))
    front = FrontService([spec], clock=clock, ids=ids, config=SchedulerConfig())
    fences = await StoredLeaders(store).take([pool], Candidate("me", "seat", "unix:/me.sock:"), 600.0, from_late=False)
    recorder = Recorder(store, clock, SchedulerConfig(), lambda: fences)

    async def written_us():
        await recorder.write(front)
        async with store.ops("checkpoint of a test") as tx:
            return await tx.fetchval(KEPT, pool)

    first_us = await written_us()
    assert first_us == clock.now_us()
    committed = store.statistics().outcomes["committed"]
    clock.forward += 1.0
    await recorder.write(front)
    assert store.statistics().outcomes["committed"] == committed
    assert await written_us() == first_us
    known = front.keep()
    front.recall({pool: {**known[pool], "capacity": 4_321.0}})
    assert front.keep() != known
    assert await written_us() == clock.now_us()
    clock.forward += 60.0
    assert await written_us() == clock.now_us()


async def test_an_engine_that_does_nothing_costs_each_minute_what_it_costs(store, ids):
    clock, pool = HandClock(), f"pool-{ids.new().hex}"
    clock.stop()
    engine = EngineSpec("http://a", "m", 2, 2_048, price_usd_hour=60.0)
    front = FrontService(
        [PoolSpec(pool, EMBEDDED_OBJECTIVES, (engine,))], clock=clock, ids=ids, config=SchedulerConfig()
    )
    [state] = front.engines(pool)
    front.engine_changed(pool, replace(state, condition=EngineCondition.READY))
    fences = await StoredLeaders(store).take([pool], Candidate("me", "seat", "unix:/me.sock:"), 600.0, from_late=False)
    recorder = Recorder(store, clock, SchedulerConfig(), lambda: fences)
    assert front.statistics(pool) is not None
    for _ in range(3 * 60):
        clock.forward += 1.0
        await recorder.write(front)
    async with store.ops("usage of a test") as tx:
        rows = await tx.fetch(ROWS, pool)
    assert [round(row["idle_usd"], 6) for row in rows] == [1.0, 1.0, 1.0]


async def test_decisions_leave_by_the_day(store, store_urls, clock):
    today = datetime.fromtimestamp(clock.now_us() / 1e6, tz=UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [today - timedelta(days=back) for back in (40, 39)]
    connection = await asyncpg.connect(store_urls.owner)
    try:
        for day in days:
            await connection.execute(
                f"CREATE TABLE scheduler_decisions_p{day:%Y%m%d} PARTITION OF scheduler_decisions"
                f" FOR VALUES FROM ('{day:%Y-%m-%d}+00') TO ('{day + timedelta(days=1):%Y-%m-%d}+00')"
            )
    finally:
        await connection.close()
    kept = days_kept(SchedulerConfig(decisions_kept_days=38.5))
    dropped = await Retention(store_urls, clock, TelemetryConfig(), kept).run_once()
    assert dropped == [f"scheduler_decisions_p{days[0]:%Y%m%d}"]
    dropped = await Retention(store_urls, clock, TelemetryConfig(), days_kept(SchedulerConfig())).run_once()
    assert dropped == [f"scheduler_decisions_p{days[1]:%Y%m%d}"]


async def test_a_record_that_the_store_does_not_take_keeps_no_other_away(store, clock, ids):
    pool, config = f"pool-{ids.new().hex}", SchedulerConfig(record_interval_s=0.05)
    front = FrontService([], clock=clock, ids=ids, config=config)
    fences = await StoredLeaders(store).take([pool], Candidate("me", "seat", "unix:/me.sock:"), 600.0, from_late=False)
    recorder = Recorder(store, clock, config, lambda: fences)
    organization = OrganizationId(ids.new())
    for name in ("one", "two\x00", "three", "four"):
        asked = replace(grant_request(name, pool=pool, organization=organization), workspace_id=WorkspaceId(ids.new()))
        recorder.ended(DecisionRecord(asked, "canceled", clock.now_us()))
    writing = asyncio.create_task(recorder.run(front))
    while recorder.statistics()["waiting"] and not writing.done():
        await asyncio.sleep(0.01)
    assert not writing.done()
    writing.cancel()
    async with store.ops("decisions of a test") as tx:
        rows = await tx.fetch(DECIDED, pool)
    assert [row["request_id"] for row in rows] == ["four", "one", "three"]
    assert recorder.statistics() == {"waiting": 0, "dropped": 1}


async def test_usage_outlives_the_decisions_that_a_store_was_away_too_long_for(store, clock, ids):
    pool, config = f"pool-{ids.new().hex}", SchedulerConfig(decisions_waiting_max=100)
    front = FrontService([], clock=clock, ids=ids, config=config)
    fences = await StoredLeaders(store).take([pool], Candidate("me", "seat", "unix:/me.sock:"), 600.0, from_late=False)
    recorder = Recorder(store, clock, config, lambda: fences)
    organization, at_us = OrganizationId(ids.new()), clock.now_us()
    for number in range(250):
        asked = replace(
            grant_request(f"r{number}", pool=pool, organization=organization), workspace_id=WorkspaceId(UUID(int=7))
        )
        recorder.ended(DecisionRecord(asked, "ok", at_us, output_tokens=3, cost_usd=0.5, is_in_slo=True))
    assert recorder.statistics() == {"waiting": 100, "dropped": 150}
    for _ in range(2):
        await recorder.write(front)
    async with store.ops("usage of a test") as tx:
        kept = await tx.fetch(ROWS, pool)
        assert len(await tx.fetch(DECIDED, pool)) == 100
    assert sum(row["requests"] for row in kept) == 250
    assert sum(float(row["cost_usd"]) for row in kept) == 125.0
