"""Calls the git program on a task's folders so that nothing which a tree brings along is run or obeyed.

Knows no steps and no tasks. Git runs as the uid that owns the tree, so what it writes stays the agent's to edit.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Final

from interlock.agents.adapters.processes import Ended, run_as
from interlock.agents.domain.types import Place

IDENTITY: Final = {
    "GIT_AUTHOR_NAME": "interlock agent",
    "GIT_AUTHOR_EMAIL": "agent@interlock.invalid",
    "GIT_COMMITTER_NAME": "interlock agent",
    "GIT_COMMITTER_EMAIL": "agent@interlock.invalid",
}
# Git has no switch for attributes; this file of the git folder wins over those of the tree.
ATTRIBUTES: Final = "* -text -filter -ident -working-tree-encoding -eol -diff -merge\n"
EXCLUDED: Final = "__pycache__/\n*.pyc\n.pytest_cache/\n.mypy_cache/\n"
_PINNED: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.excludesFile": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.symlinks": "true",
    "core.fileMode": "true",
    "core.trustctime": "true",
    # Names that only other systems fold would make `add` fail as a whole.
    "core.protectNTFS": "false",
    "core.protectHFS": "false",
    "core.bigFileThreshold": "32m",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "submodule.recurse": "false",
    "commit.gpgSign": "false",
    "advice.detachedHead": "false",
}
_LIMITS: Final = ("/usr/bin/prlimit", "--as=2147483648", "--cpu=60", "--fsize=1073741824", "--core=0", "--")
_NO_SPACE: Final = b"No space left on device"


class GitError(RuntimeError):
    """Git failed where it should not."""

    def __init__(self, args: tuple[str, ...], exit_code: int, complaint: bytes) -> None:
        self.is_disk_full = _NO_SPACE in complaint
        # Without the paths of this machine, so that it can be told to a stranger.
        self.kind = re.sub(r"'/[^']*'", "it", complaint.decode("utf-8", "replace").strip().partition("\n")[0])[:200]
        text = complaint.decode("utf-8", "replace").strip()[:400]
        super().__init__(f"git {args[0]} ended with {exit_code}: {text}")


class Git:
    """The git folder of one place; every method is one program or a few."""

    def __init__(self, place: Place, program: str) -> None:
        self._place = place
        self._program = program

    async def run(
        self,
        *args: str,
        content: bytes = b"",
        extra: Mapping[str, str] | None = None,
        folder: PurePath | None = None,
    ) -> bytes:
        """Run a git command and return its output. Raises `GitError`."""
        environment = {**_environment(self._place), **(extra or {})}
        argv = [*_LIMITS, self._program, *args]
        ended = await self._ended(argv, environment, content, folder or self._place.work)
        if ended.exit_code:
            raise GitError(args, ended.exit_code, ended.complaint)
        return ended.output

    async def script(
        self, text: str, *args: str, content: bytes = b"", extra: Mapping[str, str] | None = None
    ) -> bytes:
        """Run several git commands as one program, which spares a start for each. In `text`, `$git` is the program.

        The first command that fails ends it. Raises `GitError`.
        """
        environment = {**_environment(self._place), **(extra or {}), "git": self._program}
        argv = [*_LIMITS, "/bin/sh", "-euc", text, "git", *args]
        ended = await self._ended(argv, environment, content, self._place.work)
        if ended.exit_code:
            raise GitError(("script",), ended.exit_code, ended.complaint)
        return ended.output

    async def _ended(self, argv: list[str], environment: Mapping[str, str], content: bytes, folder: PurePath) -> Ended:
        try:
            return await run_as(self._place.slot, argv, environment=environment, content=content, folder=folder)
        except BaseException:
            clear_locks(self._place.git)
            raise

    async def line(self, *args: str, content: bytes = b"", extra: Mapping[str, str] | None = None) -> str:
        """Run a git command that answers with one line, such as an id."""
        return (await self.run(*args, content=content, extra=extra)).decode().strip()


def clear_locks(git: PurePath) -> None:
    """Remove what a git that was killed holds for ever; only for who alone works on the folder."""
    for folder in (Path(git), *(each for each in Path(git, "refs").rglob("*") if each.is_dir())):
        for lock in folder.glob("*.lock"):
            lock.unlink(missing_ok=True)


def _environment(place: Place) -> dict[str, str]:
    made = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_DIR": str(place.git),
        "GIT_WORK_TREE": str(place.work),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_CONFIG_COUNT": str(len(_PINNED)),
    }
    for number, (name, value) in enumerate(_PINNED.items()):
        made[f"GIT_CONFIG_KEY_{number}"] = name
        made[f"GIT_CONFIG_VALUE_{number}"] = value
    return made
