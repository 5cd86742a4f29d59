"""The two arms of a canary: which workspaces the candidate decides for, how promises were kept, and when it is enough.

Ends nothing itself; the leader of the pool does. Counts are of the same time for both arms.
"""

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

BASIS_POINTS: Final = 10_000
# What accepted attainment may fall by: one point.
FALL_MAX: Final = 0.01
# The chance, over all looks of a canary, that one no worse than the live policy is rolled back.
ALPHA: Final = 0.01


class ArmName(StrEnum):
    """Which core decides."""

    LIVE = "live"
    CANDIDATE = "candidate"


@dataclass(slots=True)
class Arm:
    """What an arm was asked, and what its accepted requests came to; only those that arrived during the canary."""

    arrived: int = 0
    refused: int = 0
    judged: int = 0
    kept: int = 0

    @property
    def missed_share(self) -> float:
        """The share of accepted requests outside their objective."""
        return 1 - self.kept / self.judged if self.judged else 0.0

    @property
    def attainment(self) -> float | None:
        """The share of accepted requests inside their objective."""
        return round(self.kept / self.judged, 6) if self.judged else None


def arm_of(salt: str, workspace_id: UUID, share_bp: int) -> ArmName:
    """Return the arm of a workspace; a larger share only adds workspaces."""
    digest = hashlib.blake2b(f"{salt}\n{workspace_id}".encode(), digest_size=8).digest()
    return ArmName.CANDIDATE if int.from_bytes(digest, "big") % BASIS_POINTS < share_bp else ArmName.LIVE


def is_worse(live: Arm, candidate: Arm, look: int) -> bool:
    """Tell at the `look`-th look, counted from 1, whether the candidate has to be rolled back.

    Its accepted attainment is a point or more below the live one's, and that is no accident of few requests: the live
    arm misses at most what a Chernoff bound allows, and under that the candidate's misses are improbable. What may be
    wrong at a look falls with its square, so that looking often is no reason to be wrong more often.
    """
    if candidate.missed_share - live.missed_share < FALL_MAX or not live.judged:
        return False
    doubt = math.log(2 / (ALPHA * 6 / (math.pi**2 * look**2)))
    likely = _upper(live.missed_share, doubt / live.judged)
    return candidate.missed_share > likely and candidate.judged * _divergence(candidate.missed_share, likely) >= doubt


def _upper(share: float, divergence: float) -> float:
    """Return the largest share of misses that such counts allow."""
    low, high = share, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(share, middle) < divergence else (low, middle)
    return high


def _divergence(seen: float, true: float) -> float:
    """Return the divergence of Kullback and Leibler of two shares."""
    pairs = ((seen, true), (1 - seen, 1 - true))
    if any(a > 0 and b <= 0 for a, b in pairs):
        return math.inf
    return sum(a * math.log(a / b) for a, b in pairs if a > 0)
