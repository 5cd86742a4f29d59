"""Appending: in the transaction of the change, one after the other, and by nobody's hand afterwards."""

import asyncio
import hashlib
import json

import asyncpg
import pytest

from interlock.foundation.audit import AuditEntry, AuditFilter, is_audit_failure
from interlock.foundation.audit.event import canonical, first_prev_hash
from interlock.foundation.errors import InterlockError
from tests.support.store import make_tenant, opened, scope_of


async def test_events_are_numbered_from_one_and_linked(chain):
    await chain.append(3)
    third, second, first = await chain.reader.events(chain.scope, AuditFilter(), 10)
    assert (first.seq, second.seq, third.seq) == (1, 2, 3)
    assert first.prev_hash == hashlib.sha256(chain.scope.organization_id.bytes).digest()
    assert second.prev_hash == first.hash
    assert third.prev_hash == second.hash


async def test_the_hash_is_the_published_formula(chain):
    await chain.append(reason='quoted "reason" with ünïcode  ', detail={"n": 1, "s": "x"})
    event = (await chain.reader.events(chain.scope, AuditFilter(), 1))[0]
    text = json.dumps(event.public(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    prev_hash = first_prev_hash(chain.scope.organization_id)
    assert event.hash == hashlib.sha256(b"interlock-audit-v1" + b"\x00" + prev_hash + text).digest()


async def test_a_change_that_rolls_back_takes_its_event_with_it(chain):
    await chain.append(2)

    async def fails(tx):
        await chain.log.append(tx, AuditEntry("key.create", "key", "key_x"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await chain.store.run(chain.scope, fails)
    await chain.append()
    assert await chain.last_seq() == 3
    assert (await chain.verify())["ok"]


async def test_writers_at_once_make_one_chain(chain, store_urls):
    async with opened(store_urls, connections_max=8) as wide:
        chain.store = wide
        await asyncio.gather(*(chain.append(5) for _ in range(8)))
    verdict = await chain.verify()
    assert verdict == {"ok": True, "events": 40, "organizations": 1, "checkpoints": 0}


async def test_what_the_store_cannot_hold_and_what_it_must_not_hold_is_replaced(chain):
    detail = {
        "nul": "a\x00b",
        "half": "a\ud800b",
        "key": "planted-secret-value",
        "deep": {"list": [True, 1.5, None]},
        "big": 1 << 80,
    }
    await chain.append(target_id='"seq":0', reason="planted-secret-value", detail=detail)
    event = (await chain.reader.events(chain.scope, AuditFilter(), 1))[0]
    assert event.reason == "[redacted:secret]"
    assert event.detail["key"] == "[redacted:secret]"
    assert event.detail["nul"] == "a\ufffdb"
    assert event.detail["deep"] == {"list": ["true", "1.5", "null"]}
    assert event.detail["big"] == str(1 << 80)
    assert (await chain.verify())["ok"]


async def test_a_detail_that_is_too_long_is_cut_and_says_so(chain):
    await chain.append(detail={"text": "x" * 20_000})
    event = (await chain.reader.events(chain.scope, AuditFilter(), 1))[0]
    assert event.detail["cut_bytes"] > 20_000
    assert len(canonical(event.detail)) < 8_192
    assert (await chain.verify())["ok"]


async def test_the_list_filters_and_pages(chain):
    await chain.append(3)
    await chain.append(2, action="key.revoke", target_id="key_z")
    of_target = await chain.reader.events(chain.scope, AuditFilter(action="key.revoke", target_id="key_z"), 10)
    assert [event.seq for event in of_target] == [5, 4]
    later = await chain.reader.events(chain.scope, AuditFilter(), 2, before_seq=4)
    assert [event.seq for event in later] == [3, 2]
    actor = of_target[0].actor["id"]
    assert len(await chain.reader.events(chain.scope, AuditFilter(actor=actor), 10)) == 5
    assert await chain.reader.events(chain.scope, AuditFilter(actor="usr_other"), 10) == []
    assert await chain.reader.events(chain.scope, AuditFilter(to_us=1), 10) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET reason = 'x'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "DELETE FROM audit_heads",
        "UPDATE audit_heads SET seq = 0",
        "UPDATE audit_heads SET seq = seq + 2",
        "INSERT INTO audit_checkpoints SELECT organization_id, seq, hash, 1, 'k', '' FROM audit_heads",
        "DELETE FROM audit_checkpoints",
    ],
)
async def test_the_application_cannot_change_history(chain, statement):
    await chain.append(2)
    with pytest.raises(asyncpg.PostgresError) as refused:
        async with chain.store.transaction(chain.scope) as tx:
            await tx._connection.execute(statement)
    assert refused.value.sqlstate in {"42501", "23001"}
    assert (await chain.verify())["ok"]


async def test_even_the_superuser_meets_the_triggers(chain, store_urls):
    await chain.append(2)
    connection = await asyncpg.connect(store_urls.superuser, database="interlock")
    try:
        for statement in ("UPDATE audit_events SET reason = 'x'", "DELETE FROM audit_events", "TRUNCATE audit_events"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_another_organizations_chain_is_neither_read_nor_written(chain, store):
    stranger = scope_of(*await make_tenant(store))
    await chain.append(2)
    assert await chain.reader.events(stranger, AuditFilter(), 10) == []
    with pytest.raises(InterlockError) as refused:
        await store.run(stranger, lambda tx: chain.log.append(tx, AuditEntry("key.create", "key", "x"), chain.scope))
    assert refused.value.code == "audit_unavailable"
    assert (await chain.verify())["events"] == 2


@pytest.mark.parametrize("table", ["audit_pending", "audit_heads"])
async def test_a_change_without_its_audit_row_is_refused(chain, intruder, table):
    """A table is away: at the append or at the commit, nothing is committed and the cause is audit's."""
    await chain.append()
    await intruder.execute(f"ALTER TABLE {table} RENAME TO audit_gone")
    try:
        with pytest.raises((InterlockError, asyncpg.PostgresError)) as refused:
            await chain.append()
    finally:
        await intruder.execute(f"ALTER TABLE audit_gone RENAME TO {table}")
    error = refused.value
    assert is_audit_failure(error) if table == "audit_heads" else error.code == "audit_unavailable"
    await chain.append()
    assert await chain.last_seq() == 2
    assert (await chain.verify())["ok"]


async def test_several_events_of_one_transaction_keep_their_order(chain):
    async with chain.store.transaction(chain.scope) as tx:
        for number in range(5):
            await chain.log.append(tx, AuditEntry("key.create", "key", f"key_{number}"))
    events = await chain.reader.events(chain.scope, AuditFilter(), 10)
    assert [event.target_id for event in reversed(events)] == [f"key_{number}" for number in range(5)]
    assert (await chain.verify())["ok"]


async def test_nothing_stays_pending(chain, intruder):
    await chain.append(3)
    assert await intruder.fetchval("SELECT count(*) FROM audit_pending") == 0


async def test_an_open_transaction_holds_nobody_up(chain, store_urls):
    """The head is taken at the commit: a slow writer does not make the others wait."""
    async with chain.store.transaction(chain.scope) as slow:
        await chain.log.append(slow, AuditEntry("key.create", "key", "slow"))
        await chain.append(2)
    events = await chain.reader.events(chain.scope, AuditFilter(), 10)
    assert [event.target_id for event in events] == ["slow", "key_1", "key_0"]
    assert (await chain.verify())["ok"]


async def test_a_transaction_that_acts_in_two_organizations_leaves_an_event_in_each_chain(chain, store):
    """As the platform's operator does: the tenant of the transaction is another one at its commit."""
    other = scope_of(*await make_tenant(store))
    set_tenant = "SELECT set_config('interlock.organization_id', $1, true)"
    async with store.transaction(chain.scope) as tx:
        await tx._connection.execute(set_tenant, str(other.organization_id))
        await chain.log.append(tx, AuditEntry("workspace.create", "workspace", "ws_x"), other)
        await tx._connection.execute(set_tenant, str(chain.scope.organization_id))
        await chain.log.append(tx, AuditEntry("key.create", "key", "key_x"))
    (mine,) = await chain.reader.events(chain.scope, AuditFilter(), 10)
    (theirs,) = await chain.reader.events(other, AuditFilter(), 10)
    assert (mine.action, theirs.action) == ("key.create", "workspace.create")
    assert (await chain.verify())["ok"]
    assert (await chain.reader.verify(other.organization_id)).finding is None


async def test_a_loop_over_all_tenants_audits_under_the_scope_it_names(chain, store):
    async with store.ops("test") as tx:
        await chain.log.append(tx, AuditEntry("key.expire", "key", "key_x"), chain.scope)
    assert (await chain.verify())["events"] == 1


async def test_an_event_lies_in_the_partition_of_its_month(chain, intruder):
    await chain.append()
    rows = await intruder.fetch(
        "SELECT tableoid::regclass::text AS name FROM audit_events WHERE organization_id = $1",
        chain.scope.organization_id,
    )
    assert [row["name"] for row in rows] != ["audit_events_default"]
    assert rows[0]["name"].startswith("audit_events_")
