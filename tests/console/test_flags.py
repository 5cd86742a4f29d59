"""The page of flags: switches first, a flag made, flipped and deleted with a reason, and by nobody who may not."""

import csv
import io
import re

import pytest

from interlock.console.config import ConsoleConfig
from interlock.console.flags import FlagPages, flag_pages
from interlock.foundation.audit import AuditLog
from interlock.foundation.flags import FlagService, Kill, KillService
from interlock.foundation.flags.routes import routes as flag_routes
from interlock.foundation.identity import ALL_SCOPES
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Role
from tests.console.conftest import signed_in
from tests.console.test_pages import post, text
from tests.support.store import IDS, make_tenant, scope_of

PAGE = "/console/flags"
NEW = {"name": "new-basket", "state": "rollout", "rollout": "12.5 %", "reason": "a first look", "until": "2999-01-31"}


@pytest.fixture
def app(world):
    audit = AuditLog(world.clock, Redactor())
    flags = FlagService(world.store, audit, world.clock, IDS)
    pages = FlagPages(world.console().frame, flags, world.clock, ConsoleConfig())
    return world.app(*flag_pages(pages), *flag_routes(KillService(world.store, audit, world.clock, IDS), flags))


async def stored(owner, name="new-basket"):
    return (await owner("GET", f"/admin/v1/flags/{name}")).json


async def test_an_empty_page_names_the_command_and_shows_the_switches_first(world, owner):
    page = text(await owner("GET", PAGE))
    assert "interlock flags set" in page
    assert "None is on." in page
    kill = Kill(
        id="kill_x", organization_id=world.owner.organization_id, scope="route", target="shop", mode="reject",
        reason="it <b>lies</b>", actor="usr_x", created_us=0,
    )  # fmt: skip
    world.kills.kills = (kill,)
    page = text(await owner("GET", PAGE))
    assert page.index("it &lt;b&gt;lies") < page.index(">Flags</h2>")
    assert "<b>lies" not in page


async def test_a_flag_is_made_for_a_share_and_the_api_reads_it_back(world, owner):
    answer = await post(owner, PAGE, page=PAGE, **NEW, target=format_id("ws", world.owner.workspace_id))
    assert (answer.status, answer.headers["location"]) == (303, PAGE)
    flag = await stored(owner)
    assert (flag["rollout"], flag["is_on"], flag["reason"]) == (12.5, False, "a first look")
    assert flag["until"] == "2999-01-31T00:00:00.000Z"
    assert len(flag["targets"]) == 1
    assert (await post(owner, PAGE, page=PAGE, **NEW)).status == 409
    page = text(await owner("GET", PAGE))
    assert "12.5 %" in page
    assert "2999-01-31" in page


async def test_a_flip_keeps_the_targets_and_is_refused_where_somebody_was_quicker(world, owner):
    await post(owner, PAGE, page=PAGE, **NEW, target=format_id("ws", world.owner.workspace_id))
    before = await stored(owner)
    at = f"{PAGE}/{before['id']}"
    answer = await post(owner, at, page=PAGE, state="on", reason="it holds", version=str(before["version"]))
    assert answer.status == 303
    after = await stored(owner)
    assert (after["is_on"], after["rollout"], after["until"], after["reason"]) == (True, 0.0, None, "it holds")
    assert after["targets"] == before["targets"]
    assert after["version"] == before["version"] + 1
    late = await post(owner, at, page=PAGE, state="off", reason="late", version=str(before["version"]))
    assert late.status == 412
    assert (await stored(owner))["is_on"] is True


@pytest.mark.parametrize(
    "wrong",
    [{"reason": ""}, {"state": "maybe"}, {"rollout": "lots"}, {"rollout": "101"}, {"until": "soon"}, {"name": ""}],
)
async def test_what_makes_no_sense_is_refused_and_makes_no_flag(owner, wrong):
    assert (await post(owner, PAGE, page=PAGE, **{**NEW, **wrong})).status == 400
    assert (await owner("GET", "/admin/v1/flags")).json["data"] == []


async def test_a_flag_is_deleted(owner):
    await post(owner, PAGE, page=PAGE, **NEW)
    identity = (await stored(owner))["id"]
    assert (await post(owner, f"{PAGE}/{identity}/delete", page=PAGE)).status == 303
    assert (await owner("GET", "/admin/v1/flags")).json["data"] == []
    assert (await post(owner, f"{PAGE}/{identity}/delete", page=PAGE)).status == 404


async def test_an_expired_flag_says_so_and_names_stay_text_and_no_formula(owner):
    await post(owner, PAGE, page=PAGE, name="=<i>cmd</i>", state="on", reason="<i>x</i>", until="2020-01-01")
    page = text(await owner("GET", PAGE))
    assert "expired" in page
    assert "<i>" not in page
    rows = list(csv.DictReader(io.StringIO(text(await owner("GET", f"{PAGE}.csv")))))
    assert [(row["name"], row["state"]) for row in rows] == [("'=<i>cmd</i>", "expired")]


async def test_who_may_not_write_sees_no_button_and_is_refused(world, app, owner, store):
    await post(owner, PAGE, page=PAGE, **NEW)
    flag = await stored(owner)
    viewer = await signed_in(world, app, await world.sign_up("reader", Role.VIEWER, ("requests:read", "console")))
    assert (await viewer("GET", PAGE)).status == 403
    scopes = ("requests:read", "console", "admin:read")
    auditor = await signed_in(world, app, await world.sign_up("auditor", Role.AUDITOR, scopes))
    page = text(await auditor("GET", PAGE))
    assert "new-basket" in page
    assert not re.search(r'<form action="/console/flags', page)
    changed = await post(auditor, f"{PAGE}/{flag['id']}", page=PAGE, state="on", reason="x", version="1")
    assert changed.status == 403
    key = await world.sign_up("stranger", Role.OWNER, tuple(sorted(ALL_SCOPES)), scope_of(*await make_tenant(store)))
    stranger = await signed_in(world, app, key)
    assert flag["id"] not in text(await stranger("GET", PAGE))
    theirs = await post(stranger, f"{PAGE}/{flag['id']}", page=PAGE, state="on", reason="x", version="1")
    assert theirs.status == 404
    assert await stored(owner) == flag
