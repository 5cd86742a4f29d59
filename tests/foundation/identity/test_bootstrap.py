"""The first start makes an owner whose key opens everything; no later start makes another."""

import pytest

from interlock.foundation.identity import ALL_SCOPES, bootstrap
from interlock.foundation.store import Query
from tests.foundation.identity.worlds import World
from tests.support.store import IDS, opened, running_store

ORGANIZATIONS = Query("organizations", "what there is", "SELECT name FROM identity_organizations ORDER BY name")


@pytest.fixture
async def empty(tmp_path):
    async with running_store() as (_launcher, urls), opened(urls) as store:
        yield World(store, tmp_path)


async def test_the_first_start_makes_owner_and_key_once(empty):
    saved = []
    assert await bootstrap(empty.store, empty.keys, empty.clock, IDS, saved.append)
    assert not await bootstrap(empty.store, empty.keys, empty.clock, IDS, saved.append)
    (content,) = saved
    assert content.endswith(b"\n")
    await empty.directory.reload()
    principal = empty.check(content.decode().strip()).principal
    assert principal.scopes == ALL_SCOPES
    assert principal.is_platform_operator
    owner = empty.client(content.decode().strip())
    names = {each["name"] for each in (await owner("GET", "/admin/v1/organizations")).json["data"]}
    assert names == {"default", "system"}
    assert [each["name"] for each in (await owner("GET", "/admin/v1/workspaces")).json["data"]] == ["default"]
    assert (await owner("DELETE", "/admin/v1/organizations/system")).code == "in_use"


async def test_a_start_that_cannot_save_the_key_leaves_nothing_behind(empty):
    def disk_is_full(_content):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await bootstrap(empty.store, empty.keys, empty.clock, IDS, disk_is_full)
    async with empty.store.ops("look") as tx:
        assert await tx.fetch(ORGANIZATIONS) == []
    assert await bootstrap(empty.store, empty.keys, empty.clock, IDS, lambda _content: None)
