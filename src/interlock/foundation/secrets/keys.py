"""The master key: a ring of X25519 private keys, newest first, and the public half that control gets.

Seals nothing; `box.py` does.
"""

import base64
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from interlock.foundation.clock import Dice
from interlock.foundation.errors import BrokenWorldError

_KEY_BYTES: Final = 32
# The newest key and the one before: what an interrupted process sealed a moment ago still opens.
_KEPT_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class PublicHalf:
    """What seals and cannot open. `kek_id` names the key pair."""

    raw: bytes

    @property
    def kek_id(self) -> str:
        """The name of the pair, derived from the public key."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def key(self) -> X25519PublicKey:
        """The key object."""
        return X25519PublicKey.from_public_bytes(self.raw)


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """The private halves; the first one is current. The text form is base64, one key a line."""

    secrets: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: bytes) -> "MasterKeys":
        """Read a ring. Raises `BrokenWorldError` `master_key_invalid`."""
        try:
            secrets = tuple(base64.b64decode(line, validate=True) for line in text.split())
        except ValueError:
            secrets = ()
        if not secrets or any(len(secret) != _KEY_BYTES for secret in secrets):
            raise BrokenWorldError(
                "master_key_invalid", "the master key is not base64 lines of 32 bytes", "restore it from the backup"
            )
        return cls(secrets)

    @classmethod
    def fresh(cls, dice: Dice) -> "MasterKeys":
        """Return a ring of one new key."""
        return cls((dice.randbytes(_KEY_BYTES),))

    @property
    def public(self) -> PublicHalf:
        """The half that new secrets are sealed to."""
        return _public(self.secrets[0])

    def private(self, kek_id: str) -> X25519PrivateKey | None:
        """Return the key of this name, None when the ring does not have it."""
        for secret in self.secrets:
            if _public(secret).kek_id == kek_id:
                return X25519PrivateKey.from_private_bytes(secret)
        return None

    def with_new(self, dice: Dice) -> "MasterKeys":
        """Return the ring with a new current key."""
        return MasterKeys((dice.randbytes(_KEY_BYTES), *self.secrets))

    def without_unused(self, used: Iterable[str]) -> "MasterKeys":
        """Return the ring without old keys that no envelope names; the newest two always stay."""
        wanted = set(used)
        kept = [
            secret
            for number, secret in enumerate(self.secrets)
            if number < _KEPT_MIN or _public(secret).kek_id in wanted
        ]
        return MasterKeys(tuple(kept))

    def to_bytes(self) -> bytes:
        """Return the text form."""
        return b"".join(base64.b64encode(secret) + b"\n" for secret in self.secrets)


class MasterKeyFile:
    """The ring at rest, and beside it `master.pub`, the only one of the two that control reads.

    Both are read again at need: another process may have added a key since.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._public_path = path.with_suffix(".pub")

    def ensure(self, dice: Dice) -> None:
        """Make a ring of one key at the first start, and the public half where it is missing or old."""
        if not self._path.exists():
            _replace(self._path, MasterKeys.fresh(dice).to_bytes())
        self.write(self.read())

    def read_public(self) -> PublicHalf:
        """Return the current public half. Raises `BrokenWorldError`."""
        try:
            raw = base64.b64decode(self._public_path.read_bytes().strip(), validate=True)
        except (OSError, ValueError) as error:
            raise BrokenWorldError(
                "master_key_missing", f"{self._public_path.name}: {type(error).__name__}", "restart the platform"
            ) from error
        return PublicHalf(raw)

    def read(self) -> MasterKeys:
        """Return the ring as it is now. Raises `BrokenWorldError`."""
        try:
            return MasterKeys.parse(self._path.read_bytes())
        except OSError as error:
            raise BrokenWorldError(
                "master_key_missing", f"{self._path.name}: {type(error).__name__}", "restore it from the backup"
            ) from error

    def write(self, keys: MasterKeys) -> None:
        """Replace the ring, then its public half: nothing is sealed to a key that is not on disk yet."""
        _replace(self._path, keys.to_bytes())
        _replace(self._public_path, base64.b64encode(keys.public.raw) + b"\n")


Reload = Callable[[], MasterKeys]
ReadPublic = Callable[[], PublicHalf]


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _public(secret: bytes) -> PublicHalf:
    key = X25519PrivateKey.from_private_bytes(secret).public_key()
    return PublicHalf(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
