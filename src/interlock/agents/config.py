"""Bounds of tasks, of their legs and of what they may ask for.

Reads nothing by itself; `foundation.config.load` fills it as section `agents`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class AgentsConfig:
    """Section `agents`."""

    queued_workspace_max: int = setting(200, "Queued tasks of one workspace.", minimum=1, maximum=100_000)
    queued_organization_max: int = setting(1_000, "Queued tasks of one organization.", minimum=1, maximum=1_000_000)
    streams_max: int = setting(50, "Open event streams of one workspace.", minimum=1, maximum=10_000)
    goal_bytes_max: int = setting(32 << 10, "Longest goal, bytes.", minimum=1, maximum=1 << 20)
    tokens_max: int = setting(20_000_000, "Largest token budget that may be asked for.", minimum=1)
    usd_micros_max: int = setting(100_000_000, "Largest money budget, millionths of a dollar.", minimum=1)
    steps_max: int = setting(5_000, "Largest budget of steps.", minimum=1, maximum=1_000_000)
    tool_seconds_max: int = setting(86_400, "Largest budget of tool time, seconds.", minimum=1, maximum=604_800)
    deadline_s_max: int = setting(604_800, "Latest deadline, seconds from the submission.", minimum=1, maximum=604_800)
    approval_s: int = setting(86_400, "Life of an open approval, seconds.", minimum=1, maximum=2_592_000)
    four_eyes: bool = setting(False, "Whether the submitter of a task may not approve its steps.")
    leg_steps: int = setting(
        50, "Steps after which a leg makes room for others that are due.", minimum=1, maximum=10_000
    )
    leg_s: float = setting(300.0, "Seconds after which a leg makes room for others.", minimum=0.1, maximum=86_400)
    lease_s: float = setting(15.0, "Life of a lease without a heartbeat, seconds.", minimum=1, maximum=300)
    model_tries: int = setting(3, "Tries of one model call.", minimum=1, maximum=10)
    model_timeout_s: float = setting(120.0, "Longest single model call, seconds.", minimum=1, maximum=3_600)
    output_tokens: int = setting(8_192, "Most tokens of one answer.", minimum=256, maximum=1_000_000)
    credential_s: float = setting(
        120.0, "Life of a task's lent key, renewed while it works.", minimum=10, maximum=3_600
    )
    inline_bytes: int = setting(2_048, "Arguments and results longer than this go to the artifact store.", minimum=256)
    diff_bytes_max: int = setting(1 << 20, "Longest diff that is shown, bytes.", minimum=1_024)
    sweep_s: float = setting(0.5, "Pause between two looks for passed deadlines, seconds.", minimum=0.05, maximum=60)
    events_kept_s: float = setting(
        2_592_000.0, "Age at which the events of a task that is over are deleted, seconds.", minimum=60
    )
    claims_max: int = setting(
        20, "Legs of a task that may end without a step before it fails.", minimum=2, maximum=1_000
    )
