"""The supervisor of all roles on one machine, the link of a role to it, and the data directory they share.

Invariants: no child outlives its supervisor but the store; one listening TCP socket a machine, bound here.
Knows no system: what a role runs is the command that `wiring` gives it.
"""

from interlock.foundation.paths import DataDirectory, write_private
from interlock.foundation.supervisor.children import RoleSpec
from interlock.foundation.supervisor.config import SupervisorConfig
from interlock.foundation.supervisor.counts import RoleCounts
from interlock.foundation.supervisor.link import RoleLink, listening_socket
from interlock.foundation.supervisor.logs import LogStream, RotatingFile
from interlock.foundation.supervisor.messages import PlatformState, Reason
from interlock.foundation.supervisor.options import ROLES, UpOptions, default_edge_workers, load_options, save_options
from interlock.foundation.supervisor.supervisor import Platform, Supervisor, serve_command
from interlock.foundation.supervisor.warm import WarmProcess

__all__ = [
    "ROLES",
    "DataDirectory",
    "LogStream",
    "Platform",
    "PlatformState",
    "Reason",
    "RoleCounts",
    "RoleLink",
    "RoleSpec",
    "RotatingFile",
    "Supervisor",
    "SupervisorConfig",
    "UpOptions",
    "WarmProcess",
    "default_edge_workers",
    "listening_socket",
    "load_options",
    "save_options",
    "serve_command",
    "write_private",
]
