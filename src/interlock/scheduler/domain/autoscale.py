"""How many replicas a pool should have, and why.

Starts no engine; whoever runs them reads the figure.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

DEMAND_SHARE: Final = 0.85
KV_SHARE: Final = 0.9
SHED_MAX: Final = 0.01
SHED_US: Final = 30_000_000
CALM_SHARE: Final = 0.6
CALM_US: Final = 600_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """What the signals are made of; rates in weighted tokens a second."""

    replicas: int
    queued_tokens: int
    demand_tps: float
    capacity_tps: float
    shed_rate: float
    miss_rate: float
    kv_pressure: float


@dataclass(slots=True)
class Autoscaler:
    """Remembers since when a pool sheds, and since when it is calm."""

    desired: int | None = None
    _shedding_since_us: int | None = None
    _calm_since_us: int | None = None

    def look(self, now_us: int, load: Load) -> dict[str, Any]:
        """Return the signals: up as soon as shedding lasts half a minute, down by one after ten calm minutes."""
        capacity = max(1.0, load.capacity_tps)
        pressure = max(load.demand_tps / (DEMAND_SHARE * capacity), load.kv_pressure / KV_SHARE)
        wanted = max(1, math.ceil(load.replicas * pressure))
        current = load.replicas if self.desired is None else self.desired
        self._shedding_since_us = _since(self._shedding_since_us, now_us, holds=load.shed_rate > SHED_MAX)
        self._calm_since_us = _since(self._calm_since_us, now_us, holds=pressure < CALM_SHARE)
        reason = "steady"
        if self._shedding_since_us is not None and now_us - self._shedding_since_us >= SHED_US and wanted > current:
            current, reason = wanted, "shedding"
        elif self._calm_since_us is not None and now_us - self._calm_since_us >= CALM_US and current > 1:
            current, reason, self._calm_since_us = current - 1, "calm", now_us
        self.desired = current
        return {
            "replicas": load.replicas,
            "desired_replicas": current,
            "backlog_seconds": round(load.queued_tokens / capacity, 3),
            "shed_rate": round(load.shed_rate, 6),
            "slo_burn": round(load.miss_rate / SHED_MAX, 3),
            "kv_pressure": round(load.kv_pressure, 6),
            "reason": reason,
        }


def _since(since_us: int | None, now_us: int, *, holds: bool) -> int | None:
    if not holds:
        return None
    return now_us if since_us is None else since_us
