"""Verdict tokens: is this artifact admitted on this route, and up to which weight.

Given by evals, used by the gateway. Pure: no call, no store; the public keys come from the reader's snapshot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from interlock.foundation.ids import OrganizationId


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """An Ed25519 public key (32 bytes) that signs verdicts; dead after `not_after_us` and once revoked."""

    key_id: str
    organization_id: OrganizationId
    public_key: bytes
    not_after_us: int
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class Admitted:
    """The token holds: up to `max_weight` percent, until `expires_at_us`."""

    verdict_id: str
    max_weight: float
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The token admits nothing here.

    `code` is `verdict_invalid`, `_expired`, `_digest_mismatch`, `_not_pass` or `_weight_exceeded` in full: the words
    that the gateway answers with.
    """

    code: str


@dataclass(frozen=True, slots=True)
class TokenUse:
    """What the token is presented for: a weight in percent for the artifact `subject` on `route`."""

    organization_id: OrganizationId
    route: str
    subject: str
    weight: float
    now_us: int


class VerdictVerifier(Protocol):
    """Checks signature, issuer, organization, route, subject, decision, weight and time, in this order."""

    def verify(self, token: str, use: TokenUse, keys: Mapping[str, VerifyingKey]) -> Admitted | TokenRefused:
        """Return what the token admits."""
        ...


class VerifyingKeys(Protocol):
    """Where the gateway gets the public keys that evals publishes in the store."""

    async def load(self) -> Mapping[str, VerifyingKey]:
        """Return all keys of all organizations by `key_id`."""
        ...


@dataclass(frozen=True, slots=True)
class GateBlocked:
    """A required gate does not admit the artifact; each reason has at least `code` and `text`."""

    reasons: tuple[Mapping[str, Any], ...]


class RequiredGates(Protocol):
    """Given by evals: the gates that guard what is no route of the gateway, such as `pool:NAME` of the scheduler."""

    async def admit(self, guarded: str, subject: str) -> Sequence[Admitted] | GateBlocked:
        """Return what the verdict of each required gate admits of the artifact; nothing where no gate guards it."""
        ...
