"""Offline statistics of runs: intervals, tests and the power of a comparison. Decides nothing; `rules.py` does."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from interlock.evals.domain.distributions import (
    beta_quantile,
    binomial_at_least,
    bisect,
    normal_quantile,
    student_t_at_most,
    student_t_quantile,
)

Z_POWER_80: Final = 0.842
CHURN_MIN: Final = 0.02
CLUSTERS_MIN: Final = 5
CLUSTERS_FOR_T: Final = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """One case in both arms: the results of its epochs, in the order of the epochs."""

    key: str
    candidate: tuple[bool, ...]
    baseline: tuple[bool, ...]
    cluster: str | None = None
    slices: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """Return the candidate's share minus the baseline's; epochs average within the case first."""
        return sum(self.candidate) / len(self.candidate) - sum(self.baseline) / len(self.baseline)


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval as shares, -1..1."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Paired:
    """What two arms differ by. `p_value` is one-sided, for "the candidate is worse"; None where it cannot be told.

    `only_baseline` (b) and `only_candidate` (c) count cases; with epochs a case passes when all its epochs pass.
    `units` is how many independent differences there are: cases, or clusters of them.
    """

    n: int
    both_pass: int
    only_baseline: int
    only_candidate: int
    both_fail: int
    diff: float
    interval: Interval | None
    p_value: float | None
    method: str
    units: int
    churn: float

    def public(self) -> dict[str, Any]:
        """Return it as the API shows it, in percentage points."""
        interval = self.interval
        return {
            "n": self.n,
            "both_pass": self.both_pass,
            "only_baseline": self.only_baseline,
            "only_candidate": self.only_candidate,
            "both_fail": self.both_fail,
            "diff_pp": pp(self.diff),
            "ci_pp": None if interval is None else [pp(interval.low), pp(interval.high)],
            "p_value": None if self.p_value is None else round(self.p_value, 10),
            "method": self.method,
        }


def pp(share: float) -> float:
    """Return a share in percentage points, rounded for people."""
    return round(share * 100.0, 4)


def wilson(passed: float, n: int, z: float) -> Interval:
    """Return Wilson's score interval (Wilson 1927) of a share."""
    if n == 0:
        return Interval(0.0, 1.0)
    share, spread = passed / n, z * z / n
    centre = (share + spread / 2.0) / (1.0 + spread)
    half = z / (1.0 + spread) * math.sqrt(max(share * (1.0 - share), 0.0) / n + spread / (4.0 * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def newcombe_paired(both: int, only_baseline: int, only_candidate: int, neither: int, alpha: float) -> Interval:
    """Return the interval of p_candidate - p_baseline, each side at level `alpha` (Newcombe 1998, method 10)."""
    n = both + only_baseline + only_candidate + neither
    z = normal_quantile(1.0 - alpha)
    candidate, baseline = both + only_candidate, both + only_baseline
    one, two = wilson(candidate, n, z), wilson(baseline, n, z)
    share_one, share_two = candidate / n, baseline / n
    diff = (only_candidate - only_baseline) / n
    phi = _phi(both, only_candidate, only_baseline, neither)
    low = _half(share_one - one.low, two.high - share_two, phi)
    high = _half(one.high - share_one, share_two - two.low, phi)
    return Interval(max(-1.0, diff - low), min(1.0, diff + high))


def mcnemar_worse(only_baseline: int, only_candidate: int) -> float:
    """Return the exact one-sided p-value for "the candidate is worse": P(X >= b), X ~ Bin(b + c, 1/2)."""
    return binomial_at_least(only_baseline, only_baseline + only_candidate, 0.5)


def clopper_pearson(k: int, n: int, alpha: float) -> Interval:
    """Return the exact interval of a share, each side at level `alpha` (Clopper and Pearson 1934)."""
    low = 0.0 if k == 0 else beta_quantile(alpha, k, n - k + 1)
    high = 1.0 if k == n else beta_quantile(1.0 - alpha, k + 1, n - k)
    return Interval(low, high)


def clean_upper(n: int) -> float:
    """Return the 95 % upper bound of the failure share after n clean cases: 1 - 0.05^(1/n)."""
    return 1.0 if n == 0 else 1.0 - 0.05 ** (1.0 / n)


def smallest_visible_drop(n: int, churn: float, alpha: float) -> float:
    """Return the drop (a share) that n pairs show with power 0.8; 1.0 where none does.

    Solves sqrt(n) d = z_alpha sqrt(churn + d) + 0.842 sqrt(churn + d - d^2), the sample size of the paired test of
    Connor 1987, for d. `churn` is the share of pairs that differ without any drop.
    """
    if n == 0:
        return 1.0
    psi, z = max(churn, CHURN_MIN), normal_quantile(1.0 - alpha)

    def gap(drop: float) -> float:
        spread = psi + drop
        return math.sqrt(n) * drop - z * math.sqrt(spread) - Z_POWER_80 * math.sqrt(max(spread - drop * drop, 0.0))

    return 1.0 if gap(1.0) < 0.0 else bisect(gap, 0.0, 1.0)


def compare(pairs: Sequence[Pair], alpha: float) -> Paired:
    """Compare two arms. Clusters of cases, or epochs, make the cluster the unit."""
    n = len(pairs)
    ups = [(all(each.candidate), all(each.baseline)) for each in pairs]
    both, neither = ups.count((True, True)), ups.count((False, False))
    lost, won = ups.count((False, True)), ups.count((True, False))
    losses = sum(max(-each.difference, 0.0) for each in pairs)
    gains = sum(max(each.difference, 0.0) for each in pairs)
    churn = 2.0 * min(losses, gains) / n if n else 0.0
    diff = math.fsum(each.difference for each in pairs) / n if n else 0.0
    counts = (n, both, lost, won, neither, diff)
    groups = cluster_means(pairs)
    if not is_clustered(pairs, len(groups)):
        interval = newcombe_paired(both, lost, won, neither, alpha) if n else None
        p_value = mcnemar_worse(lost, won)
        return Paired(*counts, interval, p_value, "mcnemar_exact,newcombe_10", n, churn)
    if len(groups) < CLUSTERS_MIN:
        return Paired(*counts, None, None, "too_few_clusters", len(groups), churn)
    if len(groups) < CLUSTERS_FOR_T:
        return Paired(*counts, *sign_flip(groups, alpha), "cluster_sign_flip", len(groups), churn)
    return Paired(*counts, *cluster_t(groups, alpha), "cluster_t", len(groups), churn)


def is_clustered(pairs: Sequence[Pair], groups: int) -> bool:
    """Tell whether a case is not the unit: some cluster has several, or some case was run several times."""
    return groups < len(pairs) or any(len(each.candidate) > 1 or len(each.baseline) > 1 for each in pairs)


def cluster_means(pairs: Sequence[Pair]) -> list[float]:
    """Return the mean difference of each cluster; a case without a cluster is one of its own."""
    found: dict[tuple[bool, str], list[float]] = {}
    for each in pairs:
        found.setdefault((each.cluster is None, each.cluster or each.key), []).append(each.difference)
    # fsum and a sorted order: the same samples in another order give the same bits.
    return sorted(math.fsum(each) / len(each) for each in found.values())


def cluster_t(means: Sequence[float], alpha: float) -> tuple[Interval, float]:
    """Return interval and one-sided p-value by Student's t over cluster means."""
    g = len(means)
    mean = math.fsum(means) / g
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in means) / (g - 1) / g)
    half = student_t_quantile(1.0 - alpha, g - 1) * spread
    certain = 0.0 if mean < 0.0 else 1.0
    p_value = student_t_at_most(mean / spread, g - 1) if spread else certain
    return Interval(max(-1.0, mean - half), min(1.0, mean + half)), p_value


def sign_flip(means: Sequence[float], alpha: float) -> tuple[Interval, float]:
    """Return the exact interval and p-value of the sign-flip test over all 2^G signs.

    The bounds are the k-th smallest and largest of the means of all non-empty subsets, k = floor(alpha 2^G) (Hartigan
    1969, "Using subsample values as typical values").
    """
    g = len(means)
    values = np.array(means)
    bits = (np.arange(2**g)[:, None] >> np.arange(g)) & 1
    flipped = (1 - 2 * bits) @ values
    p_value = float(np.count_nonzero(flipped <= values.sum() + 1e-12)) / 2**g
    chosen = bits[1:]
    subset_means = np.sort((chosen @ values) / chosen.sum(axis=1))
    k = int(alpha * 2**g)
    if k < 1:
        return Interval(-1.0, 1.0), p_value
    return Interval(float(subset_means[k - 1]), float(subset_means[-k])), p_value


def arm_numbers(results: Mapping[str, tuple[bool, ...]], clusters: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the figures of one arm as the API shows them; results are by case, an epoch each."""
    n = sum(len(each) for each in results.values())
    passed = sum(sum(each) for each in results.values())
    interval = wilson(passed, n, normal_quantile(0.975))
    return {
        "n": n,
        "pass": passed,
        "fail": n - passed,
        "share": round(passed / n, 6) if n else None,
        "ci95": [round(interval.low, 6), round(interval.high, 6)] if n else None,
        "se_clustered": _clustered_error(results, clusters),
        "pass_hat_k": _pass_hat(results),
    }


def _clustered_error(results: Mapping[str, tuple[bool, ...]], clusters: Mapping[str, str | None]) -> float | None:
    """Return the cluster-robust standard error of the share (Liang and Zeger 1986, with G/(G-1))."""
    n = sum(len(each) for each in results.values())
    if not n:
        return None
    share = sum(sum(each) for each in results.values()) / n
    sums: dict[str, float] = {}
    for key in sorted(results):
        name = f"c:{clusters.get(key)}" if clusters.get(key) is not None else f"k:{key}"
        sums[name] = sums.get(name, 0.0) + sum(results[key]) - share * len(results[key])
    g = len(sums)
    if g < 2:
        return None
    total = math.fsum(each * each for each in sorted(sums.values()))
    return round(math.sqrt(g / (g - 1) * total) / n, 6)


def _pass_hat(results: Mapping[str, tuple[bool, ...]]) -> dict[str, float]:
    """Return, for k = 1.., the chance that k tries of a case all pass (Yao et al. 2024, tau-bench)."""
    if not results:
        return {}
    tries = min(10, *(len(each) for each in results.values()))
    shares = {
        str(k): math.fsum(math.comb(sum(each), k) / math.comb(len(each), k) for each in results.values()) / len(results)
        for k in range(1, tries + 1)
    }
    return {k: round(each, 6) for k, each in shares.items()}


def _phi(both: int, only_candidate: int, only_baseline: int, neither: int) -> float:
    margins = (both + only_candidate) * (only_baseline + neither) * (both + only_baseline) * (only_candidate + neither)
    if margins == 0:
        return 0.0
    cross = both * neither - only_candidate * only_baseline
    n = both + only_candidate + only_baseline + neither
    return (max(cross - n / 2.0, 0.0) if cross > 0 else cross) / math.sqrt(margins)


def _half(one: float, two: float, phi: float) -> float:
    return math.sqrt(max(one * one - 2.0 * phi * one * two + two * two, 0.0))
