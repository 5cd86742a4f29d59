"""One look for all that waits in the store: a single statement asks for every queue of a process whether it holds work.

Claims nothing and knows no queue: whoever is told looks for itself.
"""

from collections.abc import Callable
from typing import Final

import structlog

from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import InterlockError
from interlock.foundation.store.queries import Query
from interlock.foundation.store.store import Store

# Who is told looks by itself so often only.
LOOK_ANYWAY_S: Final = 60.0
_log = structlog.get_logger("store")


class Lookout:
    """Questions by who wants to know. `every_s` bounds how late work is seen of which no notice came.

    At each look one more is told whatever the answer, in turn: a question that is narrower than the work it asks about
    makes that work late, not lost, and those looks never come at once.
    """

    def __init__(self, store: Store, clock: Clock, every_s: float = 1.0) -> None:
        self._store = store
        self._clock = clock
        self._every_s = every_s
        self._questions: list[tuple[Query, Callable[[], None]]] = []
        self._whole: Query | None = None
        self._turns = 0

    def watch(self, question: Query, tell: Callable[[], None]) -> None:
        """Call `tell` at every look at which `question`, a statement without parameters, has a row."""
        self._questions.append((question, tell))
        self._whole = None

    async def run(self) -> None:
        """Look until cancelled; a store that is away is waited for."""
        while True:
            try:
                await self.run_once()
            except (InterlockError, OSError) as error:
                _log.debug("lookout_waits_for_store", error=str(error))
            except Exception as error:  # noqa: BLE001 - the outer loop: who is told nothing looks now
                _log.error("lookout_failed", error=type(error).__name__, exc_info=error)
                for _, tell in self._questions:
                    tell()
            await self._clock.sleep(until_tick(self._clock, self._every_s))

    async def run_once(self) -> int:
        """Ask everything in one round trip, tell whom it concerns; return how many questions had a row."""
        # Loops start one after the other: a question may come while the others are being answered.
        asked = tuple(self._questions)
        if not asked:
            return 0
        if self._whole is None:
            parts = ",\n".join(f"EXISTS ({question.sql})" for question, _ in asked)
            self._whole = Query("lookout", "all questions of a process in one round trip", f"SELECT ARRAY[{parts}]")
        (row,) = await self._store.ops_single(self._whole)
        self._turns = (self._turns + 1) % len(asked)
        for number, ((_, tell), is_there) in enumerate(zip(asked, row[0], strict=True)):
            if is_there or number == self._turns:
                tell()
        return sum(row[0])
