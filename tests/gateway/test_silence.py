"""Reports of an edge: each counts by its usual time how long a stream has waited; a new leader gets one at once."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from interlock.contracts.scheduling import Granted, Predicted, ProgressReply
from interlock.gateway.config import EdgeConfig
from interlock.gateway.service.grants import GrantBook
from tests.scheduler.calls import grant_request
from tests.support.clocks import HandClock


class Hearing:
    """A scheduler that grants and notes what it is told."""

    def __init__(self):
        self.told = []

    async def acquire(self, request):
        return Granted("gnt_1", "eng_1", "unix:/e", "m", 60_000, 0, Predicted(None, None, None, None), "none", ())

    async def progress(self, grants):
        self.told += [each.silent_ms for each in grants]
        return ProgressReply((), ())


@pytest.mark.parametrize("interval_s", [0.25, 5.0])
async def test_an_edge_that_stood_still_has_not_waited_for_its_engines(interval_s):
    scheduler, clock = Hearing(), HandClock()
    clock.stop()
    book = GrantBook(scheduler, None, clock, replace(EdgeConfig(), progress_interval_s=interval_s), "edge-0")
    passage = SimpleNamespace(request_id=1, grant=None)
    await book.acquire(passage, grant_request())
    passage.grant.output_tokens = 3
    for passed_s in (0, interval_s, 60, interval_s / 5):
        clock.forward += passed_s
        await book.report()
    passage.grant.is_blocked = True
    await book.report()
    passage.grant.is_blocked = False
    clock.forward += interval_s
    await book.report()
    usual_ms = round(interval_s * 1_000)
    assert scheduler.told == [None, usual_ms, 2 * usual_ms, round(2.2 * usual_ms), None, usual_ms]


async def test_a_scheduler_that_was_away_hears_what_runs_as_soon_as_one_leads_again():
    """It waits for that before it grants, a quarter of a second at most; the next round may be further off."""
    scheduler, is_away = Hearing(), True
    report = scheduler.progress

    async def progress(grants):
        if is_away:
            scheduler.told.append("away")
            raise ConnectionError("nobody is there")
        return await report(grants)

    async def told(count):
        async with asyncio.timeout(240):
            while len(scheduler.told) < count:
                await asyncio.sleep(0)

    scheduler.progress = progress
    book = GrantBook(scheduler, None, HandClock(), replace(EdgeConfig(), progress_interval_s=3_600.0), "edge-0")
    await book.acquire(SimpleNamespace(request_id=1, grant=None), grant_request())
    running = asyncio.create_task(book.run())
    book.report_now()
    await told(1)
    is_away = False
    book.report_now()
    await told(2)
    assert scheduler.told == ["away", None]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
