"""Days come and go as whole partitions, and streams resume where their reader was."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import EventLog, Retention, Shipper, Spool, StoryStore, TelemetryConfig
from tests.foundation.telemetry.worlds import SMALL, HandClock, record
from tests.support.store import make_tenant, scope_of

DAY_US = 86_400_000_000


async def partitions(urls, table="telemetry_requests") -> set[str]:
    connection = await asyncpg.connect(urls.owner)
    try:
        rows = await connection.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass", table
        )
    finally:
        await connection.close()
    return {row["name"] for row in rows}


def named(day: datetime, table="telemetry_requests") -> str:
    return f"{table}_p{day:%Y%m%d}"


async def test_a_story_of_today_lies_in_the_partition_of_its_day(store_urls, store, scope, tmp_path):
    await Retention(store_urls, SystemClock()).run_once()
    clock = SystemClock()
    spool = Spool(tmp_path / "edge-0.ring", clock, SMALL)
    wanted = record(
        IdFactory(clock, SystemDice()).new(), organization_id=scope.organization_id, workspace_id=scope.workspace_id
    )
    spool.open(wanted.id, wanted.started_us, "POST", "/").close(wanted)
    await Shipper(spool, store, clock).run_once()
    spool.close()

    connection = await asyncpg.connect(store_urls.ops)
    try:
        place = await connection.fetchval(
            "SELECT tableoid::regclass::text FROM telemetry_requests WHERE id = $1", wanted.id
        )
        upstream = await connection.fetchval(
            "SELECT tableoid::regclass::text FROM telemetry_request_upstream_ids WHERE request_id = $1", wanted.id
        )
    finally:
        await connection.close()
    today = datetime.fromtimestamp((wanted.id.int >> 80) / 1_000, tz=UTC)
    assert place == named(today)
    assert upstream == named(today, "telemetry_request_upstream_ids")


async def test_a_day_past_its_time_is_dropped_with_its_stories_and_the_rest_stays(store_urls, store, scope, tmp_path):
    now = SystemClock().now_us()
    old = datetime.fromtimestamp((now - 40 * DAY_US) / 1e6, tz=UTC)
    connection = await asyncpg.connect(store_urls.owner)
    try:
        low = int(old.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1_000)
        first, beyond = (f"{ms << 80:032x}" for ms in (low, low + 86_400_000))
        await connection.execute(
            f"CREATE TABLE {named(old)} PARTITION OF telemetry_requests FOR VALUES FROM ('{first}') TO ('{beyond}')"
        )
    finally:
        await connection.close()
    clock = HandClock(now - 40 * DAY_US)
    spool = Spool(tmp_path / "edge-0.ring", clock, SMALL)
    aged = record(
        IdFactory(clock, SystemDice()).new(), organization_id=scope.organization_id, workspace_id=scope.workspace_id
    )
    spool.open(aged.id, aged.started_us, "POST", "/").close(aged)
    await Shipper(spool, store, clock).run_once()
    spool.close()
    assert await StoryStore(store).get(scope, aged.id) == aged

    keeper = Retention(store_urls, SystemClock(), TelemetryConfig(story_days=41))
    assert await keeper.run_once() == []
    keeper = Retention(store_urls, SystemClock(), TelemetryConfig(story_days=39))
    assert await keeper.run_once() == [named(old)]
    assert await StoryStore(store).get(scope, aged.id) is None
    today = datetime.now(tz=UTC)
    assert {named(today), named(today + timedelta(days=1)), "telemetry_requests_default"} <= await partitions(
        store_urls
    )


async def test_events_come_in_order_and_a_reader_resumes(store, scope):
    events = EventLog(store, SystemClock(), Redactor([b"a-planted-secret"]))
    for number in range(5):
        async with store.transaction(scope) as tx:
            await events.append(tx, "requests", {"n": number, "text": "a-planted-secret"})
    async with store.transaction(scope) as tx:
        await events.append(tx, "other", {})

    found = await events.after(scope, ["requests"], 0)
    assert [each.payload["n"] for each in found] == [0, 1, 2, 3, 4]
    assert {each.payload["text"] for each in found} == {"[redacted:secret]"}
    resumed = await events.after(scope, ["requests", "other"], found[2].seq)
    assert [(each.topic, each.payload.get("n")) for each in resumed] == [
        ("requests", 3), ("requests", 4), ("other", None),
    ]  # fmt: skip
    assert await events.after(scope_of(*await make_tenant(store)), ["requests"], 0) == []


async def test_an_event_of_a_transaction_that_rolls_back_was_never_there(store, scope):
    events = EventLog(store, SystemClock(), Redactor())

    async def broken():
        async with store.transaction(scope) as tx:
            await events.append(tx, "requests", {})
            raise LookupError

    with pytest.raises(LookupError):
        await broken()
    assert await events.after(scope, ["requests"], 0) == []
