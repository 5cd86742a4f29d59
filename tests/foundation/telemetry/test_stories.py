"""Stories in a real store: shipped once, found by any id, and only by who may see them."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, created_ms
from interlock.foundation.scope import ALL_WORKSPACES
from interlock.foundation.store import Query
from interlock.foundation.telemetry import (
    AbandonedRings,
    Addendum,
    Attempt,
    Decision,
    Link,
    Shipper,
    Spool,
    StoryFilters,
    StoryStore,
    TelemetryConfig,
)
from interlock.foundation.telemetry.stories import QUERIES
from interlock.foundation.telemetry.story import decode_story
from tests.foundation.telemetry.worlds import SMALL, record
from tests.support.store import make_tenant, opened, running_store, scope_of

CLOCK = SystemClock()
IDS = IdFactory(CLOCK, SystemDice())
ROWS = Query("rows", "what is there", "SELECT * FROM telemetry_requests WHERE id = ANY($1::uuid[])")


@pytest.fixture
def spool(tmp_path):
    each = Spool(tmp_path / "edge-0.ring", CLOCK, SMALL)
    yield each
    each.close()


def told(scope, **fields):
    """A record of now, in the tenant of the scope."""
    known = {"organization_id": scope.organization_id, "workspace_id": scope.workspace_id, "started_us": CLOCK.now_us()}
    return record(IDS.new(), **(known | fields))


async def ship(spool, store, *records, **options):
    for each in records:
        spool.open(each.id, each.started_us, each.method, each.target).close(each)
    shipper = Shipper(spool, store, CLOCK, **options)
    await shipper.run_once()
    return shipper


async def test_a_shipped_story_is_found_by_its_id(spool, store, scope):
    wanted = told(scope)
    await ship(spool, store, wanted)
    assert await StoryStore(store).get(scope, wanted.id) == wanted
    assert spool.pending == 0


async def test_another_tenants_story_looks_like_none(spool, store, scope):
    wanted = told(scope)
    await ship(spool, store, wanted)
    stories = StoryStore(store)
    stranger = scope_of(*await make_tenant(store))
    sibling = scope_of(scope.organization_id, IDS.new())

    assert await stories.get(stranger, wanted.id) is None
    assert await stories.get(sibling, wanted.id) is None
    assert await stories.get(stranger, IDS.new()) is None
    assert (await stories.search(stranger, StoryFilters())).records == []
    assert (await stories.search(sibling, StoryFilters(client_request_id="c"))).records == []


async def test_a_whole_organization_scope_sees_every_workspace(spool, store, scope):
    wanted = told(scope)
    await ship(spool, store, wanted)
    everything = scope_of(scope.organization_id, ALL_WORKSPACES)
    stories = StoryStore(store)
    assert await stories.get(everything, wanted.id) == wanted
    assert (await stories.search(everything, StoryFilters())).records == [wanted]


async def test_a_story_without_identity_is_the_operators_alone(spool, store, scope):
    refused = told(
        scope, organization_id=None, workspace_id=None, key_id=None, outcome="unauthenticated", status=401,
        rule="key.form",
    )  # fmt: skip
    await ship(spool, store, refused)
    stories = StoryStore(store)
    assert await stories.get(scope, refused.id) is None
    assert await stories.get(scope_of(SYSTEM_ORGANIZATION_ID), refused.id) == refused


async def test_a_request_of_the_whole_organization_is_not_shown_to_one_workspace(spool, store, scope):
    wanted = told(scope, workspace_id=None)
    await ship(spool, store, wanted)
    stories = StoryStore(store)
    assert await stories.get(scope, wanted.id) is None
    assert await stories.get(scope_of(scope.organization_id), wanted.id) == wanted


async def test_without_a_scope_there_is_an_error_and_never_rows(store):
    for query, args in ((QUERIES.get_story, (IDS.new(),)), (QUERIES.events_after, (IDS.new(), ["t"], 0, 1))):
        with pytest.raises(Exception, match=r"interlock\.(organization|workspace)_id|invalid input syntax"):
            await store.single(query, *args)


async def test_a_batch_that_is_sent_twice_counts_once(spool, store, scope):
    wanted = [told(scope) for _ in range(5)]
    rolled = []

    async def roll_up(_tx, tallies):
        rolled.extend(each.requests for each in tallies)

    for each in wanted:
        spool.open(each.id, each.started_us, "POST", "/").close(each)
    shipper = Shipper(spool, store, CLOCK, roll_ups=[roll_up])
    batch = spool.take(100)
    assert batch is not None
    await shipper._ship(batch.frames)
    await shipper.run_once()

    assert sum(rolled) == len(wanted)
    found = (await StoryStore(store).search(scope, StoryFilters())).records
    assert [each.id for each in found] == sorted((each.id for each in wanted), reverse=True)


async def test_a_failed_roll_up_keeps_the_frames(spool, store, scope):
    wanted = told(scope)

    async def broken(_tx, _fresh):
        raise InterlockError("store_unavailable")

    with pytest.raises(InterlockError):
        await ship(spool, store, wanted, roll_ups=[broken])
    assert spool.pending == 1
    assert await StoryStore(store).get(scope, wanted.id) is None
    await Shipper(spool, store, CLOCK).run_once()
    assert await StoryStore(store).get(scope, wanted.id) == wanted


async def test_a_roll_up_that_cannot_take_one_record_does_not_cost_its_story(spool, store, scope):
    wanted = [told(scope, alias="odd" if n == 2 else "default") for n in range(5)]
    rolled = []

    async def picky(_tx, tallies):
        if any(each.record.alias == "odd" for each in tallies):
            raise asyncpg.DataError("out of range")
        rolled.extend(each.requests for each in tallies)

    shipper = await ship(spool, store, *wanted, roll_ups=[picky])
    found = (await StoryStore(store).search(scope, StoryFilters())).records
    assert {each.id for each in found} == {each.id for each in wanted}
    assert sum(rolled) == len(wanted) - 1
    assert shipper.statistics().refused == 1


async def test_pages_follow_each_other_without_a_gap_or_a_double(spool, store, scope):
    wanted = [told(scope, alias=("a", "b")[n % 2]) for n in range(25)]
    await ship(spool, store, *wanted)
    stories = StoryStore(store)
    for within in (scope, scope_of(scope.organization_id)):
        for alias, expected in ((None, wanted), ("a", wanted[::2])):
            seen, cursor = [], None
            while True:
                page = await stories.search(within, StoryFilters(alias=alias), cursor, limit=4)
                seen += [each.id for each in page.records]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert seen == [each.id for each in reversed(expected)]


async def test_filters_narrow_and_combine(spool, store, scope):
    one = told(
        scope, client_request_id="client-1", trace_id="trace-1", outcome="ok", key_id=UUID(int=41),
        attempts=[Attempt(n=1, deployment="d", upstream_request_id="up-77")],
    )  # fmt: skip
    other = told(scope, client_request_id="client-2", outcome="limited_requests", endpoint="/v1/models", attempts=[])
    await ship(spool, store, one, other)
    stories = StoryStore(store)

    async def ids(**filters):
        return [each.id for each in (await stories.search(scope, StoryFilters(**filters))).records]

    assert await ids() == [other.id, one.id]
    assert await ids(client_request_id="client-1") == [one.id]
    assert await ids(trace_id="trace-1") == [one.id]
    assert await ids(upstream_request_id="up-77") == [one.id]
    assert await ids(upstream_request_id="up-77", outcome="killed") == []
    assert await ids(key_id=UUID(int=41)) == [one.id]
    assert await ids(outcome="limited_requests") == [other.id]
    assert await ids(endpoint="/v1/models") == [other.id]
    middle_us = (other.id.int >> 80) * 1_000
    assert await ids(to_us=middle_us - 10_000_000_000) == []
    assert await ids(from_us=middle_us + 10_000_000_000) == []
    assert await ids(from_us=middle_us - 10_000_000_000, to_us=middle_us + 10_000_000_000) == [other.id, one.id]


async def test_a_request_is_found_by_the_id_that_each_of_its_upstreams_gave(spool, store, scope):
    called = [("a", "up-1st"), ("b", None), ("b", ""), ("c", "up-\0-4th")]
    wanted = [
        told(
            scope,
            attempts=[
                Attempt(n=n, deployment=name, upstream_request_id=given)
                for n, (name, given) in enumerate(called, start=1)
            ],
        )
        for _ in range(2)
    ]
    await ship(spool, store, *wanted)
    for given in ("up-1st", "up-\ufffd-4th"):
        page = await StoryStore(store).search(scope, StoryFilters(upstream_request_id=given))
        assert [each.id for each in page.records] == [each.id for each in reversed(wanted)]


async def test_a_cursor_that_is_none_is_refused(store, scope):
    with pytest.raises(InterlockError, match="invalid_cursor"):
        await StoryStore(store).search(scope, StoryFilters(), "no cursor")


@pytest.mark.parametrize("record_first", [True, False])
async def test_decisions_of_another_role_are_merged_in_any_order(tmp_path, spool, store, scope, record_first):
    wanted = told(scope)
    at_us = wanted.decisions[1].at_us + 1
    part = Addendum(
        id=wanted.id, organization_id=scope.organization_id, workspace_id=scope.workspace_id,
        decisions=[Decision(at_us, "grant", "pool.slot", "granted", "waited 3 ms")], links=[Link("task", "task_1")],
    )  # fmt: skip
    schedulers = Spool(tmp_path / "scheduler-0.ring", CLOCK, SMALL)
    schedulers.append(part)
    schedulers.append(part)
    fresh = []

    async def roll_up(_tx, tallies):
        fresh.extend((each.record.id, each.requests) for each in tallies)

    shippers = [Shipper(each, store, CLOCK, roll_ups=[roll_up]) for each in (spool, schedulers)]
    spool.open(wanted.id, wanted.started_us, "POST", "/").close(wanted)
    stories = StoryStore(store)
    for shipper in shippers if record_first else reversed(shippers):
        await shipper.run_once()
        found = await stories.get(scope, wanted.id)
        assert found is not None
        assert found.complete or not record_first
    found = await stories.get(scope, wanted.id)
    assert found is not None
    assert found.complete
    assert [each.step for each in found.decisions] == ["received", "authenticated", "grant", "route"]
    assert found.links == [Link("task", "task_1")]
    assert (found.outcome, found.usage) == (wanted.outcome, wanted.usage)
    assert fresh == [(wanted.id, 1)]
    assert (await stories.search(scope, StoryFilters(outcome="ok_stream"))).records == [found]
    schedulers.close()


async def test_a_part_and_its_record_in_one_batch_are_one_story(spool, store, scope):
    wanted = told(scope)
    part = Addendum(
        id=wanted.id, organization_id=scope.organization_id, decisions=[Decision(1, "grant", "pool.slot", "granted")]
    )
    spool.append(part)
    await ship(spool, store, wanted)
    found = await StoryStore(store).get(scope, wanted.id)
    assert found is not None
    assert {each.step for each in found.decisions} == {"received", "authenticated", "grant", "route"}


async def test_a_part_with_another_organizations_name_on_it_changes_nothing(spool, store, scope):
    wanted = told(scope)
    await ship(spool, store, wanted)
    forged = Addendum(id=wanted.id, organization_id=IDS.new(), decisions=[Decision(1, "grant", "x", "y")])
    spool.append(forged)
    await Shipper(spool, store, CLOCK).run_once()
    assert await StoryStore(store).get(scope, wanted.id) == wanted


async def test_every_column_is_its_own_records_in_a_batch_that_was_shipped_in_part(spool, store, scope):
    none = dict.fromkeys(("organization_id", "workspace_id", "key_id", "client_request_id", "trace_id", "alias"))
    wanted = [
        told(scope, client_request_id="c", trace_id=""),
        told(scope, key_id=IDS.new(), alias="a\0b", outcome="ok", detail="a longer story " * 30),
        told(scope, **none, endpoint="", outcome="unauthenticated", status=401),
        told(scope, client_request_id="{NULL}", alias='"', trace_id="t"),
        told(scope, complete=False),
        told(scope, endpoint="\0", status=500, client_request_id="\0"),
    ]
    await ship(spool, store, wanted[1], wanted[3])
    fresh = []

    async def roll_up(_tx, tallies):
        fresh.extend(each.record.id for each in tallies)

    await ship(spool, store, *wanted, roll_ups=[roll_up])
    async with store.ops("a test looks") as tx:
        rows = {row["id"]: row for row in await tx.fetch(ROWS, [each.id for each in wanted])}
    assert fresh == [wanted[n].id for n in (0, 2, 4, 5)]
    for each in wanted:
        row = dict(rows[each.id])
        assert decode_story(row.pop("story")) == each
        assert row == {
            "id": each.id,
            "organization_id": each.organization_id or SYSTEM_ORGANIZATION_ID,
            "workspace_id": each.workspace_id,
            "created_at": datetime.fromtimestamp(created_ms(each.id) / 1_000, tz=UTC),
            "key_id": each.key_id,
            "client_request_id": each.client_request_id and each.client_request_id.replace("\0", "\ufffd"),
            "trace_id": each.trace_id,
            "endpoint": each.endpoint.replace("\0", "\ufffd"),
            "alias": each.alias and each.alias.replace("\0", "\ufffd"),
            "outcome": each.outcome,
            "status": each.status,
            "is_complete": each.complete,
        }


@pytest.mark.parametrize("odd", [{"status": 1 << 40}, {"outcome": "a\0b"}, {"id": UUID(int=(1 << 128) - 1)}], ids=str)
async def test_a_record_that_the_store_can_never_take_does_not_hold_up_the_others(spool, store, scope, odd):
    good = [told(scope) for _ in range(6)]
    bad = replace(told(scope), **odd)
    shipper = await ship(spool, store, *good[:3], bad, *good[3:])
    assert spool.pending == 0
    assert shipper.statistics().refused == 1
    found = (await StoryStore(store).search(scope, StoryFilters())).records
    assert {each.id for each in found} == {each.id for each in good}


async def test_odd_text_of_a_stranger_is_kept_in_the_story(spool, store, scope):
    wanted = told(scope, endpoint="/v1/\0odd", target="/v1/\0odd")
    await ship(spool, store, wanted)
    found = await StoryStore(store).get(scope, wanted.id)
    assert found is not None
    assert found.target == "/v1/\0odd"


async def test_more_frames_than_one_batch_are_all_shipped(tmp_path, store, scope):
    bounds = TelemetryConfig(ring_bytes=1 << 20, ship_frames_max=7)
    spool = Spool(tmp_path / "edge-9.ring", CLOCK, bounds)
    wanted = [told(scope) for _ in range(50)]
    for each in wanted:
        spool.open(each.id, each.started_us, "POST", "/").close(each)
    assert await Shipper(spool, store, CLOCK, bounds).run_once() == 50
    found = (await StoryStore(store).search(scope, StoryFilters(), limit=200)).records
    assert {each.id for each in found} == {each.id for each in wanted}
    spool.close()


async def test_a_dead_workers_open_request_has_a_story_in_its_tenant(tmp_path, store, scope):
    path = tmp_path / "edge-3.ring"
    spool = Spool(path, CLOCK, SMALL)
    request_id = IDS.new()
    frame = spool.open(request_id, CLOCK.now_us(), "POST", "/v1/chat/completions")
    frame.note(organization_id=scope.organization_id, workspace_id=scope.workspace_id, alias="default")
    spool.close()

    after = Spool(path, CLOCK, SMALL)
    await Shipper(after, store, CLOCK).run_once()
    lost = await StoryStore(store).get(scope, request_id)
    assert lost is not None
    assert (lost.outcome, lost.rule, lost.alias, lost.complete) == ("worker_lost", "edge.worker_lost", "default", True)
    after.close()


async def test_records_wait_in_the_spool_while_the_store_is_away_and_none_is_lost(tmp_path):
    spool = Spool(tmp_path / "edge-0.ring", CLOCK, SMALL)
    async with running_store() as (launcher, urls), opened(urls) as store:
        scope = scope_of(*await make_tenant(store))
        shipper = Shipper(spool, store, CLOCK, TelemetryConfig(ship_interval_ms=20, ship_retry_s=0.1))
        running = asyncio.create_task(shipper.run())
        before = [told(scope) for _ in range(20)]
        for each in before:
            spool.open(each.id, each.started_us, "POST", "/").close(each)
        while spool.pending:
            await CLOCK.sleep(0.02)
        await launcher.stop()
        during = [told(scope) for _ in range(300)]
        for each in during:
            spool.open(each.id, each.started_us, "POST", "/").close(each)
        while not shipper.statistics().failures:
            await CLOCK.sleep(0.02)
        assert spool.pending == 300
        await launcher.start()
        while spool.pending:
            await CLOCK.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        seen, cursor = set(), None
        while True:
            page = await StoryStore(store).search(scope, StoryFilters(), cursor, limit=200)
            seen |= {each.id for each in page.records}
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == {each.id for each in (*before, *during)}
        assert spool.statistics().dropped_usage == 0
    spool.close()


async def test_the_ring_of_a_worker_that_is_not_started_again_is_shipped_by_its_sibling(tmp_path, store, scope):
    rings = [Spool(tmp_path / f"edge-{n}.ring", CLOCK, SMALL) for n in range(4)]
    wanted = [told(scope) for _ in rings]
    for each, ring in zip(wanted, rings, strict=True):
        ring.open(each.id, each.started_us, "POST", "/").close(each)
    open_id = IDS.new()
    rings[2].open(open_id, CLOCK.now_us(), "POST", "/").note(
        organization_id=scope.organization_id, workspace_id=scope.workspace_id
    )
    rings[2].close()

    # Two workers are in force: ring 2 is abandoned, ring 3 is still held by a process that drains.
    abandoned = AbandonedRings(tmp_path, "edge", 2, lambda ring: Shipper(ring, store, CLOCK), CLOCK, SMALL)
    assert await abandoned.run_once() == 1
    stories = StoryStore(store)
    assert await stories.get(scope, wanted[2].id) == wanted[2]
    lost = await stories.get(scope, open_id)
    assert lost is not None
    assert lost.outcome == "worker_lost"
    assert [await stories.get(scope, wanted[n].id) for n in (0, 1, 3)] == [None] * 3
    assert sorted(each.name for each in tmp_path.glob("*.ring")) == ["edge-0.ring", "edge-1.ring", "edge-3.ring"]
    for n in (0, 1, 3):
        rings[n].close()
