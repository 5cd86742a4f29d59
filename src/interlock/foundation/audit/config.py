"""Bounds of the audit chain: how often it is signed, how much of it is read at once.

Reads nothing by itself; `foundation.config.load` fills it as section `audit`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Section `audit`."""

    checkpoint_interval_s: int = setting(
        900, "Age of the last checkpoint after which new events are signed, seconds.", minimum=1, maximum=86_400
    )
    checkpoint_events: int = setting(
        1_000, "Events after which a checkpoint is made at once.", minimum=1, maximum=1_000_000
    )
    checkpoint_poll_s: int = setting(
        5, "Pause between two looks for chains that are due, seconds.", minimum=1, maximum=3_600
    )
    verify_rows: int = setting(2_000, "Rows that a verification reads at once.", minimum=1, maximum=100_000)
    detail_bytes_max: int = setting(
        8_192, "Largest detail of one event, bytes of JSON; a longer one is cut.", minimum=256, maximum=1 << 20
    )
    text_chars_max: int = setting(
        2_048, "Longest reason or target id of one event, characters.", minimum=64, maximum=1 << 16
    )
