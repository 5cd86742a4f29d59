"""What a refusal of one target means for the next step: whether a fallback is asked, and whether a lesser model is.

Decides nothing about targets themselves; `service/attempts.py` does.
"""

from typing import Final

from interlock.gateway.domain.directory import Trouble
from interlock.gateway.domain.refusals import Refusal

_FULL: Final = frozenset({
    "overloaded", "no_capacity", "route_unavailable", "pool_draining", "pool_unknown", "deadline_infeasible",
    "fair_share_exceeded", "displaced", "queue_time_exceeded", "tenant_queue_full",
})  # fmt: skip
_TROUBLES: Final = {
    "upstream_error": Trouble.ERROR,
    "upstream_auth_failed": Trouble.ERROR,
    "upstream_bad_reply": Trouble.ERROR,
    "upstream_timeout": Trouble.TIMEOUT,
    "upstream_rate_limited": Trouble.LIMITED,
    "context_length_exceeded": Trouble.CONTEXT_TOO_LONG,
    **dict.fromkeys(_FULL, Trouble.OVERLOADED),
}
# A switch on these stops one way to an answer, not the route.
_OF_A_TARGET: Final = ("kill.deployment.", "kill.provider.", "kill.pool.", "kill.engine.", "kill.class.")
_RETRIED: Final = frozenset({408, 429})


def trouble_of(refusal: Refusal) -> Trouble | None:
    """Return the trouble for which a fallback may be asked; None where nothing else may be."""
    if refusal.code == "killed" and refusal.rule.startswith(_OF_A_TARGET):
        return Trouble.OVERLOADED
    return _TROUBLES.get(refusal.code)


def may_degrade(refusal: Refusal) -> bool:
    """Tell whether a lesser alias may answer: there was no room, at the edge or at the scheduler."""
    return refusal.code in _FULL or (refusal.step == "grant" and refusal.http_status in (429, 503))


def may_repeat(status: int) -> bool:
    """Tell whether a model server that answered with this status may be asked again."""
    return status in _RETRIED or status >= 500


def is_failure(refusal: Refusal) -> bool:
    """Tell whether a refusal is the model server's fault; what it says of the request is none."""
    return refusal.code in ("upstream_error", "upstream_bad_reply", "upstream_timeout", "upstream_rate_limited")
