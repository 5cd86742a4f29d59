"""Which arm of a route a request belongs to: the sticky unit, its place among 10,000, and the weight in force.

Reads no clock and verifies no token; both are given.
"""

import hashlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.gateway.domain.directory import Weight

STABLE: Final = "stable"
CANARY: Final = "canary"
PINNED: Final = "pinned"
SHADOW: Final = "shadow"
WHOLE_BP: Final = 10_000
# No weight holds for longer without another word, whatever the clock of whoever set it said.
LEASE_S_MAX: Final = 600.0
HASH_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Unit:
    """What stays in one arm: a session, else an end user, else a key, of one organization."""

    kind: str
    value: bytes


def unit_of(organization_id: UUID, session: bytes | None, user: str | None, key_id: UUID | None) -> Unit:
    """Return the unit of a request; units of two organizations are never one, nor are two kinds."""
    if session:
        kind, value = "session", session
    elif user:
        kind, value = "user", user.encode("utf-8", "surrogatepass")
    else:
        kind, value = "key", key_id.bytes if key_id is not None else b""
    return Unit(kind, b"%b\x00%b\x00%b" % (organization_id.bytes, kind.encode(), value))


def unit_hash(alias: str, salt: str, unit: Unit) -> bytes:
    """Return the 8 bytes by which a unit is placed and counted; the same in every process.

    `salt` is the digest of the version that is tried, so that not the same units always come first.
    """
    content = b"%b\x00%b\x00%b" % (alias.encode(), salt.encode(), unit.value)
    return hashlib.blake2b(content, digest_size=HASH_BYTES).digest()


def bucket_of(digest: bytes) -> int:
    """Return the place of a unit, 0 to 9,999."""
    return int.from_bytes(digest, "big") % WHOLE_BP


def is_canary(digest: bytes, weight_bp: int) -> bool:
    """Tell whether a unit belongs to the canary; one that does stays in it while the weight rises."""
    return bucket_of(digest) < weight_bp


def is_copied(request_id: UUID, weight_bp: int) -> bool:
    """Tell whether a request is one of the sample that a version in the shadow sees; the id's own chance decides."""
    return int.from_bytes(request_id.bytes[HASH_BYTES:], "big") % WHOLE_BP < weight_bp


def weight_in_force_bp(weight: Weight, now_us: int) -> int:
    """Return what holds at a moment: nothing once the lease or the verdict has ended."""
    if weight.candidate_version is None or weight.expires_us is None or now_us >= weight.expires_us:
        return 0
    if weight.verdict_expires_us is not None and now_us >= weight.verdict_expires_us:
        return 0
    return weight.weight_bp


def state_of(version: int, weight: Weight, now_us: int) -> str:
    """Return `draft`, `shadow`, `canary`, `stable` or `retired`."""
    if version == weight.stable_version:
        return "stable"
    if version == weight.candidate_version and weight_in_force_bp(weight, now_us):
        return weight.mode or CANARY
    return "retired" if version < weight.stable_version else "draft"
