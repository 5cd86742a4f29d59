"""The bounds of the supervisor: how long a role may take, how often it may die, how much it may log.

Does not say which roles there are; that is `wiring`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """Section `supervisor`."""

    ready_timeout_s: float = setting(30.0, "Longest start of a role, in seconds.", minimum=0.1)
    engine_ready_timeout_s: float = setting(120.0, "Longest start of the engine, in seconds.", minimum=0.1)
    heartbeat_timeout_s: float = setting(10.0, "Silence after which a role counts as hung, in seconds.", minimum=0.5)
    backoff_first_s: float = setting(0.1, "Wait before the first restart of a role, in seconds.", minimum=0.01)
    backoff_max_s: float = setting(5.0, "Longest wait before a restart, in seconds.", minimum=0.01)
    healthy_after_s: float = setting(60.0, "Uptime that clears a role's record of deaths, in seconds.", minimum=0.1)
    deaths_max: int = setting(6, "Deaths inside the window that make a role `failed`.", minimum=1)
    deaths_window_s: float = setting(60.0, "The window in which deaths are counted, in seconds.", minimum=0.1)
    failed_retry_s: float = setting(30.0, "Wait between two tries of a failed role, in seconds.", minimum=0.1)
    state_push_s: float = setting(1.0, "Time between two pushes of the platform state to the roles, in seconds.")
    edge_drain_s: float = setting(30.0, "Longest drain of an edge, in seconds.", minimum=0.0)
    worker_drain_s: float = setting(15.0, "Longest drain of a worker, in seconds.", minimum=0.0)
    role_drain_s: float = setting(10.0, "Longest drain of any other role, in seconds.", minimum=0.0)
    dump_wait_s: float = setting(0.5, "Time that a hung role gets to write its stacks, in seconds.", minimum=0.0)
    leftover_wait_s: float = setting(3.0, "Time that a former supervisor's roles get to end, in seconds.", minimum=0.0)
    listen_backlog: int = setting(2048, "Connections that may wait for an edge.", minimum=1)
    log_file_bytes_max: int = setting(64 << 20, "Size at which a log file is rotated, in bytes.", minimum=4096)
    log_files_max: int = setting(7, "Log files kept.", minimum=1)
    log_line_bytes_max: int = setting(64 << 10, "Longest line taken from a role's output, in bytes.", minimum=256)
