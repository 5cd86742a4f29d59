"""Asks of a limit whose store is slow: one machine alone decides them as the store would, and counts them once."""

from uuid import UUID

import pytest

from interlock.gateway.domain.buckets import MICRO, Bucket, Refill
from interlock.gateway.domain.desk import Desk, Waiter
from interlock.gateway.domain.leasing import Landed, Take, Verdict

TENANT, WORKER, OWNER = UUID(int=7), UUID(int=8), UUID(int=9)
FIVE = Bucket(TENANT, UUID(int=1), Refill.MINUTE, 0, 5 * MICRO, 1)


@pytest.fixture
def desk():
    """A desk that has read its bucket once, full."""
    found = Desk(TENANT, 1)
    found.held(FIVE)
    found.due.add(FIVE.id)
    flight, _ = found.plan(OWNER)
    found.land(flight, Landed([5 * MICRO], [0], []), [], 0, 1)
    return found


def waiting(desk, count):
    waiters = [Waiter(WORKER, Take([FIVE], [MICRO], [True], [0])) for _ in range(count)]
    desk.queue.extend(waiters)
    return waiters


def shared(desk, waiter):
    desk.forsake(waiter)
    return desk.share(waiter, 0, 0, 1).verdict


def test_a_burst_in_one_late_flight_is_shared_out_in_order(desk):
    waiters = waiting(desk, 12)
    flight, aboard = desk.plan(OWNER)
    assert [shared(desk, each) for each in waiters] == [Verdict.OK] * 5 + [Verdict.SHORT] * 7
    # The flight lands after all: what the store took for those who are gone is what the share gave them.
    shorts = [[at >= 5] for at in range(12)]
    desk.land(flight, Landed([0], [0], shorts), aboard, 0, 1)
    assert desk.held(FIVE).level(0) == 0
    assert desk.held(FIVE).asked == 0


def test_who_still_waits_for_the_flight_keeps_what_came_first(desk):
    waiters = waiting(desk, 6)
    flight, aboard = desk.plan(OWNER)
    # The last one gives up first: the five before it are still to be decided by the store.
    assert shared(desk, waiters[5]) is Verdict.SHORT
    desk.land(flight, Landed([0], [0], [[at >= 5] for at in range(6)]), aboard, 0, 1)
    assert [each.answer.verdict for each in waiters[:5]] == [Verdict.OK] * 5


def test_a_lost_flight_leaves_what_the_share_gave(desk):
    waiters = waiting(desk, 4)
    flight, aboard = desk.plan(OWNER)
    assert [shared(desk, each) for each in waiters[:2]] == [Verdict.OK] * 2
    desk.lose_flight(flight, aboard)
    assert desk.held(FIVE).level(0) == 3 * MICRO
    assert desk.held(FIVE).asked == 0
