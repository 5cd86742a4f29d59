"""The pieces of a stream, passed on each in the call that brings it: scanned, their gaps counted, pushed to the reader.

Waits for nothing and ends no stream.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from interlock.foundation import native
from interlock.gateway.domain.times import Times
from interlock.gateway.domain.translate.talk import Scanner

_compiled: Final = native.load("interlock.gateway.domain._native_scan")


class Counting(Protocol):
    """Whoever is told how much output a stream has had so far."""

    output_tokens: int


if TYPE_CHECKING or _compiled is None:

    class Passing:
        """One stream on its way. `came` is when its last piece came, `last` the end that waits for whoever sends it."""

        __slots__ = ("_feed", "_grant", "_monotonic", "_push", "_scanner", "_times", "came", "last")

        def __init__(
            self,
            scanner: Scanner,
            push: Callable[[bytes], bool],
            times: Times,
            monotonic: Callable[[], float],
            grant: Counting | None,
        ) -> None:
            self._scanner = scanner
            self._feed = scanner.feed
            self._push = push
            self._times = times
            self._monotonic = monotonic
            self._grant = grant
            self.came = 0.0
            self.last = b""

        def scan(self, piece: bytes) -> bytes:
            """Return what the caller gets of a piece."""
            return self._feed(piece)

        def note_gap(self) -> None:
            """Count the time since the piece before."""
            now = self._monotonic()
            self._times.observe(now - self.came)
            self.came = now

        def take(self, piece: bytes) -> bool:
            """Pass a piece on; tell whether the stream goes on, and its reader takes more at once."""
            self.note_gap()
            scanner = self._scanner
            block = self._feed(piece)
            if self._grant is not None:
                self._grant.output_tokens = scanner.events
            if scanner.is_done:
                self.last = block
                return False
            return (not block or self._push(block)) and scanner.failure is None

else:
    Passing = _compiled.Passing
