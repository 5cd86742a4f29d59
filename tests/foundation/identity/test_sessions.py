"""Signing in to the console: by a key or by a link that works once; a session ends with its key."""

import pytest

from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Role
from interlock.foundation.store import Query
from tests.foundation.control.conftest import Client

SESSIONS = Query("sessions", "what the store keeps", "SELECT * FROM identity_sessions WHERE organization_id = $1")
TOKENS = Query("tokens", "what the store keeps", "SELECT * FROM identity_login_tokens WHERE organization_id = $1")


async def refused(work):
    with pytest.raises(InterlockError) as caught:
        await work
    return caught.value


async def test_a_session_acts_as_the_keys_owner_without_the_key(world, shop):
    token = await world.sessions.sign_in(shop.owner_key, "10.0.0.1")
    principal = await world.sessions.check(token, "10.0.0.2")
    known = world.check(shop.owner_key).principal
    assert (principal.id, principal.scopes, principal.memberships) == (known.id, known.scopes, known.memberships)
    assert (principal.key_id, principal.address) == (None, "10.0.0.2")
    assert principal.session_id is not None
    browser = Client(world.app, {"cookie": f"interlock_session={token}"})
    assert (await browser("GET", "/admin/v1/users")).status == 200


async def test_a_session_is_worth_nothing_where_its_key_is_worth_nothing(world, shop):
    path = f"/admin/v1/keys/{format_id('key', world.check(shop.owner_key).principal.key_id)}"
    token = await world.sessions.sign_in(shop.owner_key, "10.0.0.1")
    assert (await shop.owner("PATCH", path, {"cidrs": ["10.0.0.0/24"]})).status == 200
    await world.feed.run_once()
    await world.sessions.check(token, "10.0.0.2")
    link = await world.sessions.make_login_token(shop.owner_key)
    for work in (world.sessions.check(token, "192.0.2.1"), world.sessions.sign_in_once(link, "192.0.2.1")):
        assert (await refused(work)).code == "ip_denied"


async def test_the_store_keeps_no_token_that_would_open_a_session(world, shop):
    token = await world.sessions.sign_in(shop.owner_key, None)
    link = await world.sessions.make_login_token(shop.owner_key)
    async with world.store.ops("look") as tx:
        kept = repr(
            [dict(row) for query in (SESSIONS, TOKENS) for row in await tx.fetch(query, shop.scope.organization_id)]
        )
    for secret in (token, link):
        assert secret not in kept
        assert bytes.fromhex(secret).hex() not in kept


async def test_a_session_ends_when_it_is_idle_too_long_and_at_its_age_whatever_its_use(world, shop):
    idle = await world.sessions.sign_in(shop.owner_key, None)
    used = await world.sessions.sign_in(shop.owner_key, None)
    for _ in range(3):
        world.clock.forward += 7 * 3600
        await world.sessions.check(used, None)
    assert (await refused(world.sessions.check(idle, None))).code == "session_expired"
    world.clock.forward += 3 * 3600 + 1
    assert (await refused(world.sessions.check(used, None))).code == "session_expired"


async def test_signing_out_ends_the_session_and_nothing_else(world, shop):
    first, second = [await world.sessions.sign_in(shop.owner_key, None) for _ in range(2)]
    await world.sessions.end(first)
    await world.sessions.end(first)
    await world.sessions.end("no such session")
    assert (await refused(world.sessions.check(first, None))).code == "session_expired"
    await world.sessions.check(second, None)
    assert [each.action for each in await world.audited(shop.scope, "session.end")] == ["session.end"]
    assert len(await world.audited(shop.scope, "session.open")) == 2


async def test_a_link_works_once_and_for_an_hour(world, shop):
    link = await world.sessions.make_login_token(shop.owner_key)
    await world.sessions.check(await world.sessions.sign_in_once(link, None), None)
    assert (await refused(world.sessions.sign_in_once(link, None))).code == "invalid_key"
    late = await world.sessions.make_login_token(shop.owner_key)
    world.clock.forward += 3_601
    assert (await refused(world.sessions.sign_in_once(late, None))).code == "invalid_key"


async def test_a_revoked_key_ends_its_sessions_and_its_links(world, shop):
    made = await world.person(shop.scope, Role.ADMIN)
    token = await world.sessions.sign_in(made, None)
    link = await world.sessions.make_login_token(made)
    keys = (await shop.owner("GET", "/admin/v1/keys")).json["data"]
    key = next(each for each in keys if each["last4"] == made[-4:])
    await shop.owner("DELETE", f"/admin/v1/keys/{key['id']}")
    await world.feed.run_once()
    for work in (world.sessions.check(token, None), world.sessions.sign_in_once(link, None)):
        assert (await refused(work)).code in {"session_expired", "invalid_key"}


async def test_every_wrong_sign_in_gets_the_same_words(world, shop):
    no_console = await world.person(shop.scope, Role.OWNER, {"inference"})
    nobody = await world.person(shop.scope, None)
    errors = [
        await refused(world.sessions.sign_in(presented, f"10.0.1.{number}"))
        for number, presented in enumerate(("garbage", "", no_console, nobody, shop.owner_key[:-1] + "0"))
    ]
    assert {(each.code, each.message, str(each.safe_detail)) for each in errors} == {
        (errors[0].code, errors[0].message, "{}")
    }


async def test_the_eleventh_failure_in_ten_minutes_is_told_to_wait_by_address_and_by_account(world, shop):
    for _ in range(10):
        assert (await refused(world.sessions.sign_in("garbage", "10.0.0.9"))).code == "invalid_key"
    eleventh = await refused(world.sessions.sign_in("garbage", "10.0.0.9"))
    assert (eleventh.code, eleventh.http_status) == ("admin_rate_limit", 429)
    assert 0 < eleventh.retry_after_s <= 600
    assert (await refused(world.sessions.sign_in(shop.owner_key, "10.0.0.9"))).code == "admin_rate_limit"
    await world.sessions.sign_in(shop.owner_key, "10.0.0.10")
    world.clock.forward += 601
    await world.sessions.sign_in(shop.owner_key, "10.0.0.9")


async def test_guesses_at_one_key_from_many_addresses_are_throttled_too(world, shop):
    plain = await world.person(shop.scope, Role.OWNER, {"inference"})
    for number in range(10):
        assert (await refused(world.sessions.sign_in(plain, f"10.0.2.{number}"))).code == "invalid_key"
    assert (await refused(world.sessions.sign_in(plain, "10.0.2.99"))).code == "admin_rate_limit"
    await world.sessions.sign_in(shop.owner_key, "10.0.2.99")


async def test_a_store_that_is_away_is_not_a_wrong_key(world, shop):
    world.store._pulse.is_up = False
    assert (await refused(world.sessions.sign_in(shop.owner_key, None))).code == "store_unavailable"
    world.store._pulse.is_up = True


async def test_old_sessions_and_unused_links_are_forgotten_after_a_week(world, shop):
    token = await world.sessions.sign_in(shop.owner_key, None)
    await world.sessions.make_login_token(shop.owner_key)
    await world.sessions.end(token)
    world.clock.forward += 8 * 86_400
    assert await world.sessions.forget() >= 1
    async with world.store.ops("look") as tx:
        left = [await tx.fetch(query, shop.scope.organization_id) for query in (SESSIONS, TOKENS)]
    assert left == [[], []]
