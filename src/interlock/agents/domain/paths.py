"""Which paths a repository may have, and how globs name them.

Pure: looks at no file. A path is relative, with `/` between its parts.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

PATH_CHARS_MAX: Final = 1_000
PART_BYTES_MAX: Final = 255
DEPTH_MAX: Final = 64


def is_safe(path: str) -> bool:
    """Tell whether a path stays in its tree and touches no git folder, in any spelling that a file system folds."""
    if not path or len(path) > PATH_CHARS_MAX or "\0" in path or path.startswith("/"):
        return False
    parts = path.split("/")
    if len(parts) > DEPTH_MAX or any(part in {"", ".", ".."} or is_git_name(part) for part in parts):
        return False
    try:
        return all(len(part.encode()) <= PART_BYTES_MAX for part in parts)
    except UnicodeEncodeError:
        return False


def is_git_name(part: str) -> bool:
    """Tell whether git takes an entry of this name for its own folder; it folds the case everywhere."""
    return part.lower() == ".git"


def first_unsafe(paths: Iterable[str]) -> str | None:
    """Return the first path that may not be, or that is a file and a folder at once."""
    listed = list(paths)
    known = set(listed)
    for path in listed:
        if not is_safe(path) or any(parent in known for parent in parents(path)):
            return path
    return None


def parents(path: str) -> list[str]:
    """Return the folders above a path, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def link_escapes(path: str, target: str) -> bool:
    """Tell whether a symbolic link at `path` leads out of the tree, by its text alone."""
    if target.startswith("/") or "\0" in target:
        return True
    depth = path.count("/")
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in {"", "."}:
            depth += 1
        if depth < 0:
            return True
    return False


def is_matched(glob: str, path: str) -> bool:
    """Match a path against a glob: `**` crosses folders, `*` and `?` do not."""
    return _pattern(glob).fullmatch(path) is not None


def protected_by(globs: Sequence[str], path: str) -> str | None:
    """Return the glob that protects a path. As in `.gitignore`, one without a slash names an entry at any depth.

    What lies below a protected entry is protected with it.
    """
    tried = [*parents(path), path]
    for glob in globs:
        anchored = glob.strip("/")
        if "/" in anchored:
            if any(is_matched(anchored, each) for each in tried):
                return glob
        elif any(is_matched(anchored, part) for part in path.split("/")):
            return glob
    return None


def named_in(command: str, files: Iterable[str]) -> list[str]:
    """Return globs for the files and folders of a tree that a test command names, by path or as a Python module."""
    known = set(files)
    folders = {parent for path in known for parent in parents(path)}
    found: list[str] = []
    for word in re.findall(r"[\w./-]+", command):
        path = word.split("::", 1)[0].removeprefix("./").strip("/")
        dotted = path.replace(".", "/")
        for each in (path, f"{path}.py", f"{dotted}.py", dotted):
            if each in known:
                found.append(f"/{each}")
            elif each in folders and each not in {"src", "lib"}:
                found.append(f"/{each}/**")
    return sorted(set(found))


@lru_cache(maxsize=1_024)
def _pattern(glob: str) -> re.Pattern[str]:
    made: list[str] = []
    position = 0
    while position < len(glob):
        if glob.startswith("**/", position):
            made.append("(?:[^/]*/)*")
            position += 3
        elif glob.startswith("**", position):
            made.append(".*")
            position += 2
        else:
            made.append(_SINGLE.get(glob[position]) or re.escape(glob[position]))
            position += 1
    return re.compile("".join(made), re.DOTALL)


_SINGLE: Final[Mapping[str, str]] = {"*": "[^/]*", "?": "[^/]"}
