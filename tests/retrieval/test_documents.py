"""Documents through HTTP: pushed, found by whom their lists name, changed, withdrawn."""

import pytest

from tests.retrieval.writing import Index, doc, lists


@pytest.fixture
async def index(world):
    for name in ("ann", "bob", "eve"):
        await world.user(name)
    await world.group("g-support", "ann")
    return Index(world)


async def test_a_pushed_document_is_found_by_its_readers_and_by_nobody_else(index, world):
    source = await index.source()
    (result,) = await index.push(source, doc("a", "tents may be returned", lists(world, "g-support")))
    assert (result["status"], result["version"], result["vector"]) == ("created", 1, "pending")
    assert await index.found("ann", "returned tents") == ["a"]
    assert await index.found("bob", "returned tents") == []
    read = await index.call("GET", f"/v1/retrieval/documents/{result['id']}", who="ann", may=("retrieval:read",))
    assert (read.status, read.json["text"]) == (200, "tents may be returned")
    missing = await index.call("GET", f"/v1/retrieval/documents/{result['id']}", who="bob", may=("retrieval:read",))
    assert (missing.status, missing.json["error"]["code"]) == (404, "document_not_found")
    assert (await index.counts())[0] == (await index.counts())[1]
