"""The series of a process's common parts.

Counts nothing itself.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.foundation.flags import ChangeFeed, Propagation
from interlock.foundation.store import STORE_MERGES, Store, StoreWatch
from interlock.foundation.telemetry import SECONDS_BUCKETS, Merge, Metrics


def watch_common(metrics: Metrics, store: Store, feed: ChangeFeed | None) -> None:
    """Show whether the store answers and how old what a process knows is."""
    metrics.collector(StoreWatch(store), {name: Merge(rule) for name, rule in STORE_MERGES.items()})
    if feed is not None:
        age = metrics.gauge("flags_config_age_seconds", "Age of what a process knows of keys and rules.", merge="max")
        age.set_function(lambda: min(feed.age_s, 1e9))


class _WireWatch(Collector):
    """Answers by route and status as plain numbers; the families are made when somebody asks."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], int] = {}
        self._times: dict[str, tuple[list[int], list[float]]] = {}

    def note(self, route: str, status: int, took_s: float) -> None:
        place = (route, status)
        self._answers[place] = self._answers.get(place, 0) + 1
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = ([0] * (len(SECONDS_BUCKETS) + 1), [0.0])
        times[0][bisect_left(SECONDS_BUCKETS, took_s)] += 1
        times[1][0] += took_s

    def collect(self) -> Iterator[Metric]:
        """Yield both families as they stand."""
        answers = CounterMetricFamily(
            "interlock_wire_requests", "Answers by route and status.", labels=("route", "status")
        )
        for (route, status), count in self._answers.items():
            answers.add_metric((route, str(status)), count)
        yield answers
        times = HistogramMetricFamily(
            "interlock_wire_request_seconds", "Time from the head to the end of an answer.", labels=("route",)
        )
        for route, (counts, sums) in self._times.items():
            bounds = (*map(str, SECONDS_BUCKETS), "+Inf")
            times.add_metric((route,), list(zip(bounds, accumulate(counts), strict=True)), sums[0])
        yield times


def watch_wire(metrics: Metrics) -> Callable[[str, int, float], None]:
    """Return what the wire server calls at the end of each answer."""
    watch = _WireWatch()
    metrics.collector(watch, {family.name: Merge.SUM for family in watch.collect()})
    return watch.note


def watch_kills(metrics: Metrics) -> Callable[[Propagation], None]:
    """Return what is told how far each switch has come."""
    told = metrics.histogram("flags_kill_propagation_seconds", "From a kill to the last process that knows it.")
    missed = metrics.counter("flags_kills_unacknowledged_total", "Switches that a live process did not know in time.")

    def note(propagation: Propagation) -> None:
        told.observe(propagation.propagation_ms / 1_000)
        missed.inc(bool(propagation.missing))

    return note
