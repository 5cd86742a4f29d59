"""What makes a source dark from outside its rows: a kill switch, and time that passes in the middle of a search."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from interlock.contracts.retrieval import SearchQuery
from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import KillSwitches
from interlock.foundation.flags.domain.kills import Kill
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.retrieval.service.citations import Cited, verify
from interlock.retrieval.service.search import SearchService
from interlock.retrieval.service.stops import Stops
from tests.support.store import IDS


class LaterClock(SystemClock):
    """A moment; every look at it but the first is ten seconds later."""

    def __init__(self):
        self.looks = 0
        self.began_us = super().now_us()

    def now_us(self):
        self.looks += 1
        return self.began_us + (10_000_000 if self.looks > 1 else 0)


def kill(scope, target, organization_id=SYSTEM_ORGANIZATION_ID):
    return Kill(
        id="kill_1", organization_id=organization_id, scope=scope, target=target, mode="reject", reason="test",
        actor="test", created_us=1,
    )  # fmt: skip


@pytest.fixture
async def shop(world, service):
    await world.user("ann")
    world.switches = KillSwitches(world.store, SystemClock(), None, b"k")
    world.parts = replace(service.parts, stops=Stops(world.switches))
    world.search = SearchService(world.parts)
    world.dark = await world.document("Walnut in the shut source.", world.acl("ann"), source="shut")
    world.light = await world.document("Walnut in the open source.", world.acl("ann"), source="open")
    return world


async def found(shop):
    return (await shop.search.search(shop.scope_of("ann"), None, SearchQuery("walnut", with_facets=True))).result


def cited(document):
    return Cited(document, 1, 0, 6, hashlib.sha256(b"Walnut").hexdigest())


async def test_a_switch_on_a_source_makes_it_dark_in_searches_and_citations(shop):
    source = format_id("src", shop.sources["shut"])
    before = await found(shop)
    assert {hit.document_id for hit in before.hits} == {shop.dark, shop.light}
    shop.switches._replace((kill("retrieval_source", source),), ())
    after = await found(shop)
    assert [hit.document_id for hit in after.hits] == [shop.light]
    assert after.degraded == ("source_dark",)
    assert after.facets["source"] == ((format_id("src", shop.sources["open"]), 1),)
    verified = await verify(shop.parts, shop.scope_of("ann"), None, [cited(shop.dark), cited(shop.light)])
    assert [each.reason for each in verified.results] == ["not_found", None]
    shop.switches._replace((), ())
    assert len((await found(shop)).hits) == 2


async def test_a_switch_of_another_organization_or_of_no_source_darkens_nothing(shop):
    source = format_id("src", shop.sources["shut"])
    shop.switches._replace((kill("retrieval_source", source, IDS.new()), kill("retrieval_source", "nonsense")), ())
    assert len((await found(shop)).hits) == 2


async def test_citations_are_stopped_with_the_rest_of_retrieval(shop):
    shop.switches._replace((kill("retrieval", "*"),), ())
    with pytest.raises(InterlockError) as refused:
        await verify(shop.parts, shop.scope_of("ann"), None, [cited(shop.light)])
    assert refused.value.code == "killed"


async def test_a_list_that_grows_too_old_in_the_middle_of_a_search_trips_no_guard(world, service):
    await world.user("ann")
    clock = LaterClock()
    confirmed = datetime.fromtimestamp(clock.began_us / 1e6 - 3_595, tz=UTC)
    await world.source("files", "folder", acl_confirmed_at=confirmed)
    old = await world.document("Walnut in a folder.", world.acl("ann"), source="files")
    search = SearchService(replace(service.parts, clock=clock))
    result = (await search.search(world.scope_of("ann"), None, SearchQuery("walnut"))).result
    assert [hit.document_id for hit in result.hits] == [old]
    (source,) = await world.sql("SELECT state FROM retrieval_sources")
    assert source["state"] == "idle"
