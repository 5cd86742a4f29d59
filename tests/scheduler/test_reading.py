"""Our own engine tells how far it is with answers that come whole, of which no edge sees the first token."""

from dataclasses import replace

import pytest

from interlock.contracts.scheduling import Settlement, SettleOutcome
from interlock.scheduler import (
    EMBEDDED_OBJECTIVES,
    Dialect,
    EngineSpec,
    EngineWatch,
    FrontService,
    HttpProbe,
    PoolSpec,
    SchedulerConfig,
)
from interlock.scheduler.adapters.remote import Reading
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.worker import ReadingWatch
from tests.scheduler.calls import AUTHORIZED, TOKEN, chat, grant_request

CONFIG = SchedulerConfig(probe_timeout_s=60.0, canary_timeout_s=600.0)
WHOLE = Settlement(SettleOutcome.OK, 10, 0, 5, None, 900)


class TellingProbe:
    """An engine that has read whatever it is asked about."""

    def __init__(self):
        self.told = []

    async def reading(self, _engine):
        return self.told


class Records(list):
    def granted(self, grant):
        """Not looked at."""

    def decided(self, pool, took_s):
        """Not looked at."""

    def ended(self, record):
        self.append(record)


@pytest.fixture
def front(clock, ids):
    spec = PoolSpec("embedded", EMBEDDED_OBJECTIVES, (EngineSpec("unix:/a", "m", 2, 2_048, dialect=Dialect.EMBEDDED),))
    found = FrontService([spec], clock=clock, ids=ids, config=CONFIG, observers=(Records(),))
    [engine] = found.engines("embedded")
    found.engine_changed("embedded", replace(engine, condition=EngineCondition.READY))
    return found


async def test_the_first_token_of_a_whole_answer_is_what_the_engine_tells(front, clock):
    probe = TellingProbe()
    watch = ReadingWatch(front, probe, clock=clock, config=CONFIG)
    grant = await front.acquire(grant_request("req_a"))
    assert [each.condition for each in front.reading_engines()] == [EngineCondition.READY]
    probe.told = [Reading(grant.grant_id, 0, None), Reading("gnt_unknown", 3, 7)]
    await watch.run_once()
    assert front.reading_engines()
    probe.told = [Reading(grant.grant_id, 2, 0)]
    await watch.run_once()
    assert front.reading_engines() == []
    settled = await front.settle(grant.grant_id, WHOLE)
    assert await front.settle(grant.grant_id, WHOLE) == settled
    [record] = front._observers[1]
    assert record.ttft_ms is not None
    assert [step["step"] for step in record.steps][-2:] == ["first_token", "settled"]


async def test_an_engine_tells_only_of_answers_with_a_grant(engine):
    status, told = await engine.json("/internal/reading")
    assert (status, told) == (200, {"grants": []})
    headers = [*AUTHORIZED, (b"x-interlock-grant", b"gnt_1")]
    seen = {}

    async def is_told():
        for each in (await engine.json("/internal/reading"))[1]["grants"]:
            seen.setdefault(each["grant_id"], []).append(each["read_ms_ago"])
        return any(ago is not None for ago in seen.get("gnt_1", []))

    body = chat("Tell a long story about a ship.", max_tokens=1_500, stream=True)
    async with engine.request("/v1/chat/completions", body, headers) as answer:
        assert answer.status == 200
        await engine.wait_until(is_told)
    assert set(seen) == {"gnt_1"}
    status, _ = await engine.json("/internal/reading", headers=[])
    assert status == 401


async def test_our_own_engine_is_timed_before_it_gets_work(engine, clock, ids, client):
    """What is declared of it may be far off on this machine: promises are made of what it does."""
    spec = PoolSpec(
        "embedded",
        EMBEDDED_OBJECTIVES,
        (EngineSpec(engine.url.removesuffix(":"), "m", 2, 2_048, dialect=Dialect.EMBEDDED, prefill_tps=1_000_000),),
    )
    front = FrontService([spec], clock=clock, ids=ids, config=CONFIG)
    watch = EngineWatch(front, HttpProbe(client, token=TOKEN, config=CONFIG), clock=clock, config=CONFIG)
    await watch.run_once()
    assert front.engines("embedded")[0].condition is EngineCondition.READY
    assert front.statistics("embedded").engines[0].prefill_tps < 100_000
    # The same prompt again is in its cache, which says nothing of how fast it reads.
    [state] = front.engines("embedded")
    assert await HttpProbe(client, token=TOKEN, config=CONFIG).pace(state) is None
