"""Signed start state on disk: what a process starts from when the store is away.

Holds bytes and does not know what they mean; who saves them checks them when they are loaded.
"""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

import structlog

_MARK: Final = b"interlock-snapshot-v1\n"
_MAC_BYTES: Final = 32
_BYTES_MAX: Final = 1 << 30
_log = structlog.get_logger("interlock.flags")


class Snapshot:
    """One file. A file that is cut, changed or signed with another key is set aside, never believed."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = hashlib.sha256(_MARK + key).digest()

    def save(self, content: bytes) -> None:
        """Replace the file whole: a reader sees the old or the new state, also after a crash."""
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MARK + hmac.digest(self._key, content, hashlib.sha256) + content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load(self) -> bytes | None:
        """Return the content, or None where there is none that can be trusted."""
        try:
            if self._path.stat().st_size > _BYTES_MAX:
                self._set_aside("too_large")
                return None
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        mac, content = raw[len(_MARK) : len(_MARK) + _MAC_BYTES], raw[len(_MARK) + _MAC_BYTES :]
        if not raw.startswith(_MARK) or not hmac.compare_digest(mac, hmac.digest(self._key, content, hashlib.sha256)):
            self._set_aside("signature")
            return None
        return content

    def _set_aside(self, finding: str) -> None:
        self._path.replace(self._path.with_suffix(".bad"))
        _log.warning("snapshot_set_aside", path=str(self._path), finding=finding)
