"""Bounds of secrets and of their rotation.

Reads nothing by itself; `foundation.config.load` fills it as section `secrets`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class SecretsConfig:
    """Section `secrets`."""

    master_key_file: str | None = setting(
        None, "Path of the master key ring; without it `DIR/master.key`, made at the first start."
    )
    value_bytes_max: int = setting(16_384, "Longest secret, bytes.", minimum=64, maximum=1 << 20)
    rotate_rows: int = setting(500, "Envelopes that one transaction of a rotation rewraps.", minimum=1, maximum=10_000)
    rotate_poll_s: float = setting(
        2.0, "Pause between two looks for a wanted rotation, seconds.", minimum=0.1, maximum=3_600
    )
