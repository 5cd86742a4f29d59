"""Server-Sent Events of a log that is numbered: from where the reader was, until the log has ended.

Does not know where events are kept; a `Reader` brings what came after a number.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.wire.sse import encode_event

PING: Final = b": ping\n\n"
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Numbered:
    """One event of the log; the stream closes behind one that `is_last`."""

    seq: int
    event: str
    content: Mapping[str, Any]
    is_last: bool = False


# Returns what came after a number, oldest first; raises to end the stream.
Reader = Callable[[int], Awaitable[Sequence[Numbered]]]


def last_event_id(headers: Mapping[str, str], query: Mapping[str, str]) -> int:
    """Return the number to go on from: `Last-Event-ID`, else `after`, else 0. Raises `invalid_request`."""
    text = headers.get("last-event-id") or query.get("after") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InterlockError("invalid_request", "Last-Event-ID is not the id of an event.", detail={"id": text[:40]})
    return int(text)


async def follow(
    read: Reader, after: int, clock: Clock, *, poll_s: float = 0.25, ping_s: float = 15.0, seconds_max: float = 3_600.0
) -> AsyncIterator[bytes]:
    """Yield encoded events as they come, a comment each `ping_s` of silence; ends with the log or after `seconds_max`.

    A store that goes away ends the stream: its reader comes back by the id it has.
    """
    until_s = clock.monotonic() + seconds_max
    spoke_s = clock.monotonic()
    while clock.monotonic() < until_s:
        try:
            found = await read(after)
        except InterlockError:
            return
        for each in found:
            yield encode_event(_encode(each.content), event=each.event, id=str(each.seq))
            after = each.seq
            if each.is_last:
                return
        now_s = clock.monotonic()
        if found:
            spoke_s = now_s
            continue
        if now_s - spoke_s >= ping_s:
            yield PING
            spoke_s = now_s
        await clock.sleep(poll_s)
