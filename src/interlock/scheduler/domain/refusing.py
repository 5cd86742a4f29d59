"""What a pool says when it says no: the figures behind it, the time to come back, and what would be queued now.

Decides nothing; `policy.py` does.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from interlock.contracts.scheduling import GrantRequest, Refused
from interlock.scheduler.domain.asks import Ask, Room, Verdict
from interlock.scheduler.domain.books import objective_of, path_of
from interlock.scheduler.domain.holding import late_gap_us
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.rates import CREDIT_SHARE
from interlock.scheduler.domain.refusals import Figures, refusal
from interlock.scheduler.domain.retries import KeptPlace, Telling, Told, share_wait_us
from interlock.scheduler.domain.share import Standing

if TYPE_CHECKING:
    from interlock.scheduler.domain.policy import Policy


def refused(
    policy: "Policy", code: str, now_us: int, request: GrantRequest, planned: tuple[Verdict, Ask, Room] | None
) -> Refused:
    """Count and return a refusal; `planned` is what the order said of it, None where it was not asked."""
    policy.books.refused[code] += 1
    if planned is None:
        return refusal(code, request, figures(policy, request, None, policy.standing(now_us, path_of(request))))
    verdict, ask, room = planned
    predicted_ms = None if verdict.first_us is None else max(0, verdict.first_us - ask.arrived_us) // 1_000
    # A grant comes at an event, so a place may be late by what an engine has of credit.
    slack_us = round(CREDIT_SHARE * policy.rates.tightest_us)
    late_us = 0 if verdict.first_us is None else verdict.first_us - ask.deadline_us + slack_us
    gap_ms = None
    if verdict.gap_us is not None:
        gap_ms = round(verdict.gap_us / 1_000)
        late_us = max(late_us, policy.fleet.tried_in_us(now_us))
    standing = policy.standing(now_us, ask.path)
    if standing is not None:
        late_us = max(late_us, share_wait_us(standing.excess))
    service_us = policy.fleet.turn_us(ask.prefill, ask.output)
    is_over = standing is not None and standing.is_over_share
    if is_over:
        policy.retries.demote(ask.path)
    place = KeptPlace(ask.path, ask.ttft_us, ask.prefill, 1 if is_over else 0)
    told = Telling(request.request_id, code, predicted_ms, late_us, service_us, place, gap_ms)
    again_s = policy.retries.tell(now_us, told)
    fits = _fitting(policy, now_us, ask, room)
    policy.retries.note(request.request_id, standing, fits)
    shown = replace(figures(policy, request, predicted_ms, standing, fits), predicted_tpot_ms=gap_ms)
    return refusal(code, request, shown, again_s)


def refused_again(policy: "Policy", now_us: int, request: GrantRequest, told: Told) -> Refused:
    """Count and return the refusal of a repeat that comes before its time: what it was told, and what is left of it."""
    policy.books.refused[told.code] += 1
    again_s = round((told.retry_at_us - now_us) / 1_000_000, 3)
    shown = figures(policy, request, told.predicted_ttft_ms, told.standing, told.fits)
    return refusal(told.code, request, replace(shown, predicted_tpot_ms=told.predicted_tpot_ms), again_s)


def figures(
    policy: "Policy",
    request: GrantRequest,
    predicted_ms: int | None,
    standing: Standing | None = None,
    fits: tuple[str, ...] = (),
) -> Figures:
    """Return the figures that a refusal of this request shows."""
    objective = objective_of(policy.rules, request)
    most = policy.fleet.max_tokens(request)
    limit = None if most is None else min(most, request.max_tokens)
    queued = len(policy.waiting)
    return Figures(predicted_ms, objective.ttft_ms, queued, standing, fits, limit, tpot_slo_ms=objective.tpot_ms)


def _fitting(policy: "Policy", now_us: int, ask: Ask, room: Room) -> tuple[str, ...]:
    """Return the classes in which the same request would be queued now."""
    if not isinstance(policy.order, PromiseOrder):
        return ()
    others = [
        replace(ask, service_class=service_class, ttft_us=objective.ttft_ms * 1_000, arrived_us=now_us)
        for service_class, objective in policy.rules.objectives.items()
        if late_gap_us(policy, now_us, objective) is None
    ]
    kept = policy.order.would_keep(now_us, others, room)
    return tuple(each.service_class.value for each, is_kept in zip(others, kept, strict=True) if is_kept)


def objection(policy: "Policy", request: GrantRequest) -> str | None:
    """Return the code of the first rule that stands against a seat, whatever the queue."""
    rules = (
        ("grant_exists", request.request_id in policy.waiting or request.request_id in policy.running),
        ("pool_draining", policy.is_draining),
        ("request_exceeds_engine", not policy.fleet.fits(request)),
        ("no_capacity", not policy.fleet.is_servable(request)),
    )
    return next((code for code, is_against in rules if is_against), None)
