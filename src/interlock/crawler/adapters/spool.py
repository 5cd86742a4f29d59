"""Bodies on disk between their fetch and their extraction; a file a body, gone when its text is taken.

Not synced: a file that a loss of power took is missed, and its page is fetched again.
"""

import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID


class Spool:
    """The folder of one worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self._folder

    def write(self, outbox_id: UUID, body: bytes) -> str:
        """Write a body and return its path."""
        path = self._folder / f"{outbox_id.hex}.body"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(body)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        return str(path)

    def exists(self, path: str) -> bool:
        """Tell whether a body is still there."""
        return Path(path).is_file()

    def remove(self, path: str) -> None:
        """Forget a body."""
        with suppress(FileNotFoundError):
            Path(path).unlink()

    def sweep(self, older_than_us: int, kept: frozenset[str]) -> int:
        """Remove files that no row names and that are older than a moment; return how many."""
        gone = 0
        for each in self._folder.iterdir():
            if str(each) in kept or each.stat().st_mtime * 1_000_000 > older_than_us:
                continue
            each.unlink(missing_ok=True)
            gone += 1
        return gone
