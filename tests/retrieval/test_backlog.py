"""Room for documents: bounded, refused with a time to wait, and never in the way of what takes access away."""

import asyncio

import pytest

from interlock.contracts.documents import (
    Accepted,
    AccessList,
    Backlogged,
    DocumentUpsert,
    Origin,
    PutRefused,
    Signal,
    WithdrawReason,
)
from interlock.foundation.flags.domain.kills import Kill
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id, parse_id
from interlock.retrieval.adapters.reading.pool import ReadingPool
from interlock.retrieval.adapters.reading.texts import ReadDocument, ReadWanted
from interlock.retrieval.config import RetrievalConfig
from tests.retrieval.writing import Index, doc, lists


@pytest.fixture
async def index(world):
    for name in ("ann", "bob"):
        await world.user(name)
    return Index(world, config=RetrievalConfig(source_waiting_documents_max=3, source_waiting_bytes_max=10_000))


async def fill(index, source, documents=3):
    return await index.room.take(index.world.scope, parse_id("src", source), documents, 100)


async def test_a_full_backlog_refuses_with_a_time_to_wait_and_lets_a_delete_through(index, world):
    source = await index.source()
    (made,) = await index.push(source, doc("a", "walnut", lists(world, "ann")))
    taken = await fill(index, source)
    told = (await index.call("GET", f"/v1/retrieval/sources/{source}")).json["backlog"]
    assert told == {"documents": 3, "bytes": 100, "vectors_pending": 1}
    body = {"source": source, "documents": [doc("b", "walnut", lists(world, "ann"))]}
    refused = await index.call("POST", "/v1/retrieval/documents", body)
    assert (refused.status, refused.code) == (429, "ingest_backlog_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json["error"]["detail"] == {"rule": "source_documents", "waiting": 3, "limit": 3}
    changed = await index.call("PUT", f"/v1/retrieval/documents/{made['id']}/acl", lists(world, "bob"))
    assert changed.status == 200
    assert (await index.found("ann", "walnut"), await index.found("bob", "walnut")) == ([], ["a"])
    gone = await index.call("DELETE", f"/v1/retrieval/documents/{made['id']}")
    assert gone.status == 200
    assert await index.found("bob", "walnut") == []
    await index.room.give_back(world.scope, parse_id("src", source), taken)
    assert (await index.push(source, *body["documents"]))[0]["status"] == "created"


async def test_one_source_s_backlog_is_not_another_s(index, world):
    full, free = await index.source("full"), await index.source("free")
    await fill(index, full)
    assert (await index.push(free, doc("b", "walnut", lists(world, "ann"))))[0]["status"] == "created"


async def test_what_a_dead_writer_took_in_counts_no_more_after_its_time(index, world):
    source = await index.source()
    await fill(index, source)
    await world.sql(
        "UPDATE retrieval_index_jobs SET lease_expires_at = now() - interval '1 second' WHERE organization_id = $1",
        world.organization_id,
    )
    assert (await index.push(source, doc("b", "walnut", lists(world, "ann"))))[0]["status"] == "created"


async def test_two_writers_do_not_take_the_same_last_place(index, world):
    source = await index.source()
    taken = await asyncio.gather(*(fill(index, source, 2) for _ in range(4)))
    assert sum(not hasattr(each, "rule") for each in taken) == 1


async def test_vectors_that_wait_close_the_door_as_well(world):
    await world.user("ann")
    index = Index(world, config=RetrievalConfig(vectors_pending_max=2))
    source = await index.source()
    await index.push(source, *(doc(f"d{n}", "walnut", lists(world, "ann")) for n in range(2)))
    body = {"source": source, "documents": [doc("x", "walnut", lists(world, "ann"))]}
    refused = await index.call("POST", "/v1/retrieval/documents", body)
    assert (refused.code, refused.json["error"]["detail"]["rule"]) == ("ingest_backlog_full", "vectors_pending")
    assert (await index.sink.pressure(world.scope, parse_id("src", source))).credit_bytes == 0
    await index.drained(index.embedding(poll_s=0.02))
    assert (await index.push(source, *body["documents"]))[0]["status"] == "created"


async def test_where_nothing_makes_vectors_the_door_waits_for_none(world):
    await world.user("ann")
    index = Index(world, config=RetrievalConfig(vectors_pending_max=1, embedder="none"))
    source = await index.source()
    for name in ("a", "b", "c"):
        assert (await index.push(source, doc(name, "walnut", lists(world, "ann"))))[0]["status"] == "created"
    assert (await index.sink.pressure(world.scope, parse_id("src", source))).credit_bytes > 0


def page(source_id, external_id="https://shop.example/a", **fields):
    values = {
        "source_id": source_id, "external_id": external_id, "source_version": 1, "observed_at_us": 100,
        "uri": external_id, "title": "page", "media_type": "text/markdown", "text": "walnut cake", "text_digest": "x",
        "origin": Origin.WEB, **fields,
    }  # fmt: skip
    return DocumentUpsert(**values)


async def test_the_crawler_s_way_in_opens_puts_withdraws_and_tells_its_credit(index, world):
    scope, sink = world.scope, index.sink
    source_id = await sink.open_source(scope, "crawl", "crawl", AccessList((("everyone",),)))
    assert await sink.open_source(scope, "crawl", "crawl", AccessList(())) == source_id
    first = await sink.put(scope, page(source_id))
    assert isinstance(first, Accepted)
    assert await sink.put(scope, page(source_id)) == first
    assert await index.found("bob", "walnut") == ["page"]
    late = await sink.tombstone(scope, source_id, "https://shop.example/a", WithdrawReason.GONE, 50)
    assert (late.document_id, await index.found("bob", "walnut")) == (first.document_id, ["page"])
    gone = await sink.tombstone(scope, source_id, "https://shop.example/a", WithdrawReason.GONE, 200)
    assert (gone.document_id, await index.found("bob", "walnut")) == (first.document_id, [])
    assert await sink.tombstone(scope, source_id, "https://shop.example/a", WithdrawReason.GONE, 300) == gone
    unknown = await sink.tombstone(scope, source_id, "https://shop.example/b", WithdrawReason.GONE, 300)
    assert unknown.document_id is None
    # Its vector waits, and holds nobody up.
    told = await sink.pressure(scope, source_id)
    assert (told.credit_bytes, told.lag_s) == (10_000, 0.0)
    await fill(index, format_id("src", source_id))
    assert (await sink.pressure(scope, source_id)).credit_bytes == 0
    assert isinstance(await sink.put(scope, page(source_id, source_version=2)), Backlogged)


async def test_a_page_that_asks_not_to_be_indexed_is_withdrawn(index, world):
    scope, sink = world.scope, index.sink
    source_id = await sink.open_source(scope, "crawl", "crawl", AccessList((("everyone",),)))
    await sink.put(scope, page(source_id))
    signals = {"noindex": Signal("true", "meta")}
    answer = await sink.put(scope, page(source_id, source_version=2, observed_at_us=200, signals=signals))
    assert answer == PutRefused("noindex")
    assert await index.found("bob", "walnut") == []


async def test_a_kill_switch_stops_new_documents_and_not_what_takes_access_away(index, world):
    source = await index.source()
    (made,) = await index.push(source, doc("a", "walnut", lists(world, "ann")))
    kill = Kill(
        id="kill_1", organization_id=SYSTEM_ORGANIZATION_ID, scope="retrieval_source", target=source, mode="reject",
        reason="test", actor="test", created_us=1,
    )  # fmt: skip
    index.switches._replace((kill,), ())
    body = {"source": source, "documents": [doc("b", "walnut", lists(world, "ann"))]}
    refused = await index.call("POST", "/v1/retrieval/documents", body)
    assert (refused.status, refused.code) == (503, "killed")
    read = await index.call("GET", f"/v1/retrieval/documents/{made['id']}", who="ann")
    assert (read.status, read.code) == (503, "killed")
    assert (await index.call("DELETE", f"/v1/retrieval/documents/{made['id']}")).status == 200


@pytest.mark.parametrize("kind", ["git", "mail", "s3", "nonsense"])
async def test_a_kind_that_is_not_built_is_refused(index, kind):
    refused = await index.call("POST", "/v1/retrieval/sources", {"name": "x", "kind": kind})
    assert (refused.status, refused.code) == (400, "invalid_request")


async def test_a_document_that_eats_time_or_memory_is_rejected_alone():
    """The process that reads it is killed; the others of its batch are read by the next one."""
    pool = ReadingPool(RetrievalConfig(extract_cpu_s=1, extract_memory_bytes=400 << 20))
    hostile = ReadWanted("text/html", None, "<b>" * 2_000_000)
    try:
        outcomes = await pool.read(
            [ReadWanted("text/plain", "a", "fine"), hostile, ReadWanted("text/plain", "b", "too")]
        )
    finally:
        pool.close()
    assert isinstance(outcomes[0], ReadDocument)
    assert isinstance(outcomes[2], ReadDocument)
    assert outcomes[1] == "text_unextractable"


# Nested so deep that the parser takes time in the square of it: its process is killed by its share of processor time.
HOSTILE = ReadWanted("text/html", None, "<div>" * 150_000)


async def test_a_document_that_kills_its_process_takes_nobody_elses_with_it():
    pool = ReadingPool(RetrievalConfig(extract_cpu_s=1, extract_memory_bytes=400 << 20, extract_processes=2))

    async def fine():
        return [await pool.read([ReadWanted("text/plain", "a", f"fine {number}")]) for number in range(20)]

    try:
        bad, *good = await asyncio.gather(pool.read([HOSTILE]), fine(), fine())
    finally:
        pool.close()
    assert bad == ["text_unextractable"]
    assert all(isinstance(each, ReadDocument) for many in good for (each,) in many)
    # It was alone in its process, so that it is not read a second time to find out who it was.
    assert pool.statistics().replaced == 1


async def test_who_leaves_does_not_hand_a_busy_process_to_the_next():
    pool = ReadingPool(RetrievalConfig(extract_cpu_s=1, extract_memory_bytes=400 << 20))
    try:
        leaving = asyncio.ensure_future(pool.read([HOSTILE]))
        while not pool.statistics().waiting:
            await asyncio.sleep(0)
        leaving.cancel()
        (next_one,) = await pool.read([ReadWanted("text/plain", "a", "fine")])
    finally:
        pool.close()
    assert leaving.cancelled()
    assert isinstance(next_one, ReadDocument)
