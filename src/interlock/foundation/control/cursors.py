"""Opaque cursors of lists: signed, and bound to the route and the tenant that they were issued for.

Holds no state; what a position means is the list's own knowledge.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from interlock.foundation.control.config import ControlConfig
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import AllWorkspaces, Scope

_MAC_BYTES: Final = 16
RowT = TypeVar("RowT")
Position = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """What of a list is wanted: `limit` objects after the position `after`, from the start where it is None.

    Ask the store for `limit_plus_one` rows: the row too many says that there is a next page.
    """

    limit: int
    after: Position | None = None

    @property
    def limit_plus_one(self) -> int:
        """The rows to read."""
        return self.limit + 1

    def cut(self, rows: Sequence[RowT], position: Callable[[RowT], Position]) -> tuple[list[RowT], Position | None]:
        """Return the rows of the page, and the position of its last one if there are more."""
        kept = list(rows[: self.limit])
        return kept, position(kept[-1]) if len(rows) > self.limit and kept else None


class Cursors:
    """Issues and reads cursors under one key, which all control processes share."""

    def __init__(self, key: bytes, config: ControlConfig | None = None) -> None:
        self._key = hashlib.sha256(b"interlock-cursor-v1\x00" + key).digest()
        self._config = config or ControlConfig()

    def issue(self, route: str, scope: Scope, position: Position) -> str:
        """Return the text of a cursor; numbers, strings, bytes and uuids survive (a uuid as its text)."""
        packed = msgspec.msgpack.encode(position)
        return base64.urlsafe_b64encode(self._mac(route, scope, packed) + packed).rstrip(b"=").decode()

    def read(self, route: str, scope: Scope, cursor: str) -> Position:
        """Return the position. Raises `invalid_cursor` for any text that was not issued here for this list."""
        if len(cursor) <= self._config.cursor_bytes_max and cursor.isascii():
            try:
                raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            except ValueError:
                raw = b""
            packed = raw[_MAC_BYTES:]
            if packed and hmac.compare_digest(raw[:_MAC_BYTES], self._mac(route, scope, packed)):
                return tuple(msgspec.msgpack.decode(packed))
        raise InterlockError("invalid_cursor")

    def page(self, route: str, scope: Scope, query: Mapping[str, str]) -> Page:
        """Return the page that `limit` and `cursor` of a query ask for."""
        text = query.get("limit")
        limit = self._config.list_limit if text is None else _limit(text, self._config.list_limit_max)
        cursor = query.get("cursor")
        return Page(limit, None if cursor is None else self.read(route, scope, cursor))

    def _mac(self, route: str, scope: Scope, packed: bytes) -> bytes:
        workspace = b"*" if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id.bytes
        bound = b"\x00".join((route.encode(), scope.organization_id.bytes, workspace, packed))
        return hmac.digest(self._key, bound, "sha256")[:_MAC_BYTES]


def _limit(text: str, limit_max: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= limit_max:
        return int(text)
    raise InterlockError("invalid_request", f"`limit` is a number from 1 to {limit_max}.", detail={"field": "limit"})
