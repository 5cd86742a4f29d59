"""What copies say of a version in the shadow, before it may answer anybody.

Compares no arms: only requests that the stable version had answered are copied, so a version that fails most of them
fails what can be answered. Where nothing was copied there is nothing to say, and the time alone decides.
"""

from collections.abc import Sequence
from typing import Final

from interlock.contracts.arms import ArmSecond
from interlock.evals.domain.canary import Decision, Reason

SHADOW: Final = "shadow"
ERRORS: Final = "errors"
# So few copies take nothing back, but a version that failed most of them answers nobody either.
COPIES_MIN: Final = 10
FAILED_MAX: Final = 0.5
# Copies of so long ago say nothing of the version's servers as they are.
WINDOW_S: Final = 3_600


def judge_copies(seconds: Sequence[ArmSecond], version: int, seen_s: float, shadow_s: float) -> tuple[Decision, Reason]:
    """Return what follows from the copies of a version that has been in the shadow for `seen_s`."""
    copies = [each for each in seconds if each.arm == SHADOW and each.version == version]
    made = sum(each.requests for each in copies)
    failed = sum(each.bad[ERRORS].requests for each in copies if ERRORS in each.bad)
    share = failed / made if made else 0.0
    if share > FAILED_MAX:
        text = f"Of {made} copies of answered requests {failed} failed."
        decision = Decision.ROLLBACK if made >= COPIES_MIN else Decision.HOLD
        return decision, Reason("shadow_errors", text, ERRORS, share, made, FAILED_MAX)
    told = f"of {made} copies {failed} failed" if made else "nothing was copied yet"
    text = f"It sees copies only, for {min(seen_s, shadow_s):.0f} of {shadow_s:g} seconds; {told}."
    decision = Decision.PROMOTE if seen_s >= shadow_s else Decision.HOLD
    return decision, Reason("shadow", text, n=made)
