"""Consistency tokens: proof that an identity change was made, so that a reader can ask for that change or later.

`ct1.` + base32(organization tag 4 bytes, epoch 8 bytes, HMAC 8 bytes).
"""

import base64
import hashlib
import hmac
from typing import Final
from uuid import UUID

from interlock.foundation.errors import InterlockError

_PREFIX: Final = "ct1."
_BODY_BYTES: Final = 20


def issue(organization_id: UUID, epoch: int, key: bytes) -> str:
    """Return the token of an epoch."""
    head = _tag(organization_id) + epoch.to_bytes(8, "big")
    return _PREFIX + base64.b32encode(head + _mac(head, key)).decode().rstrip("=").lower()


def read(token: str, organization_id: UUID, key: bytes) -> int:
    """Return the epoch. Raises `invalid_consistency_token` for a wrong MAC or another organization."""
    body = token.removeprefix(_PREFIX).upper()
    try:
        raw = base64.b32decode(body + "=" * (-len(body) % 8))
    except ValueError:
        raw = b""
    head, mac = raw[:12], raw[12:]
    is_ours = (
        len(raw) == _BODY_BYTES and hmac.compare_digest(mac, _mac(head, key)) and head[:4] == _tag(organization_id)
    )
    if not token.startswith(_PREFIX) or not is_ours:
        raise InterlockError("invalid_consistency_token")
    return int.from_bytes(head[4:12], "big")


def _tag(organization_id: UUID) -> bytes:
    return hashlib.sha256(organization_id.bytes).digest()[:4]


def _mac(head: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"interlock-ct1\x00" + head, hashlib.sha256)[:8]
