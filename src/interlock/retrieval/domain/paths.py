"""Paths of folders inside a source: `/`, `/a`, `/a/b`. Pure; knows no file system.

Does not resolve links: what a connector read is what it says it read.
"""

from typing import Final

ROOT: Final = "/"
_PATH_CHARS_MAX: Final = 2_048
_REFUSED: Final = frozenset({"", ".", ".."})


class InvalidPathError(ValueError):
    """The text is not a path of a folder."""


def normal(path: str, depth_max: int = 64) -> str:
    """Return the one spelling of a path: a slash at its begin and none at its end. Raises `InvalidPathError`."""
    if not path.startswith("/") or len(path) > _PATH_CHARS_MAX or not path.isprintable():
        raise InvalidPathError(path[:80])
    bare = path.strip("/")
    if not bare:
        return ROOT
    parts = bare.split("/")
    if any(part in _REFUSED for part in parts) or len(parts) > depth_max:
        raise InvalidPathError(path[:80])
    return "/" + "/".join(parts)


def ancestors(path: str) -> list[str]:
    """Return the path and every folder above it, the root first."""
    if path == ROOT:
        return [ROOT]
    parts = path[1:].split("/")
    return [ROOT, *("/" + "/".join(parts[: count + 1]) for count in range(len(parts)))]


def parent_of(path: str) -> str | None:
    """Return the folder above; None for the root."""
    if path == ROOT:
        return None
    return path.rpartition("/")[0] or ROOT
