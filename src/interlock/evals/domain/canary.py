"""The canary monitor: PROMOTE, ROLLBACK or HOLD at a look, under an error bound that holds for any number of looks.

The same code judges live rollouts and replayed counts. Reads no counts and sets no weight.

Only the *share* of bad units that fall on the canary is tested (an e-process: Ville 1939; Ramdas et al. 2023,
"Game-theoretic statistics and safe anytime-valid inference"), so the bound holds under any drift of the base rate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from interlock.evals.domain.numbers import log_mean_exp, log_weighted_exp, safe_exp

ROLLBACK_RATIOS: Final = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
ROLLBACK_WEIGHTS: Final = (0.15, 0.2, 0.25, 0.2, 0.1, 0.1)
PROMOTE_RATIOS: Final = (0.5, 0.8, 1.0)
PROMOTE_SHARES: Final = (0.0, 0.1, 0.25)
SPLIT_ODDS: Final = (0.5, 0.8, 1.25, 2.0)
SPLIT_THRESHOLD: Final = 1000.0
BAD_UNITS_MIN: Final = 3
EXCESS_MIN: Final = 0.002
HARD_FLOOR_UNITS: Final = 5
BROWNOUT_FACTOR: Final = 5.0
BLIND_LOOKS: Final = 12


class Decision(StrEnum):
    """What a look comes to."""

    PROMOTE = "PROMOTE"
    ROLLBACK = "ROLLBACK"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class MetricRules:
    """Bounds of one metric. `r_max` is the relative risk and `bad_max` the bad share that a promotion rules out."""

    alpha: float = 0.05
    alpha_promote: float = 0.05
    r_max: float = 1.5
    bad_max: float = 0.01
    must_promote: bool = True


@dataclass(frozen=True, slots=True)
class Rules:
    """All metrics of a rollout. A live monitor that stays blind for 12 looks rolls back; a replay holds."""

    metrics: Mapping[str, MetricRules]
    is_live: bool = False


LIVE_METRICS: Final[Mapping[str, MetricRules]] = {
    "errors": MetricRules(alpha=0.05),
    "slow": MetricRules(alpha=0.025),
    "flagged": MetricRules(alpha=0.025, must_promote=False),
}


@dataclass(frozen=True, slots=True)
class ArmLook:
    """What one arm showed in one look.

    `units` were first seen since the weight last rose. `bad` by metric: units that turned bad for the first time in
    this rollout; `bad_in_stage`: for the first time in this stage, None where the two are the same. A metric that
    nobody counted is absent.
    """

    units: int
    bad: Mapping[str, int]
    bad_in_stage: Mapping[str, int] | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """One reading. `weight` is the canary's share of units in force, 0..1; an arm without counts is None."""

    number: int
    weight: float
    canary: ArmLook | None
    control: ArmLook | None
    is_dwelt: bool = True
    is_killed: bool = False


@dataclass(frozen=True, slots=True)
class MetricState:
    """Evidence of one metric: six log likelihood ratios carry over stages, the rest begins anew with each stage."""

    rollback: tuple[float, ...] = (0.0,) * len(ROLLBACK_RATIOS)
    canary_bad: int = 0
    control_bad: int = 0
    relative: tuple[float, ...] = (0.0,) * len(PROMOTE_RATIOS)
    stage_canary_bad: int = 0
    stage_control_bad: int = 0


@dataclass(frozen=True, slots=True)
class MonitorState:
    """All that a monitor remembers; a new one for a new rollout."""

    metrics: Mapping[str, MetricState]
    look: int | None = None
    weight: float = 0.0
    canary_units: int = 0
    control_units: int = 0
    stage_canary_units: int = 0
    stage_control_units: int = 0
    split: tuple[float, ...] = (0.0,) * len(SPLIT_ODDS)
    is_split_wrong: bool = False
    blind_looks: int = 0

    def public(self) -> dict[str, Any]:
        """Return it as JSON; `monitor_state` reads it back."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in {"metrics", "split"}}
        metrics = {name: _metric_public(each) for name, each in self.metrics.items()}
        return {**fields, "split": list(self.split), "metrics": metrics}


@dataclass(frozen=True, slots=True)
class Reason:
    """One ground of a decision, with its statistic, the count it rests on and the threshold it was held against."""

    code: str
    text: str
    metric: str | None = None
    statistic: float | None = None
    n: int | None = None
    threshold: float | None = None

    def public(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Reading:
    """E-values of one metric after a look."""

    e_rollback: float
    e_promote: float
    threshold: float
    units: int
    bad: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision of one look."""

    decision: Decision
    look: int
    reasons: tuple[Reason, ...]
    readings: Mapping[str, Reading] = field(default_factory=dict)


def fresh(rules: Rules) -> MonitorState:
    """Return the state of a rollout that has seen nothing."""
    return MonitorState(metrics={name: MetricState() for name in rules.metrics})


def monitor_state(found: Mapping[str, Any]) -> MonitorState:
    """Read back what `public` gave."""
    metrics = {
        name: MetricState(**{**each, "rollback": tuple(each["rollback"]), "relative": tuple(each["relative"])})
        for name, each in found["metrics"].items()
    }
    return MonitorState(**{**found, "split": tuple(found["split"]), "metrics": metrics})


def judge(rules: Rules, before: MonitorState, look: Look) -> tuple[MonitorState, Judgement]:
    """Take one look and decide. A rise of the weight begins a new stage.

    Order of precedence: killed, hard floor, ROLLBACK, invalid counts, wrong split, PROMOTE, HOLD. Nothing waits in
    front of it.
    """
    if look.is_killed:
        return before, Judgement(Decision.HOLD, look.number, (Reason("killed", "The rollout was killed."),))
    staged = _new_stage(before, look.weight)
    fault = _fault(rules, staged, look)
    state = _learn(rules, staged, look) if fault is None else replace(before, blind_looks=before.blind_looks + 1)
    readings = {name: _reading(each, state.metrics[name], state) for name, each in rules.metrics.items()}
    decision, reasons = _decide(rules, state, look, fault, readings)
    return state, Judgement(decision, look.number, reasons, readings)


def _decide(
    rules: Rules, state: MonitorState, look: Look, fault: Reason | None, readings: Mapping[str, Reading]
) -> tuple[Decision, tuple[Reason, ...]]:
    worse = [_worse(name, each, state, readings[name]) for name, each in rules.metrics.items()]
    notes = tuple(each for each in worse if each)
    against = _against(rules, state, notes)
    if against:
        return Decision.ROLLBACK, against
    holding = _holding(rules, state, look, fault, readings)
    if holding:
        return Decision.HOLD, (*holding, *notes)
    shown = [_promoted(name, each, readings[name]) for name, each in rules.metrics.items() if each.must_promote]
    return Decision.PROMOTE, (*shown, *notes)


def _against(rules: Rules, state: MonitorState, notes: Sequence[Reason]) -> tuple[Reason, ...]:
    floor = _hard_floor(state)
    if floor:
        return (floor,)
    breaches = tuple(each for each in notes if each.code == "worse_than_control")
    if breaches or not rules.is_live or state.blind_looks < BLIND_LOOKS:
        return breaches
    text = f"{state.blind_looks} looks in a row had no usable counts."
    return (Reason("monitor_blind", text, None, state.blind_looks, state.blind_looks, BLIND_LOOKS),)


def _holding(
    rules: Rules, state: MonitorState, look: Look, fault: Reason | None, readings: Mapping[str, Reading]
) -> tuple[Reason, ...]:
    if fault:
        return (fault,)
    if state.is_split_wrong:
        return (_split_reason(state),)
    if not _has_traffic(look):
        return (Reason("no_traffic", "No unit in either arm.", None, 0, 0, 1),)
    short = [_short(name, each, state, readings[name]) for name, each in rules.metrics.items()]
    if not look.is_dwelt:
        short.append(Reason("dwell", "The stage has not lasted long enough.", None, 0, state.stage_canary_units, 1))
    return tuple(each for each in short if each)


def _new_stage(state: MonitorState, weight: float) -> MonitorState:
    if not _is_share(weight) or weight <= state.weight:
        return state
    metrics = {
        name: replace(each, relative=(0.0,) * len(PROMOTE_RATIOS), stage_canary_bad=0, stage_control_bad=0)
        for name, each in state.metrics.items()
    }
    split = (0.0,) * len(SPLIT_ODDS)
    return replace(state, metrics=metrics, weight=weight, stage_canary_units=0, stage_control_units=0, split=split)


def _is_share(weight: float) -> bool:
    return math.isfinite(weight) and 0.0 < weight < 1.0


def _fault(rules: Rules, state: MonitorState, look: Look) -> Reason | None:
    """Return why this look cannot be evidence; a missing figure is never read as zero."""
    if look.canary is None or look.control is None:
        arm = "canary" if look.canary is None else "control"
        return _invalid(f"The {arm} arm has no counts.")
    if not _is_share(look.weight):
        return _invalid(f"A weight of {look.weight:g} leaves one arm without traffic.")
    if state.look is not None and look.number <= state.look:
        return _invalid(f"Look {look.number} came after look {state.look}.")
    for arm, counts, seen in (
        ("canary", look.canary, state.stage_canary_units),
        ("control", look.control, state.stage_control_units),
    ):
        text = _arm_fault(rules, counts, seen, [_stage_bad(state, name, arm) for name in rules.metrics])
        if text:
            return _invalid(f"The {arm} arm {text}")
    return None


def _stage_bad(state: MonitorState, metric: str, arm: str) -> int:
    found = state.metrics[metric]
    return found.stage_canary_bad if arm == "canary" else found.stage_control_bad


def _arm_fault(rules: Rules, counts: ArmLook, units_before: int, bad_before: Sequence[int]) -> str | None:
    in_stage = counts.bad if counts.bad_in_stage is None else counts.bad_in_stage
    if counts.units < 0 or any(each < 0 for each in (*counts.bad.values(), *in_stage.values())):
        return "has a negative count."
    missing = [name for name in rules.metrics if name not in counts.bad or name not in in_stage]
    if missing:
        return f"lacks the counts of {', '.join(missing)}."
    # Live, a unit first seen some looks ago may turn bad now; in a replay a line speaks of its own units alone.
    units, held = (units_before, bad_before) if rules.is_live else (0, [0] * len(bad_before))
    for name, before in zip(rules.metrics, held, strict=True):
        if before + in_stage[name] > units + counts.units:
            return f"has more bad units than units in {name}."
    return None


def _invalid(text: str) -> Reason:
    return Reason("counts_invalid", text, None, 0, 0, 1)


def _learn(rules: Rules, state: MonitorState, look: Look) -> MonitorState:
    canary, control = look.canary, look.control
    assert canary is not None
    assert control is not None
    split = _add(state.split, _shares(SPLIT_ODDS, look.weight), look.weight, canary.units, control.units)
    metrics = {name: _learn_metric(each, state.metrics[name], name, look) for name, each in rules.metrics.items()}
    e_split = safe_exp(log_mean_exp(split))
    return replace(
        state,
        metrics=metrics,
        look=look.number,
        canary_units=state.canary_units + canary.units,
        control_units=state.control_units + control.units,
        stage_canary_units=state.stage_canary_units + canary.units,
        stage_control_units=state.stage_control_units + control.units,
        split=split,
        is_split_wrong=state.is_split_wrong or e_split >= SPLIT_THRESHOLD,
        blind_looks=0,
    )


def _learn_metric(rules: MetricRules, state: MetricState, name: str, look: Look) -> MetricState:
    canary, control = look.canary, look.control
    assert canary is not None
    assert control is not None
    canary_bad, control_bad = canary.bad[name], control.bad[name]
    stage_canary = canary.bad[name] if canary.bad_in_stage is None else canary.bad_in_stage[name]
    stage_control = control.bad[name] if control.bad_in_stage is None else control.bad_in_stage[name]
    relative = state.relative
    # A shared brownout pulls the relative risk to 1 whatever the canary is like.
    if stage_control <= BROWNOUT_FACTOR * rules.bad_max * max(control.units, 1):
        null = _share(rules.r_max, look.weight)
        relative = _add(relative, _shares(PROMOTE_RATIOS, look.weight), null, stage_canary, stage_control)
    shares = _shares(ROLLBACK_RATIOS, look.weight)
    return MetricState(
        rollback=_add(state.rollback, shares, look.weight, canary_bad, control_bad),
        canary_bad=state.canary_bad + canary_bad,
        control_bad=state.control_bad + control_bad,
        relative=relative,
        stage_canary_bad=state.stage_canary_bad + stage_canary,
        stage_control_bad=state.stage_control_bad + stage_control,
    )


def _share(ratio: float, weight: float) -> float:
    """Return the canary's share of bad units when its risk is `ratio` times the control's."""
    return weight * ratio / (weight * ratio + 1.0 - weight)


def _shares(ratios: Sequence[float], weight: float) -> list[float]:
    return [_share(each, weight) for each in ratios]


def _add(logs: Sequence[float], shares: Sequence[float], null: float, canary: int, control: int) -> tuple[float, ...]:
    if not canary and not control:
        return tuple(logs)
    return tuple(
        log + canary * math.log(share / null) + control * math.log((1.0 - share) / (1.0 - null))
        for log, share in zip(logs, shares, strict=True)
    )


def _reading(rules: MetricRules, metric: MetricState, state: MonitorState) -> Reading:
    relative = log_mean_exp(metric.relative)
    absolute = _absolute(rules.bad_max, state.stage_canary_units, metric.stage_canary_bad)
    return Reading(
        e_rollback=safe_exp(log_weighted_exp(metric.rollback, ROLLBACK_WEIGHTS)),
        e_promote=safe_exp(log_mean_exp((relative, absolute))),
        threshold=1.0 / rules.alpha,
        units=state.canary_units,
        bad=metric.canary_bad,
    )


def _absolute(bad_max: float, units: int, bad: int) -> float:
    """Return the log e-value against "the canary's bad share is at least `bad_max`", Bernoulli over the stage."""
    good = max(units - bad, 0)
    logs = [_times(bad, each) + good * (math.log1p(-each * bad_max) - math.log1p(-bad_max)) for each in PROMOTE_SHARES]
    return log_mean_exp(logs)


def _times(bad: int, share: float) -> float:
    if not bad:
        return 0.0
    return bad * math.log(share) if share else -math.inf


def _hard_floor(state: MonitorState) -> Reason | None:
    units = state.stage_canary_units
    for name, each in state.metrics.items():
        if units >= HARD_FLOOR_UNITS and each.stage_canary_bad >= units:
            text = f"All {units} canary units are bad in {name}."
            return Reason("hard_floor", text, name, float(each.stage_canary_bad), units, HARD_FLOOR_UNITS)
    return None


def _worse(name: str, rules: MetricRules, state: MonitorState, reading: Reading) -> Reason | None:
    if reading.e_rollback < reading.threshold:
        return None
    metric = state.metrics[name]
    excess = metric.canary_bad / max(state.canary_units, 1) - metric.control_bad / max(state.control_units, 1)
    figures = (name, reading.e_rollback, metric.canary_bad + metric.control_bad, 1.0 / rules.alpha)
    if metric.canary_bad < BAD_UNITS_MIN or excess < EXCESS_MIN:
        text = (
            f"{name}: more bad units than the control, {excess * 100:+.2f} pp, below the floor of 0.2 pp and 3 units."
        )
        return Reason("excess_below_floor", text, *figures)
    text = f"{name}: {metric.canary_bad} bad canary units, {excess * 100:+.2f} pp over the control."
    return Reason("worse_than_control", text, *figures)


def _split_reason(state: MonitorState) -> Reason:
    units = state.stage_canary_units + state.stage_control_units
    statistic = safe_exp(log_mean_exp(state.split))
    text = f"{state.stage_canary_units} of {units} units in the canary do not fit its weight; start a new rollout."
    return Reason("sample_ratio_mismatch", text, None, statistic, units, SPLIT_THRESHOLD)


def _has_traffic(look: Look) -> bool:
    arms = [each for each in (look.canary, look.control) if each]
    return any(each.units or each.requests or any(each.bad.values()) for each in arms)


def _short(name: str, rules: MetricRules, state: MonitorState, reading: Reading) -> Reason | None:
    if not rules.must_promote:
        return None
    need = 1.0 / rules.alpha_promote
    if not state.stage_control_units or not state.stage_canary_units:
        return Reason("arm_empty", f"{name}: an arm has no units in this stage.", name, 0.0, 0, 1)
    if reading.e_promote >= need:
        return None
    text = f"{name}: the evidence for promotion is {reading.e_promote:.3g} of {need:g}."
    return Reason("evidence_short", text, name, reading.e_promote, state.stage_canary_units, need)


def _promoted(name: str, rules: MetricRules, reading: Reading) -> Reason:
    need = 1.0 / rules.alpha_promote
    text = f"{name}: neither {rules.r_max:g} times worse than the control nor above {rules.bad_max:g}."
    return Reason("shown_not_worse", text, name, reading.e_promote, reading.units, need)


def _metric_public(state: MetricState) -> dict[str, Any]:
    found = {name: getattr(state, name) for name in state.__slots__}
    return {name: list(each) if isinstance(each, tuple) else each for name, each in found.items()}
