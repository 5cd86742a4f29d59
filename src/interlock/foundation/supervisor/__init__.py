"""The supervisor of all roles on one machine, the link of a role to it, and the data directory they share.

Invariants: no child outlives its supervisor but the store; one listening TCP socket a machine, bound here.
Knows no system: what a role runs is the command that `wiring` gives it.
"""

from interlock.foundation.supervisor.link import RoleLink, listening_socket
from interlock.foundation.supervisor.messages import PlatformState, Reason
from interlock.foundation.supervisor.paths import DataDirectory

__all__ = ["DataDirectory", "PlatformState", "Reason", "RoleLink", "listening_socket"]
