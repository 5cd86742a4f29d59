"""Secrets of providers: sealed to the master key, bound to their row, rotated while everything serves.

Entry points: `SecretService` (set, names, open), `SecretBox` for other tables, `Rotator.run` in a worker.
Invariants: control seals and cannot open; an envelope that was moved to another row does not open.
"""

from interlock.foundation.secrets.box import Envelope, Place, SecretBox, SecretUnreadableError
from interlock.foundation.secrets.config import SecretsConfig
from interlock.foundation.secrets.keys import MasterKeyFile, MasterKeys, PublicHalf
from interlock.foundation.secrets.rotation import Rotator
from interlock.foundation.secrets.service import RotationState, SecretRecord, SecretService

__all__ = [
    "Envelope",
    "MasterKeyFile",
    "MasterKeys",
    "Place",
    "PublicHalf",
    "RotationState",
    "Rotator",
    "SecretBox",
    "SecretRecord",
    "SecretService",
    "SecretUnreadableError",
    "SecretsConfig",
]
