"""A store as the packages use it: scoped, bounded, and back by itself after its server's death."""

import asyncio
import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import BrokenWorldError, InterlockError
from interlock.foundation.store import STORE_MERGES, Queries, Query, StoreUrls, StoreWatch, UniqueViolation
from interlock.foundation.store.queries import parse
from interlock.foundation.store.store import affected, comment_safe
from tests.support.store import make_tenant, opened, patient, running_store, scope_of

CLOCK = SystemClock()
ADD = Query(
    "add",
    "a small row of a tenant",
    "INSERT INTO store_idempotency_keys (organization_id, workspace_id, endpoint, key, fingerprint, expires_at)"
    " VALUES ($1, $2, 'test', $3, ''::bytea, now())",
)
LIST = Query("list", "what is there", "SELECT key FROM store_idempotency_keys WHERE endpoint = 'test'")
SLEEP = Query("sleep", "a statement that takes its time", "SELECT pg_sleep($1)")
ONE = Query("one", "the least a store can say", "SELECT 1")


async def add(tx, key):
    return await tx.execute(ADD, tx.scope.organization_id, tx.scope.workspace_id, key)


async def keys_of(store, scope):
    async with store.transaction(scope) as tx:
        return {row["key"] for row in await tx.fetch(LIST)}


async def test_what_is_committed_stays_and_what_raised_does_not(store, scope):
    async with store.transaction(scope) as tx:
        assert await add(tx, "kept") == 1

    async def fail():
        async with store.transaction(scope) as tx:
            await add(tx, "dropped")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await keys_of(store, scope) == {"kept"}


async def test_a_transaction_of_the_loops_sees_every_tenant_and_has_no_scope(store, scope):
    async with store.transaction(scope) as tx:
        await add(tx, "seen")
    async with store.ops("look */ SELECT 1") as tx:
        assert "seen" in {row["key"] for row in await tx.fetch(LIST)}
        with pytest.raises(LookupError):
            _ = tx.scope


async def test_a_swallowed_failure_does_not_pass_for_a_commit(store, scope):
    twice = Query("twice", "a refused statement", "SELECT 1 / 0")

    async def swallow():
        async with store.transaction(scope) as tx:
            await add(tx, "lost")
            with suppress(asyncpg.DataError):
                await tx.fetchval(twice)

    with pytest.raises(RuntimeError, match="savepoint"):
        await swallow()
    async with store.transaction(scope) as tx:
        await add(tx, "first")
        with pytest.raises(asyncpg.DataError):
            async with tx.savepoint():
                await tx.fetchval(twice)
        await add(tx, "second")
    assert await keys_of(store, scope) == {"first", "second"}


async def test_a_cancelled_caller_leaves_no_open_transaction_behind(store, scope):
    async def long():
        async with store.transaction(scope) as tx:
            await add(tx, "never")
            await tx.fetchval(SLEEP, 30)

    task = asyncio.create_task(long())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(6):
        assert await keys_of(store, scope) == set()
    assert store.statistics().app.size <= 4


async def test_who_loses_a_deadlock_over_all_tenants_is_told_to_come_again(store):
    """A loop survives what it may try again; one that is let down by anything else ends."""
    lost = Query("lost", "a deadlock that this statement loses", "DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$")

    async def in_a_transaction():
        async with store.ops("a deadlock to lose") as tx:
            await tx.fetch(lost)

    for attempt in (partial(store.ops_single, lost), in_a_transaction):
        with pytest.raises(InterlockError, match="store_unavailable") as told:
            await attempt()
        assert isinstance(told.value.__cause__, asyncpg.DeadlockDetectedError)


async def test_a_full_pool_refuses_after_a_bounded_wait(store_urls, scope):
    async with opened(store_urls, connections_max=1, config=patient(pool_wait_ms=250)) as small:
        async with small.transaction(scope):
            with pytest.raises(InterlockError) as refused:
                await keys_of(small, scope)
        assert (refused.value.code, refused.value.retry_after_s) == ("store_unavailable", 1)
        assert await keys_of(small, scope) == set()
        assert small.statistics().app.refused == 1


async def test_no_more_callers_wait_than_the_bound_allows(store_urls, scope):
    config = patient(pool_waiting_max=2, pool_wait_ms=60_000)
    async with opened(store_urls, connections_max=1, config=config) as small:
        async with small.transaction(scope):
            waiting = [asyncio.create_task(keys_of(small, scope)) for _ in range(2)]
            while small.statistics().app.waiting < 2:
                await asyncio.sleep(0.01)
            with pytest.raises(InterlockError):
                await keys_of(small, scope)
            assert small.statistics().app.waiting == 2
        assert await asyncio.gather(*waiting) == [set(), set()]


async def test_a_waiter_that_is_cancelled_does_not_take_the_place_with_it(store_urls, scope):
    config = patient(pool_wait_ms=60_000)
    async with opened(store_urls, connections_max=1, config=config) as small:
        async with small.transaction(scope):
            first, second = (asyncio.create_task(keys_of(small, scope)) for _ in range(2))
            while small.statistics().app.waiting < 2:
                await asyncio.sleep(0.01)
            first.cancel()
        assert await second == set()


async def test_nobody_overtakes_those_who_wait(store_urls, scope):
    order = []

    async def call(number):
        async with small.transaction(scope) as tx:
            order.append(number)
            await tx.fetchval(ONE)

    async with opened(store_urls, connections_max=1, config=patient(pool_wait_ms=60_000)) as small:
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(call(number))
    assert order == list(range(30))


async def test_a_serialization_failure_is_run_again_and_others_are_not(store, scope):
    tries = []

    async def conflict(tx):
        tries.append(1)
        code = "40001" if len(tries) < 3 else "23505"
        raise_it = Query("x", "y", f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$")
        await tx.execute(raise_it)

    with pytest.raises(UniqueViolation):
        await store.run(scope, conflict)
    assert len(tries) == 3


async def test_single_runs_without_a_scope_and_sees_no_tenant(store):
    before = store.statistics().outcomes
    assert [row[0] for row in await store.single(ONE)] == [1]
    with pytest.raises(Exception, match=r"interlock\.organization_id|invalid input syntax"):
        await store.single(LIST)
    assert [row[0] for row in await store.single(ONE)] == [1]
    counted = {word: count - before[word] for word, count in store.statistics().outcomes.items()}
    assert counted == {"committed": 2, "rolled_back": 1, "unavailable": 0}


async def test_a_listener_hears_what_was_committed(store, scope):
    heard: asyncio.Queue[str] = asyncio.Queue()
    await store.listen("test_channel", heard.put_nowait)
    assert await asyncio.wait_for(heard.get(), 240) == ""
    with suppress(LookupError):
        async with store.transaction(scope) as tx:
            await tx.notify("test_channel", "rolled back")
            raise LookupError
    async with store.transaction(scope) as tx:
        await tx.notify("test_channel", "keys:7")
    assert await asyncio.wait_for(heard.get(), 240) == "keys:7"


async def test_many_subscribers_at_once_all_hear_also_after_a_lost_connection(store, scope):
    heard = [asyncio.Queue() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        for number, queue in enumerate(heard):
            group.create_task(store.listen(f"test_many_{number}", queue.put_nowait))
    for round_number in range(2):
        async with asyncio.timeout(240):
            for number, queue in enumerate(heard):
                # What is sent while nobody listens is lost; listeners are told so by an empty payload afterwards.
                while store._listener._connection is None or store._listener._connection.is_closed():
                    await asyncio.sleep(0.01)
                async with store.transaction(scope) as tx:
                    await tx.notify(f"test_many_{number}", str(round_number))
                while await queue.get() != str(round_number):
                    pass
        store._listener.drop()
        await asyncio.sleep(0)


async def test_a_role_that_sees_past_the_policies_is_refused(store_urls):
    for url in (store_urls.owner, store_urls.superuser):
        with pytest.raises(BrokenWorldError) as refused:
            async with opened(StoreUrls(store_urls.owner, url, store_urls.ops)):
                pass
        assert refused.value.code == "unsafe_role"


async def test_a_process_may_start_while_the_store_is_away(scope):
    nowhere = "postgresql://u:p@/d?host=/nonexistent&port=5432"
    async with opened(StoreUrls(nowhere, nowhere, nowhere)) as store:
        assert not store.is_up
        with pytest.raises(InterlockError) as refused:
            await keys_of(store, scope)
        assert refused.value.code == "store_unavailable"


async def test_kill_9_under_writers_loses_nothing_acknowledged():
    """Writers go on through two kills; each acknowledged row is there, and the store is used again by itself."""
    async with running_store() as (launcher, urls), opened(urls, connections_max=8) as store:
        scope = scope_of(*await make_tenant(store))
        acknowledged, refused, is_over = set(), [], asyncio.Event()

        async def write(number):
            count = 0
            while not is_over.is_set():
                count += 1
                try:
                    async with store.transaction(scope) as tx:
                        await add(tx, f"{number}-{count}")
                except InterlockError as error:
                    refused.append(error.code)
                    await asyncio.sleep(0.02)
                else:
                    acknowledged.add(f"{number}-{count}")

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(write(number))
            for _ in range(2):
                await asyncio.sleep(0.3)
                os.kill(launcher.pid, signal.SIGKILL)
                await launcher.wait_dead()
                await launcher.start()
                before = len(acknowledged)
                async with asyncio.timeout(240):
                    while len(acknowledged) < before + 50:
                        await asyncio.sleep(0.02)
            is_over.set()
        assert set(refused) == {"store_unavailable"}
        assert acknowledged <= await keys_of(store, scope)
        assert store.is_up


def children_of(pid):
    """The children of a postmaster, which each lead a group of their own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def signal_each(pids, number):
    """Send a signal; a child of the store may have ended meanwhile."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def keys_if_up(store, scope):
    """The keys, None while the store is away: with so little patience it is whenever the machine stands still."""
    try:
        return await keys_of(store, scope)
    except InterlockError:
        return None


async def test_a_store_that_stands_still_is_refused_at_once_and_comes_back():
    config = patient(pulse_timeout_ms=2_000, connect_timeout_ms=2_000, pool_wait_ms=2_000)
    async with running_store() as (launcher, urls), opened(urls, connections_max=2, config=config) as store:
        async with opened(urls) as unhurried:
            scope = scope_of(*await make_tenant(unhurried))
        # A postmaster that stands still has no more children.
        os.kill(launcher.pid, signal.SIGSTOP)
        stopped = children_of(launcher.pid)
        signal_each(stopped, signal.SIGSTOP)
        try:
            calls = [asyncio.create_task(keys_of(store, scope)) for _ in range(50)]
            done, pending = await asyncio.wait(calls, timeout=120)
            assert not pending
            assert {call.exception().code for call in done} == {"store_unavailable"}
            assert not store.is_up
            statistics = store.statistics()
            assert statistics.app.waiting == 0
            assert statistics.app.size <= 2
        finally:
            signal_each([*stopped, launcher.pid], signal.SIGCONT)
        async with asyncio.timeout(240):
            while (found := await keys_if_up(store, scope)) is None:
                await asyncio.sleep(0.02)
        assert found == set()


async def test_the_series_say_what_happened(store, scope):
    async with store.transaction(scope) as tx:
        await add(tx, "counted")
    registry = CollectorRegistry()
    registry.register(StoreWatch(store))
    assert registry.get_sample_value("interlock_store_up") == 1
    assert registry.get_sample_value("interlock_store_transactions_total", {"outcome": "committed"}) >= 1
    assert registry.get_sample_value("interlock_store_connections", {"pool": "app"}) >= 1
    assert {family.name for family in registry.collect()} == set(STORE_MERGES)


def test_queries_are_parsed_and_a_missing_why_or_a_double_is_an_error():
    text = "-- name: a\n-- why: because\nSELECT 1;\n\n-- name: b\n-- why: so\n-- a comment\nSELECT 2"
    assert [(each.name, each.why) for each in parse(text, "x").values()] == [("a", "because"), ("b", "so")]
    assert parse(text, "x")["a"].sql == "SELECT 1"
    with pytest.raises(ValueError, match="twice"):
        parse("-- name: a\n-- why: b\nSELECT 1;\n-- name: a\n-- why: b\nSELECT 1;", "x")
    with pytest.raises(ValueError, match="why"):
        parse("-- name: a\nSELECT 1;", "x")


def test_an_unknown_query_is_an_attribute_error():
    queries = Queries("interlock.foundation.store")
    assert queries.unsafe_role in list(queries)
    with pytest.raises(AttributeError, match="no_such"):
        _ = queries.no_such


@given(st.text())
def test_no_reason_ends_the_comment_it_stands_in(reason):
    assert "*/" not in comment_safe(reason)
    assert len(comment_safe(reason)) <= 80


def test_affected_reads_the_count_of_a_tag():
    assert [affected(tag) for tag in ("UPDATE 3", "INSERT 0 1", "CREATE TABLE", "SELECT 0")] == [3, 1, 0, 0]


def test_urls_do_not_show_passwords():
    assert "secret" not in repr(StoreUrls("secret", "secret", "secret", "secret", "secret"))
