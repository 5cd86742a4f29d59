"""The files of the pages: read once from the package, addressed by their content.

Serves nothing from outside the package: a name is looked up in a table that was built from what is there.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from interlock.foundation.control.route import Call, Reply
from interlock.foundation.errors import InterlockError

MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
    "txt": "text/plain; charset=utf-8",
}
_TAG_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """One file with its type and the tag of its content."""

    content: bytes
    media_type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """Return all files by their path below `static`."""
    found: dict[str, Asset] = {}
    _collect(files("interlock.console").joinpath("static"), "", found)
    return found


def address(path: str) -> str:
    """Return the URL of a file; it changes whenever the file does, so a browser may keep it for good."""
    return f"/console/static/{path}?v={assets()[path].tag}"


@dataclass(frozen=True, slots=True)
class Assets:
    """Serves the files."""

    max_age_s: int

    async def serve(self, call: Call) -> Reply:
        """Answer one file, or 304 where the browser has it. Raises `not_found`."""
        asset = assets().get(call.params["path"])
        if asset is None:
            raise InterlockError("not_found")
        is_current = call.query.get("v") == asset.tag
        headers = {
            "etag": f'"{asset.tag}"',
            # A style sheet names its fonts without a tag; they are asked for again after a day, and answered with 304.
            "cache-control": f"public, max-age={self.max_age_s}, immutable" if is_current else "public, max-age=86400",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
        }
        if f'"{asset.tag}"' in call.headers.get("if-none-match", ""):
            return Reply(304, content=b"", headers=headers)
        return Reply(content=asset.content, media_type=asset.media_type, headers=headers)


def _collect(folder: Traversable, prefix: str, found: dict[str, Asset]) -> None:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{each.name}"
        if each.is_dir():
            _collect(each, f"{name}/", found)
            continue
        media_type = MEDIA_TYPES.get(each.name.rpartition(".")[2])
        if media_type is not None:
            content = each.read_bytes()
            found[name] = Asset(content, media_type, hashlib.sha256(content).hexdigest()[:_TAG_CHARS])
