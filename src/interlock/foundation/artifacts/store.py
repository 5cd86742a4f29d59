"""`ArtifactStore`: put, get, delete and list objects by key, in a folder or in a bucket.

Does not decide what may be deleted; the rows that name an object do.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from interlock.foundation.artifacts.config import ArtifactsConfig
from interlock.foundation.errors import InterlockError

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]{0,199}")


def key_of(*parts: str) -> str:
    """Join the parts of a key. Raises `ValueError` for a part that is not plain: no blanks, slashes or leading dots."""
    for part in parts:
        if not _PART.fullmatch(part):
            raise ValueError(f"not a part of an artifact key: {part[:40]!r}")
    return "/".join(parts)


class ArtifactStore:
    """Objects by key. Every method raises `InterlockError` `store_unavailable` when the bucket cannot be reached."""

    def __init__(self, folder: Path, config: ArtifactsConfig | None = None) -> None:
        self._config = config or ArtifactsConfig()
        # The folder itself belongs to the data directory and has its mode; a bucket exists already.
        self._store: Any = from_url(self._config.url) if self._config.url else LocalStore(folder, mkdir=True)

    async def put(self, key: str, content: bytes) -> None:
        """Write an object whole, or leave what was there. Raises `body_too_large`."""
        if len(content) > self._config.object_bytes_max:
            raise InterlockError("body_too_large", detail={"bytes_max": self._config.object_bytes_max})
        try:
            await obstore.put_async(self._store, key, content)
        except (BaseError, OSError) as error:
            raise _unavailable() from error

    async def get(self, key: str) -> bytes | None:
        """Return an object; None where there is none."""
        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise _unavailable() from error

    async def delete(self, key: str) -> None:
        """Remove an object; a no-op where there is none."""
        try:
            await obstore.delete_async(self._store, key)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise _unavailable() from error

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix, which ends at a slash."""
        try:
            async for batch in obstore.list(self._store, prefix):
                for each in batch:
                    yield each["path"]
        except (BaseError, OSError) as error:
            raise _unavailable() from error


def _unavailable() -> InterlockError:
    return InterlockError("store_unavailable", "The artifact store cannot be reached.", retry_after_s=1.0)
