"""What a pool makes of tokens that come too late: engines run fewer sequences, and what none could keep is refused.

Measures nothing; `tempo.py` does for each engine.
"""

from typing import TYPE_CHECKING

from interlock.contracts.scheduling import GrantRequest, ServiceClass
from interlock.scheduler.domain.asks import Ask, Fate, Verdict
from interlock.scheduler.domain.books import objective_of
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.types import ClassObjective

if TYPE_CHECKING:
    from interlock.scheduler.domain.policy import Policy


def hold_engines(policy: "Policy", now_us: int, asking: ServiceClass | None = None) -> None:
    """Let engines whose tokens come too late run fewer sequences, as the tightest class in the pool needs."""
    order = policy.order
    if not policy.fleet.is_held or not policy.rules.predicts or not isinstance(order, PromiseOrder):
        return
    gaps_us = [
        objective.tpot_ms * 1_000
        for each, objective in policy.rules.objectives.items()
        if objective.tpot_ms and (each is asking or policy.running_of[each] or order.has_queued(each))
    ]
    policy.fleet.hold(now_us, min(gaps_us, default=None))


def late_gap_us(policy: "Policy", now_us: int, objective: ClassObjective) -> int | None:
    """Return the time per output token that keeps every engine from an objective; None where one could hold it."""
    if objective.tpot_ms is None or not policy.rules.predicts or not isinstance(policy.order, PromiseOrder):
        return None
    return policy.fleet.late_gap_us(now_us, objective.tpot_ms * 1_000)


def late_verdict(policy: "Policy", now_us: int, request: GrantRequest, ask: Ask, first_us: int) -> Verdict | None:
    """Return the refusal of a request that would be late whatever the queue; None where the order has to say.

    Its deadline leaves no time for a first token, or no engine makes tokens in its class's time. Of the second the
    order knows nothing, but the tenant asks for as much of the pool all the same.
    """
    gap_us = late_gap_us(policy, now_us, objective_of(policy.rules, request))
    if gap_us is None:
        is_late = policy.rules.predicts and ask.ttft_us <= 0
        return Verdict(ask.key, Fate.DEADLINE_INFEASIBLE, first_us=first_us) if is_late else None
    if isinstance(policy.order, PromiseOrder) and not ask.is_repeat:
        policy.order.shares.offer(now_us, ask.path, ask.cost)
    return Verdict(ask.key, Fate.DEADLINE_INFEASIBLE, first_us=first_us, gap_us=gap_us)
