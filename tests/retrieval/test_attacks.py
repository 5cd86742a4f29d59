"""What an attacker would try: old texts guessed by their digest, lists that outlive their file, counts, and races."""

import asyncio
import csv
import hashlib
import io
from uuid import UUID

import pytest

from interlock.console.frame import Frame
from interlock.console.retrieval import stages_of
from interlock.console.sources import SourcePages
from interlock.foundation.control.route import Call
from interlock.foundation.ids import format_id, parse_id
from interlock.foundation.scope import Membership, Role
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import external_id
from interlock.retrieval.service.citations import Cited, verify
from tests.retrieval.conftest import searching
from tests.retrieval.test_folders import folder, listed, put
from tests.retrieval.test_search import searched
from tests.retrieval.writing import Index, doc, lists
from tests.support.store import IDS


@pytest.fixture
async def index(world, tmp_path):
    for name in ("ann", "bob"):
        await world.user(name)
    return Index(world, roots=[tmp_path], config=RetrievalConfig(sync_batch_documents=3))


async def verified(index, who, document, version, quote, text):
    start = text.index(quote)
    digest = hashlib.sha256(quote.encode()).hexdigest()
    cited = Cited(parse_id("doc", document), version, start, start + len(quote), digest)
    done = await verify(index.search.parts, index.world.scope_of(who), None, [cited])
    return done.results[0].reason


async def test_what_was_taken_out_before_somebody_was_let_in_is_not_guessed_at(index, world):
    """The text before is kept for citations of those who read it, and is no oracle for those who did not."""
    source, secret = await index.source(), "The salary is 4711 walnuts."
    (made,) = await index.push(source, doc("a", secret, lists(world, "ann")))
    await index.push(source, doc("a", "The salary is not told.", lists(world, "ann", "bob")))
    assert await verified(index, "ann", made["id"], 1, "4711", secret) is None
    right = await verified(index, "bob", made["id"], 1, "4711", secret)
    wrong = await verified(index, "bob", made["id"], 1, "4712", secret.replace("4711", "4712"))
    assert right == wrong == "changed"
    # Who was let in while the words still stood there has read them, and may cite them.
    (other,) = await index.push(source, doc("b", secret, lists(world, "ann")))
    await index.call("PUT", f"/v1/retrieval/documents/{other['id']}/acl", lists(world, "ann", "bob"))
    await index.push(source, doc("b", "The salary is not told."))
    assert await verified(index, "bob", other["id"], 1, "4711", secret) is None


async def test_readers_by_filter_go_with_the_owners_file_that_named_them(index, tmp_path):
    """WildMeOrg/Wildbook#1592 by another way: no file at all is no reason to keep what the last one said."""
    put(tmp_path, "OWNERS", 'filters:\n  "page.md$": {reviewers: [planner]}\n')
    put(tmp_path, "page.md", "walnut")
    source = await folder(index, tmp_path)
    await listed(index, source)
    reader = f"ext:{source}:user:planner"
    assert len(await index.as_outsider(reader, "walnut")) == 1
    (tmp_path / "OWNERS").unlink()
    await listed(index, source)
    assert await index.as_outsider(reader, "walnut") == []


async def test_facets_and_stages_count_nothing_that_was_revoked_meanwhile(world, store):
    """Also what lies beyond the hits: with one hit the other candidates are counted, and shown by their titles."""
    await world.user("ann")
    await world.group("g-support", "ann")
    await world.document("Refunds refunds refunds of ann.", world.acl("ann"), title="Refunds of ann")
    await world.document("Of many words one is refunds, by support.", world.acl("g-support"), title="Canary title")
    service = searching(store)
    eye = service._eye

    class Revoking:
        async def look(self, *args):
            seen = await eye.look(*args)
            await world.leave("g-support", "ann")
            return seen

    service._eye = Revoking()
    done = await searched(service, world.scope_of("ann"), "refunds", with_facets=True, hits=1)
    assert len(done.look.passages) == 2
    assert done.result.facets["kind"] == (("push", 1),)
    shown = stages_of(done.look, done.kept)
    assert "Canary" not in str(shown)
    assert {stage.count for stage in shown} == {1}


async def test_a_document_read_as_somebody_else_is_in_the_audit(index, world):
    source = await index.source()
    (made,) = await index.push(source, doc("a", "walnut", lists(world, "ann")))
    ann = world.name("ann")
    read = await index.call("GET", f"/v1/retrieval/documents/{made['id']}?principal={ann}")
    assert read.json["text"] == "walnut"
    rows = await world.sql("SELECT target_id FROM audit_events WHERE action = 'retrieval.delegate'")
    assert [row["target_id"] for row in rows] == [ann]
    await index.call("GET", f"/v1/retrieval/documents/{made['id']}", who="ann")
    assert len(await world.sql("SELECT 1 FROM audit_events WHERE action = 'retrieval.delegate'")) == 1


async def test_an_observer_by_an_outside_name_trips_no_guard(world, service):
    await world.user("ann")
    source = await world.source("shop")
    outside = f"ext:{format_id('src', source)}:user:alice"
    await world.sql(
        "INSERT INTO retrieval_identity_aliases (organization_id, source_id, external, external_principal_id,"
        " principal_id, principal_kind, verified_by, verified_us, from_epoch)"
        " VALUES ($1, $2, $3, $4, $5, 'user', $5, 1, 0)",
        world.organization_id, source, "user:alice", external_id(outside), world.people["ann"],
    )  # fmt: skip
    await world.document("Refunds.", world.acl("ann"))
    await world.sql(
        "UPDATE retrieval_sources SET mode = 'observe', observe_principals = $2 WHERE organization_id = $1",
        world.organization_id, [external_id(outside)],
    )  # fmt: skip
    assert len((await searched(service, world.scope_of("ann"), "refund")).result.hits) == 1


async def test_a_list_that_inherits_follows_the_folder_that_is_moved_meanwhile(index, world):
    """The old path is not made anew, where nothing of what the folder says would count."""
    source = await index.source()
    root = {"acl": lists(world, "ann", "bob")}
    await index.call("PUT", f"/v1/retrieval/sources/{source}/containers/", root)
    await index.call("PUT", f"/v1/retrieval/sources/{source}/containers/vault", {"acl": lists(world, deny=["bob"])})
    (made,) = await index.push(source, doc("a", "walnut", lists(world, "ann"), container="/drafts"))
    async with index.store.transaction(world.scope) as tx:
        await index.sources.move_container(tx, parse_id("src", source), "/drafts", "/vault/drafts")
        path, body = f"/v1/retrieval/documents/{made['id']}/acl", lists(world, "ann", inherit=True)
        changing = asyncio.create_task(index.call("PUT", path, body))
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        for _ in range(6_000):
            if changing.done() or await world.sql(waits):
                break
            await asyncio.sleep(0.02)
    assert (await changing).status == 200
    assert await index.found("ann", "walnut") == ["a"]
    assert await index.found("bob", "walnut") == []


@pytest.mark.parametrize("change", ["move", "delete"])
async def test_a_push_that_was_overtaken_is_refused_and_not_half_right(index, world, change):
    source = await index.source(default_acl=lists(world, "bob"))
    root = {"acl": lists(world, "bob")}
    await index.call("PUT", f"/v1/retrieval/sources/{source}/containers/", root)
    await index.call("PUT", f"/v1/retrieval/sources/{source}/containers/vault", {"inherit": False})
    (made,) = await index.push(source, doc("a", "walnut", lists(world, "ann"), container="/drafts"))
    read, calls = index.ingest._read, []

    async def overtaken(*args):
        await read(*args)
        if calls:
            return
        calls.append(1)
        if change == "delete":
            await index.call("DELETE", f"/v1/retrieval/documents/{made['id']}")
        else:
            body = {"from": "/drafts", "to": "/vault/drafts"}
            assert (await index.call("POST", f"/v1/retrieval/sources/{source}/containers:move", body)).status == 200

    index.ingest._read = overtaken
    acl = lists(world, "ann", inherit=True) if change == "move" else None
    (late,) = await index.push(source, doc("a", "walnut anew", acl))
    assert (late["status"], late["code"]) == ("rejected", "stale_version")
    assert await index.found("bob", "walnut") == []
    assert await index.found("ann", "walnut") == (["a"] if change == "move" else [])


async def test_sources_come_as_csv_with_what_they_hold(index, world):
    source = await index.source()
    await index.push(source, doc("a", "walnut", lists(world, "ann")))
    await index.found("ann", "walnut")
    pages = SourcePages(Frame(None, index.clock, 10), index.sources, index.documents, index.clock)
    scope = world.as_(UUID(int=7), "retrieval:admin", memberships=(Membership(Role.OWNER, None),))
    reply = await pages.export(Call(IDS.new(), scope.principal, scope, index.store))
    (told,) = csv.DictReader(io.StringIO(reply.content.decode(), newline=""))
    assert (told["id"], told["live"], told["quarantined"]) == (source, "1", "0")


async def test_who_may_not_administer_is_shown_no_document_as_a_sample(index, world):
    source = await index.source()
    await index.push(source, doc("a", "walnut", lists(world, "ann")))
    pages = SourcePages(None, index.sources, index.documents, index.clock)

    def scope(role):
        return world.as_(UUID(int=7), "retrieval:admin", memberships=(Membership(role, None),))

    assert await pages.newest_document(scope(Role.OWNER)) is not None
    assert await pages.newest_document(scope(Role.VIEWER)) is None
    assert await pages.newest_source(scope(Role.VIEWER)) is None
