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


@dataclass(frozen=True, slots=True)
class EvalsConfig:
    """Section `evals`."""

    queued_runs_max: int = setting(20, "runs that wait or run in one workspace", minimum=1, maximum=10_000)
    samples_max: int = setting(200_000, "samples of one run", minimum=1, maximum=1_000_000)
    slots: int = setting(4, "runs that one worker works on at once", minimum=1, maximum=64)
    batch_rows: int = setting(50, "results committed at once", minimum=1, maximum=1_000)
    retry_share: float = setting(0.1, "retries of a run as a share of its samples", minimum=0, maximum=1)
    evaluation_poll_s: float = setting(
        0.3, "time between two looks at the runs of an evaluation, seconds", minimum=0.05
    )
    key_days: int = setting(90, "life of a key that signs verdicts, days", minimum=2, maximum=3_650)
