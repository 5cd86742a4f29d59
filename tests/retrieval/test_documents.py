"""Documents through HTTP: pushed, found by whom their lists name, changed, withdrawn."""

import base64
import logging
import re
from dataclasses import replace
from uuid import UUID

import pytest

from interlock.contracts.retrieval import SearchMode, SearchQuery
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Role
from interlock.foundation.telemetry import Metrics, merge
from interlock.retrieval.metrics import IndexMetrics
from interlock.retrieval.service.embed import Adoption
from interlock.retrieval.store.ingest.sources import standing
from interlock.retrieval.store.ingest.work import syncs_spec
from interlock.retrieval.worker import BacklogWatch, Housekeeping
from tests.retrieval.conftest import searching
from tests.retrieval.world import WordEmbedder
from tests.retrieval.writing import Index, doc, lists
from tests.support.store import IDS

TEXT = "tents may be returned"


@pytest.fixture
async def index(world):
    for name in ("ann", "bob", "eve"):
        await world.user(name)
    await world.group("g-support", "ann")
    return Index(world)


async def consistent(index):
    told, real = await index.counts()
    assert told == real


async def test_a_pushed_document_is_found_by_its_readers_and_by_nobody_else(index, world):
    source = await index.source()
    (result,) = await index.push(source, doc("a", TEXT, lists(world, "g-support")))
    assert (result["status"], result["version"], result["vector"]) == ("created", 1, "pending")
    assert await index.found("ann", "returned tents") == ["a"]
    assert await index.found("bob", "returned tents") == []
    path = f"/v1/retrieval/documents/{result['id']}"
    read = await index.call("GET", path, who="ann", may=("retrieval:read",))
    assert (read.status, read.json["text"]) == (200, TEXT)
    missing = await index.call("GET", path, who="bob", may=("retrieval:read",))
    never = await index.call("GET", f"/v1/retrieval/documents/{format_id('doc', IDS.new())}", who="bob")
    same = [{**each.json["error"], "request_id": ""} for each in (missing, never)]
    assert missing.status == 404
    assert same[0] == same[1]
    await consistent(index)


async def test_a_document_without_a_list_is_quarantined_and_found_by_nobody(index, world):
    """Its pusher included, and the owner of the organization as well."""
    source = await index.source()
    (result,) = await index.push(source, doc("a", TEXT))
    assert (result["status"], result["code"]) == ("quarantined", "no_acl")
    assert await index.found(None, TEXT) == []
    assert await index.found("ann", TEXT) == []
    listed = await index.call("GET", f"/v1/retrieval/documents?source={source}&state=quarantined")
    assert [each["external_id"] for each in listed.json["data"]] == ["a"]
    assert TEXT not in listed.content.decode()
    await consistent(index)
    given = await index.call("PUT", f"/v1/retrieval/documents/{result['id']}/acl", lists(world, "ann"))
    assert given.status == 200
    assert given.headers["x-interlock-consistency-token"] == given.json["consistency_token"]
    assert await index.found("ann", TEXT) == ["a"]
    await consistent(index)


async def test_a_default_list_takes_its_place(index, world):
    source = await index.source(default_acl=lists(world, "everyone"))
    (result,) = await index.push(source, doc("a", TEXT))
    assert result["status"] == "created"
    assert await index.found("bob", TEXT) == ["a"]


async def test_a_content_update_leaves_the_acl(index, world):
    source = await index.source(default_acl=lists(world, "everyone"))
    await index.push(source, doc("a", TEXT, lists(world, "ann")))
    (updated,) = await index.push(source, doc("a", "tents may never be returned"))
    assert (updated["status"], updated["version"]) == ("updated", 2)
    assert await index.found("ann", "tents") == ["a"]
    assert await index.found("bob", "tents") == []
    await consistent(index)


async def test_an_empty_allow_list_means_nobody(index, world):
    source = await index.source(default_acl=lists(world, "everyone"))
    (result,) = await index.push(source, doc("a", TEXT, lists(world)))
    assert result["status"] == "created"
    assert await index.found("ann", TEXT) == await index.found(None, TEXT) == []


async def test_losing_the_last_reader_writes_the_empty_set(index, world):
    source = await index.source()
    await index.push(source, doc("a", TEXT, lists(world, "ann")))
    (again,) = await index.push(source, doc("a", TEXT, lists(world)))
    assert (again["status"], again["version"]) == ("updated", 1)
    assert await index.found("ann", TEXT) == []
    rows = await index.sql(
        "SELECT s.canonical->'allow' AS allow FROM retrieval_documents d JOIN retrieval_acl_bindings b"
        " ON b.organization_id = $1 AND b.acl_id = d.acl_id AND b.to_epoch IS NULL JOIN retrieval_acl_sets s"
        " ON s.organization_id = $1 AND s.set_id = b.set_id WHERE d.organization_id = $1"
    )
    assert [each["allow"] for each in rows] == ["[]"]
    await consistent(index)


async def test_the_same_push_twice_changes_nothing_not_even_the_epoch(index, world):
    source = await index.source()
    items = [doc("a", TEXT, lists(world, "ann"), labels={"kind": "policy"}), doc("b", "other", lists(world, "bob"))]
    await index.push(source, *items)
    before = await index.sql("SELECT epoch FROM identity_authz_epochs WHERE organization_id = $1")
    again = await index.push(source, *items)
    assert [each["status"] for each in again] == ["unchanged", "unchanged"]
    assert await index.sql("SELECT epoch FROM identity_authz_epochs WHERE organization_id = $1") == before


async def test_an_older_version_never_overwrites(index, world):
    source, acl = await index.source(), lists(world, "ann")
    await index.push(source, doc("a", "seven", acl, source_version="7"))
    (stale,) = await index.push(source, doc("a", "six", acl, source_version="6"))
    assert stale["status"] == "stale"
    (same,) = await index.push(source, doc("a", "seven", acl, source_version="9"))
    assert same["status"] == "unchanged"
    # The later number was remembered, although nothing else changed with it.
    (late,) = await index.push(source, doc("a", "eight", acl, source_version="8"))
    assert late["status"] == "stale"
    await index.push(source, doc("b", "new", acl, observed_at="2026-01-02T00:00:00Z"))
    (older,) = await index.push(source, doc("b", "old", acl, observed_at="2026-01-01T00:00:00Z"))
    assert older["status"] == "stale"
    (neither,) = await index.push(source, doc("b", "newest", acl))
    assert neither["status"] == "updated"


async def test_a_deleted_document_is_gone_at_the_next_query_and_can_come_back(index, world):
    source, acl = await index.source(), lists(world, "ann")
    (made,) = await index.push(source, doc("a", TEXT, acl))
    gone = await index.call("DELETE", f"/v1/retrieval/documents/{made['id']}")
    assert (gone.status, gone.json["state"]) == (200, "deleted")
    assert await index.found("ann", TEXT) == []
    again = await index.call("DELETE", f"/v1/retrieval/documents/{made['id']}")
    assert (again.status, again.json["state"]) == (200, "deleted")
    await consistent(index)
    for table in ("chunks", "chunk_codes", "chunk_vectors", "postings"):
        assert await index.sql(f"SELECT 1 FROM retrieval_{table} WHERE organization_id = $1") == []
    (back,) = await index.push(source, doc("a", TEXT, acl))
    assert (back["id"], back["version"], back["status"]) == (made["id"], 2, "updated")
    assert await index.found("ann", TEXT) == ["a"]
    await consistent(index)


async def test_every_change_is_a_version_with_its_epoch(index, world):
    source = await index.source()
    (made,) = await index.push(source, doc("a", TEXT, lists(world, "ann")))
    await index.call("PUT", f"/v1/retrieval/documents/{made['id']}/acl", lists(world, "bob"))
    await index.push(source, doc("a", "other words"))
    await index.call("DELETE", f"/v1/retrieval/documents/{made['id']}")
    rows = await index.sql(
        "SELECT from_epoch, to_epoch, version, state, cause FROM retrieval_document_versions"
        " WHERE organization_id = $1 ORDER BY from_epoch"
    )
    assert [(row["version"], row["state"], row["cause"]) for row in rows] == [
        (1, "live", "put"), (1, "live", "acl"), (2, "live", "put"), (2, "deleted", "deleted"),
    ]  # fmt: skip
    assert [row["to_epoch"] for row in rows] == [*(row["from_epoch"] for row in rows[1:]), None]


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (doc("x", "t", {"allow": ["user:nobody@nowhere.example"]}), "acl_principal_unknown"),
        (doc("x", "t", {"allow": ["nobody"]}), "invalid_acl"),
        (doc("x", "t", {"allow": [[]]}), "invalid_acl"),
        (doc("x", "t", {"allow": [], "everybody": True}), "invalid_acl"),
        (doc("x", "t", {"allow": []}, container="/a/../b"), "invalid_request"),
        (doc("x", "t", {"allow": []}, source_version="v7"), "invalid_request"),
        (doc("x", "t", {"allow": []}, media_type="image/png"), "media_type_unsupported"),
        (doc("x", "t" * 1_000_001, {"allow": []}), "document_too_large"),
        ({"external_id": "x", "acl": {"allow": []}}, "invalid_request"),
        ({"external_id": "x", "content_base64": "%%", "acl": {"allow": []}}, "invalid_request"),
        (
            {"external_id": "x", "content_base64": base64.b64encode(b"%PDF-1.7 junk").decode(),
             "media_type": "application/pdf", "acl": {"allow": []}},
            "text_unextractable",
        ),
    ],
)  # fmt: skip
async def test_a_bad_item_is_rejected_alone_and_nothing_of_it_is_stored(index, world, item, code):
    source = await index.source()
    bad, good = await index.push(source, item, doc("good", "fine", lists(world, "ann")))
    assert (bad["status"], bad["code"], bad["id"], good["status"]) == ("rejected", code, None, "created")
    rows = await index.sql("SELECT external_id FROM retrieval_documents WHERE organization_id = $1")
    assert [row["external_id"] for row in rows] == ["good"]


async def test_a_list_that_names_a_stranger_is_refused_whole(index, world):
    source = await index.source()
    (made,) = await index.push(source, doc("a", TEXT, lists(world, "ann")))
    path = f"/v1/retrieval/documents/{made['id']}/acl"
    refused = await index.call("PUT", path, {"allow": ["everyone", "group:none"]})
    assert (refused.status, refused.code) == (422, "acl_principal_unknown")
    assert await index.found("bob", TEXT) == []
    named = await index.call("PUT", path, {"allow": [f"user:BOB@{world.organization_id.hex}.example"]})
    assert named.status == 200
    assert await index.found("bob", TEXT) == ["a"]


async def test_offsets_are_code_points_of_the_stored_text(index, world):
    source = await index.source()
    text = "# Tents \U0001f3d5\n\nA café tent \U0001f3d5\U0001f3d5 may go back.\n\n## Terms\n\nWithin fourteen days."
    (made,) = await index.push(source, doc("a", text, lists(world, "ann"), media_type="text/markdown"))
    read = await index.call("GET", f"/v1/retrieval/documents/{made['id']}", who="ann")
    stored = read.json["text"]
    assert stored == text
    answer = await index.call("POST", "/v1/retrieval/search", {"query": "fourteen days tent", "k": 5}, who="ann")
    passages = [each for hit in answer.json["hits"] for each in hit["passages"]]
    assert len(passages) == 2
    assert all(stored[each["start"] : each["end"]] == each["text"] for each in passages)


async def test_another_workspace_neither_sees_nor_changes_a_source(index, world):
    source = await index.source()
    (made,) = await index.push(source, doc("a", TEXT, lists(world, "ann")))
    rows = await world.sql("SELECT id FROM identity_workspaces WHERE organization_id = $1", world.organization_id)
    elsewhere = {"workspace": rows[0]["id"], "role": Role.DEVELOPER}
    for method, path, body in (
        ("GET", f"/v1/retrieval/sources/{source}", None),
        ("PATCH", f"/v1/retrieval/sources/{source}", {"state": "dark"}),
        ("DELETE", f"/v1/retrieval/sources/{source}", None),
        ("PUT", f"/v1/retrieval/sources/{source}/containers/a", {"acl": None}),
    ):
        answer = await index.call(method, path, body, **elsewhere)
        assert (answer.status, answer.code) == (404, "source_not_found"), path
    for method, body in (("PUT", lists(world, "everyone")), ("DELETE", None)):
        path = f"/v1/retrieval/documents/{made['id']}" + ("/acl" if body else "")
        answer = await index.call(method, path, body, **elsewhere)
        assert (answer.status, answer.code) == (404, "document_not_found")
    assert (await index.call("GET", "/v1/retrieval/sources", **elsewhere)).json["data"] == []
    assert (await index.call("GET", "/v1/retrieval/documents", **elsewhere)).json["data"] == []


async def test_no_text_of_a_document_reaches_the_log_or_the_audit(index, world, caplog):
    caplog.set_level(logging.DEBUG)
    source = await index.source()
    await index.push(source, doc("a", "canarycanary in a coal mine", lists(world, "ann")))
    assert "canarycanary" not in caplog.text
    rows = await index.sql("SELECT detail::text AS detail FROM audit_events WHERE organization_id = $1")
    assert rows
    assert not any("canarycanary" in row["detail"] for row in rows)


async def test_what_waits_for_its_vector_is_shown(index, world):
    source, metrics = await index.source(), Metrics()
    watch = BacklogWatch(index.store, syncs_spec(30.0), index.clock, IndexMetrics(metrics))
    await watch.count()
    before = pending_shown(metrics)
    await index.push(source, doc("d1", "walnut cake", lists(world, "ann")))
    await watch.count()
    # Other tests of a run may have left something waiting in the same store.
    assert pending_shown(metrics) == before + 1
    assert "interlock_retrieval_index_lag_seconds" in merge([metrics.snapshot()])


def pending_shown(metrics):
    return shown(metrics, "vectors_pending")


def shown(metrics, series):
    told = merge([metrics.snapshot()])
    found = re.search(rf"^interlock_retrieval_{re.escape(series)} ([0-9.e+]+)$", told, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_what_nobody_is_shown_and_what_is_not_removed_yet_is_counted(index, world):
    watch = BacklogWatch(index.store, syncs_spec(30.0), index.clock, IndexMetrics(metrics := Metrics()))
    source, other = await index.source(), await index.source("other")
    await watch.count()
    # Other tests of a run may have left something in the same store.
    before = {each: shown(metrics, each) for each in ('quarantined_documents{code="no_acl"}', "purge_pending")}
    (result,) = await index.push(source, doc("d1", TEXT))
    await index.push(source, doc("d2", TEXT, lists(world, "ann")))
    assert (await index.call("DELETE", f"/v1/retrieval/sources/{other}")).status == 202
    await watch.count()
    assert {each: shown(metrics, each) - number for each, number in before.items()} == dict.fromkeys(before, 1.0)
    await index.call("PUT", f"/v1/retrieval/documents/{result['id']}/acl", lists(world, "ann"))
    await index.drained(index.embedding(poll_s=0.02))
    await watch.count()
    assert {each: shown(metrics, each) - number for each, number in before.items()} == dict.fromkeys(before, 0.0)


async def test_the_share_of_lists_that_were_confirmed_lately_is_of_live_documents(index, world):
    source = await index.source()
    await index.push(
        source, doc("d1", TEXT, lists(world, "ann")), doc("d2", TEXT), doc("d3", TEXT, lists(world, "bob"))
    )
    async with index.store.transaction(world.scope) as tx:
        assert (pushed := await standing(tx)).live == pushed.confirmed == 2
    # A folder nobody has listed yet: nothing says that its lists are as they were read.
    await index.sql("UPDATE retrieval_sources SET kind = 'folder' WHERE organization_id = $1")
    metrics = Metrics()
    async with index.store.transaction(world.scope) as tx:
        unconfirmed = await standing(tx)
    IndexMetrics(metrics).stands([unconfirmed, replace(unconfirmed, confirmed=1)])
    assert (unconfirmed.live, unconfirmed.confirmed) == (2, 0)
    assert shown(metrics, "acl_confirmed_share") == 0.25
    assert shown(metrics, 'quarantined_documents{code="no_acl"}') == 2.0


async def test_a_vector_arrives_by_leased_work_and_moves_with_its_document(index, world):
    source = await index.source()
    items = doc("a", "word " * 900, lists(world, "ann")), doc("b", "b", lists(world, "bob"))
    made, _ = await index.push(source, *items)
    worker = index.embedding(poll_s=0.02, slots=2)
    await index.drained(worker)
    await consistent(index)
    pending = await index.sql("SELECT 1 FROM retrieval_chunk_codes WHERE organization_id = $1 AND code IS NULL")
    assert pending == []
    await index.call("PUT", f"/v1/retrieval/documents/{made['id']}/acl", lists(world, "bob"))
    await consistent(index)
    found = await index.call("POST", "/v1/retrieval/search", {"query": "word", "mode": "vector"}, who="bob")
    assert {hit["title"] for hit in found.json["hits"]} == {"a", "b"}
    assert await index.found("ann", "word", mode="vector") == []


class LaterEmbedder(WordEmbedder):
    id = "words/later/384"


async def test_documents_without_vectors_of_the_embedder_of_now_get_them(index, world):
    """What was pushed while there was no embedder, or another one, is found by meaning as soon as it was embedded."""
    source = await index.source()
    await index.push(source, *(doc(name, "walnut", lists(world, "ann")) for name in ("a", "b")))
    # Its jobs end as they do where no embedder is set.
    await index.sql("DELETE FROM retrieval_index_jobs WHERE organization_id = $1")
    for embedder in (WordEmbedder(), LaterEmbedder()):
        search = searching(index.store, embedder=embedder)

        async def found(search=search):
            query = SearchQuery("walnut", mode=SearchMode.VECTOR)
            result = (await search.search(world.scope_of("ann"), None, query)).result
            return sorted(hit.title for hit in result.hits), result.degraded

        adoption, last = Adoption(index.store, IDS, embedder), UUID(int=0)
        assert (await found())[0] == []
        while last:
            last = await adoption.some(world.scope, last)
        await consistent(index)
        assert (await found()) == ([], ("vectors_pending",))
        await index.drained(index.embedding(embedder=embedder, poll_s=0.02))
        await consistent(index)
        assert (await found()) == (["a", "b"], ())
    jobs = "SELECT 1 FROM retrieval_index_jobs WHERE organization_id = $1 AND due_at < 'infinity'"
    assert await adoption.some(world.scope, UUID(int=0)) is not None
    assert await index.sql(jobs) == [], "what has its vectors is left alone"


async def test_housekeeping_looks_for_missing_vectors_once_in_each_organization(index, world):
    await index.source()
    calls, last = [], UUID(int=7)

    class Looking:
        async def some(self, scope, after):
            calls.extend([after] if scope.organization_id == world.organization_id else [])
            return None if after == last else last

    keeper = Housekeeping(index.documents, syncs_spec(30.0), index.clock, IDS, index.config, Looking())
    assert [await keeper.adopt() for _ in range(3)] == [True, False, False]
    assert calls == [UUID(int=0), last]


async def test_an_organization_whose_vectors_cannot_be_asked_for_now_puts_off_no_other(index, world):
    await index.source()
    calls = []

    class Failing:
        async def some(self, scope, after):
            calls.append(scope.organization_id)
            if len(calls) == 1:
                raise InterlockError("store_unavailable")

    keeper = Housekeeping(index.documents, syncs_spec(30.0), index.clock, IDS, index.config, Failing())
    assert [await keeper.adopt() for _ in range(2)] == [True, False]
    assert world.organization_id in calls and calls.count(calls[0]) == 2


async def test_a_document_that_moves_without_a_list_keeps_its_own_and_inherits_from_where_it_lies(index, world):
    """The list says `inherit`; what that gives is the new folder's to say, also for who pushes the words alone."""
    source = await index.source()
    for folder, reader in (("open", "bob"), ("closed", "eve")):
        acl = {"acl": lists(world, reader), "inherit": False}
        assert (await index.call("PUT", f"/v1/retrieval/sources/{source}/containers/{folder}", acl)).status == 200

    async def readers():
        return [who for who in ("ann", "bob", "eve") if await index.found(who, "walnut")]

    own = {**lists(world, "ann"), "inherit": True}
    await index.push(source, doc("a", "walnut", own, container="/open"))
    assert await readers() == ["ann", "bob"]
    for text, container, reader in (
        ("walnut", "/closed", "eve"),
        ("walnut tree", "/open", "bob"),
        ("walnut", "/closed", "eve"),
    ):
        (told,) = await index.push(source, doc("a", text, container=container))
        assert told["status"] == "updated"
        assert await readers() == ["ann", reader]
        (told,) = await index.push(source, doc("a", text, container=container))
        assert told["status"] == "unchanged"
    await index.push(source, doc("a", "walnut wood"), doc("a", "walnut wood", {**lists(world, "bob"), "inherit": True}))
    assert await readers() == ["bob", "eve"], "a list that names no folder leaves the document in its own"
    await consistent(index)


async def test_the_same_words_in_another_folder_move_the_document(index, world):
    source = await index.source()
    first = doc("a", "walnut", lists(world, "ann"), container="/a")
    (made,) = await index.push(source, first)
    (moved,) = await index.push(source, {**first, "container": "/b"})
    assert (moved["status"], moved["id"]) == ("updated", made["id"])
    (again,) = await index.push(source, {**first, "container": "/b"})
    assert again["status"] == "unchanged"
    listed = (await index.call("GET", f"/v1/retrieval/documents?source={source}")).json["data"]
    assert [each["container"] for each in listed] == ["/b"]


async def test_a_push_with_the_same_key_is_answered_by_its_first_reply(index, world):
    """A client that lost the answer repeats the call after others have written; it is told what its call did."""
    source = await index.source()
    body = {"source": source, "documents": [doc("a", TEXT, lists(world, "ann"))]}

    async def push(body, key="push-1"):
        return await index.call("POST", "/v1/retrieval/documents", body, **{"idempotency-key": key})

    first = await push(body)
    assert (first.status, first.json["results"][0]["status"]) == (200, "created")
    await index.push(source, doc("a", "other words", lists(world, "bob")))
    again = await push(body)
    assert (again.content, again.headers["x-interlock-replayed"]) == (first.content, "true")
    assert await index.found("ann", TEXT) == [], "the repeat wrote nothing"
    other = await push({**body, "documents": [doc("b", TEXT)]})
    assert (other.status, other.json["error"]["code"]) == (422, "idempotency_mismatch")
    assert (await push(body, key="push-2")).json["results"][0]["status"] == "updated"
    refused = [await push({**body, "source": format_id("src", IDS.new())}, key="push-3") for _ in range(2)]
    assert [each.status for each in refused] == [404, 404], "a refusal is not kept"


async def test_a_document_that_is_kept_until_now_is_gone_and_comes_back_when_it_is_wanted_longer(index, world):
    source = await index.source()
    past, later = "2026-01-01T00:00:00Z", "2126-01-01T00:00:00Z"
    await index.push(
        source,
        doc("a", "walnut", lists(world, "ann"), retain_until=past),
        doc("b", "walnut", lists(world, "ann"), retain_until=later),
        doc("c", "walnut", lists(world, "ann")),
    )
    keeper = Housekeeping(index.documents, syncs_spec(30.0), index.clock, IDS, index.config)
    assert await keeper.expire() >= 1
    assert await index.found("ann", "walnut") == ["b", "c"]
    assert await keeper.expire() == 0
    listed = await index.call("GET", f"/v1/retrieval/documents?source={source}&state=deleted")
    assert [(each["external_id"], each["code"]) for each in listed.json["data"]] == [("a", "expired")]
    await consistent(index)
    await index.push(source, doc("a", "walnut", lists(world, "ann"), retain_until=later))
    assert await index.found("ann", "walnut") == ["a", "b", "c"]
