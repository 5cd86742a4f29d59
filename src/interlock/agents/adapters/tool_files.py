"""The tools that read and write files of the tree, from the host side.

Asks no permission for writing; which paths may be shown is the world's say. Every answer is a plain object.
"""

import stat
from collections.abc import Iterator
from typing import Any, Final

from interlock.agents.adapters.files import PathRefusedError, TreeFiles
from interlock.agents.domain.policy import World, is_readable

_LISTED_MAX: Final = 2_000
_MATCHES_MAX: Final = 200
_LINE_CHARS_MAX: Final = 400
_FILE_BYTES_MAX: Final = 2 << 20
_READ_CHARS_MAX: Final = 256 << 10


def list_files(files: TreeFiles, world: World, path: str) -> dict[str, Any]:
    """List regular files and links by path."""
    found: list[str] = []
    for each, _ in _walk(files, path, world):
        if len(found) == _LISTED_MAX:
            return {"files": found, "is_cut": True}
        found.append(each)
    return {"files": found, "is_cut": False}


def search(files: TreeFiles, world: World, query: str, path: str) -> dict[str, Any]:
    """Find a text, not a pattern: a pattern of a model can take any time to match."""
    matches: list[dict[str, Any]] = []
    for each, is_regular in _walk(files, path, world):
        if not is_regular:
            continue
        try:
            content = files.read(each, _FILE_BYTES_MAX)
        except PathRefusedError:
            continue
        if b"\0" in content[:8_000]:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if query not in line:
                continue
            if len(matches) == _MATCHES_MAX:
                return {"matches": matches, "is_cut": True}
            matches.append({"path": each, "line": number, "text": line[:_LINE_CHARS_MAX]})
    return {"matches": matches, "is_cut": False}


def read_file(files: TreeFiles, path: str, offset: int, limit: int) -> dict[str, Any]:
    """Return lines as they are, ends of line included."""
    content = files.read(path, _FILE_BYTES_MAX + 1)
    lines = content[:_FILE_BYTES_MAX].decode("utf-8", "replace").splitlines(keepends=True)
    shown = "".join(lines[offset : offset + limit])
    is_cut = len(content) > _FILE_BYTES_MAX or offset + limit < len(lines) or len(shown) > _READ_CHARS_MAX
    return {"path": path, "content": shown[:_READ_CHARS_MAX], "lines": len(lines), "is_cut": is_cut}


def write_file(files: TreeFiles, path: str, content: str) -> dict[str, Any]:
    """Write a file whole."""
    encoded = content.encode("utf-8", "surrogatepass")
    files.write(path, encoded)
    return {"path": path, "bytes": len(encoded)}


def delete_file(files: TreeFiles, path: str) -> dict[str, Any]:
    """Delete a file."""
    files.delete(path)
    return {"path": path}


def apply_edits(files: TreeFiles, edits: list[dict[str, str]]) -> dict[str, Any]:
    """Apply all edits or none; each sees what the ones before it made."""
    texts: dict[str, str] = {}
    for number, edit in enumerate(edits):
        path = edit["path"]
        if path not in texts:
            texts[path] = _whole_text(files, path)
        count = texts[path].count(edit["old"])
        if count != 1:
            raise PathRefusedError(f"edit {number}: `old` occurs {count} times in {path}, it must occur exactly once")
        texts[path] = texts[path].replace(edit["old"], edit["new"])
    for path, text in texts.items():
        files.write(path, text.encode("utf-8", "surrogatepass"))
    return {"paths": sorted(texts)}


def _whole_text(files: TreeFiles, path: str) -> str:
    content = files.read(path, _FILE_BYTES_MAX + 1)
    if len(content) > _FILE_BYTES_MAX:
        raise PathRefusedError(f"{path} is larger than {_FILE_BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise PathRefusedError(f"{path} is not a text in UTF-8") from None


def _walk(files: TreeFiles, path: str, world: World) -> Iterator[tuple[str, bool]]:
    """Yield paths in order, with whether each is a regular file; follows no link, shows nothing that is denied."""
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        try:
            entries = files.entries(folder)
        except PathRefusedError:
            if folder == path:
                raise
            continue
        folders = []
        for entry, mode in entries:
            name = f"{folder}/{entry}" if folder else entry
            if stat.S_ISDIR(mode):
                folders.append(name)
            elif (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) and is_readable(name, world):
                yield name, stat.S_ISREG(mode)
        waiting += reversed(folders)
