"""Secrets in the store: set, listed, opened, rotated under load, and no use to a thief."""

import asyncio

import asyncpg
import pytest

from interlock.foundation.audit import AuditFilter, AuditLog, AuditReader, CheckpointFile, CheckpointKeys
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.errors import InterlockError
from interlock.foundation.redaction import Redactor
from interlock.foundation.secrets import (
    MasterKeyFile,
    Rotator,
    SecretBox,
    SecretsConfig,
    SecretService,
    SecretUnreadableError,
)
from interlock.foundation.store import Query
from interlock.foundation.store.lookout import Lookout
from tests.support.store import IDS, make_tenant, scope_of

DICE = SystemDice()


class Safe:
    """One master key, a control process that seals and an edge that opens."""

    def __init__(self, store, path, scope):
        self.store = store
        self.scope = scope
        self.file = MasterKeyFile(path / "master.key")
        self.file.ensure(DICE)
        self.redactor = Redactor()
        self.control = self.service(SecretBox(DICE, self.file.read_public))
        self.edge = self.service(SecretBox(DICE, self.file.read_public, self.file.read))
        self.rotator = Rotator(store, self.file, SystemClock(), DICE, SecretsConfig(rotate_rows=10))

    def service(self, box):
        return SecretService(box, AuditLog(SystemClock(), self.redactor), IDS, self.redactor)

    async def put(self, name, value, scope=None):
        return await self.store.run(scope or self.scope, lambda tx: self.control.set(tx, name, value))

    async def open(self, name, scope=None, by=None):
        return await self.store.run(scope or self.scope, lambda tx: (by or self.edge).open(tx, name))

    async def rotate(self):
        await self.store.run(self.scope, self.control.want_rotation)
        while await self.rotator.run_once():
            pass
        return await self.store.run(self.scope, self.control.rotation)


@pytest.fixture
async def safe(store, store_urls, scope, tmp_path):
    # A rotation works on all rows of the store: what other tests sealed, for master keys of their own, is none of it.
    owner = await asyncpg.connect(store_urls.superuser, database="interlock")
    forget = "DELETE FROM secrets_envelopes; DELETE FROM secrets_rotations"
    await owner.execute(forget)
    yield Safe(store, tmp_path, scope_of(scope.organization_id))
    await owner.execute(forget)
    await owner.close()


async def test_control_stores_a_secret_that_only_the_edge_can_read(safe):
    record = await safe.put("openai", "sk-a-long-provider-key")
    assert (record.last4, record.version) == ("-key", 1)
    assert await safe.open("openai") == b"sk-a-long-provider-key"
    with pytest.raises(SecretUnreadableError):
        await safe.open("openai", by=safe.control)
    assert safe.edge.statistics() == {"opened": 1}


async def test_a_new_value_replaces_the_old_one(safe):
    await safe.put("openai", "the-first-value")
    assert (await safe.put("openai", "the-second-value")).version == 2
    assert await safe.open("openai") == b"the-second-value"


async def test_a_short_secret_shows_no_last_characters(safe):
    assert (await safe.put("pin", "12345678")).last4 == ""


async def test_from_the_moment_it_is_set_a_secret_is_redacted_and_its_audit_row_names_no_value(safe, tmp_path):
    await safe.put("openai", "sk-a-long-provider-key")
    assert safe.redactor.text("sent sk-a-long-provider-key") == "sent [redacted:secret]"
    reader = AuditReader(safe.store, CheckpointKeys([]), CheckpointFile(tmp_path / "none"))
    (event,) = await reader.events(safe.scope, AuditFilter(action="secret.set"), 10)
    assert event.detail == {"name": "openai"}


async def test_workspace_and_organization_have_their_own_secret_of_a_name(safe, scope):
    await safe.put("openai", "of the organization")
    await safe.put("openai", "of the workspace", scope)
    assert await safe.open("openai") == b"of the organization"
    assert await safe.open("openai", scope) == b"of the workspace"


async def test_another_tenant_sees_nothing(safe, store):
    stranger = scope_of(*await make_tenant(store))
    await safe.put("openai", "a-secret-value")
    assert await safe.open("openai", stranger) is None
    assert await safe.edge.names(store, stranger, 10) == []
    with pytest.raises(InterlockError) as refused:
        await store.run(stranger, lambda tx: safe.control.remove(tx, "openai"))
    assert refused.value.code == "not_found"


async def test_the_list_pages_and_a_removed_secret_is_gone(safe, store):
    for number in range(5):
        await safe.put(f"s{number}", "a-secret-value")
    first = await safe.control.names(store, safe.scope, 3)
    assert [record.name for record in first] == ["s0", "s1", "s2"]
    rest = await safe.control.names(store, safe.scope, 3, ("00000000-0000-0000-0000-000000000000", "s2"))
    assert [record.name for record in rest] == ["s3", "s4"]
    await store.run(safe.scope, lambda tx: safe.control.remove(tx, "s0"))
    assert await safe.open("s0") is None


@pytest.mark.parametrize("value", ["", "x" * 20_000])
async def test_a_value_of_no_or_too_many_bytes_is_refused(safe, value):
    with pytest.raises(InterlockError) as refused:
        await safe.put("openai", value)
    assert refused.value.code == "invalid_request"


async def test_a_ciphertext_copied_to_another_row_does_not_open(safe, store_urls):
    await safe.put("mine", "a-secret-value")
    await safe.put("theirs", "another-value")
    thief = await asyncpg.connect(store_urls.superuser, database="interlock")
    await thief.execute(
        "UPDATE secrets_envelopes t SET ciphertext = m.ciphertext, wrapped_key = m.wrapped_key"
        " FROM secrets_envelopes m WHERE t.name = 'theirs' AND m.name = 'mine'"
        " AND t.organization_id = $1 AND m.organization_id = $1",
        safe.scope.organization_id,
    )
    await thief.close()
    with pytest.raises(SecretUnreadableError):
        await safe.open("theirs")
    assert await safe.open("mine") == b"a-secret-value"


async def test_a_rotation_moves_every_secret_to_the_new_key(safe):
    old = safe.file.read().public.kek_id
    for number in range(25):
        await safe.put(f"s{number}", f"a-secret-value-{number}")
    done = await safe.rotate()
    assert (done.state, done.rewrapped) == ("done", 25)
    assert done.kek_id == safe.file.read().public.kek_id != old
    records = await safe.control.names(safe.store, safe.scope, 100)
    assert {record.kek_id for record in records} == {done.kek_id}
    assert {record.version for record in records} == {1}
    for number in range(25):
        assert await safe.open(f"s{number}") == f"a-secret-value-{number}".encode()


async def test_a_rotation_under_load_fails_no_call(safe):
    for number in range(30):
        await safe.put(f"s{number}", f"a-secret-value-{number}")
    is_over = asyncio.Event()
    calls = 0

    async def use():
        nonlocal calls
        number = 0
        while not is_over.is_set():
            assert await safe.open(f"s{number % 30}") == f"a-secret-value-{number % 30}".encode()
            await safe.put(f"n{number % 7}", "a-newer-value")
            number, calls = number + 1, calls + 1

    async with asyncio.TaskGroup() as group:
        group.create_task(use())
        group.create_task(use())
        for _ in range(3):
            before = calls
            while (await safe.rotate()).state != "done":
                await asyncio.sleep(0.01)
            while calls < before + 5:
                await asyncio.sleep(0.01)
        is_over.set()
    assert calls > 10
    assert len(safe.file.read().secrets) <= 3


async def test_an_interrupted_rotation_goes_on_with_the_same_key(safe):
    for number in range(25):
        await safe.put(f"s{number}", "a-secret-value")
    await safe.store.run(safe.scope, safe.control.want_rotation)
    assert await safe.rotator.run_once()
    assert await safe.rotator.run_once()
    begun = await safe.store.run(safe.scope, safe.control.rotation)
    assert (begun.state, begun.rewrapped) == ("running", 10)
    restarted = Rotator(safe.store, safe.file, SystemClock(), DICE, SecretsConfig(rotate_rows=10))
    while await restarted.run_once():
        pass
    done = await safe.store.run(safe.scope, safe.control.rotation)
    assert (done.state, done.rewrapped, done.kek_id) == ("done", 25, begun.kek_id)
    assert len(safe.file.read().secrets) == 2


async def test_a_second_wish_joins_the_rotation_under_way(safe):
    await safe.put("s", "a-secret-value")
    await safe.store.run(safe.scope, safe.control.want_rotation)
    await safe.store.run(safe.scope, safe.control.want_rotation)
    while await safe.rotator.run_once():
        pass
    assert len(safe.file.read().secrets) == 2


async def test_an_envelope_that_opens_for_nobody_does_not_stop_a_rotation(safe, store_urls):
    await safe.put("good", "a-secret-value")
    await safe.put("bad", "a-secret-value")
    vandal = await asyncpg.connect(store_urls.superuser, database="interlock")
    await vandal.execute("UPDATE secrets_envelopes SET wrapped_key = '\\x00' WHERE name = 'bad'")
    await vandal.close()
    assert (await safe.rotate()).state == "done"
    assert safe.rotator.statistics()["unreadable"] == 1
    assert await safe.open("good") == b"a-secret-value"


async def test_more_of_them_than_a_batch_holds_do_not_stop_it_either(safe, store, tmp_path):
    """Whoever has another master key left these behind; a store of many tenants has such rows for years."""
    (tmp_path / "other").mkdir()
    other = Safe(store, tmp_path / "other", safe.scope)
    for number in range(12):
        await other.put(f"a{number}", "a-secret-value")
    await safe.put("good", "a-secret-value")
    done = await safe.rotate()
    assert (done.state, done.rewrapped) == ("done", 1)
    assert safe.rotator.statistics()["unreadable"] == 12
    assert await safe.open("good") == b"a-secret-value"


async def test_a_wanted_rotation_is_seen_by_the_lookout(safe):
    lookout = Lookout(safe.store, SystemClock())
    rotator = Rotator(safe.store, safe.file, SystemClock(), DICE, SecretsConfig(rotate_poll_s=3_600.0))
    # The turn of the first look is another's: only the wish can wake the rotator.
    lookout.watch(Query("nothing", "nothing waits", "SELECT WHERE false"), lambda: None)
    lookout.watch(Query("nothing", "nothing waits", "SELECT WHERE false"), lambda: None)
    rotator.told_by(lookout)
    await safe.put("s", "a-secret-value")
    look, looked = rotator.run_once, asyncio.Event()

    async def watched():
        is_more = await look()
        looked.set()
        return is_more

    rotator.run_once = watched
    loop = asyncio.ensure_future(rotator.run())
    # Its first look must not be the one that finds the wish.
    await looked.wait()
    await safe.store.run(safe.scope, safe.control.want_rotation)
    assert await lookout.run_once() == 1
    while (await safe.store.run(safe.scope, safe.control.rotation)).state != "done":
        await asyncio.sleep(0.02)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert await lookout.run_once() == 0
