"""What the loop looks at between two pages: crawls under way, switches, blocks, space, and how much each may fetch.

Decides shares by `domain/backpressure.py`; holds back nothing itself.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.backpressure import (
    Load,
    Machine,
    Valve,
    ValveState,
    grant,
    judge,
    reservation,
    tenant_limit,
)
from interlock.crawler.domain.fair import Demand, split
from interlock.crawler.store.crawls import ActiveCrawl, CrawlBook
from interlock.foundation.flags import KillSwitches
from interlock.foundation.ids import format_id


@dataclass(frozen=True, slots=True)
class SinkState:
    """What the index said last of a crawl's source."""

    credit_bytes: int | None = None
    lag_s: float = 0.0
    is_down: bool = False


@dataclass(slots=True)
class Valves:
    """How far each crawl is open, and how many URLs it may take in a round."""

    book: CrawlBook
    config: CrawlerConfig
    folder: Path
    measure: Callable[[Path, int], Machine]
    reserved: Callable[[UUID], int] = lambda _crawl_id: 0
    sinks: dict[UUID, SinkState] = field(default_factory=dict)
    valves: dict[UUID, Valve] = field(default_factory=dict)
    loads: dict[UUID, Load] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)

    def look(self) -> None:
        """Measure the machine and judge every crawl."""
        self.machine = self.measure(self.folder, self.config.rss_bytes_max)
        active = self.book.active
        weights = {each.ref[:2]: 0.0 for each in active.values()}
        for each in active.values():
            weights[each.ref[:2]] = max(weights[each.ref[:2]], each.asked.weight)
        total = sum(weights.values())
        used: dict[tuple[UUID, UUID], int] = {}
        for each in active.values():
            used[each.ref[:2]] = used.get(each.ref[:2], 0) + self._own(each)
        fresh: dict[UUID, Valve] = {}
        for crawl_id, each in active.items():
            tenant = each.ref[:2]
            load = self._load(each, used[tenant], weights[tenant], total)
            was = self.valves.get(crawl_id)
            fresh[crawl_id] = judge(load, self.machine, was_closed=was is not None and was.state is ValveState.CLOSED)
            self.loads[crawl_id] = load
        self.valves = fresh
        self.loads = {crawl_id: self.loads[crawl_id] for crawl_id in active}

    def caps(self, urls_max: int, ewma_bytes: float) -> dict[UUID, int]:
        """Return how many URLs each crawl may lease now."""
        demands = [
            Demand(crawl_id, each.ref[:2], each.asked.weight, max(1, each.load.pending))
            for crawl_id, each in self.book.active.items()
            if each.load.pending > 0 and crawl_id in self.valves
        ]
        reserve = reservation(ewma_bytes, self.config.body_bytes_max)
        return {
            crawl_id: grant(fair, self.valves[crawl_id], self.loads[crawl_id], reserve)
            for crawl_id, fair in split(urls_max, demands).items()
        }

    def _own(self, each: ActiveCrawl) -> int:
        return self.reserved(each.ref.crawl_id) + each.load.extract_bytes + each.load.outbox_bytes

    def _load(self, each: ActiveCrawl, tenant_bytes: int, weight: float, total: float) -> Load:
        sink = self.sinks.get(each.ref.crawl_id, SinkState())
        pipeline = tenant_limit(self.config.pipeline_bytes_max, weight, total)
        outbox = tenant_limit(self.config.outbox_bytes_max, weight, total)
        # The tighter of both stages decides: the tenant's bytes are brought to its scale.
        return Load(
            reserved_bytes=tenant_bytes - each.load.extract_bytes - each.load.outbox_bytes,
            extract_bytes=each.load.extract_bytes,
            outbox_bytes=each.load.outbox_bytes,
            limit_bytes=pipeline if each.load.extract_bytes >= each.load.outbox_bytes else outbox,
            lag_s=max(each.load.lag_s, sink.lag_s),
            credit_bytes=sink.credit_bytes,
            is_sink_down=sink.is_down,
        )


def machine_of(folder: Path, rss_bytes_max: int) -> Machine:
    """Return the free space under a folder and this process's resident memory."""
    disk = shutil.disk_usage(folder)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        pages = 0
    return Machine(disk.free, disk.total, pages * os.sysconf("SC_PAGE_SIZE"), rss_bytes_max)


def is_killed(switches: KillSwitches, crawl: ActiveCrawl, host: str) -> bool:
    """Tell whether a switch stops requests of a crawl to a host."""
    targets = (
        ("crawler", "*"),
        ("crawl", str(crawl.ref.crawl_id)),
        ("crawl", format_id("crawl", crawl.ref.crawl_id)),
        ("crawl_host", host),
        ("organization", str(crawl.ref.organization_id)),
        ("workspace", str(crawl.ref.workspace_id)),
    )
    return switches.check(targets, crawl.ref.organization_id) is not None
