"""The series `interlock_store_*` of one process, read from `statistics()` when they are asked for.

Keeps no count of its own, and does not ask the store anything.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from interlock.foundation.store.store import Store

# How the processes of a machine are made one; a process that lost the store does not outvote one that has it.
STORE_MERGES: Final[Mapping[str, str]] = {
    "interlock_store_up": "max",
    "interlock_store_transactions": "sum",
    "interlock_store_pool_wait_seconds": "sum",
    "interlock_store_pool_refused": "sum",
    "interlock_store_connections": "sum",
}


class StoreWatch(Collector):
    """Register with `Metrics.collector(StoreWatch(store), ...)` and the rules of `STORE_MERGES`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they are now."""
        held = self._store.statistics()
        yield GaugeMetricFamily("interlock_store_up", "Whether the store answers.", float(held.is_up))
        outcomes = CounterMetricFamily("interlock_store_transactions", "Transactions by outcome.", labels=["outcome"])
        for outcome, count in held.outcomes.items():
            outcomes.add_metric([outcome], count)
        yield outcomes
        waits = SummaryMetricFamily(
            "interlock_store_pool_wait_seconds", "Waits for a connection where none was free.", labels=["pool"]
        )
        refused = CounterMetricFamily(
            "interlock_store_pool_refused", "Callers who waited for a connection in vain.", labels=["pool"]
        )
        size = GaugeMetricFamily("interlock_store_connections", "Open connections.", labels=["pool"])
        for name, pool in (("app", held.app), ("ops", held.ops)):
            waits.add_metric([name], pool.waits, pool.wait_s_total)
            refused.add_metric([name], pool.refused)
            size.add_metric([name], pool.size)
        yield from (waits, refused, size)
