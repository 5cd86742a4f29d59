"""Names to addresses: c-ares with its TTLs, one look-up at a time for a name, the system's resolver if c-ares fails.

Does not judge addresses; an address counts for 5 to 300 s, so that a site's move is seen and a look-up is not free.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import aiodns
import aiodns.error

from interlock.foundation.clock import Clock

TTL_S_MIN: Final = 5.0
TTL_S_MAX: Final = 300.0
NEGATIVE_TTL_S: Final = 30.0
TIMEOUT_S: Final = 5.0
NAMES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name, in the order to try them; none where the name does not exist."""

    addresses: tuple[str, ...]
    ttl_s: float


class LookupFailedError(OSError):
    """No resolver gave an answer in time."""


class Lookup(Protocol):
    """Asks once."""

    async def ask(self, host: str) -> Answer:
        """Return the answer. Raises LookupFailedError."""
        ...

    async def close(self) -> None:
        """Release what the look-ups hold."""
        ...


class Resolver:
    """A cache over a look-up. `statistics()` tells its size."""

    def __init__(self, lookup: Lookup, clock: Clock) -> None:
        self._lookup, self._clock = lookup, clock
        self._known: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._asked: dict[str, asyncio.Task[Answer]] = {}

    async def resolve(self, host: str) -> Answer:
        """Return the addresses of a name. Raises LookupFailedError; callers of one name share one look-up."""
        known = self._known.get(host)
        if known is not None and self._clock.monotonic() < known[0]:
            self._known.move_to_end(host)
            return known[1]
        asked = self._asked.get(host)
        if asked is None:
            asked = asyncio.get_running_loop().create_task(self._ask(host))
            self._asked[host] = asked
            asked.add_done_callback(self._forget(host))
        # One caller that gives up does not take the answer from the others.
        return await asyncio.shield(asked)

    def statistics(self) -> dict[str, int]:
        """Return the number of names that are known and that are being asked for."""
        return {"names": len(self._known), "names_max": NAMES_MAX, "asked": len(self._asked)}

    async def close(self) -> None:
        """End what is under way."""
        asked = list(self._asked.values())
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await self._lookup.close()

    async def _ask(self, host: str) -> Answer:
        answer = await self._lookup.ask(host)
        ttl_s = min(max(answer.ttl_s, TTL_S_MIN), TTL_S_MAX) if answer.addresses else NEGATIVE_TTL_S
        self._known[host] = self._clock.monotonic() + ttl_s, answer
        self._known.move_to_end(host)
        while len(self._known) > NAMES_MAX:
            self._known.popitem(last=False)
        return answer

    def _forget(self, host: str) -> Callable[[asyncio.Task[Answer]], None]:
        def forget(task: asyncio.Task[Answer]) -> None:
            self._asked.pop(host, None)
            # All callers may have given up; then nobody else takes the failure.
            if not task.cancelled():
                task.exception()

        return forget


class AresLookup:
    """c-ares, then the resolver of the system."""

    def __init__(self) -> None:
        self._ares: aiodns.DNSResolver | None = None

    async def ask(self, host: str) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask_ares(host)
        except (aiodns.error.DNSError, TimeoutError) as error:
            if _is_no_such_name(error):
                return Answer((), NEGATIVE_TTL_S)
        return await self._ask_system(host)

    async def close(self) -> None:
        if self._ares is not None:
            await self._ares.close()
            self._ares = None

    async def _ask_ares(self, host: str) -> Answer:
        if self._ares is None:
            self._ares = aiodns.DNSResolver(timeout=TIMEOUT_S / 2, tries=2)
        found = await self._ares.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        nodes = [node for node in found.nodes if node.family in {socket.AF_INET, socket.AF_INET6}]
        addresses = [node.addr[0].decode() if isinstance(node.addr[0], bytes) else node.addr[0] for node in nodes]
        return Answer(tuple(dict.fromkeys(addresses)), min((node.ttl for node in nodes), default=0))

    @staticmethod
    async def _ask_system(host: str) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in {socket.EAI_NONAME, socket.EAI_NODATA}:
                return Answer((), NEGATIVE_TTL_S)
            raise LookupFailedError(str(error)) from error
        except (TimeoutError, UnicodeError) as error:
            raise LookupFailedError("no answer in time") from error
        return Answer(tuple(dict.fromkeys(str(each[4][0]) for each in found)), TTL_S_MIN)


def _is_no_such_name(error: Exception) -> bool:
    return bool(error.args) and error.args[0] in {aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA}
