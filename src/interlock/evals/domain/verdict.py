"""Verdict tokens: minting, and the check that every edge makes by itself. No call, no store, no clock.

A token is `base64url(claims).base64url(Ed25519 signature of the claims)`; it holds no secret.
"""

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from interlock.contracts.gates import Admitted, TokenRefused, TokenUse, VerifyingKey
from interlock.evals.domain.canonical import canonical
from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import OrganizationId, format_id

ISSUER: Final = "evals"
TOKEN_CHARS_MAX: Final = 4096
_SKEW_US_MAX: Final = 60_000_000
Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says; `subject` is the artifact's digest, `max_weight` in percent."""

    key_id: str
    organization_id: OrganizationId
    route: str
    gate_id: str
    verdict_id: str
    subject: str
    max_weight: float
    issued_at_us: int
    expires_at_us: int

    def public(self) -> dict[str, Any]:
        """Return the claims by their names in the token."""
        return {
            "iss": ISSUER,
            "key_id": self.key_id,
            "organization_id": format_id("org", self.organization_id),
            "route": self.route,
            "gate_id": self.gate_id,
            "verdict_id": self.verdict_id,
            "subject": self.subject,
            "decision": "pass",
            "max_weight": self.max_weight,
            "issued_at": rfc3339(self.issued_at_us),
            "expires_at": rfc3339(self.expires_at_us),
        }


class _WireClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    iss: str
    key_id: str
    organization_id: str
    route: str
    gate_id: str
    verdict_id: str
    subject: str
    decision: str
    max_weight: int | float | str
    issued_at: str
    expires_at: str


def mint(claims: Claims, sign: Sign) -> str:
    """Return the token of these claims; `sign` gives the 64 bytes of an Ed25519 signature (RFC 8032)."""
    body = canonical(claims.public())
    return f"{_encode(body)}.{_encode(sign(body))}"


class TokenVerifier:
    """The check of `contracts.gates`: every refusal has one code, and the first that applies is the answer."""

    def verify(self, token: str, use: TokenUse, keys: Mapping[str, VerifyingKey]) -> Admitted | TokenRefused:
        """Return what the token admits for this use."""
        claims = _signed_claims(token, keys)
        if claims is None or claims.iss != ISSUER:
            return TokenRefused("verdict_invalid")
        key = keys[claims.key_id]
        organization = format_id("org", use.organization_id)
        if organization != claims.organization_id or key.organization_id != use.organization_id:
            return TokenRefused("verdict_invalid")
        if claims.route != use.route:
            return TokenRefused("verdict_invalid")
        return _admission(claims, use, key)


def _admission(claims: _WireClaims, use: TokenUse, key: VerifyingKey) -> Admitted | TokenRefused:
    max_weight, expires_at_us = _number(claims.max_weight), _moment_us(claims.expires_at)
    issued_at_us = _moment_us(claims.issued_at)
    if max_weight is None or expires_at_us is None or issued_at_us is None or issued_at_us > use.now_us + _SKEW_US_MAX:
        # Of a later time than now it is where a clock is wrong, so nobody knows for how long it still holds.
        return TokenRefused("verdict_invalid")
    if claims.subject != use.subject:
        return TokenRefused("verdict_digest_mismatch")
    if claims.decision != "pass":
        return TokenRefused("verdict_not_pass")
    # Written so that a weight that is not a number is refused, too.
    if not 0.0 <= use.weight <= max_weight:
        return TokenRefused("verdict_weight_exceeded")
    if use.now_us >= min(expires_at_us, key.not_after_us):
        return TokenRefused("verdict_expired")
    return Admitted(claims.verdict_id, max_weight, min(expires_at_us, key.not_after_us))


def _signed_claims(token: str, keys: Mapping[str, VerifyingKey]) -> _WireClaims | None:
    """Return the claims where a live key signed exactly these bytes."""
    head, dot, tail = token.partition(".")
    if not dot or len(token) > TOKEN_CHARS_MAX:
        return None
    try:
        body, signature = _decode(head), _decode(tail)
        claims = msgspec.json.decode(body, type=_WireClaims)
        key = keys[claims.key_id]
        if key.is_revoked:
            return None
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, body)
    except (ValueError, binascii.Error, msgspec.DecodeError, KeyError, InvalidSignature):
        return None
    return claims


def _number(value: float | str) -> float | None:
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _moment_us(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Decode strictly: one text for one content, so that no second spelling of a token passes."""
    found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encode(found) != text:
        raise ValueError(text)
    return found
