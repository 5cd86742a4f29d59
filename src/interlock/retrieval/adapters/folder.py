"""A folder of files as a source: its files by pattern, its OWNERS files, and nothing that lies outside of it.

Follows no link. Decides nothing about access beyond reading what the files say.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pathspec
import yaml

from interlock.retrieval.domain.owners import (
    ALIASES_FILE,
    FILE,
    MalformedOwnersError,
    Owners,
    parse_aliases,
    parse_owners,
)
from interlock.retrieval.domain.paths import ROOT

ESCAPE: Final = "path_escape"
_OWNERS_BYTES_MAX: Final = 1 << 20
_MEDIA_TYPES: Final = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
}


class FolderAwayError(Exception):
    """The folder is not there or may not be read."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that the patterns take; `path` is below the root, `folder` is its container."""

    path: str
    folder: str
    media_type: str


@dataclass(slots=True)
class FoundTree:
    """Everything that one walk saw. `owners` is by folder below the root, `""` for the root itself.

    `unreadable` are folders whose OWNERS file is malformed, all of them where the aliases are.
    """

    files: list[FoundFile] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    owners: dict[str, Owners] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    aliases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)
    skipped: int = 0


class FolderReader:
    """One root with its patterns."""

    def __init__(self, root: Path, include: Sequence[str], *, has_owners: bool, file_bytes_max: int) -> None:
        self._root = root
        self._include = pathspec.PathSpec.from_lines("gitignore", include)
        self._has_owners = has_owners
        self._bytes_max = file_bytes_max

    def walk(self) -> FoundTree:
        """List the tree. Raises `FolderAwayError`."""
        tree = FoundTree()
        try:
            if not stat.S_ISDIR(self._root.lstat().st_mode):
                raise FolderAwayError(str(self._root))
            for at, folders, files, descriptor in os.fwalk(self._root, follow_symlinks=False, onerror=_raise):
                folders.sort()
                self._look(tree, Path(at), sorted(files), descriptor)
                self._links(tree, Path(at), folders, descriptor)
        except OSError as error:
            raise FolderAwayError(type(error).__name__) from error
        return tree

    def read(self, path: str) -> bytes | None:
        """Return a file, no link on its way followed; None where it is none any more, or is too large."""
        try:
            descriptor = self._open(path)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            content = opened.read(self._bytes_max + 1)
        return content if len(content) <= self._bytes_max else None

    def _open(self, path: str) -> int:
        """Open step by step, so that a folder which becomes a link meanwhile leads nowhere."""
        *above, name = path.split("/")
        at = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for part in above:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = inner
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
        finally:
            os.close(at)

    def _look(self, tree: FoundTree, at: Path, files: Sequence[str], descriptor: int) -> None:
        below = "" if at == self._root else at.relative_to(self._root).as_posix()
        tree.folders.append(below)
        for name in files:
            path = f"{below}/{name}" if below else name
            if self._has_owners and name == FILE:
                self._take_owners(tree, below, path)
                continue
            if self._has_owners and name == ALIASES_FILE:
                if not below:
                    self._take_aliases(tree, path)
                continue
            if not self._include.match_file(path):
                continue
            self._take(tree, path, below, os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)

    def _take(self, tree: FoundTree, path: str, below: str, mode: int) -> None:
        if stat.S_ISREG(mode) and path.isprintable():
            media_type = _MEDIA_TYPES.get(Path(path).suffix.lower(), "text/plain")
            tree.files.append(FoundFile(path, container_of(below), media_type))
        elif stat.S_ISLNK(mode) and self._is_inside(path):
            # What it names lies in the tree and is listed at its own place.
            tree.skipped += 1
        else:
            tree.errors.append((path[:200], ESCAPE))
            tree.skipped += 1

    def _links(self, tree: FoundTree, at: Path, folders: Sequence[str], descriptor: int) -> None:
        for name in folders:
            if not stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                continue
            path = (at / name).relative_to(self._root).as_posix()
            tree.skipped += 1
            if not self._is_inside(path):
                tree.errors.append((path[:200], ESCAPE))

    def _is_inside(self, path: str) -> bool:
        root = self._root.resolve()
        return root in (self._root / path).resolve().parents

    def _take_owners(self, tree: FoundTree, below: str, path: str) -> None:
        try:
            tree.owners[below] = parse_owners(self._yaml(path))
        except MalformedOwnersError:
            tree.unreadable.add(below)
            tree.errors.append((path[:200], "acl_unreadable"))

    def _take_aliases(self, tree: FoundTree, path: str) -> None:
        try:
            tree.aliases = parse_aliases(self._yaml(path))
        except MalformedOwnersError:
            # Who is in a group is unknown, and the groups may be named anywhere.
            tree.unreadable.add("")
            tree.errors.append((path[:200], "acl_unreadable"))

    def _yaml(self, path: str) -> Any:
        content = self.read(path)
        if content is None or len(content) > _OWNERS_BYTES_MAX:
            raise MalformedOwnersError(path)
        try:
            return yaml.load(content, _PlainLoader)  # noqa: S506 - a safe loader that also refuses references
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise MalformedOwnersError(path) from error


class _PlainLoader(yaml.SafeLoader):
    """Refuses references to earlier parts, by which a small file becomes a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a reference")
        return super().compose_node(parent, index)


def container_of(below: str) -> str:
    """Return the container of a folder below the root."""
    return f"/{below}" if below else ROOT


def chain_of(tree: FoundTree, below: str) -> Iterator[tuple[str, Owners]]:
    """Yield the OWNERS files from a folder up to the root."""
    while True:
        if below in tree.owners:
            yield below, tree.owners[below]
        if not below:
            return
        below = below.rpartition("/")[0]


def is_unreadable(tree: FoundTree, below: str) -> bool:
    """Tell whether a malformed file stands above, with no break between."""
    while True:
        if below in tree.unreadable:
            return True
        if not below:
            return False
        if below in tree.owners and tree.owners[below].is_break and "" not in tree.unreadable:
            return False
        below = below.rpartition("/")[0]


def _raise(error: OSError) -> None:
    raise error
