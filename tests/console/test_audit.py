"""The audit chain in the console: found by its filters, verified, signed, and shown to nobody else's readers."""

import csv
import io
import re
from urllib.parse import urlencode

import asyncpg
import pytest

from interlock.console.audit import AuditPages, audit_pages
from interlock.console.config import ConsoleConfig
from interlock.foundation.audit import (
    AuditEntry,
    AuditLog,
    AuditReader,
    Checkpointer,
    CheckpointFile,
    CheckpointKeys,
)
from interlock.foundation.audit.routes import routes as audit_routes
from interlock.foundation.identity import ALL_SCOPES
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Role
from interlock.gateway import LimitsService, Stories
from interlock.gateway.routes.requests import request_routes
from tests.console.conftest import signed_in
from tests.console.test_pages import field, post, text
from tests.foundation.audit.conftest import SIGNING_KEY
from tests.foundation.control.conftest import Client
from tests.support.store import IDS, make_tenant, scope_of

SCRIPT = "<script>alert(1)</script>"


class Chain:
    """The pages over a real chain, and what a test writes into it."""

    def __init__(self, world):
        self.world = world
        self.log = AuditLog(world.clock, Redactor())
        self.key = SIGNING_KEY
        file = CheckpointFile(world.folder / "checkpoints.jsonl")
        self.reader = AuditReader(world.store, CheckpointKeys([self.key.public]), file)
        signer = Checkpointer(world.store, world.clock, self.key, file)
        pages = AuditPages(world.console().frame, self.log, self.reader, signer, world.clock, ConsoleConfig())
        limits = LimitsService(world.identity, self.log, world.clock, IDS)
        self.app = world.app(
            *audit_pages(pages), *audit_routes(self.log, self.reader, signer),
            *request_routes(Stories(world.store, self.log), limits)[:4], samples={"audit_event": pages.newest},
        )  # fmt: skip

    async def write(self, *entries, scope=None):
        scope = scope or scope_of(self.world.owner.organization_id)
        for entry in entries:
            async with self.world.store.transaction(scope) as tx:
                await self.log.append(tx, entry)


@pytest.fixture
async def chain(world):
    return Chain(world)


@pytest.fixture
async def owner(world, chain):
    return await signed_in(world, chain.app, world.owner_key)


def events_of(page):
    return re.findall(r'<a href="/console/audit/(\d+)">\d+</a>', page.partition("checkpoints-title")[0])


def change(number, **fields):
    return AuditEntry(**{"action": "note.set", "target_kind": "note", "target_id": f"note_{number}", **fields})


async def test_events_come_newest_first_and_the_filters_are_in_the_address(chain, owner):
    await chain.write(change(1), change(2, action="note.drop", outcome="refused", reason="role_denied"), change(2))
    page = text(await owner("GET", "/console/audit"))
    seqs = [int(each) for each in events_of(page)]
    assert seqs == sorted(seqs, reverse=True)
    assert len(seqs) >= 3
    assert [int(each) for each in events_of(text(await owner("GET", "/console/audit?action=note.drop")))] == [seqs[1]]
    target = text(await owner("GET", "/console/audit?target=note_2"))
    assert [int(each) for each in events_of(target)] == seqs[:2]
    assert 'href="/console/audit.csv?target=note_2"' in target
    assert "No event matches" in text(await owner("GET", "/console/audit?to=2001-01-01T00:00"))
    assert 'value="2001-01-01T00:00:00"' in text(await owner("GET", "/console/audit?to=2001-01-01T00:00"))
    assert (await owner("GET", "/console/audit?from=yesterday")).status == 400


async def test_pages_follow_each_other_without_a_gap(chain, owner):
    await chain.write(*(change(number) for number in range(5)))
    seen, at = [], "/console/audit?action=note.set&limit=2"
    for _ in range(3):
        page = text(await owner("GET", at))
        seen += events_of(page)
        older = re.search(r'href="(/console/audit\?[^"]*cursor=[^"]*)">Older', page)
        at = f"{older[1].replace('&amp;', '&')}&limit=2" if older else at
    numbers = [int(each) for each in seen]
    assert numbers == list(range(numbers[0], numbers[0] - 5, -1))


async def test_an_event_tells_its_hashes_and_its_ids_lead_on(world, chain, owner):
    key = format_id("key", world.owner.id)
    await chain.write(change(1, target_kind="key", target_id=key, detail={"replaced": key, "note": SCRIPT}))
    seq = events_of(text(await owner("GET", "/console/audit?action=note.set")))[0]
    page = text(await owner("GET", f"/console/audit/{seq}"))
    shown = (await owner("GET", f"/admin/v1/audit/{seq}")).json
    assert shown["hash"] in page
    assert shown["prev_hash"] in page
    assert "The hash is that of this text" in page
    assert f'href="/console/find?id={key}"' in page
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(1)" in page
    found = await owner("GET", f"/console/find?id=audit:{seq}")
    assert (found.status, found.headers["location"]) == (303, f"/console/audit/{seq}")
    for nothing in ("0", "999999", "x", "9" * 30):
        assert (await owner("GET", f"/console/audit/{nothing}")).status == 404
        assert (await owner("GET", f"/admin/v1/audit/{nothing}")).status == 404


async def test_the_export_holds_what_the_filters_keep_and_no_formula(chain, owner):
    await chain.write(change(1, target_id="=cmd()"), change(2, action="note.drop"))
    rows = list(csv.DictReader(io.StringIO(text(await owner("GET", "/console/audit.csv?action=note.set")))))
    assert [(row["action"], row["target_id"]) for row in rows] == [("note.set", "'=cmd()")]
    assert len(rows[0]["hash"]) == 64


@pytest.fixture
async def intruder(store_urls):
    """A superuser whose session fires no trigger."""
    connection = await asyncpg.connect(store_urls.superuser, database="interlock")
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def test_verify_names_the_event_that_was_edited_behind_the_platforms_back(world, chain, owner, intruder):
    await chain.write(change(1), change(2))
    answer = await post(owner, "/console/audit/verify", page="/console/audit")
    assert answer.status == 200
    assert "Every hash fits" in text(answer)
    seq = events_of(text(await owner("GET", "/console/audit?target=note_1")))[0]
    own = world.owner.organization_id
    edit = "UPDATE audit_events SET target_id = 'note_x' WHERE organization_id = $1 AND seq = $2"
    await intruder.execute(edit, own, int(seq))
    found = text(await post(owner, "/console/audit/verify", page="/console/audit"))
    assert f"broken at event {seq}" in found
    assert "hash_mismatch" in found
    assert "the event was edited" in text(await owner("GET", f"/console/audit/{seq}"))
    for table in ("audit_events", "audit_heads", "audit_checkpoints"):
        await intruder.execute(f"DELETE FROM {table} WHERE organization_id = $1", own)


async def test_a_checkpoint_is_signed_shown_and_audited(world, chain, owner):
    await chain.write(change(1))
    assert "None yet" in text(await owner("GET", "/console/audit"))
    answer = await post(owner, "/console/audit/checkpoint", page="/console/audit")
    assert (answer.status, answer.headers["location"]) == (303, "/console/audit")
    stored = await chain.reader.newest_checkpoints(world.owner.organization_id, 5)
    assert [each.key_id for each in stored] == [chain.key.key_id]
    page = text(await owner("GET", "/console/audit"))
    assert chain.key.key_id in page
    assert "audit.checkpoint" in page


async def test_who_may_not_read_the_chain_is_refused_and_sees_no_link(world, chain):
    viewer = await signed_in(
        world, chain.app, await world.sign_up("reader", Role.VIEWER, ("requests:read", "console"))
    )  # fmt: skip
    for path in ("/console/audit", "/console/audit.csv", "/console/audit/1"):
        assert (await viewer("GET", path)).status == 403
    assert 'href="/console/audit"' not in text(await viewer("GET", "/console/requests"))
    auditor = await signed_in(
        world, chain.app, await world.sign_up("auditor", Role.AUDITOR, ("requests:read", "console", "audit:read"))
    )  # fmt: skip
    page = await auditor("GET", "/console/audit")
    assert page.status == 200
    assert "Sign the end now" not in text(page)
    forged = urlencode({"csrf_token": field(page, "csrf_token")}).encode()
    site = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"}
    assert (await auditor("POST", "/console/audit/verify", forged, **site)).status == 200
    assert (await auditor("POST", "/console/audit/checkpoint", forged, **site)).status == 403
    assert (await auditor("POST", "/console/audit/verify", b"", **site)).status == 403


async def test_another_organization_sees_its_own_chain_alone(world, chain, owner, store):
    await chain.write(change(1, target_id="note_secret"))
    seq = events_of(text(await owner("GET", "/console/audit?target=note_secret")))[0]
    elsewhere = scope_of(*await make_tenant(store))
    key = await world.sign_up("stranger", Role.OWNER, tuple(sorted(ALL_SCOPES)), elsewhere)
    stranger = await signed_in(world, chain.app, key)
    assert "note_secret" not in text(await stranger("GET", "/console/audit"))
    assert "note_secret" not in text(await stranger("GET", f"/console/audit/{seq}"))
    api = Client(chain.app, {"authorization": f"Bearer {key}"})
    assert "note_secret" not in (await api("GET", f"/v1/find?id=audit:{seq}")).content.decode()


async def test_the_list_of_screens_has_a_sample_of_an_event(chain, owner):
    await chain.write(change(1))
    screens = {each["id"]: each for each in (await owner("GET", "/console/screens.json")).json["data"]}
    assert re.fullmatch(r"/console/audit/\d+", screens["audit_event"]["sample_path"])
