"""How fast a pool is, as it turns out: prompt tokens a second, weighted tokens a second, room that a grant needs.

Learns from steps; declares nothing.
"""

import math
from dataclasses import dataclass
from typing import Final

from interlock.scheduler.domain.asks import CLASSES, Ask, Room, StepSeen

_PREFILL_STEP_MIN: Final = 200
_RHO_WEIGHT: Final = 0.05
_RECENT_WEIGHT: Final = 0.3
_CAPACITY_TAU_US: Final = 30_000_000
# The P90 of a log-normal prediction error of sigma 0.6, by which outputs are reserved in KV.
_P90: Final = 2.16
CREDIT_SHARE: Final = 0.1
# What grants may reserve of an engine's KV.
KV_SHARE: Final = 0.9
TTFT_TIGHTEST_US: Final = min(each.ttft_us for each in CLASSES.values())


@dataclass(slots=True)
class Rates:
    """`rho` is prompt tokens a second, `capacity` weighted tokens a second, of all `replicas` of the pool together.

    Both start from what was declared and are learned from the steps of single replicas.
    """

    rho: float
    capacity: float
    replicas: int = 1
    tightest_us: int = TTFT_TIGHTEST_US
    # The same over the last few steps alone; 0 before the first.
    recent: float = 0.0
    # The mean of steps that are mostly prefill; 0 before the first.
    step_us: float = 0.0
    # What a guess of the capacity weighs beside what was measured, and how long it was measured: a front that was
    # only told what its engines can do must not take half a minute to see what they do. 0: the guess is a measurement.
    guess_us: int = 0
    measured_us: int = 0

    @classmethod
    def declared(cls, prefill_tps: int, replicas: int = 1) -> "Rates":
        """Return the rates of a pool that has not run yet."""
        return cls(float(prefill_tps * replicas), 1.3 * prefill_tps * replicas, replicas)

    @property
    def planned(self) -> float:
        """What a promise may count on: the slower of the long and the short mean, so that a slowdown counts at once."""
        return min(self.rho, self.recent) if self.recent else self.rho

    def learn(self, seen: StepSeen) -> None:
        """Take in a step: rho from those that are mostly prefill, capacity from those with somebody waiting."""
        per_second = self.replicas * 1_000_000 / max(seen.duration_us, 1)
        if seen.duration_us <= 0:
            return
        if seen.prefill > _PREFILL_STEP_MIN:
            step_us = self.step_us or float(seen.duration_us)
            self.step_us = step_us + _RHO_WEIGHT * (seen.duration_us - step_us)
            recent = self.recent or self.rho
            self.recent = recent + _RECENT_WEIGHT * (seen.prefill * per_second - recent)
            self.rho += _RHO_WEIGHT * (seen.prefill * per_second - self.rho)
        if seen.is_backlogged:
            weight = 1.0 - math.exp(-seen.duration_us / _CAPACITY_TAU_US)
            if self.guess_us:
                self.measured_us += seen.duration_us
                weight = max(weight, seen.duration_us / (self.guess_us + self.measured_us))
            self.capacity += weight * (seen.weighted * per_second - self.capacity)

    def has_credit(self, room: Room) -> bool:
        """Whether one replica may be given more: what is granted and not yet prefilled stays a tenth of a promise."""
        return (
            room.seats > 0
            and room.prefill_left * 1_000_000 * self.replicas <= CREDIT_SHARE * self.tightest_us * self.rho
        )


def kv_tokens(ask: Ask) -> int:
    """Return the KV tokens to reserve: the input and the P90 of the output, in blocks of 16."""
    return -(-(ask.prefill + round(ask.output * _P90)) // 16) * 16
