"""Gates: the policy of a gate as it is written, its digest, and the sabotage by which a check proves that it can fail.

Reads no store; decides from results that are handed in.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from interlock.evals.domain.canonical import digest
from interlock.evals.domain.cases import Case
from interlock.evals.domain.oracles import Output, Passed, counterexample, score
from interlock.evals.domain.rules import Rule, Thresholds
from interlock.evals.domain.stats import CHURN_MIN, Pair, smallest_visible_drop

TIERS: Final = {"low": 5.0, "medium": 1.0, "high": 1.0}
MODES: Final = ("required", "advisory")
ATTEMPTS: Final = (1.0, 0.25, 0.125)
_CHECKS_MAX: Final = 50


class PolicyError(ValueError):
    """A policy cannot be taken; `code` is `invalid_request` or `margin_out_of_range`."""

    def __init__(self, why: str, code: str = "invalid_request", field: str = "checks") -> None:
        super().__init__(why)
        self.code = code
        self.field = field


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a gate."""

    name: str
    suite: str
    limits: Thresholds
    accept_recorded: bool

    @property
    def epochs(self) -> int:
        """How often each case is run for it."""
        return self.limits.repeats if self.limits.rule is Rule.MUST_PASS else 1


@dataclass(frozen=True, slots=True)
class Policy:
    """What a gate asks. `max_weight` is what its first token admits, percent."""

    route: str
    risk_tier: str
    checks: tuple[Check, ...]
    freshness_h: float
    verdict_ttl_h: float
    controls_max_age_h: float
    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Over route, tier and checks; name and mode change nothing of what is proved."""
        return digest({name: self.body[name] for name in ("route", "risk_tier", "checks")})

    @property
    def max_weight(self) -> float:
        """The weight of the first stage."""
        return TIERS[self.risk_tier]


def read_policy(body: Mapping[str, Any]) -> Policy:
    """Return a policy. Raises `PolicyError`."""
    if body["risk_tier"] not in TIERS:
        raise PolicyError(f"`risk_tier` is one of {', '.join(TIERS)}.", field="risk_tier")
    listed = body["checks"]
    if not 1 <= len(listed) <= _CHECKS_MAX:
        raise PolicyError(f"A gate has 1 to {_CHECKS_MAX} checks.")
    checks = tuple(_read_check(each) for each in listed)
    if len({each.name for each in checks}) < len(checks):
        raise PolicyError("Two checks have the same name.")
    hours = [body[name] for name in ("freshness_h", "verdict_ttl_h", "controls_max_age_h")]
    if not all(0 < each <= 24 * 366 for each in hours):
        raise PolicyError("Hours are more than 0 and at most a year.", field="verdict_ttl_h")
    return Policy(body["route"], body["risk_tier"], checks, hours[0], hours[1], hours[2], body)


def _read_check(given: Mapping[str, Any]) -> Check:
    margin_pp, alpha = given["margin_pp"], given["alpha"]
    if not 0 < margin_pp <= 20 or not 0.001 <= alpha <= 0.2:
        raise PolicyError("A margin is above 0 and at most 20 pp, alpha from 0.001 to 0.2.", "margin_out_of_range")
    try:
        rule = Rule(given["rule"])
    except ValueError:
        raise PolicyError(f"Rules are {', '.join(Rule)}.") from None
    if not 1 <= given["repeats"] <= 100 or not 0 < given["upper_max"] < 1:
        raise PolicyError("`repeats` is from 1 to 100, `upper_max` between 0 and 1.")
    limits = Thresholds(
        rule, margin_pp, alpha, given["n_min"], given["mde_max_pp"], given["upper_max"], given["repeats"],
        tuple(given["protected_slices"]),
    )  # fmt: skip
    return Check(given["name"], given["suite"], limits, given["accept_recorded"])


def control_pairs(
    check: Check, cases: Sequence[Case], outputs: Mapping[str, Sequence[Output]], *, is_sabotaged: bool
) -> tuple[list[Pair], str]:
    """Return the pairs of a control, and what was done to the recording in words.

    `non_inferior` replaces a seeded share min(1, 2 (margin + MDE)) of outputs by counterexamples of their oracles;
    the other rules have exactly one case replaced, in every repeat.
    """
    known = [each for each in cases if outputs.get(each.key)]
    replaced: set[str] = set()
    words = "the recording against itself"
    if is_sabotaged:
        count = _sabotage_count(check, len(known))
        # By digest: the same share of the same suite each time, and no matter how its keys are spelled.
        order = sorted((each.key for each in known), key=lambda key: hashlib.sha256(key.encode()).digest())
        replaced = set(order[:count])
        words = f"{count} of {len(known)} outputs replaced by counterexamples"
    pairs = []
    for case in known:
        kept = [outputs[case.key][epoch % len(outputs[case.key])] for epoch in range(check.epochs)]
        given = [counterexample(case)] * check.epochs if case.key in replaced else kept
        passes = tuple(isinstance(score(case, each), Passed) for each in given)
        base = tuple(isinstance(score(case, each), Passed) for each in kept)
        pairs.append(Pair(case.key, passes, base, case.cluster, case.slices))
    return pairs, words


def _sabotage_count(check: Check, n: int) -> int:
    if check.limits.rule is not Rule.NON_INFERIOR:
        return min(1, n)
    visible = smallest_visible_drop(max(n, 1), CHURN_MIN, check.limits.alpha)
    share = min(1.0, 2 * (check.limits.margin_pp / 100 + visible))
    return min(n, -(-round(share * n * 1_000) // 1_000))
