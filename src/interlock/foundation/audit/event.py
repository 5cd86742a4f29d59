"""The one shape of an audit record: what is hashed, how it is written canonically, what verifies it.

Pure: reads no store and no clock, so that any program can repeat it from this page alone.

`hash = SHA-256("interlock-audit-v1" || 0x00 || prev_hash || canonical)`, canonical = the event as JSON with
sorted keys, no blanks, UTF-8. The first `prev_hash` of an organization is the SHA-256 of the 16 bytes of its uuid.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from interlock.foundation.ids import format_id
from interlock.foundation.scope import Principal, PrincipalKind

DOMAIN: Final = b"interlock-audit-v1\x00"
VERSION: Final = 1
_NESTING_MAX: Final = 8
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_INTEGER_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What a use case says about its change; who and when are added by `AuditLog`.

    `action` is `noun.verb` such as `key.create`; `outcome` is `ok`, `refused` or `failed`; `detail` holds
    strings and integers, other values are turned into text.
    """

    action: str
    target_kind: str
    target_id: str
    outcome: str = "ok"
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One row of the chain. `actor` and `detail` are already plain."""

    organization_id: UUID
    seq: int
    at_us: int
    actor: Mapping[str, Any]
    action: str
    target_kind: str
    target_id: str
    outcome: str
    reason: str | None
    request_id: UUID | None
    detail: Mapping[str, Any]
    prev_hash: bytes = b""
    hash: bytes = b""

    def public(self) -> dict[str, Any]:
        """Return the object that is hashed; exports and lists show exactly this."""
        return {
            "v": VERSION,
            "organization_id": format_id("org", self.organization_id),
            "seq": self.seq,
            "at_us": self.at_us,
            "actor": dict(self.actor),
            "action": self.action,
            "target": {"kind": self.target_kind, "id": self.target_id},
            "outcome": self.outcome,
            "reason": self.reason,
            "request_id": None if self.request_id is None else format_id("req", self.request_id),
            "detail": dict(self.detail),
        }

    def expected_hash(self, prev_hash: bytes) -> bytes:
        """Return the hash that this event must have after `prev_hash`."""
        return hashlib.sha256(DOMAIN + prev_hash + canonical(self.public())).digest()


def first_prev_hash(organization_id: UUID) -> bytes:
    """Return what stands before the first event of an organization."""
    return hashlib.sha256(organization_id.bytes).digest()


def canonical(value: Any) -> bytes:
    """Return the one spelling of a JSON value: keys sorted, no blanks, UTF-8, nothing escaped that need not be."""
    return _CANONICAL.encode(value).encode()


def around_seq(event: AuditEvent) -> tuple[str, str]:
    """Return the canonical text before and after the number of `seq`, which only the store knows.

    The keys before `seq` are written by themselves, so that no value can be mistaken for the place of the number.
    """
    whole = event.public()
    before = {key: value for key, value in whole.items() if key < "seq"}
    after = {key: value for key, value in whole.items() if key > "seq"}
    head = canonical(before).decode()[:-1] + ',"seq":'
    return head, "," + canonical(after).decode()[1:]


def actor_of(principal: Principal) -> dict[str, Any]:
    """Return who acted, by ids; absent parts are null."""
    kinds = {PrincipalKind.USER: "usr", PrincipalKind.SERVICE_ACCOUNT: "sa"}
    prefix = kinds.get(principal.kind)
    return {
        "kind": str(principal.kind),
        "id": format_id(prefix, principal.id) if prefix else "system",
        "key_id": None if principal.key_id is None else format_id("key", principal.key_id),
        "session_id": None if principal.session_id is None else format_id("ses", principal.session_id),
        "ip": principal.address,
    }


def plain(value: Any, depth: int = 0) -> Any:
    """Return the value with nothing but strings, integers and containers of them, as the store can keep it."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) <= _INTEGER_MAX:
        return value
    if depth < _NESTING_MAX and isinstance(value, Mapping):
        return {storable(str(key)): plain(each, depth + 1) for key, each in value.items() if each is not None}
    if depth < _NESTING_MAX and isinstance(value, list | tuple | set | frozenset):
        items = sorted(map(str, value)) if isinstance(value, set | frozenset) else value
        return [plain(each, depth + 1) for each in items]
    return "null" if value is None else storable(str(value))


def storable(text: str) -> str:
    """Return the text without NUL and lone surrogates, which PostgreSQL cannot hold."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
