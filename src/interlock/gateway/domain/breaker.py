"""The circuit breaker of one deployment, as a table, and the budget of retries of one edge.

Reads no clock and rolls no dice; moments are seconds of the caller's monotonic clock, `jitter` is from 0 to 1.
"""

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from interlock.foundation import native

WINDOW_S: Final = 10
CALLS_MIN: Final = 20
FAILED_SHARE: Final = 0.5
CONNECTS_MAX: Final = 5
OPEN_S: Final = 5.0
OPEN_S_MAX: Final = 60.0
JITTER: Final = 0.1
PROBES: Final = 3
_compiled: Final = native.load("interlock.gateway.domain._native_rules")


class BreakerState(StrEnum):
    """Whether a deployment is called: always, never, or by one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerEvent(StrEnum):
    """What moves a breaker."""

    TRIPPED = "tripped"
    COOLED = "cooled"
    PROBE_FAILED = "probe_failed"
    PROBES_PASSED = "probes_passed"


TRANSITIONS: Final = {
    (BreakerState.CLOSED, BreakerEvent.TRIPPED): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.COOLED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.PROBE_FAILED): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.PROBES_PASSED): BreakerState.CLOSED,
}


class _Counts:
    """What a breaker counts while it is closed."""

    __slots__ = (
        "_calls", "_connects", "_failed", "_passed", "_seconds", "opened_at", "opens", "probing", "state", "until",
    )  # fmt: skip

    state: BreakerState
    until: float
    opened_at: float
    opens: int
    probing: bool
    _passed: int
    _connects: int
    _calls: int
    _failed: int

    def __init__(self) -> None:
        # The window: second, calls, failures.
        self._seconds: deque[list[int]] = deque()

    def admits(self, now: float) -> bool:
        """Tell whether the deployment may be called now; the end of the wait makes an open breaker half open."""
        return self.state is BreakerState.CLOSED or self._admits(now)

    def begin(self) -> bool:
        """Note a call that was admitted; return whether it is the probe."""
        self.probing = self.state is BreakerState.HALF_OPEN
        return self.probing

    def succeed(self, now: float, *, is_probe: bool) -> None:
        """Note a call that was answered."""
        self._connects = 0
        if is_probe or self.state is not BreakerState.CLOSED:
            self._succeed(now, is_probe=is_probe)
        else:
            self._count(now, 0)

    def _count(self, now: float, failed: int) -> None:
        second = int(now)
        seconds = self._seconds
        if not seconds or seconds[-1][0] != second:
            seconds.append([second, 0, 0])
        seconds[-1][1] += 1
        seconds[-1][2] += failed
        self._calls += 1
        self._failed += failed
        while seconds[0][0] <= second - WINDOW_S:
            _, calls, bad = seconds.popleft()
            self._calls -= calls
            self._failed -= bad

    def _forget(self) -> None:
        self._seconds.clear()
        self._calls = self._failed = self._connects = 0

    def _admits(self, now: float) -> bool:
        """Tell what a breaker that is not closed admits; `Breaker` knows."""
        del now
        return False

    def _succeed(self, now: float, *, is_probe: bool) -> None:
        """Note an answer while the breaker is not closed; `Breaker` does."""


if not TYPE_CHECKING and _compiled is not None:
    _Counts = _compiled.BreakerCounts
    _compiled.know_states(BreakerState.CLOSED, BreakerState.HALF_OPEN)


class Breaker(_Counts):
    """Opens on half of 20 calls in 10 s, or 5 failed connects in a row; each opening doubles the wait."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.state = BreakerState.CLOSED
        self.until = 0.0
        self.opened_at = 0.0
        self.opens = 0
        self.probing = False
        self._passed = 0
        self._connects = 0
        self._calls = 0
        self._failed = 0

    def abandon(self, *, is_probe: bool) -> None:
        """Note a call that ended without a word about the deployment, such as one that its client left."""
        if is_probe:
            self.probing = False

    def fail(self, now: float, jitter: float, *, is_probe: bool, is_connect: bool, wait_s: float | None = None) -> None:
        """Note a call that failed. `wait_s` is what the deployment asked for; it makes a wait longer, never shorter."""
        if is_probe:
            self.probing = False
        if self.state is BreakerState.HALF_OPEN and is_probe:
            self._open(BreakerEvent.PROBE_FAILED, now, jitter)
        elif self.state is BreakerState.CLOSED:
            self._connects = self._connects + 1 if is_connect else 0
            self._count(now, 1)
            is_half = self._calls >= CALLS_MIN and self._failed >= FAILED_SHARE * self._calls
            if is_half or self._connects >= CONNECTS_MAX:
                self._open(BreakerEvent.TRIPPED, now, jitter)
        if wait_s is not None and self.state is BreakerState.OPEN:
            self.until = max(self.until, now + wait_s)

    def _admits(self, now: float) -> bool:
        if self.state is BreakerState.OPEN and now >= self.until:
            self._move(BreakerEvent.COOLED)
            self._passed, self.probing = 0, False
        return self.state is BreakerState.HALF_OPEN and not self.probing

    def _succeed(self, now: float, *, is_probe: bool) -> None:
        """Note what was answered while the breaker was not closed, or what began as a probe."""
        if is_probe:
            self.probing = False
        if self.state is BreakerState.CLOSED:
            self._count(now, 0)
        elif self.state is BreakerState.HALF_OPEN and is_probe:
            self._passed += 1
            if self._passed >= PROBES:
                self._move(BreakerEvent.PROBES_PASSED)
                self.opens = 0
                self._forget()

    def _open(self, event: BreakerEvent, now: float, jitter: float) -> None:
        self._move(event)
        # The power is bounded before it is taken: a breaker may open for days.
        wait_s = min(OPEN_S_MAX, OPEN_S * 2 ** min(self.opens, 10))
        if self.opens == 0:
            self.opened_at = now
        self.opens += 1
        self.until = now + wait_s * (1 + JITTER * jitter)
        self._forget()

    def _move(self, event: BreakerEvent) -> None:
        self.state = TRANSITIONS[self.state, event]


class RetryBudget:
    """Retries may be a tenth of the requests of the last 10 s, and 3 a second at least."""

    SHARE: Final = 0.1
    PER_S_MIN: Final = 3

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()
        self.requests = 0
        self.retries = 0

    def note(self, now: float) -> None:
        """Count a request."""
        self._at(now)[1] += 1
        self.requests += 1

    def take(self, now: float) -> bool:
        """Take one retry, or tell that there is none left."""
        place = self._at(now)
        if self.retries >= max(self.SHARE * self.requests, self.PER_S_MIN * WINDOW_S):
            return False
        place[2] += 1
        self.retries += 1
        return True

    def _at(self, now: float) -> list[int]:
        second = int(now)
        seconds = self._seconds
        if not seconds or seconds[-1][0] != second:
            seconds.append([second, 0, 0])
        while seconds[0][0] <= second - WINDOW_S:
            _, requests, retries = seconds.popleft()
            self.requests -= requests
            self.retries -= retries
        return seconds[-1]
