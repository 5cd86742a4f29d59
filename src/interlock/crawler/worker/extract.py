"""Drives extraction: bodies from the spool through the pool to documents that wait for the index.

Runs no parser itself, and decides nothing about duplicates; the store does, in one transaction a batch.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from interlock.contracts.documents import Signal
from interlock.crawler.adapters.spool import Spool
from interlock.crawler.domain.frontier import Acked, PageAck
from interlock.crawler.domain.signals import snippet_chars_max
from interlock.crawler.domain.types import Extractor, ExtractRequest
from interlock.crawler.metrics import CrawlMetrics
from interlock.crawler.store.outbox import ExtractedItem, Outbox, OutboxItem
from interlock.foundation.artifacts import ArtifactStore, key_of
from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import InterlockError

_log = structlog.get_logger("interlock.crawler")
BATCH_MAX: Final = 32
_POLL_S: Final = 1.0
_RETRY_S: Final = 0.5
_QUEUE_MAX: Final = 512


@dataclass(slots=True)
class ExtractionDriver:
    """`parallel` pages are in the pool at once; pages of this worker come by hand, others by the store."""

    outbox: Outbox
    extractor: Extractor
    artifacts: ArtifactStore
    spool: Spool
    owner: str
    clock: Clock
    metrics: CrawlMetrics
    parallel: int = 2
    on_offered: Any = None
    idle_s: float = _POLL_S
    _queue: deque[tuple[OutboxItem, dict[str, Any]]] = field(default_factory=deque)
    _done: list[ExtractedItem] = field(default_factory=list)
    _lost: list[OutboxItem] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _left: asyncio.Event = field(default_factory=asyncio.Event)
    extracted: int = 0

    def take(self, pages: Sequence[PageAck], acked: Acked) -> None:
        """Take the pages whose bodies wait now; remove the bodies of those that were fenced."""
        for page in pages:
            spooled = page.spooled
            if spooled is None:
                continue
            if spooled.outbox_id not in acked.accepted:
                self.spool.remove(spooled.path)
                continue
            item = OutboxItem(
                page.url.crawl, spooled.outbox_id, page.host_hash, page.url.url_key, spooled.bytes, page.at_us,
                spooled.path, spooled.headers, document={"url": page.url.url, "signals": page.signals or {}},
            )  # fmt: skip
            self._queue.append((item, dict(page.signals or {})))
        self._wake.set()

    def nudge(self) -> None:
        """Take bodies that nobody holds now."""
        self._left.set()

    async def run(self) -> None:
        """Extract until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.parallel):
                group.create_task(self._work())
            group.create_task(self._write_loop())
            group.create_task(self._claim_loop())

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            item, signals = self._queue.popleft()
            await self._one(item, signals)

    async def _one(self, item: OutboxItem, signals: dict[str, Any]) -> None:
        path = item.spool or ""
        if not self.spool.exists(path):
            self._lost.append(item)
            self._ready.set()
            return
        began_s = self.clock.monotonic()
        extracted = await self.extractor.extract(ExtractRequest(item.document["url"], item.headers, path))
        self.metrics.extracted(self.clock.monotonic() - began_s, extracted.cpu_s)
        artifact = key_of("crawler", extracted.text_digest[:2], extracted.text_digest)
        await self.artifacts.put(artifact, extracted.markdown.encode())
        typed = {name: Signal(each["value"], each["origin"]) for name, each in signals.items()}
        self._done.append(ExtractedItem(item, extracted, artifact, signals, snippet_chars_max(typed)))
        self.extracted += 1
        self._ready.set()

    async def _write_loop(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            try:
                await self.write()
            except InterlockError as error:
                _log.info("crawl_extraction_waits", code=error.code)
                self._ready.set()
                await self.clock.sleep(_RETRY_S)

    async def write(self) -> None:
        """Write what is extracted; bodies are removed once that is done."""
        while self._done:
            batch = self._done[:BATCH_MAX]
            self.metrics.duplicates(await self.outbox.extracted(self.owner, batch))
            del self._done[: len(batch)]
            for each in batch:
                self.spool.remove(each.item.spool or "")
            if self.on_offered is not None:
                self.on_offered()
        if self._lost:
            lost = list(self._lost)
            await self.outbox.refetch(self.owner, lost)
            del self._lost[: len(lost)]

    async def _claim_loop(self) -> None:
        """Take bodies that another process left behind, and keep those that are still in work here."""
        while True:
            self._left.clear()
            try:
                await self.claim()
            except InterlockError as error:
                _log.info("crawl_extraction_waits", code=error.code)
            rest_s = _POLL_S if self._queue or self._done else self.idle_s
            with suppress(TimeoutError):
                async with asyncio.timeout(until_tick(self.clock, rest_s)):
                    await self._left.wait()

    async def claim(self) -> None:
        """Keep the bodies that are in work here; where there are none, take some that nobody holds."""
        if self._queue:
            await self.outbox.extend(self.owner, [item.outbox_id for item, _ in self._queue])
        elif not self._done:
            for item in await self.outbox.claim(self.owner, "extract", "put", BATCH_MAX):
                self._queue.append(await self._resumed(item))
            self._wake.set()

    async def _resumed(self, item: OutboxItem) -> tuple[OutboxItem, dict[str, Any]]:
        url, signals = await self.outbox.url_of(item)
        return (
            OutboxItem(
                item.crawl, item.outbox_id, item.host_hash, item.url_key, item.bytes, item.observed_at_us, item.spool,
                item.headers, document={"url": url, "signals": signals},
            ),
            signals,
        )  # fmt: skip
