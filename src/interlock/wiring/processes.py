"""The processes of one machine: the warm one, and what the roles forked from it are to be.

Starts no role; the supervisor does.
"""

from functools import partial

from interlock.foundation.config import Config
from interlock.foundation.supervisor import (
    DataDirectory,
    RoleSpec,
    SupervisorConfig,
    UpOptions,
    WarmProcess,
    serve_command,
)
from interlock.wiring.roles import serve


def warm_process(directory: DataDirectory) -> WarmProcess | None:
    """Fork off the process whose forks are the roles; called first of all, before there is a thread."""
    return WarmProcess.start(partial(serve, directory=directory), ("interlock.wiring.background",))


def role_specs(options: UpOptions, config: Config) -> list[RoleSpec]:
    """Return every process of the platform: which roles, how many of each, and how long each may take."""
    settings = config.section(SupervisorConfig)
    drains = {"edge": settings.edge_drain_s, "worker": settings.worker_drain_s}
    counts = {
        "control": 1, "scheduler": options.schedulers, "engine": 1, "edge": options.edge_workers,
        "worker": options.workers,
    }  # fmt: skip
    wanted = [role for role in counts if role in options.roles]
    if options.engine != "embedded":
        # Without an engine of ours there is nothing to serve; pools of other engines may be added at any time.
        wanted = [role for role in wanted if role != "engine"]
    return [
        RoleSpec(
            role,
            index,
            serve_command(role, index, options.directory),
            ready_timeout_s=settings.engine_ready_timeout_s if role == "engine" else settings.ready_timeout_s,
            drain_s=drains.get(role, settings.role_drain_s),
            wants_listener=role == "edge",
        )
        for role in wanted
        for index in range(counts[role])
    ]
