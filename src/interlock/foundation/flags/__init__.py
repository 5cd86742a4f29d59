"""Flags, kill switches, and how every process learns of a change within a second.

Entry points: `bump` and `ChangeFeed` (changes), `KillSwitches` and `KillService`, `FlagBook` and `FlagService`,
`Snapshot` (start state on disk). Invariants: a switch only ever stops; an unknown state keeps the last known.
"""

from interlock.foundation.flags.config import FlagsConfig
from interlock.foundation.flags.domain.flags import BASIS_POINTS, BETA, Evaluation, Flag, FlagSpec
from interlock.foundation.flags.domain.kills import Kill, KillBoard, KillMode, KillScope
from interlock.foundation.flags.feed import ChangeFeed, bump
from interlock.foundation.flags.provider import FlagBook, FlagProvider
from interlock.foundation.flags.routes import FlagBody, asked_flag, kill_json
from interlock.foundation.flags.service import FlagGuard, FlagService, KillService, Propagation
from interlock.foundation.flags.snapshot import Snapshot
from interlock.foundation.flags.store import load_flags
from interlock.foundation.flags.switches import KillSwitches, open_local, seal_local

__all__ = [
    "BASIS_POINTS", "BETA", "ChangeFeed", "Evaluation", "Flag", "FlagBody", "FlagBook", "FlagGuard", "FlagProvider",
    "FlagService", "FlagSpec", "FlagsConfig", "Kill", "KillBoard", "KillMode", "KillScope", "KillService",
    "KillSwitches", "Propagation", "Snapshot", "asked_flag", "bump", "kill_json", "load_flags", "open_local",
    "seal_local",
]  # fmt: skip
