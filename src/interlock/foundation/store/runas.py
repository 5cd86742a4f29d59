"""As whom PostgreSQL runs, which refuses uid 0: ourselves, an unprivileged uid, or that uid in a user namespace.

Changes no mode and no owner of a folder that it did not make.
"""

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.store.binaries import Binaries, copied

UNPRIVILEGED: Final = 65534
_PROBE_S: Final = 60


@dataclass(frozen=True, slots=True)
class RunAs:
    """How a program of the store is started. `uid` owns its files as seen from here."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()
    is_dropped: bool = False

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for `subprocess` that go with `prefix`."""
        if not self.is_dropped:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def ourselves() -> RunAs:
    """Run as the caller, who is not root."""
    return RunAs(os.geteuid(), os.getegid())


def choose(pg: Path, binaries: Binaries) -> tuple[RunAs, Binaries]:
    """Return as whom the store of folder `pg` runs, and its binaries, copied where that user cannot read them.

    `pg` exists or will be made by the caller. Raises `BrokenWorldError` `store_root_refused`.
    """
    if os.geteuid() != 0:
        return ourselves(), binaries
    owner = _owner_of_cluster(pg)
    if owner in {None, UNPRIVILEGED}:
        dropped = RunAs(UNPRIVILEGED, UNPRIVILEGED, is_dropped=True)
        if _can_reach(dropped, pg.parent):
            if not _can_run(dropped, binaries):
                make_private_folder(pg, dropped)
                binaries = copied(binaries, pg / f"bin-{binaries.version}")
            if _can_run(dropped, binaries):
                return dropped, binaries
    if owner in {None, 0}:
        mapped = _namespaced()
        if mapped and _can_run(mapped, binaries):
            return mapped, binaries
    raise BrokenWorldError(
        "store_root_refused",
        f"PostgreSQL refuses to run as root, and uid {UNPRIVILEGED} cannot reach {pg.parent}",
        f"run as a user, or let others pass through every folder above {pg.parent} (chmod o+x)",
    )


def make_private_folder(folder: Path, who: RunAs) -> None:
    """Make a folder of the store's user, mode 0700. Raises `BrokenWorldError` where something else is there."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != who.uid:
            raise BrokenWorldError(
                "unsafe_data_directory",
                f"{folder} is not a folder of uid {who.uid}",
                "remove it or choose another --data",
            ) from None
        return
    give(folder, who)


def give(path: Path, who: RunAs) -> None:
    """Hand something that we made to the store's user."""
    if path.stat().st_uid != who.uid:
        os.chown(path, who.uid, who.gid)


def _owner_of_cluster(pg: Path) -> int | None:
    try:
        return (pg / "data").stat().st_uid
    except OSError:
        return None


def _namespaced() -> RunAs | None:
    program = shutil.which("unshare")
    if program is None:
        return None
    mapping = (program, "-U", f"--map-user={UNPRIVILEGED}", f"--map-group={UNPRIVILEGED}", "--")
    return RunAs(0, 0, prefix=mapping)


def _can_reach(who: RunAs, folder: Path) -> bool:
    """Ask a child of that uid, as only the kernel knows all of modes, lists and mounts."""
    return _succeeds(who, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)])


def _can_run(who: RunAs, binaries: Binaries) -> bool:
    programs = (binaries.postgres, binaries.initdb)
    return all(_succeeds(who, [str(program), "--version"]) for program in programs)


def _succeeds(who: RunAs, command: list[str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program
            [*who.prefix, *command], cwd="/", capture_output=True, timeout=_PROBE_S, check=False, **who.options()
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
