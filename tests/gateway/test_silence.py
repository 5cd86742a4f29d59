"""How long a stream has waited for its engine is counted by the edge's own reports, each of them by its usual time."""

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
