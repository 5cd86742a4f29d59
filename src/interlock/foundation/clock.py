"""Time and chance as constructor arguments, so that every core runs under a virtual clock and a seed.

Does not format or parse times; `rfc3339` is the one rendering that every surface shares.
"""

import asyncio
import os
import random
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from interlock.foundation import native

_DRAWN: Final = 64
_compiled: Final = native.load("interlock.foundation._native_ids")


class Clock(Protocol):
    """Wall time for records, monotonic time for waits and deadlines."""

    def now_us(self) -> int:
        """Return microseconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never step back; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""
        ...


class Dice(Protocol):
    """The only source of randomness in the platform."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...

    def randrange(self, stop: int) -> int:
        """Return an integer in [0, stop)."""
        ...

    def randbytes(self, count: int) -> bytes:
        """Return `count` random bytes."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    # Asked a dozen times a request: the function itself, without one of ours around it.
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


if _compiled is not None and not TYPE_CHECKING:
    SystemClock.now_us = staticmethod(_compiled.now_us)


class SystemDice:
    """Randomness of the operating system, fit for keys and tokens."""

    def __init__(self) -> None:
        self._source = random.SystemRandom()
        self._drawn: list[float] = []

    def random(self) -> float:
        # Drawn many at once, as each question is a call of the system.
        if not self._drawn:
            self._drawn = [(each >> 11) * 2.0**-53 for each in memoryview(os.urandom(8 * _DRAWN)).cast("Q")]
        return self._drawn.pop()

    def randrange(self, stop: int) -> int:
        return self._source.randrange(stop)

    def randbytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


def until_tick(clock: Clock, every_s: float) -> float:
    """Return the seconds until the next whole multiple of `every_s` on the machine's clock, a quarter of it at least.

    Loops that rest until then wake together: what an idle process costs is how often it wakes, not what it looks at.
    """
    left_s = every_s - clock.monotonic() % every_s
    return left_s if left_s >= every_s / 4 else left_s + every_s


def rfc3339(at_us: int) -> str:
    """Render microseconds since the epoch as RFC 3339 UTC with millisecond precision."""
    moment = datetime.fromtimestamp(at_us / 1_000_000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
