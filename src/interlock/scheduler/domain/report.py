"""What a run came to, by the words of the product's metrics: one row a policy and load, means over seeds.

Measures nothing by a clock: two runs of the same seed give the same row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from interlock.scheduler.domain.asks import Fate
from interlock.scheduler.domain.profiles import StepProfile
from interlock.scheduler.domain.simulate import Outcome, Simulation
from interlock.scheduler.domain.trace import HOG, Offered

_MICRO: Final = 1_000_000
_DECODE_BATCH: Final = 128
_REFUSED: Final = frozenset(Fate) - {Fate.QUEUED, Fate.DISPLACED}


@dataclass(frozen=True, slots=True)
class Cell:
    """What a row is of: a policy, a load relative to capacity, and the load of the hog beside it."""

    policy: str
    load: float
    hog: float
    price_usd_hour: float


def row_of(cell: Cell, runs: Sequence[Simulation]) -> dict[str, Any]:
    """Return the row of a cell: each figure the mean of its runs, one run a seed."""
    rows = [_figures(cell, each) for each in runs]
    head = {"policy": cell.policy, "load": cell.load, "hog": cell.hog, "seeds": len(runs)}
    return head | {name: _mean([each[name] for each in rows]) for name in rows[0]}


def upper_bound(offered: Sequence[Offered], profile: StepProfile, replicas: float) -> float:
    """Return the largest share that anybody could serve: the cheapest requests whose least work fits the duration.

    Least work is prefill in the best chunk and decoding in a full batch, without overhead of context.
    """
    prefill_us, decode_us = _least_us(profile)
    works = sorted(each.least_prefill * prefill_us + each.output_tokens * decode_us for each in offered)
    left_us = float((offered[-1].at_us - offered[0].at_us) * replicas)
    served = 0
    for work_us in works:
        left_us -= work_us
        if left_us < 0:
            break
        served += 1
    return served / len(works)


def _least_us(profile: StepProfile) -> tuple[float, float]:
    sizes = [size for size, _ in profile.points if size >= _DECODE_BATCH] or [profile.points[-1][0]]
    prefill_us = min(profile.step_us(size) / size for size in sizes)
    return prefill_us, min(profile.step_us(0, _DECODE_BATCH) / _DECODE_BATCH, prefill_us)


def _figures(cell: Cell, run: Simulation) -> dict[str, Any]:
    outcomes = run.outcomes
    offered = [each.offered for each in outcomes]
    span_s = max(offered[-1].at_us - offered[0].at_us, 1) / _MICRO
    drained_s = max(run.now_us - offered[0].at_us, 1) / _MICRO
    good = [each for each in outcomes if each.is_success]
    ended = [each for each in outcomes if each.ended_us is not None]
    tokens = sum(each.offered.input_tokens + each.offered.output_tokens for each in ended)
    good_tokens = sum(each.offered.input_tokens + each.offered.output_tokens for each in good)
    replicas = run.hardware.replicas
    cost_usd = drained_s / 3_600 * replicas * cell.price_usd_hour
    return {
        "requests": len(outcomes),
        "goodput_rps": len(good) / span_s,
        "attainment": len(good) / len(outcomes),
        "upper_bound": upper_bound(offered, run.hardware.profile, replicas),
        "accepted_attainment": len(good) / len(ended) if ended else 0.0,
        "rejected_share": sum(each.fate in _REFUSED for each in outcomes) / len(outcomes),
        "displaced_share": sum(each.fate is Fate.DISPLACED for each in outcomes) / len(outcomes),
        "error_rate": 1 - len(ended) / len(outcomes),
        "wasted_token_share": 1 - good_tokens / tokens if tokens else 0.0,
        "time_to_first_token_s": _percentiles(ended, _ttft_s, (50, 99)),
        "time_per_output_token_s": _percentiles(ended, lambda each: each.tpot_us / _MICRO, (99,)),
        "queue_wait_time_s": _percentiles(ended, _wait_s, (50, 99)),
        "end_to_end_latency_s": _percentiles(ended, _total_s, (95, 99)),
        "tokens_per_second": tokens / drained_s,
        "gpu_utilization": run.busy_us / (drained_s * _MICRO * replicas),
        **_by_tenant(outcomes),
        "service_gap_tokens": run.backlog.gap_tokens,
        "broken_promises": sum(each.was_final and each.fate is not Fate.QUEUED for each in outcomes),
        "late_decision_s_max": run.late_decision_us / _MICRO,
        "cost_per_successful_request_usd": cost_usd / len(good) if good else None,
    }


def _by_tenant(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return what single tenants got; Jain's index is over their attainments (Jain, Chiu, Hawe 1984)."""
    by_tenant: dict[str, list[bool]] = {}
    for each in outcomes:
        by_tenant.setdefault(each.offered.tenant, []).append(each.is_success)
    shares = {tenant: fmean(good) for tenant, good in sorted(by_tenant.items())}
    behaved = {tenant: share for tenant, share in shares.items() if tenant != HOG}
    good = [each for tenant, found in by_tenant.items() if tenant != HOG for each in found]
    squares = sum(share * share for share in behaved.values())
    return {
        "worst_tenant_attainment": min(shares.values()),
        "well_behaved_attainment": fmean(good) if good else 0.0,
        "worst_well_behaved_attainment": min(behaved.values(), default=0.0),
        "jain": sum(behaved.values()) ** 2 / (len(behaved) * squares) if squares else 0.0,
    }


def _percentiles(
    ended: Sequence[Outcome], value: Callable[[Outcome], float], wanted: Sequence[int]
) -> dict[str, float | None]:
    values = sorted(value(each) for each in ended)
    return {f"p{each}": values[min(len(values) * each // 100, len(values) - 1)] if values else None for each in wanted}


def _ttft_s(outcome: Outcome) -> float:
    return ((outcome.first_us or 0) - outcome.offered.at_us) / _MICRO


def _wait_s(outcome: Outcome) -> float:
    return ((outcome.granted_us or 0) - outcome.offered.at_us) / _MICRO


def _total_s(outcome: Outcome) -> float:
    return ((outcome.ended_us or 0) - outcome.offered.at_us) / _MICRO


def _mean(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _mean([each[name] for each in values]) for name in values[0]}
    known = [each for each in values if each is not None]
    if not known:
        return None
    if all(isinstance(each, int) for each in known) and sum(known) % len(known) == 0:
        return sum(known) // len(known)
    return round(fmean(known), 6)
