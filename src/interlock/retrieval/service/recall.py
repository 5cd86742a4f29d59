"""`RecallProbe`: now and then the codes' answer to a real search is compared with the exact one, after it has left.

For the same reader, in one snapshot of its own; only a share is kept of it. Gives way to searches, and is never two.
"""

from dataclasses import replace
from typing import Final

import structlog

from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.retrieval.domain.embedding import Embedding
from interlock.retrieval.domain.plan import Plan, choose
from interlock.retrieval.domain.recall import Window, recall
from interlock.retrieval.metrics import RecallMetrics
from interlock.retrieval.service.looking import SNAPSHOT_SETTINGS, Look
from interlock.retrieval.service.samples import Samples
from interlock.retrieval.service.search import SearchService
from interlock.retrieval.store.reading import search as rows

# By then the answer has left, also where the process had to be waited for.
_AFTER_S: Final = 0.5
# Above this share of the searches that may run at once, the probe gives way.
_BUSY_SHARE: Final = 0.5
_log = structlog.get_logger("interlock.retrieval")


class RecallProbe:
    """Comparisons of one process, one at a time."""

    def __init__(self, search: SearchService, samples: Samples, metrics: RecallMetrics) -> None:
        self._search = search
        self._samples = samples
        self._metrics = metrics
        self._window = Window()

    async def run(self) -> None:
        """Compare what is offered until cancelled."""
        while True:
            await self._samples.offered()
            await self._search.parts.clock.sleep(_AFTER_S)
            try:
                self._metrics.compared(await self.compare_one())
            except Exception:  # noqa: BLE001 - a comparison that breaks must not end the process that serves
                _log.exception("retrieval_recall_broken")

    async def compare_one(self) -> str:
        """Compare the search that waits, and make room for the next; return what came of it, in a word."""
        scope, look = self._samples.take()
        if self.is_busy():
            return "skipped"
        try:
            share = await self._share(scope, look)
        except (InterlockError, OSError) as error:
            _log.info("retrieval_recall_unknown", error=str(error))
            return "unknown"
        if share is None:
            return "skipped"
        self._metrics.recall(str(Plan.BITS), self._window.add(share))
        return "compared"

    def is_busy(self) -> bool:
        """Tell whether searches need the store more than a comparison does."""
        now = self._search.statistics()
        return now.waiting > 0 or now.running > now.running_max * _BUSY_SHARE

    async def _share(self, scope: Scope, look: Look) -> float | None:
        asked, _ = await self._search.embedded(scope, look.query)
        number = self._search.embedder_no
        if asked is None or number is None:
            return None
        return await self._compared(scope, look, asked, number)

    async def _compared(self, scope: Scope, look: Look, asked: Embedding, number: int) -> float | None:
        """Return recall@10 of the codes; None where the reader sees so little by now that they are not used."""
        parts, query = self._search.parts, look.query
        timeout_ms = round(parts.config.recall_probe_deadline_s * 1e3)
        settings = {**SNAPSHOT_SETTINGS, "statement_timeout": str(timeout_ms)}
        async with parts.store.snapshot(scope, settings) as tx:
            seen = await rows.resolve(tx, look.reader, query.sources or None, parts.clock.now_us(), look.shut)
            chosen = choose(seen.counts, query.hits)
            if chosen.plan is not Plan.BITS:
                return None
            near = await rows.vector(tx, seen, asked, number, query, chosen)
            exact = await rows.vector(tx, seen, asked, number, query, replace(chosen, plan=Plan.EXACT))
        return recall([chunk for chunk, _ in near], [chunk for chunk, _ in exact])
