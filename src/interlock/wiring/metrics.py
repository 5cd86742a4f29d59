"""The series of a process's common parts.

Counts nothing itself.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from interlock.foundation.flags import ChangeFeed
from interlock.foundation.store import STORE_MERGES, Store, StoreWatch
from interlock.foundation.telemetry import Merge, Metrics


def watch_common(metrics: Metrics, store: Store, feed: ChangeFeed | None) -> None:
    """Show whether the store answers and how old what a process knows is."""
    metrics.collector(StoreWatch(store), {name: Merge(rule) for name, rule in STORE_MERGES.items()})
    if feed is not None:
        age = metrics.gauge("flags_config_age_seconds", "Age of what a process knows of keys and rules.", merge="max")
        age.set_function(lambda: min(feed.age_s, 1e9))


def watch_wire(metrics: Metrics) -> Callable[[str, int, float], None]:
    """Return what the wire server calls at the end of each answer."""
    requests = metrics.counter("wire_requests_total", "Answers by route and status.", ("route", "status"))
    seconds = metrics.histogram("wire_request_seconds", "Time from the head to the end of an answer.", ("route",))

    @cache
    def counters(route: str, status: int) -> tuple[Any, Any]:
        return requests.labels(route, status), seconds.labels(route)

    def on_metrics(route: str, status: int, took_s: float) -> None:
        count, length = counters(route, status)
        count.inc()
        length.observe(took_s)

    return on_metrics
