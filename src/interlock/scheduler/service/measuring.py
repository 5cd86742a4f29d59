"""The metrics of all pools as they are now: one window and one autoscaler each.

Serves nothing; routes, `/metrics` and the command line read it.
"""

from typing import Any

from interlock.foundation.clock import Clock
from interlock.scheduler.domain.autoscale import Autoscaler, Load
from interlock.scheduler.domain.history import history, recent
from interlock.scheduler.domain.measures import Window
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.types import Grant, PoolStatistics


class Measuring:
    """Observes a front; see `front.Observer`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[str, Window] = {}
        self._scalers: dict[str, Autoscaler] = {}

    def granted(self, grant: Grant) -> None:
        """Wait for its end."""

    def decided(self, pool: str, took_s: float) -> None:
        """Leave it to the histogram."""

    def ended(self, record: DecisionRecord) -> None:
        """Take in a request that ended."""
        self._window(record.request.pool).add(record)

    def looked(self, statistics: PoolStatistics) -> None:
        """Take in how busy the engines were."""
        busy_us = sum(each.busy_us for each in statistics.engines)
        self._window(statistics.name).note_busy(self._clock.now_us(), busy_us, len(statistics.engines))

    def device(self, pool: str, share: float) -> None:
        """Take in how busy the accelerators under a pool's engines say they are."""
        self._window(pool).note_device(self._clock.now_us(), share)

    def figures(self, pool: str, service_class: str | None = None) -> dict[str, Any]:
        """Return the seven metrics of a pool, or of one class in it."""
        keep = None if service_class is None else lambda each: each.request.service_class.value == service_class
        return self._window(pool).figures(self._clock.now_us(), keep)

    def by_tenant(self, pool: str) -> list[dict[str, Any]]:
        """Return the figures of each organization."""
        return self._window(pool).by_tenant(self._clock.now_us())

    def signals(self, statistics: PoolStatistics) -> dict[str, Any]:
        """Return what an autoscaler reads."""
        window, now_us = self._window(statistics.name), self._clock.now_us()
        ready = [each for each in statistics.engines if each.state.condition.value == "ready"]
        tops = [each.standing.demand_tps for each in statistics.tenants if len(each.path) == 1 and each.standing]
        load = Load(
            replicas=len(ready),
            queued_tokens=statistics.queued_tokens,
            demand_tps=sum(tops),
            capacity_tps=statistics.weighted_tps,
            shed_rate=window.shed_rate(now_us),
            miss_rate=window.miss_rate(now_us),
            kv_pressure=statistics.kv_reserved_share or 0.0,
        )
        return self._scalers.setdefault(statistics.name, Autoscaler()).look(now_us, load)

    def shown(self, pool: str) -> dict[str, Any]:
        """Return the last minutes in spans, and what ended last."""
        window, now_us = self._window(pool), self._clock.now_us()
        return {"history": history(window, now_us), "recent": recent(window, now_us)}

    def forget(self, pool: str) -> None:
        """Drop the figures of a pool that is gone."""
        self._windows.pop(pool, None)
        self._scalers.pop(pool, None)

    def _window(self, pool: str) -> Window:
        return self._windows.setdefault(pool, Window())
