"""`Idempotency-Key`: work, audit row and stored reply are one transaction, so a lost reply can be given again."""

import asyncio

import asyncpg
import pytest

from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.config import ControlConfig
from tests.foundation.control.conftest import Client
from tests.support.store import opened

NOTE = {"name": "n"}


async def test_the_same_call_again_gets_the_same_answer_and_is_not_done_again(world, admin):
    first = await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    again = await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    assert (again.status, again.content) == (first.status, first.content) == (201, first.content)
    assert again.headers["x-interlock-replayed"] == "true"
    assert "x-interlock-replayed" not in first.headers
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert world.work == 1
    assert len(await world.audited("note.create")) == 1


async def test_another_body_or_target_under_the_same_key_is_refused(admin):
    await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    answer = await admin("POST", "/admin/v1/notes", {"name": "m"}, idempotency_key="k1")
    assert (answer.status, answer.code) == (422, "idempotency_mismatch")
    assert (await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k2")).status == 201


async def test_another_caller_does_not_get_the_reply(world, app, admin):
    world.keys.known["il_second"] = world.principal("admin:write")
    await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    answer = await Client(app)("POST", "/admin/v1/notes", NOTE, idempotency_key="k1", x_api_key="il_second")
    assert answer.code == "idempotency_mismatch"


async def test_another_organization_has_its_own_keys(world, app, admin, store):
    from tests.support.store import make_tenant  # noqa: PLC0415 - only this story has a second tenant

    organization_id, _ = await make_tenant(store)
    world.keys.known["il_other"] = world.principal("admin:write", organization_id=organization_id)
    await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    answer = await Client(app)("POST", "/admin/v1/notes", {"name": "m"}, idempotency_key="k1", x_api_key="il_other")
    assert answer.status == 201


async def test_a_call_that_failed_left_no_reply(world, admin):
    assert (await admin("DELETE", "/admin/v1/notes/1", idempotency_key="k1")).status == 409
    again = await admin("DELETE", "/admin/v1/notes/1", idempotency_key="k1")
    assert again.status == 409
    assert "x-interlock-replayed" not in again.headers


async def test_a_twin_waits_for_the_running_call_and_gets_its_reply(world, admin):
    world.gate.clear()
    first = asyncio.ensure_future(admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1"))
    while world.work == 0:
        await asyncio.sleep(0.005)
    twin = asyncio.ensure_future(admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1"))
    await asyncio.sleep(0.1)
    assert not twin.done()
    world.gate.set()
    assert (await first).content == (await twin).content
    assert (await twin).headers["x-interlock-replayed"] == "true"
    assert world.work == 1


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_a_twin_of_a_call_that_goes_on_is_told_to_come_back(world, is_elsewhere):
    kit = world.kit(config=ControlConfig(idempotency_wait_ms=100))
    admin = Client(build_app(world.routes(), kit), {"authorization": "Bearer il_admin"})
    other = Client(build_app(world.routes(), kit), admin.headers) if is_elsewhere else admin
    world.gate.clear()
    first = asyncio.ensure_future(admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1"))
    while world.work == 0:
        await asyncio.sleep(0.005)
    twin = await other("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    assert (twin.status, twin.code) == (409, "idempotency_in_progress")
    world.gate.set()
    assert (await first).status == 201
    assert world.work == 1


async def test_a_crowd_of_twins_does_the_work_once(world, store_urls):
    async with opened(store_urls, connections_max=8) as wide:
        world.store = wide
        admin = Client(build_app(world.routes(), world.kit()), {"authorization": "Bearer il_admin"})
        calls = (admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1") for _ in range(8))
        answers = await asyncio.gather(*calls)
    assert {answer.status for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("x-interlock-replayed" in answer.headers for answer in answers) == 7
    assert world.work == 1


def held_and_waiting(world):
    statistics = world.store.statistics().app
    return statistics.size - statistics.idle, statistics.waiting


async def test_a_crowd_of_waiting_twins_leaves_connections_for_others(world, admin):
    """The store of this test has four; twelve twins wait without one."""
    world.gate.clear()
    calls = [asyncio.ensure_future(admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")) for _ in range(12)]
    while world.work == 0:
        await asyncio.sleep(0.005)
    async with asyncio.timeout(240):
        while held_and_waiting(world) != (1, 0):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert held_and_waiting(world) == (1, 0)
    assert not any(call.done() for call in calls)
    world.gate.set()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {201}
    assert world.work == 1


async def test_twins_in_two_processes_meet_in_the_store(world, admin):
    other = Client(build_app(world.routes(), world.kit()), admin.headers)
    world.gate.clear()
    first = asyncio.ensure_future(admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1"))
    while world.work == 0:
        await asyncio.sleep(0.005)
    twin = asyncio.ensure_future(other("POST", "/admin/v1/notes", NOTE, idempotency_key="k1"))
    await asyncio.sleep(0.1)
    assert not twin.done()
    world.gate.set()
    assert (await first).content == (await twin).content
    assert world.work == 1


async def test_after_its_time_a_key_may_be_used_for_something_else(world, admin, store_urls):
    await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    owner = await asyncpg.connect(store_urls.superuser, database="interlock")
    await owner.execute("UPDATE store_idempotency_keys SET expires_at = now() - interval '1 second'")
    await owner.close()
    assert (await admin("POST", "/admin/v1/notes", {"name": "m"}, idempotency_key="k1")).status == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b", "ä"])
async def test_a_key_of_the_wrong_form_is_refused(world, admin, key):
    answer = await admin("POST", "/admin/v1/notes", NOTE, idempotency_key=key)
    assert answer.code == "invalid_request"
    assert world.work == 0


async def test_the_longest_key_is_taken(admin):
    assert (await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="x" * 255)).status == 201


async def test_a_stored_reply_is_sealed(admin, store_urls):
    """A created API key is in a reply; the store, a dump and a backup of it must not give it away."""
    await admin("POST", "/admin/v1/notes", {"name": "il_live_visible_secret"}, idempotency_key="k1")
    owner = await asyncpg.connect(store_urls.superuser, database="interlock")
    replies = await owner.fetch("SELECT reply FROM store_idempotency_keys WHERE reply IS NOT NULL")
    await owner.close()
    assert replies
    assert not any(b"visible" in row["reply"] for row in replies)


async def test_a_reply_under_a_lost_sealing_key_does_not_run_the_work_again(world, admin):
    await admin("POST", "/admin/v1/notes", NOTE, idempotency_key="k1")
    kit = world.kit()
    other = build_app(world.routes(), type(kit)(**{**{n: getattr(kit, n) for n in kit.__slots__}, "key": b"x" * 32}))
    answer = await Client(other, {"authorization": "Bearer il_admin"})(
        "POST", "/admin/v1/notes", NOTE, idempotency_key="k1"
    )
    assert answer.status == 500
    assert world.work == 1


def test_the_dice_are_the_platforms():
    assert len(SystemDice().randbytes(12)) == 12
