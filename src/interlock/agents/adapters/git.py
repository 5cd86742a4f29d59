"""The trees of a task as git keeps them: one bare folder outside of the mount, one commit a step.

Merges nothing and talks to no remote. Every id is git's own, so what is kept can be checked by any git.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

from interlock.agents.adapters.files import TreeFiles
from interlock.agents.adapters.git_cli import ATTRIBUTES, EXCLUDED, IDENTITY, Git, GitError, clear_locks
from interlock.agents.adapters.tree_walk import empty, give, remove, tidy
from interlock.agents.domain.paths import first_unsafe, link_escapes, protected_by
from interlock.agents.domain.ports import Commit, Export
from interlock.agents.domain.types import (
    Base,
    BundleRepo,
    Change,
    EmptyRepo,
    FilesRepo,
    LimitSet,
    Patch,
    Place,
    RepoRefused,
    RepoSpec,
    Slot,
    Snapshot,
    TreeDiff,
    TreeRefused,
)
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.ids import IdFactory
from interlock.foundation.redaction import Redactor

FILES_BYTES_MAX: Final = 1 << 20
BUNDLE_BYTES_MAX: Final = 16 << 20
# Checks of repositories run no agent, so they need no slot; they only must not be ours.
CHECK_UID: Final = 63_999
_EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_BASE_DATE: Final = "@946684800 +0000"
_STEP_REF: Final = re.compile(r"refs/steps/\d{1,9}")
_TASK: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LISTED: Final = ("diff-tree", "-r", "-z", "--no-renames", "--name-status")
_KEEP: Final = """\
"$git" add -A </dev/null
tree=$("$git" write-tree </dev/null)
commit=$("$git" commit-tree "$tree" -p "$1")
"$git" update-ref "$2" "$commit"
echo "$tree $commit"
"$git" diff-tree -r -z --no-renames --name-status "$1" "$commit"
"""
_RESTORE: Final = """\
"$git" read-tree -u --reset "$1"
"$git" clean -ffdxq
"""
_LINK, _GITLINK = "120000", "160000"


class GitTrees:
    """Implements `ports.Trees` in a state folder."""

    def __init__(self, state: Path, ids: IdFactory, limits: LimitSet | None = None) -> None:
        """Raises `BrokenWorldError` `git_not_found` where there is no git."""
        program = shutil.which("git", path="/usr/local/bin:/usr/bin:/bin")
        if program is None:
            raise BrokenWorldError("git_not_found", "there is no git program", "install git (>= 2.38)")
        self._program = program
        self._tasks = state / "tasks"
        self._ids = ids
        self._limits = limits or LimitSet()

    def place(self, task: str, slot: Slot) -> Place:
        """Return the folders of a task."""
        if not _TASK.fullmatch(task):
            raise ValueError(task)
        return Place(PurePath(self._tasks / task), slot)

    async def check(self, repo: RepoSpec) -> Base | RepoRefused:
        """Make the tree somewhere else and throw it away."""
        uid = CHECK_UID if os.geteuid() == 0 else os.geteuid()
        place = self.place(f"check-{self._ids.new()}", Slot(-1, uid, uid if os.geteuid() == 0 else os.getegid()))
        try:
            return await self.create(place, repo)
        finally:
            await self.remove(place)

    async def create(self, place: Place, repo: RepoSpec) -> Base | RepoRefused:
        """Make the folders anew, with the base as `refs/steps/0`."""
        refused = _refused_at_sight(repo)
        if refused is not None:
            return refused
        await self._make_folders(place)
        git = self._git(place)
        match repo:
            case BundleRepo(content):
                found = await self._unpacked(place, content)
                if isinstance(found, RepoRefused):
                    return found
                commit = found
                await self.restore(place, commit)
            case FilesRepo(files):
                await asyncio.to_thread(_write_files, place, files)
                await git.run("add", "-A", "-f")
                commit = await self._base_commit(git)
            case EmptyRepo():
                commit = await self._base_commit(git)
        await git.run("update-ref", "refs/steps/0", commit)
        return Base(commit, await git.line("rev-parse", f"{commit}^{{tree}}"))

    async def adopt(self, place: Place) -> None:
        """Give the folders to the slot that works now, without the locks of a git that died with its worker."""
        await asyncio.to_thread(clear_locks, place.git)
        if os.geteuid() == 0:
            await asyncio.to_thread(give, place.root, place.slot.uid, place.slot.gid)

    async def has(self, place: Place, commit: str) -> bool:
        """Ask git for the commit and all that it needs."""
        if not _is_here(place):
            return False
        try:
            await self._git(place).run("rev-list", "--objects", "--quiet", commit)
        except GitError:
            return False
        return True

    async def snapshot(self, place: Place, commit: Commit) -> Snapshot | TreeRefused:
        """Commit the tree as it is."""
        walked = await asyncio.to_thread(tidy, place.work)
        excess = walked.excess(self._limits)
        if excess is not None:
            return TreeRefused("tree_too_large", excess)
        git = self._git(place)
        seconds = commit.at_us // 1_000_000
        date = f"@{seconds} +0000"
        extra = {**IDENTITY, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        lines = "\n".join(f"{name}: {value}" for name, value in commit.trailers.items())
        message = f"Step {commit.step}\n\n{lines}\n".encode()
        ref = f"refs/steps/{commit.step}"
        try:
            told = await git.script(_KEEP, commit.parent, ref, content=message, extra=extra)
        except GitError as error:
            if error.is_disk_full:
                return TreeRefused("disk_full", str(error))
            raise
        ids, _, listed = told.partition(b"\n")
        tree, made = ids.decode().split()
        return Snapshot(made, tree, _changes(listed))

    async def restore(self, place: Place, tree: str) -> None:
        """Check a tree out; where that fails, as on paths too long for git, begin with an empty folder."""
        await asyncio.to_thread(tidy, place.work)
        git = self._git(place)
        try:
            await git.script(_RESTORE, tree)
        except GitError as error:
            if error.is_disk_full:
                raise
            await asyncio.to_thread(empty, place.work)
            await git.run("read-tree", "--empty")
            await git.run("read-tree", "-u", "--reset", tree)

    async def point(self, place: Place, branch: str, commit: str) -> None:
        """Move a branch."""
        await self._git(place).run("update-ref", f"refs/heads/{branch}", commit)

    async def diff(self, place: Place, before: str, after: str) -> TreeDiff:
        """Compare two trees."""
        return _changes(await self._git(place).run(*_LISTED, before, after))

    async def patch(self, place: Place, before: str, after: str, bytes_max: int) -> Patch:
        """Write the difference: text where both sides are text, else in git's own binary form."""
        git = self._git(place)
        common = (
            "diff-tree",
            "-p",
            "-r",
            "--full-index",
            "--no-renames",
            "--no-color",
            "--no-textconv",
            "--no-ext-diff",
        )
        # The attributes call every file binary, so that no tree chooses how its files are compared.
        made = await git.run(*common, "--text", before, after)
        if not _is_text(made):
            made = b""
            for path in sorted((await self.diff(place, before, after)).paths):
                one = await git.run(*common, "--text", before, after, "--", path)
                made += one if _is_text(one) else await git.run(*common, "--binary", before, after, "--", path)
        return Patch(made[:bytes_max].decode("utf-8", "ignore"), is_cut=len(made) > bytes_max)

    async def export(self, place: Place, export: Export) -> PurePath:
        """Write a tree with its protected paths as they were at the base, and files of the check over it."""
        name = str(self._ids.new())
        folder, index = place.scratch / name, place.scratch / f"{name}.index"
        await asyncio.to_thread(_make, folder, place.slot)
        git = self._git(place)
        extra = {"GIT_INDEX_FILE": str(index)}
        try:
            await git.run("read-tree", export.tree, extra=extra)
            changes = await self._protected(git, export)
            if changes:
                await git.run("update-index", "--replace", "-z", "--index-info", content=changes, extra=extra)
            await git.run("checkout-index", "-a", "-f", "-q", f"--prefix={folder}/", extra=extra)
        finally:
            await asyncio.to_thread(remove, index)
        await asyncio.to_thread(_lay, TreeFiles(folder, place.slot), export)
        return folder

    async def holds_secret(self, place: Place, diff: TreeDiff, after: str, redactor: Redactor) -> str | None:
        """Look into what a step wrote: what is committed would leave with the branch."""
        git = self._git(place)
        for change in diff.changes:
            if redactor.holds_known(change.path):
                return change.path
            if change.status == "D":
                continue
            content = await git.run("cat-file", "blob", f"{after}:{change.path}")
            # Bytes as characters, one for one: a secret has the same form in a file that is no text.
            if await asyncio.to_thread(redactor.holds_known, content.decode("latin-1")):
                return change.path
        return None

    async def discard(self, place: Place, folder: PurePath) -> None:
        """Remove a folder below `scratch`."""
        if folder.parent != place.scratch:
            raise ValueError(folder)
        await asyncio.to_thread(_discard, folder)

    async def bundle(self, place: Place, step: int, since: str | None) -> bytes:
        """Pack a step; empty where it added no commit."""
        ref = f"refs/steps/{step}"
        git = self._git(place)
        if since is not None and await git.line("rev-parse", ref) == since:
            return b""
        # Git refuses an empty bundle; it also takes no name twice, so the past is left out by its commit.
        return await git.run("bundle", "create", "-q", "-", ref, *([f"^{since}"] if since else []))

    async def apply(self, place: Place, bundle: bytes) -> None:
        """Take the steps of a bundle in; empty bytes hold none."""
        if not bundle:
            return
        if not _is_here(place):
            await self._make_folders(place)
        git = self._git(place)
        for commit, ref in await self._unbundled(place, bundle):
            if _STEP_REF.fullmatch(ref):
                await git.run("update-ref", ref, commit)

    async def bundle_branch(self, place: Place, branch: str, commit: str) -> bytes:
        """Pack a branch with its history."""
        await self.point(place, branch, commit)
        return await self._git(place).run("bundle", "create", "-q", "-", f"refs/heads/{branch}")

    async def remove(self, place: Place) -> None:
        """Remove all folders of a task."""
        await asyncio.to_thread(remove, place.root)

    def _git(self, place: Place) -> Git:
        return Git(place, self._program)

    async def _make_folders(self, place: Place) -> None:
        await self.remove(place)
        await asyncio.to_thread(_make_all, place)
        git = self._git(place)
        await git.run("init", "-q", "--template=", "--initial-branch=base")
        await asyncio.to_thread(_pin, place)

    async def _base_commit(self, git: Git) -> str:
        """Commit the index with a date of its own, so that the same files give the same commit on every machine."""
        tree = await git.line("write-tree")
        extra = {**IDENTITY, "GIT_AUTHOR_DATE": _BASE_DATE, "GIT_COMMITTER_DATE": _BASE_DATE}
        return await git.line("commit-tree", tree, content=b"Base\n", extra=extra)

    async def _unpacked(self, place: Place, content: bytes) -> str | RepoRefused:
        """Take a stranger's bundle in and return its base commit."""
        git = self._git(place)
        try:
            refs = await self._unbundled(place, content)
            commit = _base_of(refs)
            if commit is None:
                return RepoRefused("repo_invalid", "The bundle has no branch to begin with.")
            await git.run("update-ref", "refs/steps/0", commit)
            await git.run("fsck", "--strict", "--no-dangling", "--no-progress")
            listed = await git.run("ls-tree", "-r", "-l", "-z", commit)
        except GitError as error:
            return RepoRefused("repo_invalid", f"Git does not take the bundle: {error.kind}.")
        return await self._refused_tree(git, listed) or commit

    async def _unbundled(self, place: Place, content: bytes) -> list[tuple[str, str]]:
        path = place.scratch / f"{self._ids.new()}.bundle"
        try:
            await asyncio.to_thread(_write_for, path, content, place.slot)
            # Not `fetch`, which has to be allowed to read from paths for it.
            told = await self._git(place).run("bundle", "unbundle", str(path))
        finally:
            await asyncio.to_thread(remove, path)
        pairs = [line.split(" ", 1) for line in told.decode("utf-8", "replace").splitlines()]
        return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]

    async def _refused_tree(self, git: Git, listed: bytes) -> RepoRefused | None:
        """Check what a bundle would write, before it does."""
        total = files = 0
        for entry in listed.split(b"\0")[:-1]:
            meta, _, raw = entry.partition(b"\t")
            mode, _, blob, size = meta.decode().split()
            path = os.fsdecode(raw)
            if mode == _GITLINK:
                return RepoRefused("repo_invalid", "The repository has a submodule.", {"path": path})
            if mode == _LINK and link_escapes(path, os.fsdecode(await git.run("cat-file", "blob", blob))):
                return RepoRefused("unsafe_path", "A link leads out of the tree.", {"path": path})
            total, files = total + int(size), files + 1
        if total > self._limits.tree_bytes:
            return _too_large(total, self._limits.tree_bytes)
        if files > self._limits.tree_files:
            return _too_large(files, self._limits.tree_files)
        return None

    async def _protected(self, git: Git, export: Export) -> bytes:
        """Return index lines that put the protected paths of a tree back to those of the base."""
        if not export.protect:
            return b""
        mine = await git.run("ls-tree", "-r", "-z", export.tree)
        base = await git.run("ls-tree", "-r", "-z", export.base)
        gone = [path for path, _ in _entries(mine) if protected_by(export.protect, os.fsdecode(path))]
        back = [(path, meta) for path, meta in _entries(base) if protected_by(export.protect, os.fsdecode(path))]
        lines = [b"0 " + b"0" * 40 + b"\t" + path for path in gone]
        return b"".join(line + b"\0" for line in (*lines, *(meta + b"\t" + path for path, meta in back)))


def _changes(listed: bytes) -> TreeDiff:
    fields = listed.split(b"\0")[:-1]
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return TreeDiff(tuple(Change(os.fsdecode(path), status.decode()) for status, path in pairs))


def _entries(listed: bytes) -> list[tuple[bytes, bytes]]:
    pairs = (entry.partition(b"\t") for entry in listed.split(b"\0")[:-1])
    return [(path, meta) for meta, _, path in pairs]


def _refused_at_sight(repo: RepoSpec) -> RepoRefused | None:
    match repo:
        case FilesRepo(files):
            unsafe = first_unsafe(files)
            if unsafe is not None:
                return RepoRefused("unsafe_path", "The path is not inside the tree.", {"path": unsafe[:200]})
            size = sum(len(text.encode("utf-8", "surrogatepass")) for text in files.values())
            return _too_large(size, FILES_BYTES_MAX) if size > FILES_BYTES_MAX else None
        case BundleRepo(content):
            return _too_large(len(content), BUNDLE_BYTES_MAX) if len(content) > BUNDLE_BYTES_MAX else None
        case EmptyRepo():
            return None


def _too_large(size: int, limit: int) -> RepoRefused:
    return RepoRefused("repo_too_large", "The repository is over the limit.", {"limit": limit, "size": size})


def _base_of(refs: Sequence[tuple[str, str]]) -> str | None:
    """Choose HEAD, else the only branch, else main or master."""
    named = {ref: commit for commit, ref in refs}
    branches = [ref for ref in named if ref.startswith("refs/heads/")]
    for ref in ("HEAD", *(branches if len(branches) == 1 else ()), "refs/heads/main", "refs/heads/master"):
        if ref in named:
            return named[ref]
    return None


def _is_text(content: bytes) -> bool:
    if b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_here(place: Place) -> bool:
    return Path(place.git / "objects").is_dir() and Path(place.work).is_dir() and Path(place.scratch).is_dir()


def _make_all(place: Place) -> None:
    for folder in (place.root, place.git, place.work, place.scratch):
        _make(folder, place.slot)


def _make(folder: PurePath, slot: Slot) -> None:
    Path(folder).mkdir(mode=0o700)
    os.chown(folder, slot.uid, slot.gid)


def _pin(place: Place) -> None:
    info = place.git / "info"
    Path(info).mkdir(mode=0o700, exist_ok=True)
    os.chown(info, place.slot.uid, place.slot.gid)
    _write_for(info / "attributes", ATTRIBUTES.encode(), place.slot)
    _write_for(info / "exclude", EXCLUDED.encode(), place.slot)


def _write_for(path: PurePath, content: bytes, slot: Slot) -> None:
    Path(path).write_bytes(content)
    os.chown(path, slot.uid, slot.gid)


def _write_files(place: Place, files: Mapping[str, str]) -> None:
    tree = TreeFiles(place.work, place.slot)
    for path, text in files.items():
        tree.write(path, text.encode("utf-8", "surrogatepass"))


def _lay(tree: TreeFiles, export: Export) -> None:
    for path, text in export.files.items():
        tree.lay(path, text.encode("utf-8", "surrogatepass"))


def _discard(folder: PurePath) -> None:
    tidy(folder)
    remove(folder)
