"""Which version of a route answers: the arm of a sticky unit, by weights that this edge has checked by itself.

Reads no store. A weight that nobody renews is worth nothing here once its lease has ended, whoever is away.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from interlock.contracts.gates import Admitted, TokenRefused, TokenUse, VerdictVerifier, VerifyingKey
from interlock.foundation.clock import Clock
from interlock.foundation.identity import TASK
from interlock.foundation.ids import OrganizationId
from interlock.gateway.domain.arm_counts import Counted
from interlock.gateway.domain.arms import (
    CANARY,
    LEASE_S_MAX,
    PINNED,
    SHADOW,
    STABLE,
    WHOLE_BP,
    bucket_of,
    is_canary,
    is_copied,
    unit_hash,
    unit_of,
    weight_in_force_bp,
)
from interlock.gateway.domain.directory import Alias, Directory, Gate, Placement, Weight
from interlock.gateway.domain.envelope import Dialect, Envelope, end_user
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.versions import digest_of
from interlock.gateway.service.passage import Passage

log = structlog.get_logger("interlock.gateway")
_SESSION: Final = b"x-interlock-session"
_VERSION: Final = b"x-interlock-route-version"


class NoVerdicts:
    """Admits nothing: what holds where nobody gives verdicts."""

    def verify(self, _token: str, _use: TokenUse, _keys: Mapping[str, VerifyingKey]) -> Admitted | TokenRefused:
        """Refuse."""
        return TokenRefused("verdict_invalid")

    async def load(self) -> Mapping[str, VerifyingKey]:
        """Return no key."""
        return {}


@dataclass(frozen=True, slots=True)
class _Checked:
    """A weight as this edge admits it: until `ends_us` of the wall clock and `ends_at` of the monotonic one."""

    weight: Weight
    ends_us: int
    ends_at: float


class Arms:
    """The weights in force at this edge."""

    def __init__(self, verifier: VerdictVerifier, clock: Clock) -> None:
        self._verifier = verifier
        self._clock = clock
        self._checked: dict[tuple[UUID, str], _Checked] = {}
        self._refused: dict[tuple[UUID, str], str] = {}

    def replace(self, directory: Directory, keys: Mapping[str, VerifyingKey]) -> None:
        """Check every weight anew; called with each new directory and whenever the keys may have changed."""
        checked: dict[tuple[UUID, str], _Checked] = {}
        refused: dict[tuple[UUID, str], str] = {}
        for weight, candidate in directory.tried():
            place = (weight.organization_id, weight.alias)
            found = self._check(weight, candidate, directory, keys)
            if isinstance(found, str):
                refused[place] = found
                if self._refused.get(place) != found:
                    log.error("weight_not_admitted", route=weight.alias, version=weight.candidate_version, code=found)
            else:
                checked[place] = found
        self._checked, self._refused = checked, refused

    def in_force_bp(self, weight: Weight) -> int:
        """Return what a weight is worth at this edge now."""
        held = self._checked.get((weight.organization_id, weight.alias))
        if held is None or held.weight != weight:
            return 0
        # Either clock ends a lease: the wall clock may step back, and the monotonic one does not outlive a restart.
        if self._clock.now_us() >= held.ends_us or self._clock.monotonic() >= held.ends_at:
            return 0
        return weight.weight_bp

    def live(self) -> set[tuple[UUID, str]]:
        """Return the routes on which something is tried at this edge."""
        return set(self._checked)

    def refused(self) -> dict[tuple[UUID, str], str]:
        """Return the routes whose weight this edge does not admit, with the reason."""
        return dict(self._refused)

    def choose(self, passage: Passage, alias: Alias, envelope: Envelope) -> Placement | Refusal:
        """Return the version that answers this request, and note its arm."""
        pinned = passage.exchange.request.headers.get(_VERSION)
        if pinned is not None:
            return _pinned(passage, alias, pinned)
        weight = alias.weight
        passage.arm = STABLE
        if weight is None or weight.candidate_version is None:
            return alias.stable
        weight_bp = self.in_force_bp(weight)
        candidate = alias.versions.get(weight.candidate_version)
        if not weight_bp or candidate is None:
            return alias.stable
        if weight.mode == SHADOW:
            # A count of tokens asks no model anything.
            is_shown = not envelope.is_stream and envelope.dialect is not Dialect.COUNT
            if is_shown and is_copied(passage.request_id, weight_bp):
                passage.shadow = candidate
            return alias.stable
        unit = unit_of(
            passage.tenant, passage.exchange.request.headers.get(_SESSION), end_user(envelope), passage.key_id
        )
        digest = unit_hash(weight.alias, candidate.route.digest, unit)
        placement, share_bp = alias.stable, WHOLE_BP - weight_bp
        if is_canary(digest, weight_bp):
            passage.arm, placement, share_bp = CANARY, candidate, weight_bp
        passage.decide(
            "arm",
            f"weight.{weight.alias}",
            passage.arm,
            f"{unit.kind} at {bucket_of(digest)} of {WHOLE_BP}, version {weight.candidate_version} below {weight_bp}",
        )
        passage.counted = Counted(
            weight.organization_id,
            weight.alias,
            placement.route.version,
            passage.arm,
            digest,
            share_bp,
            weight.rose_us,
        )
        return placement

    def _check(
        self, weight: Weight, candidate: Placement, directory: Directory, keys: Mapping[str, VerifyingKey]
    ) -> _Checked | str:
        now_us, now = self._clock.now_us(), self._clock.monotonic()
        ends_us = weight.expires_us or 0
        if not weight_in_force_bp(weight, now_us):
            return _Checked(weight, 0, now)
        if candidate.route.spec.gate is not Gate.OFF:
            named = directory.deployments_of(candidate.route)
            if named is None or digest_of(candidate.route.spec, named) != candidate.route.digest:
                return "verdict_digest_mismatch"
            found = self._verifier.verify(weight.verdict_token or "", _use(weight, candidate, now_us), keys)
            if isinstance(found, TokenRefused):
                return found.code
            ends_us = min(ends_us, found.expires_at_us)
        ends_at = now + min((ends_us - now_us) / 1e6, LEASE_S_MAX)
        held = self._checked.get((weight.organization_id, weight.alias))
        if held is not None and held.weight == weight:
            # Reading the same lease again, by a clock that stepped back since, does not make it longer.
            ends_at = min(ends_at, held.ends_at)
        return _Checked(weight, ends_us, ends_at)


def _use(weight: Weight, candidate: Placement, now_us: int) -> TokenUse:
    return TokenUse(
        organization_id=OrganizationId(weight.organization_id),
        route=weight.alias,
        subject=candidate.route.digest,
        weight=weight.weight_bp / 100,
        now_us=now_us,
    )


def _pinned(passage: Passage, alias: Alias, asked: bytes) -> Placement | Refusal:
    """Return the version that the platform's own work asks for by number; what it answers is no arm's."""
    if passage.key_kind != TASK:
        return Refusal(
            "invalid_request",
            "header.x-interlock-route-version",
            message="`x-interlock-route-version` is for keys that the platform lent to its own work.",
            param="x-interlock-route-version",
            step="arm",
        )
    number = int(asked) if asked.isdigit() and len(asked) < 10 else -1
    placement = alias.versions.get(number)
    name = alias.stable.route.alias
    if placement is None:
        text = f"No version {asked[:16].decode('latin-1')!r} of {name!r} is at hand."
        return Refusal("model_not_found", "route.version", message=text, param="model", step="arm")
    passage.arm = PINNED
    passage.decide("arm", "header.x-interlock-route-version", PINNED, f"version {number}")
    return placement
