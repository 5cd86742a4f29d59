"""Bounds of flags, kill switches and the feed of changes, each with its unit.

Holds no flag; those are rows.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class FlagsConfig:
    """Section `flags`."""

    poll_s: float = setting(0.5, "seconds between looks at the epochs", minimum=0.05, maximum=10.0)
    local_poll_s: float = setting(0.25, "seconds between looks at the folder of local kills", minimum=0.05, maximum=5.0)
    acknowledge_wait_s: float = setting(
        1.0, "seconds that a kill waits for every process to know it", minimum=0.1, maximum=10.0
    )
    acknowledge_interval_s: float = setting(
        5.0, "seconds between the words of a process for which nothing changed", minimum=0.1, maximum=30.0
    )
    process_alive_s: float = setting(
        16.0, "seconds after its last word in which a process counts as alive", minimum=1.0, maximum=60.0
    )
    degraded_after_s: float = setting(
        30.0,
        "seconds without a confirmed epoch after which a process calls itself degraded",
        minimum=1.0,
        maximum=600.0,
    )
    switches_max: int = setting(10_000, "kill switches that may be on", minimum=1, maximum=1_000_000)
    flags_max: int = setting(10_000, "flags that a process holds", minimum=1, maximum=1_000_000)
