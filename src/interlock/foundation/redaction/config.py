"""Bounds of redaction. Reads nothing by itself; `foundation.config.load` fills it as section `redaction`."""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class RedactionConfig:
    """Section `redaction`."""

    needle_chars_min: int = setting(
        8, "Shortest known secret, and shortest encoded form of one, that is looked for, characters.", minimum=4
    )
    hold_chars_max: int = setting(
        16_384, "Text that a stream holds back while a credential may still go on, characters.", minimum=256
    )
    nesting_max: int = setting(64, "Depth to which objects are redacted; below, only a mark is kept.", minimum=4)
