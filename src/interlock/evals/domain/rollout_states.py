"""The states of a rollout and what leads from one to another: one table, which the store's CHECK repeats.

Moves nothing; HOLD is a decision of a look and no state.
"""

from enum import StrEnum
from typing import Final


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    SHADOW = "shadow"
    CANARY = "canary"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    KILLED = "killed"


class RolloutAct(StrEnum):
    """What is done to a rollout, by a person or by its monitor.

    A start of one that shall see copies first is a `shade`; `open` ends that, and is the monitor's alone.
    """

    START = "start"
    SHADE = "shade"
    OPEN = "open"
    PAUSE = "pause"
    RESUME = "resume"
    ROLLBACK = "rollback"
    KILL = "kill"
    UNKILL = "unkill"
    PROMOTE = "promote"


_S, _A = RolloutState, RolloutAct
TRANSITIONS: Final = {
    (_S.DRAFT, _A.START): _S.CANARY,
    (_S.DRAFT, _A.SHADE): _S.SHADOW,
    (_S.SHADOW, _A.OPEN): _S.CANARY,
    (_S.CANARY, _A.PAUSE): _S.PAUSED,
    (_S.PAUSED, _A.RESUME): _S.CANARY,
    (_S.CANARY, _A.PROMOTE): _S.PROMOTED,
    (_S.SHADOW, _A.ROLLBACK): _S.ROLLED_BACK,
    (_S.CANARY, _A.ROLLBACK): _S.ROLLED_BACK,
    (_S.PAUSED, _A.ROLLBACK): _S.ROLLED_BACK,
    (_S.DRAFT, _A.KILL): _S.KILLED,
    (_S.SHADOW, _A.KILL): _S.KILLED,
    (_S.CANARY, _A.KILL): _S.KILLED,
    (_S.PAUSED, _A.KILL): _S.KILLED,
    (_S.KILLED, _A.UNKILL): _S.DRAFT,
}
# States in which a version has a weight, so that a route has at most one such rollout.
ACTIVE: Final = frozenset({_S.SHADOW, _S.CANARY, _S.PAUSED})


def after(state: RolloutState, act: RolloutAct) -> RolloutState | None:
    """Return the state that an act leads to, None where it leads nowhere."""
    return TRANSITIONS.get((state, act))
