"""How good a ranking is: nDCG with the grades as gains (Jarvelin and Kekalainen 2002), and recall.

Runs no search.
"""

import math
from collections.abc import Mapping, Sequence


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], depth: int = 10) -> float:
    """Return the discounted gain of the first places over that of the best order there is."""
    best = sorted((max(0, grade) for grade in grades.values()), reverse=True)
    ideal = _gain(best[:depth])
    return _gain([max(0, grades.get(each, 0)) for each in ranking[:depth]]) / ideal if ideal else 0.0


def recall(ranking: Sequence[str], grades: Mapping[str, int], depth: int = 100) -> float:
    """Return the share of the relevant documents among the first places."""
    wanted = {each for each, grade in grades.items() if grade > 0}
    return len(wanted.intersection(ranking[:depth])) / len(wanted) if wanted else 0.0


def _gain(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))
