"""A virtual-time event loop: nothing waits, time jumps to the next timer, ready callbacks run in a seeded order.

Has no sockets and no threads; a core that needs either is not a core.
"""

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

ResultT = TypeVar("ResultT")
EPOCH_US: Final = 1_750_000_000_000_000


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set, and the simulation has not ended."""


class SimDice:
    """Seeded chance with the interface of `foundation.clock.Dice`, and the choices that simulations make."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)  # noqa: S311 - the seed is the point

    def random(self) -> float:
        return self._source.random()

    def randrange(self, stop: int) -> int:
        return self._source.randrange(stop)

    def randbytes(self, count: int) -> bytes:
        return self._source.randbytes(count)

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._source.random() < probability

    def pick(self, *choices: ResultT) -> ResultT:
        """Return one of the choices."""
        return choices[self._source.randrange(len(choices))]

    def shuffle(self, items: list[Any]) -> None:
        """Put the items into a random order."""
        self._source.shuffle(items)


class _NoSelector(selectors.BaseSelector):
    """Stands where a loop waits for I/O: instead of waiting, it moves the virtual clock."""

    def __init__(self) -> None:
        self._keys: dict[int, selectors.SelectorKey] = {}
        self.advance: Callable[[float], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError("nothing is ready and no timer is set")
        if timeout > 0:
            self.advance(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._keys[descriptor] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys.clear()


class SimLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose `time()` is virtual. The order of callbacks that are ready together comes from the dice."""

    _ready: "deque[asyncio.Handle]"

    def __init__(self, dice: SimDice) -> None:
        selector = _NoSelector()
        selector.advance = self._advance
        self._now_s = 0.0
        self._dice = dice
        super().__init__(selector)

    def time(self) -> float:
        return self._now_s

    def _advance(self, seconds: float) -> None:
        self._now_s += seconds

    def _run_once(self) -> None:
        if len(self._ready) > 1:
            handles = list(self._ready)
            self._dice.shuffle(handles)
            self._ready.clear()
            self._ready.extend(handles)
        super()._run_once()  # type: ignore[misc] # the one hook by which a loop's order can be chosen


class SimClock:
    """The virtual clock of one simulated machine; `skew_s` moves its wall clock, never its monotonic one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, skew_s: float = 0.0) -> None:
        self._loop = loop
        self.skew_s = skew_s

    def now_us(self) -> int:
        return EPOCH_US + round((self._loop.time() + self.skew_s) * 1_000_000)

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251 - on a SimLoop this is virtual


def simulate(seed: int, scenario: Callable[[SimDice, SimClock], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Run one scenario to its end under one seed and return what it returns.

    Raises:
        DeadlockError: when the scenario waits for something that can never come.
    """
    dice = SimDice(seed)
    loop = SimLoop(dice)
    try:
        return loop.run_until_complete(scenario(dice, SimClock(loop)))
    finally:
        _end_all(loop)
        loop.close()


def _end_all(loop: asyncio.AbstractEventLoop) -> None:
    pending: list[Awaitable[Any]] = list(asyncio.all_tasks(loop))
    for task in asyncio.all_tasks(loop):
        task.cancel()
    if pending:
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
