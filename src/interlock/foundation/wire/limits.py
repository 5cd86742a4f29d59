"""Refusals of the HTTP layer, the one timer behind all deadlines, and the count of connections.

Does not parse; `message.py` finds what is wrong with a head, `server.py` answers it.
"""

import asyncio
import contextlib
import select
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.wire.config import WireLimits

NEVER: Final = float("inf")
# A refusal and its close cost some 50 us, most of it the kernel's: who waits behind them waits for 0.2 ms.
_AT_ONCE: Final = 4
_NOWHERE: Final = -1
ALLOWED_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class WireRefusal(InterlockError):  # noqa: N818 - a refusal is an answer, not a broken world
    """The request cannot be served for a reason that HTTP itself gives; the connection closes after the answer."""


class ClientGone(ConnectionError):  # noqa: N818 - the public name of the contract
    """The client closed the connection before its answer was complete."""


def bad_http(reason: str) -> WireRefusal:
    """Return the refusal of bytes that are no request; `reason` is shown to the caller."""
    return WireRefusal("bad_http", detail={"reason": reason})


def method_refused() -> WireRefusal:
    """Return the refusal of CONNECT, TRACE and Upgrade."""
    return WireRefusal("method_not_allowed", headers={"allow": ALLOWED_METHODS})


def envelope(refusal: InterlockError, request_id: str) -> bytes:
    """Return the JSON body of a refusal, the same shape on every surface of the platform."""
    error: dict[str, Any] = {
        "code": refusal.code,
        "message": refusal.message,
        "request_id": request_id,
        "retry_after_s": refusal.retry_after_s,
        "detail": refusal.safe_detail,
    }
    return msgspec.json.encode({"error": error})


class Timed(Protocol):
    """Something with one deadline, in seconds of the clock; `NEVER` when nothing is awaited."""

    deadline: float

    def expire(self, now: float) -> None:
        """Act on the passed deadline and set the next one."""
        ...


class Ticker:
    """One coarse timer for the deadlines of all members, so that a connection costs no timer of its own.

    Runs only while there are members. `now` is the time of the last tick: a deadline is late by one tick at most.
    Members stand in a wheel, by the tick of their deadline: a tick looks at those that are due, not at thousands
    that are not.
    """

    def __init__(self, clock: Clock, tick_s: float, on_tick: Callable[[], None] | None = None) -> None:
        self._clock = clock
        self._tick_s = tick_s
        self._on_tick = on_tick
        self._handle: asyncio.TimerHandle | None = None
        self._wheel: dict[int, set[Timed]] = {}
        # Each member with its place in the wheel.
        self.members: dict[Timed, int] = {}
        self.now = 0.0

    def add(self, member: Timed) -> None:
        """Watch a member from now on."""
        self.members.setdefault(member, _NOWHERE)
        self.watch(member)
        if self._handle is None:
            self._turn()

    def watch(self, member: Timed) -> None:
        """Note that the deadline of a member has become an earlier one."""
        place = self.members.get(member)
        if place is None or member.deadline == NEVER:
            return
        due = int(member.deadline // self._tick_s)
        if due != place:
            self._take_out(member, place)
            self._wheel.setdefault(due, set()).add(member)
            self.members[member] = due

    def discard(self, member: Timed) -> None:
        """Stop watching; the timer stops with the last member."""
        self._take_out(member, self.members.pop(member, _NOWHERE))
        if not self.members and self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _take_out(self, member: Timed, place: int) -> None:
        if place != _NOWHERE:
            stood = self._wheel[place]
            stood.discard(member)
            if not stood:
                del self._wheel[place]

    def _turn(self) -> None:
        self.now = now = self._clock.monotonic()
        self._handle = asyncio.get_running_loop().call_later(self._tick_s, self._turn)
        if self._on_tick is not None:
            self._on_tick()
        late, here = [], now // self._tick_s
        for due in [each for each in self._wheel if each <= here]:
            for member in self._wheel.pop(due):
                self.members[member] = _NOWHERE
                if member.deadline <= now:
                    late.append(member)
                else:
                    self.watch(member)
        self._expire(late)

    def _expire(self, late: list[Timed]) -> None:
        """Act on few, and on the rest once the loop has served whoever waits: thousands may be late at once."""
        try:
            for _ in range(min(_AT_ONCE, len(late))):
                member = late.pop()
                if member in self.members and member.deadline <= self.now:
                    member.expire(self.now)
                    self.watch(member)
        finally:
            # They stand in the wheel no more: one that fails must not have the others forgotten.
            if late:
                asyncio.get_running_loop().call_soon(self._expire, late)


class BodyPace:
    """Judges how fast an awaited body comes in: neither silent for long, nor slow on average."""

    def __init__(self, limits: WireLimits, now: float, received: int) -> None:
        self._limits = limits
        self._since = self._last = now
        self._from_bytes = self._seen_bytes = received
        self.step_s = min(limits.body_idle_s, limits.body_rate_after_s, 1.0)

    def is_too_slow(self, now: float, received: int) -> bool:
        """Look at the bytes received so far; called every `step_s`."""
        if received > self._seen_bytes:
            self._seen_bytes, self._last = received, now
        waited_s = now - self._since
        is_dripping = received - self._from_bytes < self._limits.body_rate_bytes_s * waited_s
        is_silent = now - self._last >= self._limits.body_idle_s
        return is_silent or (is_dripping and waited_s >= self._limits.body_rate_after_s)


class AddressCount:
    """How many connections are open, in all and for each address, and how fast each address opens new ones.

    The rate is a bucket as deep as the connections that an address may hold. Of it is kept when the address would be
    even with its rate (GCRA, ATM Forum TM 4.1), until then.
    """

    def __init__(self, limits: WireLimits) -> None:
        self._total_max = limits.connections_max
        self._per_address_max = limits.connections_per_address_max
        self._per_s = limits.connections_per_address_per_s
        # Half a step more, as steps are added up in floats.
        self._ahead_s_max = (limits.connections_per_address_max + 0.5) / limits.connections_per_address_per_s
        self._by_address: dict[str, int] = {}
        self._even_at: dict[str, float] = {}
        self.total = self.too_many_total = self.too_fast_total = 0

    def enter(self, address: str | None, now: float) -> WireRefusal | None:
        """Count a connection in, or return why it is one too many."""
        held = self._by_address.get(address, 0) if address else 0
        if self.total >= self._total_max or held >= self._per_address_max:
            self.too_many_total += 1
            return WireRefusal("overloaded")
        if address:
            even_at = max(now, self._even_at.get(address, now)) + 1 / self._per_s
            if even_at - now > self._ahead_s_max:
                self.too_fast_total += 1
                detail = {"scope": "address", "dimension": "connections_per_second", "limit": self._per_s}
                return WireRefusal("requests_limit", "Too many new connections from one address.", detail=detail)
            self._even_at[address] = even_at
            self._by_address[address] = held + 1
        self.total += 1
        return None

    def forget(self, now: float) -> None:
        """Forget the addresses that are even with their rate; called at each tick, which bounds how many are kept."""
        if self._even_at:
            self._even_at = {address: at for address, at in self._even_at.items() if at > now}

    def leave(self, address: str | None) -> None:
        """Count out a connection that was counted in."""
        self.total -= 1
        if address:
            held = self._by_address[address] - 1
            if held:
                self._by_address[address] = held
            else:
                del self._by_address[address]


class HangupWatch:
    """Tells of clients that hang up while their connection is not read (Linux: EPOLLRDHUP).

    Elsewhere such a client is noticed when its connection is read or written again.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._by_fd: dict[int, Droppable] = {}
        self._fds: dict[Droppable, int] = {}

    def add(self, connection: "Droppable", fd: int) -> None:
        """Call `connection.drop` when the other side closes."""
        if not hasattr(select, "epoll"):
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._tell)
        self.discard(connection)
        if fd in self._by_fd:
            self._forget(fd)
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        self._by_fd[fd] = connection
        self._fds[connection] = fd

    def discard(self, connection: "Droppable") -> None:
        """Stop watching."""
        fd = self._fds.get(connection)
        if fd is not None:
            self._forget(fd)

    def close(self) -> None:
        """Stop watching all."""
        if self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
            self._by_fd.clear()
            self._fds.clear()

    def _forget(self, fd: int) -> None:
        del self._fds[self._by_fd.pop(fd)]
        if self._epoll is not None:
            # The kernel forgets a closed descriptor by itself.
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _tell(self) -> None:
        if self._epoll is None:
            return
        for fd, _ in self._epoll.poll(0):
            connection = self._by_fd.get(fd)
            if connection is not None:
                self._forget(fd)
                connection.drop()


class Droppable(Protocol):
    """A connection that can be told that its client is gone."""

    def drop(self) -> None:
        """Cancel the work for the client and close."""
        ...
