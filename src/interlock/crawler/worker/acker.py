"""Writes what happened, in batches, until the store has it; then hands bodies on to extraction.

Keeps the order: a page is written no later than the end of its host's lease.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.frontier import Acked, Frontier, HostAck, PageAck
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.trace import Decision
from interlock.crawler.metrics import CrawlMetrics
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError

_log = structlog.get_logger("interlock.crawler")
_RETRY_S: Final = 0.25
# A host waits for its ack to be leased again; several hosts that end together share one transaction.
_HOST_LINGER_S: Final = 0.02


@dataclass(slots=True)
class Acker:
    """`on_written` gets what was written, and what of it was fenced; `on_free` hears that leases have ended.

    `on_fenced` hears that something was not written, and with it what it had led to.
    """

    frontier: Frontier
    owner: str
    clock: Clock
    config: CrawlerConfig
    metrics: CrawlMetrics
    on_written: Callable[[Sequence[PageAck], Acked], None] = lambda _pages, _acked: None
    on_free: Callable[[], None] = lambda: None
    on_fenced: Callable[[], None] = lambda: None
    _queue: deque[PageAck | HostAck] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    pages: int = 0
    fenced: int = 0

    def page(self, ack: PageAck) -> None:
        """Take the outcome of a URL."""
        self._queue.append(ack)
        self._wake.set()

    def host(self, ack: HostAck) -> None:
        """Take what is known of a host."""
        self._queue.append(ack)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Acks that are not written yet."""
        return len(self._queue)

    async def run(self) -> None:
        """Write until cancelled; what is left then is written by `drain`."""
        linger_s = self.config.ack_linger_ms / 1000
        while True:
            await self._wake.wait()
            ends_lease = any(isinstance(each, HostAck) for each in self._queue)
            await self.clock.sleep(min(_HOST_LINGER_S, linger_s) if ends_lease else linger_s)
            await self.flush()

    async def flush(self) -> None:
        """Write all that waits; a store that is away is waited for."""
        while self._queue:
            batch = self._batch()
            try:
                await self._write(batch)
            except InterlockError as error:
                self._queue.extendleft(reversed(batch))
                _log.warning("crawl_ack_waits", code=error.code)
                await self.clock.sleep(_RETRY_S)
            except Exception:  # noqa: BLE001 - a worker's outer loop: one page's defect must not end the others
                _log.exception("crawl_ack_broke", acks=len(batch))
                await self._write_apart(batch)
        self._wake.clear()

    async def _write_apart(self, batch: Sequence[PageAck | HostAck]) -> None:
        """Write one by one what could not be written together; what is the fault itself ends as a dead letter."""
        for place, each in enumerate(batch):
            try:
                if not await self._is_written(each) and isinstance(each, PageAck):
                    # Nobody waits for its body any more.
                    self.on_written([each], Acked())
                    await self._is_written(_bare(each))
            except InterlockError:
                self._queue.extendleft(reversed(batch[place:]))
                return

    async def _is_written(self, ack: PageAck | HostAck) -> bool:
        try:
            await self._write([ack])
        except InterlockError:
            raise
        except Exception:  # noqa: BLE001 - a worker's outer loop, as above
            _log.exception("crawl_ack_poison", host=ack.host_hash)
            return False
        return True

    def _batch(self) -> list[PageAck | HostAck]:
        batch: list[PageAck | HostAck] = []
        pages = 0
        while self._queue and pages < self.config.ack_pages_max:
            each = self._queue.popleft()
            batch.append(each)
            # A sitemap's thousands of URLs weigh as many pages.
            pages += 1 + len(each.discoveries) // 100 if isinstance(each, PageAck) else 0
        return batch

    async def _write(self, batch: list[PageAck | HostAck]) -> None:
        pages = [each for each in batch if isinstance(each, PageAck)]
        # Of several facts about one lease the newest holds all; a later lease of the host is a row of its own.
        hosts = {(each.host_hash, each.fence): each for each in batch if isinstance(each, HostAck)}
        began_s = self.clock.monotonic()
        acked = await self.frontier.ack(self.owner, pages, list(hosts.values()))
        self.pages += len(pages)
        self.metrics.ack_s.observe(self.clock.monotonic() - began_s)
        late = sum(page.host_hash in acked.fenced for page in pages)
        self.fenced += late
        self.metrics.fenced.inc(late)
        if acked.fenced:
            _log.warning("crawl_ack_fenced", hosts=len(acked.fenced))
            self.on_fenced()
        self.on_written(pages, acked)
        if any(each.is_final for each in hosts.values()):
            self.on_free()


def _bare(page: PageAck) -> PageAck:
    """Return the end of a URL whose outcome no store takes, with nothing of what its site sent."""
    return PageAck(
        page.url, page.host_hash, page.fence, UrlState.DEAD, reason="loop_error", attempt=page.attempt,
        misses=page.misses, at_us=page.at_us, decisions=(Decision("response", "dead", "loop_error"),),
    )  # fmt: skip
