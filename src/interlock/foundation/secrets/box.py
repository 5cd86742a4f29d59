"""Sealing and opening: AES-256-GCM under a data key of its own, wrapped to the X25519 master key, bound to its row.

Knows no table; whoever stores an envelope says where it lies.

The data key is wrapped as in ECIES: an ephemeral X25519 key, HKDF-SHA-256 over the shared secret with both public
keys as salt, AES-256-GCM. The place of the row is authenticated by both layers, the name of the master key by the
wrap, so a rotation rewraps the data key and leaves the ciphertext as it is.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from interlock.foundation.clock import Dice
from interlock.foundation.secrets.keys import MasterKeys, PublicHalf, ReadPublic, Reload

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_INFO: Final = b"interlock-secrets-v1"


class SecretUnreadableError(Exception):
    """The envelope does not open here: moved from its row, changed, or sealed to a key that is not in the ring."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an envelope lies: the row by its id, so that a renamed row still opens and a copied one does not."""

    organization_id: UUID
    table: str
    row: UUID
    column: str

    def bound(self, kek_id: str | None = None) -> bytes:
        """Return the bytes that are authenticated with the ciphertext."""
        parts = [str(self.organization_id), self.table, str(self.row), self.column]
        return "|".join(parts if kek_id is None else [*parts, kek_id]).encode()


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is stored of a secret."""

    ciphertext: bytes
    wrapped_key: bytes
    kek_id: str


class SecretBox:
    """Seals with the public half; opens only where the private ring was handed over.

    `public` is read for every seal and `private` whenever a key is not known: another process may have added
    one since.
    """

    def __init__(self, dice: Dice, public: ReadPublic, private: Reload | None = None) -> None:
        self._dice = dice
        self._public = public
        self._reload = private
        self._ring: MasterKeys | None = None if private is None else private()

    def seal(self, place: Place, value: bytes) -> Envelope:
        """Return the envelope of a secret that will lie at `place`."""
        data_key = self._dice.randbytes(_KEY_BYTES)
        nonce = self._dice.randbytes(_NONCE_BYTES)
        ciphertext = nonce + AESGCM(data_key).encrypt(nonce, value, place.bound())
        public = self._public()
        return Envelope(ciphertext, self._wrap(public, place, data_key), public.kek_id)

    def open(self, place: Place, envelope: Envelope) -> bytes:
        """Return the secret. Raises `SecretUnreadableError`."""
        data_key = self._unwrap(place, envelope)
        sealed = envelope.ciphertext
        try:
            return AESGCM(data_key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.bound())
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadableError("the ciphertext does not belong to this row") from error

    def rewrap(self, place: Place, envelope: Envelope) -> Envelope:
        """Return the same envelope under the current key. Raises `SecretUnreadableError`."""
        public = self._public()
        wrapped = self._wrap(public, place, self._unwrap(place, envelope))
        return Envelope(envelope.ciphertext, wrapped, public.kek_id)

    def refresh(self) -> None:
        """Read the ring again."""
        if self._reload is not None:
            self._ring = self._reload()

    def _private(self, kek_id: str) -> X25519PrivateKey:
        if self._ring is None:
            raise SecretUnreadableError("this process holds the public half only")
        key = self._ring.private(kek_id)
        if key is None:
            # A rotation added a key since this process read the ring.
            self.refresh()
            key = self._ring.private(kek_id)
        if key is None:
            raise SecretUnreadableError(f"the ring has no key {kek_id}")
        return key

    def _wrap(self, public: PublicHalf, place: Place, data_key: bytes) -> bytes:
        ephemeral = X25519PrivateKey.from_private_bytes(self._dice.randbytes(_KEY_BYTES))
        own = _raw(ephemeral.public_key())
        nonce = self._dice.randbytes(_NONCE_BYTES)
        wrapping = _derive(ephemeral.exchange(public.key), own, public.raw)
        return own + nonce + AESGCM(wrapping).encrypt(nonce, data_key, place.bound(public.kek_id))

    def _unwrap(self, place: Place, envelope: Envelope) -> bytes:
        private = self._private(envelope.kek_id)
        theirs, rest = envelope.wrapped_key[:_KEY_BYTES], envelope.wrapped_key[_KEY_BYTES:]
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(theirs))
            wrapping = _derive(shared, theirs, _raw(private.public_key()))
            return AESGCM(wrapping).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], place.bound(envelope.kek_id))
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadableError("the wrapped key does not belong to this row") from error


def _derive(shared: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=ephemeral + recipient, info=_INFO).derive(shared)


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
