"""A key is good or it is not, and nobody learns more than that."""

import asyncio
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import (
    Authenticated,
    Authenticator,
    IdentityConfig,
    KeyDirectory,
    LastUsed,
    directory,
)
from interlock.foundation.identity.directory import KeyRecord, KnownKey
from interlock.foundation.identity.domain.keys import ALPHABET, checksum, hash_key, is_well_formed, lookup_of, make_key
from interlock.foundation.scope import Role
from interlock.foundation.store import Query
from tests.foundation.identity.worlds import OLD_PEPPER, PEPPER
from tests.support.store import IDS

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
STORED = Query("stored", "what the store keeps of a key", "SELECT * FROM identity_api_keys WHERE lookup = $1")
UNDER_OLD = Query(
    "under_old", "a key from before", "UPDATE identity_api_keys SET hmac = $2, version = 2 WHERE lookup = $1"
)


def naive_checksum(head):
    """CRC-32 by its polynomial, and base62 by repeated division: no line shared with the code."""
    crc = 0xFFFFFFFF
    for byte in head.encode():
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return "".join(BASE62[crc // 62**place % 62] for place in range(5, -1, -1))


@given(st.text(alphabet=ALPHABET, min_size=40, max_size=40), st.sampled_from(["live", "test"]))
def test_a_checksum_is_the_crc_of_all_before_it_in_six_digits_of_base62(body, kind):
    head = f"il_{kind}_{body}"
    assert checksum(head) == naive_checksum(head)
    assert is_well_formed(head + naive_checksum(head))
    assert lookup_of(head + naive_checksum(head)) == body[:8]


@given(st.integers(0, 53), st.characters(codec="utf-8"))
def test_one_changed_character_anywhere_is_garbage(place, char):
    text = make_key("live", SystemDice()).text
    mutated = text[:place] + char + text[place + 1 :]
    assert is_well_formed(mutated) is (mutated == text)


@given(st.one_of(st.text(max_size=80), st.binary(max_size=80).map(lambda raw: raw.decode("latin-1"))))
def test_garbage_is_refused_and_never_breaks_anything(text):
    directory = KeyDirectory(None)
    found = Authenticator(directory, [PEPPER], SystemClock()).check(text, None, 0)
    assert (found.code, found.is_miss) == ("invalid_key", False)


def record(text, pepper=PEPPER, **fields):
    tenant = {"organization_id": IDS.new(), "workspace_id": IDS.new(), "id": IDS.new(), "owner_id": IDS.new()}
    lists = {"scopes": ["inference"], "models": ["*"], "cidrs": []}
    values = {"kind": "live", "last4": text[-4:], "name": "k", "owner_kind": "user", "memberships": [("owner", None)]}
    return KeyRecord(
        **{**tenant, **lists, **values, "lookup": lookup_of(text), "hmac": hash_key(text, pepper), **fields}
    )


class KeyMachine(RuleBasedStateMachine):
    """A directory of keys against a plain model of what each of them may."""

    def __init__(self):
        super().__init__()
        self.directory = KeyDirectory(None)
        self.authenticator = Authenticator(self.directory, [PEPPER, OLD_PEPPER], SystemClock())
        self.model = {}
        self.now_us = 1_000_000

    def put(self, text, entry):
        entry = {**entry, "cidrs": entry.get("cidrs", [])}
        self.model[text] = entry
        kept = record(
            text, entry["pepper"], cidrs=entry["cidrs"], expires_us=entry["expires_us"], revoked_us=entry["revoked_us"]
        )
        self.directory._keys[kept.lookup] = KnownKey(kept)

    @rule(
        life_us=st.one_of(st.none(), st.integers(1, 5_000_000)),
        pepper=st.sampled_from([PEPPER, OLD_PEPPER, b"x" * 32]),
        cidrs=st.sampled_from([[], ["10.0.0.0/8"], ["2001:db8::/32", "192.0.2.1/32"]]),
    )
    def make(self, life_us, pepper, cidrs):
        text = make_key("live", SystemDice()).text
        expires_us = None if life_us is None else self.now_us + life_us
        self.put(text, {"expires_us": expires_us, "revoked_us": None, "pepper": pepper, "cidrs": cidrs})

    @precondition(lambda self: self.model)
    @rule(choice=st.randoms(use_true_random=False))
    def revoke(self, choice):
        text = choice.choice(sorted(self.model))
        self.put(text, {**self.model[text], "revoked_us": self.now_us})

    @rule(step_us=st.integers(0, 3_000_000))
    def wait(self, step_us):
        self.now_us += step_us

    @rule()
    def start_again_from_the_snapshot(self):
        fresh = KeyDirectory(None)
        fresh.load(self.directory.to_bytes())
        self.directory._encoded = None
        self.directory = fresh
        self.authenticator = Authenticator(fresh, [PEPPER, OLD_PEPPER], SystemClock())

    @rule(text=st.sampled_from([make_key("live", SystemDice()).text for _ in range(3)]))
    def a_stranger_is_a_miss(self, text):
        assert self.authenticator.check(text, None, self.now_us).is_miss

    @precondition(lambda self: self.model)
    @rule(choice=st.randoms(use_true_random=False))
    def the_right_lookup_with_another_secret_is_refused(self, choice):
        text = choice.choice(sorted(self.model))
        head = text[:16] + make_key("live", SystemDice()).text[16:48]
        found = self.authenticator.check(head + checksum(head), "10.1.2.3", self.now_us)
        assert (found.code, found.is_miss) == ("invalid_key", False)

    @precondition(lambda self: self.model)
    @rule(choice=st.randoms(use_true_random=False))
    def a_row_gets_another_secret_and_the_one_it_proved_is_worth_nothing(self, choice):
        text = choice.choice(sorted(self.model))
        head = text[:16] + make_key("live", SystemDice()).text[16:48]
        self.put(head + checksum(head), self.model.pop(text))
        found = self.authenticator.check(text, None, self.now_us)
        assert (found.code, found.is_miss) == ("invalid_key", False)

    @precondition(lambda self: self.model)
    @rule(choice=st.randoms(use_true_random=False), place=st.integers(16, 53), char=st.characters())
    def a_changed_character_of_a_proved_key_is_refused(self, choice, place, char):
        text = choice.choice(sorted(self.model))
        if text[place] != char:
            assert (
                self.authenticator.check(text[:place] + char + text[place + 1 :], None, self.now_us).code
                == "invalid_key"
            )

    @invariant()
    def every_key_answers_as_the_model_says(self):
        for text, entry in self.model.items():
            for address in (None, "10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "not an address"):
                found = self.authenticator.check(text, address, self.now_us)
                assert (found.principal.address if isinstance(found, Authenticated) else found.code) == expected(
                    entry, address, self.now_us
                )


def expected(entry, address, now_us):
    if entry["pepper"] not in {PEPPER, OLD_PEPPER}:
        return "invalid_key"
    if entry["revoked_us"] is not None:
        return "key_revoked"
    if entry["expires_us"] is not None and now_us >= entry["expires_us"]:
        return "key_expired"
    inside = {
        "10.0.0.0/8": {"10.1.2.3", "::ffff:10.1.2.3"},
        "192.0.2.1/32": {"192.0.2.1"},
        "2001:db8::/32": set(),
    }
    is_inside = not entry["cidrs"] or any(address in inside[cidr] for cidr in entry["cidrs"])
    return address if is_inside else "ip_denied"


TestKeyMachine = KeyMachine.TestCase
TestKeyMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


async def test_the_store_never_holds_the_text_of_a_key(world, shop):
    async with world.store.ops("look") as tx:
        row = dict(await tx.fetchrow(STORED, lookup_of(shop.owner_key)))
    assert shop.owner_key not in repr(row)
    assert shop.owner_key[16:48] not in repr(row)
    assert row["hmac"] == hash_key(shop.owner_key, PEPPER)


async def test_a_new_key_works_at_once_in_a_process_that_has_not_heard_of_it(world, shop):
    stranger = Authenticator(KeyDirectory(world.store), [PEPPER], world.clock)
    assert stranger.check(shop.owner_key, None, world.clock.now_us()).is_miss
    found = await stranger.check_store(shop.owner_key, "10.0.0.1")
    assert isinstance(found, Authenticated)
    assert found.principal.address == "10.0.0.1"
    assert found.principal.memberships[0].role is Role.OWNER
    assert isinstance(stranger.check(shop.owner_key, None, world.clock.now_us()), Authenticated)


async def test_an_unknown_key_is_asked_about_once_and_then_remembered(world):
    text = make_key("live", SystemDice()).text
    world.clock.stop()
    for _ in range(5):
        assert (await world.authenticator.check_store(text, None)).code == "invalid_key"
    assert world.authenticator.statistics()["store_asked"] == 1
    world.clock.forward += 6
    await world.authenticator.check_store(text, None)
    assert world.authenticator.statistics()["store_asked"] == 2


async def test_a_flood_of_unknown_keys_asks_the_store_a_bounded_number_of_times(world):
    keys = [make_key("live", SystemDice()).text for _ in range(150)]
    world.clock.stop()
    codes = [(await world.authenticator.check_store(text, None)).code for text in keys]
    asked = world.authenticator.statistics()["store_asked"]
    assert codes.count("invalid_key") == asked == IdentityConfig().misses_per_s
    assert codes.count("identity_unavailable") == len(keys) - asked > 0


async def test_with_the_store_away_an_unknown_key_is_not_called_wrong_and_a_known_one_works(world, shop):
    world.store._pulse.is_up = False
    assert (await world.authenticator.check_store(make_key("live", SystemDice()).text, None)).code == (
        "identity_unavailable"
    )
    assert isinstance(world.check(shop.owner_key), Authenticated)
    with pytest.raises(InterlockError, match="store_unavailable"):
        await world.directory.reload()
    assert isinstance(world.check(shop.owner_key), Authenticated)
    world.store._pulse.is_up = True


async def test_a_key_has_the_lesser_of_its_scopes_and_its_owners_roles(world, shop):
    viewer = world.check(await world.person(shop.scope, Role.VIEWER))
    assert viewer.principal.scopes >= {"requests:read", "console"}
    assert not viewer.principal.scopes & {"inference", "admin:read", "kill:write"}
    narrow = world.check(await world.person(shop.scope, Role.OWNER, {"inference"}))
    assert narrow.principal.scopes == {"inference"}
    nobody = world.check(await world.person(shop.scope, None))
    assert nobody.principal.scopes == frozenset()


async def test_last_use_is_written_and_a_key_under_the_old_pepper_moves_to_the_new_one(world, shop):
    lookup = lookup_of(shop.owner_key)
    async with world.store.transaction(shop.scope) as tx:
        await tx.execute(UNDER_OLD, lookup, hash_key(shop.owner_key, OLD_PEPPER))
    await world.directory.reload()
    assert isinstance(world.check(shop.owner_key), Authenticated)
    assert await LastUsed(world.store, world.authenticator, world.audit, world.clock).run_once() == 1
    async with world.store.ops("look") as tx:
        row = await tx.fetchrow(STORED, lookup)
    assert row["hmac"] == hash_key(shop.owner_key, PEPPER)
    assert row["last_used_us"] is not None


async def test_use_outside_its_networks_is_refused_and_audited_once(world, shop):
    body = {"workspace_id": shop.workspace_id, "name": "office", "cidrs": ["10.0.0.0/8"]}
    made = (await shop.owner("POST", "/admin/v1/keys", body)).json
    await world.directory.reload()
    assert isinstance(world.check(made["key"], "10.9.9.9"), Authenticated)
    for _ in range(3):
        assert world.check(made["key"], "192.0.2.7").code == "ip_denied"
    await LastUsed(world.store, world.authenticator, world.audit, world.clock).run_once()
    (event,) = await world.audited(shop.scope, "key.outside")
    assert (event.target_id, event.detail["address"], event.outcome) == (made["id"], "192.0.2.7", "refused")


async def test_a_reload_keeps_what_did_not_change_and_takes_what_did(world, shop):
    known = world.directory.find(lookup_of(shop.owner_key))
    await world.directory.reload()
    assert world.directory.find(lookup_of(shop.owner_key)) is known
    rotated = await shop.owner("GET", "/admin/v1/keys")
    key = next(each for each in rotated.json["data"] if each["last4"] == shop.owner_key[-4:])
    await shop.owner("PATCH", f"/admin/v1/keys/{key['id']}", {"name": "renamed"})
    await world.directory.reload()
    assert world.directory.find(lookup_of(shop.owner_key)).record.name == "renamed"


async def test_twenty_reloads_and_look_ups_at_once_leave_one_consistent_directory(world, shop):
    lookups = [world.directory.look_up(lookup_of(shop.owner_key)) for _ in range(10)]
    await asyncio.gather(*(world.directory.reload() for _ in range(3)), *lookups)
    assert isinstance(world.check(shop.owner_key), Authenticated)


async def test_a_key_made_in_the_middle_of_a_reload_is_not_known_without_its_role(world, shop, monkeypatch):
    made, read_owners, stranger = [], directory._owners, KeyDirectory(world.store)

    async def roles_and_then_a_key(tx, owner):
        roles = await read_owners(tx, owner)
        if not made:
            made.append(None)
            made[0] = await world.person(shop.scope, Role.DEVELOPER)
        return roles

    monkeypatch.setattr(directory, "_owners", roles_and_then_a_key)
    await stranger.reload()
    known = stranger.find(lookup_of(made[0]))
    assert known is None or known.record.memberships
    await stranger.reload()
    assert stranger.find(lookup_of(made[0])).record.memberships


@pytest.mark.parametrize("asked", ["before", "amid"])
async def test_a_key_revoked_in_the_middle_of_a_reload_stays_refused_once_it_was(world, shop, monkeypatch, asked):
    """A single look-up reads the key as revoked, or as it was; the reload beside it reads the other."""
    body = {"workspace_id": shop.workspace_id, "name": "short-lived"}
    made = (await shop.owner("POST", "/admin/v1/keys", body)).json
    stranger = KeyDirectory(world.store)
    judge = Authenticator(stranger, [PEPPER], world.clock)
    # A reload reads roles once before its rows and once behind them; a look-up once, behind its row.
    read_owners, left = directory._owners, [2 if asked == "amid" else 1]

    async def roles_and_meanwhile(tx, owner):
        roles = await read_owners(tx, owner)
        left[0] -= 1
        if left[0] == 0:
            assert (await shop.owner("DELETE", f"/admin/v1/keys/{made['id']}")).status == 200
            if asked == "amid":
                assert (await judge.check_store(made["key"], None)).code == "key_revoked"
            else:
                await stranger.reload()
        return roles

    monkeypatch.setattr(directory, "_owners", roles_and_meanwhile)
    if asked == "amid":
        await stranger.reload()
    else:
        assert isinstance(await judge.check_store(made["key"], None), Authenticated)
    assert judge.check(made["key"], None, world.clock.now_us()).code == "key_revoked"
    await stranger.reload()
    assert judge.check(made["key"], None, world.clock.now_us()).code == "key_revoked"


async def test_a_look_up_that_read_before_the_reload_beside_it_does_not_stand_over_it(world, shop, monkeypatch):
    """Of two readings of a key the later one counts, whichever of the two began first."""
    body = {"workspace_id": shop.workspace_id, "name": "short-lived"}
    made = (await shop.owner("POST", "/admin/v1/keys", body)).json
    stranger = KeyDirectory(world.store)
    judge = Authenticator(stranger, [PEPPER], world.clock)
    read_owners, asked = directory._owners, []

    async def roles_and_a_look_up(tx, owner):
        roles = await read_owners(tx, owner)
        if owner is None and not asked:
            # The reload has seen that there is such a key; since it was renamed then, it reads it again, and that next.
            path = f"/admin/v1/keys/{made['id']}"
            assert (await shop.owner("PATCH", path, {"name": "renamed"})).status == 200
            asked.append(await judge.check_store(made["key"], None))
            assert (await shop.owner("DELETE", path)).status == 200
        return roles

    monkeypatch.setattr(directory, "_owners", roles_and_a_look_up)
    await stranger.reload()
    assert isinstance(asked[0], Authenticated)
    assert judge.check(made["key"], None, world.clock.now_us()).code == "key_revoked"


@pytest.mark.parametrize("first", ["revoked", "rotated"])
async def test_a_key_that_was_revoked_or_rotated_while_it_is_rotated_has_no_heir_more(world, shop, monkeypatch, first):
    """Whoever rotates it read the key before; a second heir would live on, and nothing would name it."""
    made = (await shop.owner("POST", "/admin/v1/keys", {"workspace_id": shop.workspace_id, "name": "one"})).json
    path, get_key, calls = f"/admin/v1/keys/{made['id']}", world.keys.get, []

    async def read_and_meanwhile(tx, named):
        row = await get_key(tx, named)
        calls.append(named)
        if len(calls) == 1:
            answer = await (shop.owner("DELETE", path) if first == "revoked" else shop.owner("POST", f"{path}/rotate"))
            assert answer.status in {200, 201}
        return row

    monkeypatch.setattr(world.keys, "get", read_and_meanwhile)
    late = await shop.owner("POST", f"{path}/rotate", {})
    assert (late.status, late.code) == (409, "in_use")
    keys = (await shop.owner("GET", "/admin/v1/keys")).json["data"]
    heirs = [each for each in keys if each["name"] == "one" and each["id"] != made["id"]]
    assert len(heirs) == (first == "rotated")
