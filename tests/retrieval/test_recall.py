"""The recall probe: what it compares, what it never does, and what an operator is told."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.contracts.retrieval import SearchMode, SearchQuery
from interlock.foundation.errors import InterlockError
from interlock.foundation.telemetry import Merge, Metrics, merge
from interlock.retrieval.domain import plan as plans
from interlock.retrieval.domain.recall import RECALL_AT, WINDOW, Window, recall
from interlock.retrieval.metrics import RecallMetrics
from interlock.retrieval.service.recall import RecallProbe
from interlock.retrieval.service.samples import Samples
from interlock.retrieval.service.search import SearchService
from interlock.retrieval.store.reading import search as rows
from tests.retrieval.conftest import searching
from tests.retrieval.world import PATIENT
from tests.support.clocks import HandClock

CONFIG = replace(PATIENT, recall_probe_deadline_s=600.0)


class Compared:
    """A search service of which one in `every` searches is compared."""

    def __init__(self, store, every=1):
        self.samples, self.metrics = Samples(every), Metrics()
        parts = replace(searching(store).parts, samples=self.samples, config=CONFIG)
        self.search = SearchService(parts)
        self.probe = RecallProbe(self.search, self.samples, RecallMetrics(self.metrics))

    async def searched(self, world, who="ann", mode=SearchMode.HYBRID):
        query = SearchQuery("tents of canvas", mode=mode)
        return await self.search.search(world.scope_of(who), None, query)

    @property
    def is_kept(self):
        return self.samples._kept is not None

    def told(self):
        return merge([self.metrics.snapshot()])


@pytest.fixture
async def shop(world, monkeypatch):
    """Ten passages of ann and ten of bob, in an index where more than five of a reader are found by codes."""
    monkeypatch.setattr(plans, "EXACT_CHUNKS_MAX", 5)
    await world.user("ann"), await world.user("bob")
    for who in ("ann", "bob"):
        await world.document("\n".join(f"Tents of {word} canvas." for word in "abcdefghij"), world.acl(who))
    return world


async def test_a_search_by_codes_is_compared_for_its_own_reader(shop, store):
    compared = Compared(store)
    seen = (await compared.searched(shop)).look.seen
    assert await compared.probe.compare_one() == "compared"
    assert 'interlock_retrieval_recall_probe{plan="bits"} 1.0' in compared.told()
    assert seen.counts.chunks == 10
    assert not compared.is_kept


async def test_codes_that_find_the_wrong_passages_are_told(shop, store, monkeypatch):
    """Codes that give nothing but the last passage: the gauge is what an alert watches."""
    compared, vector = Compared(store), rows.vector

    async def poor(tx, eligible, asked, number, query, chosen):
        found = await vector(tx, eligible, asked, number, query, chosen)
        return found[-1:] if chosen.plan is plans.Plan.BITS else found

    monkeypatch.setattr(rows, "vector", poor)
    await compared.searched(shop)
    assert await compared.probe.compare_one() == "compared"
    assert 'interlock_retrieval_recall_probe{plan="bits"} 0.1' in compared.told()


async def test_one_of_so_many_is_kept_and_one_at_a_time(shop, store):
    compared = Compared(store, every=3)
    kept = []
    for _ in range(6):
        await compared.searched(shop)
        kept.append(compared.is_kept)
    assert kept == [False, False, True, True, True, True]
    compared.samples.take()
    for _ in range(3):
        await compared.searched(shop)
    assert compared.is_kept


async def test_what_codes_had_no_part_in_is_not_compared(shop, store, monkeypatch):
    compared = Compared(store)
    await compared.searched(shop, mode=SearchMode.LEXICAL)
    assert not compared.is_kept
    monkeypatch.setattr(plans, "EXACT_CHUNKS_MAX", 2_000)
    await compared.searched(shop)
    assert not compared.is_kept
    never = Compared(store, every=0)
    monkeypatch.setattr(plans, "EXACT_CHUNKS_MAX", 5)
    await never.searched(shop)
    assert not never.is_kept


async def test_a_comparison_gives_way_to_searches(shop, store):
    compared = Compared(store)
    await compared.searched(shop)
    async with asyncio.TaskGroup() as group:
        leave = asyncio.Event()

        async def hold():
            async with compared.search.turn():
                await leave.wait()

        for _ in range(CONFIG.searches_max // 2 + 1):
            group.create_task(hold())
        await asyncio.sleep(0)
        assert compared.probe.is_busy()
        assert await compared.probe.compare_one() == "skipped"
        leave.set()
    assert not compared.probe.is_busy()
    assert "interlock_retrieval_recall_probe{" not in compared.told()


async def test_a_store_that_is_away_is_no_recall(shop, store, monkeypatch):
    compared = Compared(store)
    await compared.searched(shop)

    async def away(*_args):
        raise InterlockError("store_unavailable")

    monkeypatch.setattr(rows, "vector", away)
    assert await compared.probe.compare_one() == "unknown"
    assert "interlock_retrieval_recall_probe{" not in compared.told()


async def test_the_loop_compares_what_is_offered_after_the_answer(shop, store):
    compared = Compared(store)

    class Stepping(HandClock):
        async def sleep(self, seconds):
            await asyncio.sleep(0)

    compared.search.parts = replace(compared.search.parts, clock=Stepping())
    loop = asyncio.create_task(compared.probe.run())
    await compared.searched(shop)
    while "interlock_retrieval_recall_probe{" not in compared.told():
        await asyncio.sleep(0.01)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert 'interlock_retrieval_recall_probes_total{outcome="compared"} 1.0' in compared.told()


ids = st.lists(st.integers(0, 30), unique=True, max_size=20)


@given(ids, ids)
def test_recall_counts_the_first_ten_of_the_exact_answer(approximate, exact):
    found = recall(approximate, exact)
    first = exact[:RECALL_AT]
    if not first:
        assert found is None
        return
    assert found == sum(each in approximate[:RECALL_AT] for each in first) / len(first)
    assert recall(exact, exact) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=2 * WINDOW))
def test_the_gauge_is_of_the_newest_comparisons(shares):
    window = Window()
    means = [window.add(each) for each in shares]
    newest = shares[-WINDOW:]
    assert means[-1] == pytest.approx(sum(newest) / len(newest))


def test_of_several_processes_the_worst_recall_is_shown():
    told = []
    for value in (0.99, 0.5, 0.9):
        metrics = Metrics()
        metrics.gauge("retrieval_recall_probe", "Recall.", ("plan",), merge=Merge.MIN).labels("bits").set(value)
        told.append(metrics.snapshot())
    assert 'interlock_retrieval_recall_probe{plan="bits"} 0.5' in merge(told)
