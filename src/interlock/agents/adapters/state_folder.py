"""Where the working copies of tasks lie: below the data directory, or in `/var/tmp` where a slot's uid cannot get in.

A cache: everything here can be rebuilt from rows and artifacts, and nothing here is looked at by anybody else.
"""

import hashlib
import os
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from interlock.agents.adapters.slots import FIRST_UID
from interlock.foundation.errors import BrokenWorldError

_ELSEWHERE: Final = Path("/var/tmp")  # noqa: S108 - the folder below it is checked to be ours
_PASSABLE: Final = 0o711
_PROBE_S: Final = 60


def state_folder(data: Path) -> Path:
    """Return the state folder of a data directory, made and checked. Raises `BrokenWorldError`."""
    inside = _ours(data / "agents")
    if os.geteuid() != 0 or _can_enter(inside):
        folder = inside
    else:
        name = hashlib.sha256(os.fsencode(os.path.realpath(data))).hexdigest()[:16]
        folder = _ours(_ELSEWHERE / f"interlock-{name}")
    _ours(folder / "tasks")
    _ours(folder / "bin")
    return folder


def _ours(folder: Path) -> Path:
    with suppress(FileExistsError):
        folder.mkdir(mode=_PASSABLE, parents=False)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise BrokenWorldError(
            "unsafe_state_folder", f"{folder} is not a folder of uid {os.geteuid()}", f"remove {folder}"
        )
    # The mode of a new folder is cut by the umask of whoever started us.
    folder.chmod(_PASSABLE)
    return folder


def _can_enter(folder: Path) -> bool:
    """Ask a child of a slot's uid, as only the kernel knows all of modes, lists and mounts."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program
            ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)],
            cwd="/", capture_output=True, timeout=_PROBE_S, check=False,
            user=FIRST_UID, group=FIRST_UID, extra_groups=[],
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
