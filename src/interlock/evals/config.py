"""Every bound of evals, named and with its unit.

Holds no policy of a gate; those are rows with versions.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """Section `rollouts`."""

    look_s: float = setting(5.0, "time between two looks at a rollout, seconds", minimum=0.2, maximum=60)
    weight_lease_s: float = setting(
        60.0, "time for which a weight holds without another look, seconds", minimum=1, maximum=600
    )
    dwell_s_min: float = setting(10.0, "shortest stage of a rollout, seconds", minimum=0)
    stages_max: int = setting(20, "stages of one rollout", minimum=1, maximum=100)
    slots: int = setting(4, "rollouts that one worker looks at at once", minimum=1, maximum=64)
    looks_kept_s: float = setting(7_776_000.0, "age at which looks are deleted, seconds", minimum=3_600)
