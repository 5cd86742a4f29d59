"""Delivery: withdrawals first, then documents as far as each source's credit goes.

Keeps nothing of its own: a row of the outbox ends when the index has answered for it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import structlog

from interlock.contracts.documents import (
    Accepted,
    AccessList,
    Backlogged,
    DocumentSink,
    DocumentUpsert,
    Origin,
    Pressure,
    Signal,
    WithdrawReason,
)
from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.metrics import CrawlMetrics
from interlock.crawler.store.crawls import CrawlBook
from interlock.crawler.store.events import scope_of
from interlock.crawler.store.outbox import Outbox, OutboxItem, WaitingSource
from interlock.crawler.worker.watch import SinkState
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id

_log = structlog.get_logger("interlock.crawler")
BATCH_MAX: Final = 32
_POLL_S: Final = 0.5
_DOWN_S: Final = 1.0
_PRESSURE_S: Final = 0.5
_AT_ONCE: Final = 4


@dataclass(slots=True)
class Deliverer:
    """One worker's way to the index. `sinks` is what valves read of it."""

    outbox: Outbox
    sink: DocumentSink
    artifacts: ArtifactStore
    book: CrawlBook
    sinks: dict[UUID, SinkState]
    owner: str
    clock: Clock
    metrics: CrawlMetrics
    idle_s: float = 2.0
    _sources: dict[UUID, UUID] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _ask: asyncio.Event = field(default_factory=asyncio.Event)
    delivered: int = 0
    withdrawn: int = 0

    def nudge(self) -> None:
        """Look for documents now."""
        self._wake.set()
        self._ask.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver_loop())
            group.create_task(self._pressure_loop())

    async def _deliver_loop(self) -> None:
        while True:
            moved = 0
            self._wake.clear()
            try:
                moved = await self.run_once()
            except (InterlockError, OSError, ConnectionError) as error:
                _log.info("crawl_delivery_waits", error=str(error))
                await self.clock.sleep(_DOWN_S)
            if not moved:
                try:
                    async with asyncio.timeout(_POLL_S if self.book.active else self.idle_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def run_once(self) -> int:
        """Deliver one batch of each kind; return how many rows moved."""
        gone = await self.outbox.claim(self.owner, "deliver", "tombstone", BATCH_MAX)
        if gone:
            await self._withdraw(gone)
        closed = [crawl_id for crawl_id, state in self.sinks.items() if state.credit_bytes == 0 or state.is_down]
        items = await self.outbox.claim(self.owner, "deliver", "put", BATCH_MAX, without=closed)
        moved = await self._put(items) if items else 0
        return len(gone) + moved

    async def _withdraw(self, items: Sequence[OutboxItem]) -> None:
        done: list[OutboxItem] = []
        for item in items:
            source = await self._source(item.crawl, None)
            try:
                await self.sink.tombstone(
                    scope_of(item.crawl), source, str(item.url_key), WithdrawReason(item.reason or "gone"),
                    item.observed_at_us,
                )  # fmt: skip
            except (InterlockError, OSError) as error:
                await self._failed(item.crawl, [each for each in items if each not in done], error)
                break
            done.append(item)
            self.metrics.withdraw_s.observe(max(0.0, (self.clock.now_us() - item.observed_at_us) / 1e6))
        await self.outbox.withdrawn(self.owner, done)
        self.withdrawn += len(done)

    async def _put(self, items: Sequence[OutboxItem]) -> int:
        turns = asyncio.Semaphore(_AT_ONCE)
        answers = await asyncio.gather(*(self._answered(item, turns) for item in items))
        done = [item for item, answer in zip(items, answers, strict=True) if isinstance(answer, Accepted)]
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, Backlogged):
                await self.outbox.postpone(self.owner, [item.outbox_id], answer.retry_after_s)
            elif isinstance(answer, str):
                await self.outbox.refused(self.owner, item, answer)
        await self.outbox.delivered(self.owner, done)
        self.delivered += len(done)
        return len(done)

    async def _answered(self, item: OutboxItem, turns: asyncio.Semaphore) -> Accepted | Backlogged | str:
        """Offer one document unless its source has just said that it takes no more."""
        crawl_id = item.crawl.crawl_id
        async with turns:
            state = self.sinks.get(crawl_id, SinkState())
            if state.credit_bytes == 0 or state.is_down:
                return Backlogged(_POLL_S)
            try:
                answer = await self._offer(item)
            except (InterlockError, OSError) as error:
                self.sinks[crawl_id] = SinkState(state.credit_bytes, state.lag_s, is_down=True)
                _log.warning("crawl_sink_down", error=str(error))
                return Backlogged(_DOWN_S)
            if isinstance(answer, Backlogged):
                self.sinks[crawl_id] = SinkState(0, state.lag_s)
            return answer

    async def _offer(self, item: OutboxItem) -> Accepted | Backlogged | str:
        document = item.document
        text = await self.artifacts.get(item.artifact or "")
        if text is None:
            return "text_lost"
        source = await self._source(item.crawl, None)
        answer = await self.sink.put(
            scope_of(item.crawl),
            DocumentUpsert(
                source_id=source,
                external_id=str(item.url_key),
                source_version=item.version,
                observed_at_us=item.observed_at_us,
                uri=document["uri"],
                title=document["title"],
                media_type=document["media_type"],
                text=text.decode(),
                text_digest=document["text_digest"],
                origin=Origin.WEB,
                language=document.get("language"),
                modified_at_us=document.get("modified_at_us"),
                signals={name: Signal(each["value"], each["origin"]) for name, each in document["signals"].items()},
                snippet_chars_max=document.get("snippet_chars_max"),
            ),
        )
        return answer if isinstance(answer, Accepted | Backlogged) else answer.code

    async def _failed(self, crawl: CrawlRef, items: Sequence[OutboxItem], error: Exception) -> None:
        known = self.sinks.get(crawl.crawl_id, SinkState())
        self.sinks[crawl.crawl_id] = SinkState(known.credit_bytes, known.lag_s, is_down=True)
        _log.warning("crawl_sink_down", error=str(error))
        await self.outbox.postpone(self.owner, [each.outbox_id for each in items], _DOWN_S)

    async def _pressure_loop(self) -> None:
        while True:
            self._ask.clear()
            try:
                await self.ask_pressure()
            except (InterlockError, OSError) as error:
                _log.info("crawl_pressure_unknown", error=str(error))
            if self.book.active:
                await self.clock.sleep(_PRESSURE_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self.idle_s):
                    await self._ask.wait()

    async def ask_pressure(self) -> None:
        """Ask the index what it still takes of every crawl that is under way or has documents waiting."""
        sources = {each.crawl.crawl_id: each for each in await self.outbox.sources()}
        for each in self.book.active.values():
            audience = {"kind": each.spec.audience.kind, "groups": each.spec.audience.groups}
            sources.setdefault(each.ref.crawl_id, WaitingSource(each.ref, each.source_id, audience))
        for source in sources.values():
            self.sinks[source.crawl.crawl_id] = await self._pressure(source)
        for crawl_id in set(self.sinks) - set(sources):
            del self.sinks[crawl_id]

    async def _pressure(self, source: WaitingSource) -> SinkState:
        was = self.sinks.get(source.crawl.crawl_id, SinkState())
        try:
            source_id = await self._source(source.crawl, source)
            found: Pressure = await self.sink.pressure(scope_of(source.crawl), source_id)
        except (InterlockError, OSError) as error:
            _log.info("crawl_sink_down", error=str(error))
            return SinkState(was.credit_bytes, was.lag_s + _PRESSURE_S, is_down=True)
        return SinkState(found.credit_bytes, found.lag_s)

    async def _source(self, crawl: CrawlRef, known: WaitingSource | None) -> UUID:
        found = self._sources.get(crawl.crawl_id) or (known.source_id if known is not None else None)
        if found is None:
            waiting = known or next(each for each in await self.outbox.sources() if each.crawl == crawl)
            found = waiting.source_id or await self.sink.open_source(
                scope_of(crawl), format_id("crawl", crawl.crawl_id), "crawl", acl_of(waiting.audience)
            )
            await self.outbox.set_source(crawl, found)
        self._sources[crawl.crawl_id] = found
        return found


def acl_of(audience: Mapping[str, Any]) -> AccessList:
    """Return who may read the documents of a crawl: everyone of the organization, or some groups.

    Retrieval knows no principal for a workspace, so `workspace` reads as the organization that it belongs to.
    """
    if audience.get("kind") == "groups":
        return AccessList(tuple((f"group:{each}",) for each in audience.get("groups", ())))
    return AccessList((("everyone",),))
