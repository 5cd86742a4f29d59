"""How many tokens a request will generate, learned from those that ended: P50 orders, P90 reserves.

Knows nothing of prompts; a route that suddenly answers longer is believed after some hundred answers.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

BINS: Final = 64
HALF_LIFE_REQUESTS: Final = 1_000
SAMPLES_MIN: Final = 20
HISTOGRAMS_MAX: Final = 10_000
COLD_TOKENS_MAX: Final = 256
_DECAY: Final = 0.5 ** (1 / HALF_LIFE_REQUESTS)
_TOKENS_MAX: Final = 1 << 17
_STEP: Final = math.log(_TOKENS_MAX) / (BINS - 1)
Key = tuple[str, ...]


class LengthHistogram:
    """A log histogram of output lengths that forgets half of itself in a thousand requests."""

    __slots__ = ("_bins", "_unit", "total")

    def __init__(self) -> None:
        self._bins = [0.0] * BINS
        # New samples weigh more and more instead of old ones less and less: one addition a sample, not 64 products.
        self._unit = 1.0
        self.total = 0.0

    @property
    def samples(self) -> float:
        """How many requests it still remembers."""
        return self.total / self._unit

    def add(self, tokens: int) -> None:
        """Take in one answer."""
        self._unit /= _DECAY
        self._bins[_bin(tokens)] += self._unit
        self.total += self._unit
        if self._unit > 1e100:
            self._bins = [each / self._unit for each in self._bins]
            self.total /= self._unit
            self._unit = 1.0

    def quantile(self, share: float) -> int:
        """Return the upper edge of the bin that holds a quantile; 1 without samples."""
        left = share * self.total
        for at, weight in enumerate(self._bins):
            left -= weight
            if weight and left <= 0:
                return max(1, round(math.exp(at * _STEP)))
        return 1

    def dump(self) -> list[float]:
        """Return its bins as weights of samples, for a checkpoint."""
        return [round(each / self._unit, 6) for each in self._bins]

    @classmethod
    def load(cls, bins: list[float]) -> "LengthHistogram":
        """Return the histogram of a checkpoint."""
        found = cls()
        found._bins = [float(each) for each in bins[:BINS]] + [0.0] * (BINS - len(bins))
        found.total = sum(found._bins)
        return found


@dataclass(frozen=True, slots=True)
class Lengths:
    """What is expected of one request, never above what it may generate."""

    p50: int
    p90: int


class LengthBook:
    """A histogram for each (workspace, route, model), and one for each model that new ones lean on."""

    def __init__(self) -> None:
        self._of_route: OrderedDict[Key, LengthHistogram] = OrderedDict()
        self._of_model: dict[str, LengthHistogram] = {}

    def expect(self, key: Key, max_tokens: int) -> Lengths:
        """Return the lengths expected of a request; `key` ends with the model."""
        own, model = self._of_route.get(key), self._of_model.get(key[-1])
        cold = max(1, min(max_tokens, COLD_TOKENS_MAX) // 2)
        base = (cold, max_tokens)
        # The first answers to end are the short ones: they say as little of a model that is new as of a route.
        for known in (model, own):
            if known is not None:
                trust = min(1.0, known.samples / SAMPLES_MIN)
                base = (
                    round(trust * known.quantile(0.5) + (1 - trust) * base[0]),
                    round(trust * known.quantile(0.9) + (1 - trust) * base[1]),
                )
        p50 = max(1, min(base[0], max_tokens))
        return Lengths(p50, max(p50, min(base[1], max_tokens)))

    def learn(self, key: Key, tokens: int) -> None:
        """Take in the length of an answer."""
        histogram = self._of_route.pop(key, None) or LengthHistogram()
        self._of_route[key] = histogram
        if len(self._of_route) > HISTOGRAMS_MAX:
            self._of_route.popitem(last=False)
        histogram.add(tokens)
        self._of_model.setdefault(key[-1], LengthHistogram()).add(tokens)

    def dump(self) -> dict[str, list[float]]:
        """Return the histograms of models, for a checkpoint: a route's own come back with its traffic."""
        return {model: each.dump() for model, each in sorted(self._of_model.items())[:16]}

    def load(self, dumped: dict[str, list[float]]) -> None:
        """Take the histograms of a checkpoint."""
        for model, bins in dumped.items():
            self._of_model[model] = LengthHistogram.load(bins)


def _bin(tokens: int) -> int:
    return min(BINS - 1, max(0, round(math.log(max(1, tokens)) / _STEP)))
