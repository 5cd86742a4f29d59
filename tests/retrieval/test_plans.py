"""The shape of each statement that chooses candidates: access is a condition of the index, never a filter behind it."""

import json

import asyncpg
import pytest

from interlock.contracts.retrieval import SearchQuery
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.domain.types import embedder_no
from interlock.retrieval.service.looking import SNAPSHOT_SETTINGS
from interlock.retrieval.store.reading import search
from interlock.retrieval.store.reading.search import SQL
from tests.retrieval.world import EMBEDDER_ID, WordEmbedder

CANDIDATES = {"retrieval_chunk_codes", "retrieval_postings"}


def nodes(plan):
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


@pytest.fixture
async def filled(world):
    """A few hundred passages in several slots, so that another plan would be thinkable."""
    await world.user("ann"), await world.user("bob")
    for number in range(20):
        text = "\n".join(f"Refunds number {number} of part {part} take days." for part in range(4))
        await world.document(text, world.acl("ann" if number % 4 == 0 else "bob"))
    return world


def arguments(world, acl_ids):
    vector = WordEmbedder.one("refund number 3")
    base = [world.organization_id, acl_ids]
    number, code = embedder_no(EMBEDDER_ID), asyncpg.BitString.frombytes(vector.code)
    narrow = ['{"a": "b"}', -1, "/a"]
    words = [*base, [1, 2], [1.0, 2.0], 0.3, 0.1, 100, *narrow]
    meaning = [*base, list(vector.vector), number, 100]
    return {
        "find_terms": [*base, ["refund", "number"], 100],
        "count_terms": [*base, [1, 2]],
        "lexical": words,
        "exact": [*meaning, *narrow],
        "bits": [*meaning, code, 400, *narrow],
    }


async def plan_of(filled, name):
    async with filled.store.snapshot(filled.scope_of("ann"), SNAPSHOT_SETTINGS) as tx:
        eligible = await search.resolve(tx, Reader("ann", "user", (filled.people["ann"],)), None, 10**15)
        statement = await tx._connection.prepare(getattr(SQL, name).sql)
        return (await statement.explain(*arguments(filled, list(eligible.acl_ids))[name]))[0]["Plan"]


@pytest.mark.parametrize("name", ["find_terms", "count_terms", "lexical", "exact", "bits"])
async def test_access_is_an_index_condition_of_every_candidate_statement(filled, name):
    """plastic-labs/honcho#1048, metabase/metabase#75722: a filter behind the search returns too little, or too much."""
    plan = await plan_of(filled, name)
    scans = {node["Relation Name"].rstrip("_01234567"): node for node in nodes(plan) if "Relation Name" in node}
    assert CANDIDATES & set(scans)
    assert [node["Node Type"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"] == []
    for node in nodes(plan):
        relation = node.get("Relation Name", "").rstrip("_01234567")
        condition = node.get("Index Cond", "") + node.get("Recheck Cond", "")
        if relation in CANDIDATES:
            assert "acl_id = ANY" in condition, json.dumps(node)
        if relation == "retrieval_chunk_vectors":
            assert "chunk_id = " in condition, json.dumps(node)
        if relation == "retrieval_documents":
            assert "acl_id = ANY" in json.dumps(node), name


async def test_no_statistics_move_access_out_of_the_index(filled, store_urls):
    """A table that one small organization fills makes every index look alike; only one of them serves a search."""
    owner = await asyncpg.connect(store_urls.owner)
    try:
        await owner.execute("ANALYZE retrieval_postings, retrieval_chunk_codes, retrieval_documents")
    finally:
        await owner.close()
    for name in ("lexical", "exact", "bits"):
        await test_access_is_an_index_condition_of_every_candidate_statement(filled, name)


async def test_a_search_is_the_same_whatever_the_planner_would_like(filled, service):
    scope = filled.scope_of("ann")
    first = (await service.search(scope, None, SearchQuery("refund number 3"))).result
    again = (await service.search(scope, None, SearchQuery("refund number 3"))).result
    assert first.hits == again.hits
