"""The walk over a tree after a step: counts it, makes it readable again, removes what git cannot hold.

Only walks where nothing runs: the namespace that could move things meanwhile is empty by then.
"""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from interlock.agents.domain.paths import DEPTH_MAX, is_git_name
from interlock.agents.domain.types import LimitSet

_REMOVE_S: Final = 120


@dataclass(slots=True)
class Walked:
    """What a tree holds. `removed` counts git folders, pipes, sockets and devices that were taken out."""

    files: int = 0
    size_bytes: int = 0
    is_too_deep: bool = False
    removed: int = 0

    def excess(self, limits: LimitSet) -> str | None:
        """Say what is beyond the limits."""
        if self.is_too_deep:
            return f"folders are nested more than {DEPTH_MAX} deep"
        if self.files > limits.tree_files:
            return f"{self.files} files, {limits.tree_files} are allowed"
        if self.size_bytes > limits.tree_bytes:
            return f"{self.size_bytes} bytes, {limits.tree_bytes} are allowed"
        return None


def tidy(root: PurePath) -> Walked:
    """Walk a tree to its end, beyond any limit, as what is not walked could not be restored either."""
    walked = Walked()
    waiting = [(str(root), 0)]
    while waiting:
        folder, depth = waiting.pop()
        if depth > DEPTH_MAX:
            walked.is_too_deep = True
            continue
        for entry in _entries(folder):
            found = entry.stat(follow_symlinks=False)
            if _is_refused(entry.name, found.st_mode):
                remove(entry.path)
                walked.removed += 1
                continue
            _make_usable(entry.path, found.st_mode)
            if stat.S_ISDIR(found.st_mode):
                waiting.append((entry.path, depth + 1))
            else:
                walked.files += 1
                walked.size_bytes += found.st_size
    return walked


def give(root: PurePath, uid: int, gid: int) -> None:
    """Make everything below a folder, itself included, belong to a uid. Follows no link."""
    waiting = [str(root)]
    os.chown(root, uid, gid, follow_symlinks=False)
    while waiting:
        for entry in _entries(waiting.pop()):
            found = entry.stat(follow_symlinks=False)
            if (found.st_uid, found.st_gid) != (uid, gid):
                os.chown(entry.path, uid, gid, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                waiting.append(entry.path)


def remove(path: str | PurePath) -> None:
    """Remove a file, a link or a whole folder, however deep; what stays raises `OSError`."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            Path(path).unlink()
            return
        # The program goes down by descriptors; Python's own recursion ends at a depth that an agent can reach.
        subprocess.run(  # noqa: S603 - a fixed program
            ["/bin/rm", "-rf", "--one-file-system", "--", str(path)],
            capture_output=True, timeout=_REMOVE_S, check=False,
        )  # fmt: skip
        if os.path.lexists(path):
            shutil.rmtree(path)


def empty(folder: PurePath) -> None:
    """Remove all that is in a folder."""
    for entry in _entries(str(folder)):
        remove(entry.path)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from list(entries)
    except OSError:
        # A path longer than the kernel takes; the depth tells of it.
        return


def _is_refused(name: str, mode: int) -> bool:
    if is_git_name(name):
        # A repository in the tree becomes a link to a commit that nobody has, and its files are lost.
        return True
    if stat.S_ISLNK(mode):
        return name.lower() == ".gitmodules"
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _make_usable(path: str, mode: int) -> None:
    """Let the owner read again what the agent closed to itself; git keeps no more of a mode than the x bit."""
    wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
    if not stat.S_ISLNK(mode) and mode & wanted != wanted:
        Path(path).chmod(stat.S_IMODE(mode) | wanted)
