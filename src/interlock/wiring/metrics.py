"""The supervisor's own series and those of a process's parts, as snapshots that can be merged.

Counts nothing itself.
"""

from interlock.foundation.flags import ChangeFeed
from interlock.foundation.store import Store
from interlock.foundation.supervisor import RoleCounts
from interlock.foundation.telemetry import Metrics


def supervisor_snapshot(counts: RoleCounts) -> bytes:
    """Return restarts and state of every process."""
    metrics = Metrics()
    restarts = metrics.counter("supervisor_role_restarts_total", "Starts after a death, by process.", ("role",))
    up = metrics.gauge("supervisor_role_up", "Whether a process is up.", ("role",), merge="max")
    for role, count in counts.restarts.items():
        restarts.labels(role).inc(count)
    for role, is_up in counts.up.items():
        up.labels(role).set(is_up)
    return metrics.snapshot()


def watch_common(metrics: Metrics, store: Store, feed: ChangeFeed | None) -> None:
    """Show whether the store answers and how old what a process knows is."""
    up = metrics.gauge("store_up", "Whether the store answered its last question in time.", merge="max")
    up.set_function(lambda: float(store.is_up))
    if feed is not None:
        age = metrics.gauge("flags_config_age_seconds", "Age of what a process knows of keys and rules.", merge="max")
        age.set_function(lambda: min(feed.age_s, 1e9))
