"""One search of so many is kept for a comparison, until it is made; one more meanwhile is let go.

Compares nothing; `recall.py` does.
"""

import asyncio

from interlock.contracts.retrieval import SearchMode
from interlock.foundation.scope import Scope
from interlock.retrieval.domain.plan import Plan
from interlock.retrieval.service.looking import Look


class Samples:
    """Room for one search. `every` 0 keeps none."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._seen = 0
        self._kept: tuple[Scope, Look] | None = None
        self._offered = asyncio.Event()

    def offer(self, scope: Scope, look: Look) -> None:
        """Keep a search that was made by codes, if it is its turn and there is room."""
        if not self._every or look.plan.plan is not Plan.BITS or look.query.mode is SearchMode.LEXICAL:
            return
        self._seen += 1
        if self._seen % self._every == 0 and self._kept is None:
            self._kept = (scope, look)
            self._offered.set()

    async def offered(self) -> None:
        """Wait until there is one."""
        await self._offered.wait()

    def take(self) -> tuple[Scope, Look]:
        """Return the one that is kept, and make room. Raises `LookupError` where there is none."""
        if self._kept is None:
            raise LookupError("no search is kept")
        kept, self._kept = self._kept, None
        self._offered.clear()
        return kept
