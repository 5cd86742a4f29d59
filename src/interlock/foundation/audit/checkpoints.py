"""Signed checkpoints: what one says, the key that signs it, and the file outside the store that keeps it.

Does not judge a chain; `verifier.py` does. Whoever holds the key and every copy can rewrite history.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from interlock.foundation.audit.event import canonical
from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import MalformedIdError, format_id, parse_id

DOMAIN: Final = b"interlock-audit-checkpoint-v1\x00"
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one chain at a time, signed with Ed25519 (RFC 8032)."""

    organization_id: UUID
    seq: int
    hash: bytes
    at_us: int
    key_id: str
    signature: bytes = b""

    def message(self) -> bytes:
        """Return the bytes that the signature covers."""
        return DOMAIN + canonical(
            {
                "organization_id": format_id("org", self.organization_id),
                "seq": self.seq,
                "hash": self.hash.hex(),
                "at_us": self.at_us,
                "key_id": self.key_id,
            }
        )

    def public(self) -> dict[str, Any]:
        """Return the object that stands in the file, in exports and in answers."""
        return {
            "organization_id": format_id("org", self.organization_id),
            "seq": self.seq,
            "hash": self.hash.hex(),
            "at": rfc3339(self.at_us),
            "at_us": self.at_us,
            "key_id": self.key_id,
            "signature": base64.b64encode(self.signature).decode(),
        }


class MalformedCheckpointError(ValueError):
    """A line of a checkpoint file is not a checkpoint."""


class CheckpointKey:
    """The signing key of a data directory, 32 raw bytes at rest."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret[:_KEY_BYTES])
        self.public = public_bytes(self._key.public_key())
        self.key_id = key_id_of(self.public)

    def sign(self, organization_id: UUID, seq: int, chain_hash: bytes, at_us: int) -> Checkpoint:
        """Return the signed checkpoint of a head."""
        bare = Checkpoint(organization_id, seq, chain_hash, at_us, self.key_id)
        return Checkpoint(organization_id, seq, chain_hash, at_us, self.key_id, self._key.sign(bare.message()))


class CheckpointKeys:
    """The public keys that a verification trusts, by id."""

    def __init__(self, publics: Iterable[bytes]) -> None:
        self._keys = {key_id_of(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in publics}

    def is_signed(self, checkpoint: Checkpoint) -> bool:
        """Tell whether a trusted key signed exactly this."""
        key = self._keys.get(checkpoint.key_id)
        if key is None:
            return False
        try:
            key.verify(checkpoint.signature, checkpoint.message())
        except InvalidSignature:
            return False
        return True


def public_bytes(key: Ed25519PublicKey) -> bytes:
    """Return the raw 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id_of(public: bytes) -> str:
    """Return the short name of a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


class CheckpointFile:
    """`DIR/audit/checkpoints.jsonl`: one checkpoint a line, only ever appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Write and fsync. One write, so that two processes do not mix their lines."""
        text = "".join(json.dumps(each.public(), separators=(",", ":")) + "\n" for each in checkpoints)
        if not text:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[Checkpoint]:
        """Return all checkpoints; none when there is no file. Raises `MalformedCheckpointError` with the line."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise MalformedCheckpointError(f"{self._path.name}: not UTF-8 at byte {error.start}") from error
        return [parse_checkpoint(line, f"{self._path.name}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def parse_checkpoint(line: str, where: str) -> Checkpoint:
    """Read one line. Raises `MalformedCheckpointError`."""
    try:
        told = json.loads(line)
        return Checkpoint(
            organization_id=parse_id("org", told["organization_id"]),
            seq=int(told["seq"]),
            hash=bytes.fromhex(told["hash"]),
            at_us=int(told["at_us"]),
            key_id=str(told["key_id"]),
            signature=base64.b64decode(told["signature"], validate=True),
        )
    except (ValueError, KeyError, TypeError, AttributeError, MalformedIdError) as error:
        raise MalformedCheckpointError(f"{where}: not a checkpoint") from error
