"""Which of several healthy targets is asked: five strategies over what this edge knows of each.

Reads no clock and rolls no dice; `roll(n)` returns a whole number below n.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from interlock.foundation import native
from interlock.gateway.domain.breaker import Breaker
from interlock.gateway.domain.directory import Placement, Strategy

DECAY_S: Final = 10.0
# How much slower than the fastest the cheapest may be.
COST_SLOWER_MAX: Final = 2.0
Roll = Callable[[int], int]
_compiled: Final = native.load("interlock.gateway.domain._native_rules")


class _Latency:
    """How long calls of one deployment take at their worst."""

    __slots__ = ("_at", "_peak_ms", "breaker", "inflight")

    inflight: int
    breaker: Breaker
    _peak_ms: float
    _at: float

    def observe(self, latency_ms: float, now: float) -> None:
        """Note how long a call took until its first output."""
        kept = math.exp(-max(0.0, now - self._at) / DECAY_S)
        self._peak_ms = max(latency_ms, self._peak_ms * kept + latency_ms * (1 - kept))
        self._at = now


if not TYPE_CHECKING and _compiled is not None:
    _Latency = _compiled.LoadState


class Load(_Latency):
    """What an edge knows of one deployment: running calls, how long calls take at their worst, and its breaker.

    The latency is PeakEWMA (Finagle): it jumps to a slower call at once and decays within 10 s.
    """

    __slots__ = ()

    def __init__(self) -> None:
        self.inflight = 0
        self.breaker = Breaker()
        self._peak_ms = 0.0
        self._at = 0.0

    def peak_ms(self, now: float) -> float:
        """Return the latency as it stands; 0 where nothing is known."""
        return self._peak_ms * math.exp(-max(0.0, now - self._at) / DECAY_S)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A healthy target."""

    placement: Placement
    weight: float
    load: Load

    @property
    def price_micro(self) -> float:
        """Dollars of a million tokens in and one out, in millionths; what has no price is the dearest."""
        deployment = self.placement.deployment
        if deployment.input_price_micro is None or deployment.output_price_micro is None:
            return math.inf
        return deployment.input_price_micro + deployment.output_price_micro


class Turns:
    """Smooth weighted round robin (nginx): whoever is furthest behind its share is next."""

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def next(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return whose turn it is."""
        total = sum(each.weight for each in candidates)
        best, most = candidates[0], -math.inf
        for each in candidates:
            name = each.placement.deployment.name
            credit = self._credit[name] = self._credit.get(name, 0.0) + each.weight
            if credit > most:
                best, most = each, credit
        self._credit[best.placement.deployment.name] -= total
        return best


def choose(strategy: Strategy, candidates: Sequence[Candidate], turns: Turns, now: float, roll: Roll) -> Candidate:
    """Return the target that is asked; `candidates` are healthy and not empty, in the route's order."""
    match strategy:
        case Strategy.WEIGHTED:
            return turns.next(candidates)
        case Strategy.PRIORITY:
            return candidates[0]
        case Strategy.LEAST_BUSY:
            return min(_two(candidates, roll), key=_busy)
        case Strategy.LATENCY:
            return min(_two(candidates, roll), key=lambda each: each.load.peak_ms(now) * (each.load.inflight + 1))
        case Strategy.COST:
            return _cheapest(candidates, now)
    assert_never(strategy)


def score(strategy: Strategy, candidate: Candidate, now: float) -> str:
    """Return what a strategy saw in a target, for the story."""
    match strategy:
        case Strategy.WEIGHTED:
            return f"weight {candidate.weight:g}"
        case Strategy.PRIORITY:
            return "in order"
        case Strategy.LEAST_BUSY:
            return f"busy {_busy(candidate):.2f}"
        case Strategy.LATENCY:
            return f"{candidate.load.peak_ms(now):.0f} ms x {candidate.load.inflight + 1}"
        case Strategy.COST:
            return f"{candidate.price_micro / 1_000_000:g} usd, {candidate.load.peak_ms(now):.0f} ms"
    assert_never(strategy)


def _busy(candidate: Candidate) -> float:
    most = candidate.placement.deployment.max_concurrent
    return candidate.load.inflight / most if most else float(candidate.load.inflight)


def _two(candidates: Sequence[Candidate], roll: Roll) -> Sequence[Candidate]:
    """Return two random candidates: the better of two is nearly as good as the best and herds nobody."""
    count = len(candidates)
    if count <= 2:
        return candidates
    first = roll(count)
    second = (first + 1 + roll(count - 1)) % count
    return candidates[first], candidates[second]


def _cheapest(candidates: Sequence[Candidate], now: float) -> Candidate:
    known = [peak for each in candidates if (peak := each.load.peak_ms(now)) > 0]
    bound = COST_SLOWER_MAX * min(known) if known else math.inf
    return min((each for each in candidates if each.load.peak_ms(now) <= bound), key=lambda each: each.price_micro)
