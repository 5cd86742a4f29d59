"""The simulator's calls of an order as lines of JSON, and the proof that the order decides the same again.

The simulator hosts the order without the pool around it; a live pool's calls are in `decisions.py`. Opens no file.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.asks import Ask, Classes, ClassRules, MayTake, Order, Room, StepSeen, Verdict
from interlock.scheduler.domain.log_lines import Difference, Line, LogInvalidError, Sink

OPEN: Final = "order.open"
_encode: Final = msgspec.json.Encoder().encode
_RoomFigures = tuple[int, int, int, tuple[int, ...], int]
ResultT = TypeVar("ResultT")


class Opened(msgspec.Struct, frozen=True):
    """What an order was made of."""

    policy: str
    share_level: float
    prefill_tps: int
    replicas: int
    classes: dict[ServiceClass, ClassRules]


class RecordedOrder:
    """An order that writes down every call that the simulator makes, with its result."""

    def __init__(self, order: Order, opened: Opened, sink: Sink) -> None:
        self._order = order
        self._sink = sink
        self.has_credits = order.has_credits
        self._write("open", 0, (opened,), None)

    @property
    def queued(self) -> int:
        """How many wait."""
        return self._order.queued

    def arrive(self, now_us: int, ask: Ask, room: Room) -> list[Verdict]:
        """Queue the ask, or refuse it, or let it displace others."""
        return self._write("arrive", now_us, (ask, _figures(room)), self._order.arrive(now_us, ask, room))

    def expire(self, now_us: int) -> list[Verdict]:
        """End what has waited too long."""
        return self._write("expire", now_us, (), self._order.expire(now_us))

    def next_grant(self, now_us: int, room: Room, may_take: MayTake | None = None) -> Ask | None:
        """Take the next ask out of the queue."""
        return self._write("next_grant", now_us, (_figures(room),), self._order.next_grant(now_us, room, may_take))

    def withdraw(self, key: int) -> None:
        """Take an ask out that still waits."""
        self._order.withdraw(key)
        self._write("withdraw", 0, (key,), None)

    def stepped(self, now_us: int, seen: StepSeen) -> None:
        """Learn from a step."""
        self._order.stepped(now_us, seen)
        self._write("stepped", now_us, (seen,), None)

    def settled(self, now_us: int, ask: Ask, output: int, prefill: int | None = None) -> None:
        """Correct the charge of an ask that ended."""
        self._order.settled(now_us, ask, output, prefill)
        self._write("settled", now_us, (ask, output, prefill), None)

    def adopted(self, now_us: int, ask: Ask) -> None:
        """Charge an ask that a former leader granted."""
        self._order.adopted(now_us, ask)
        self._write("adopted", now_us, (ask,), None)

    def _write(self, call: str, now_us: int, args: tuple[Any, ...], result: ResultT) -> ResultT:
        self._sink(_encode({"call": f"order.{call}", "at_us": now_us, "args": args, "result": result}))
        return result


_ARGS: Final[Mapping[str, Any]] = {
    OPEN: tuple[Opened],
    "order.arrive": tuple[Ask, _RoomFigures],
    "order.expire": tuple[()],
    "order.next_grant": tuple[_RoomFigures],
    "order.withdraw": tuple[int],
    "order.stepped": tuple[StepSeen],
    "order.settled": tuple[Ask, int, int | None],
    "order.adopted": tuple[Ask],
}


def replay_orders(lines: Iterable[bytes], build: Callable[[Opened], Order]) -> tuple[int, Difference | None]:
    """Feed recorded calls to orders made anew; return how many, and the first that is decided otherwise.

    Raises `LogInvalidError`.
    """
    order: Order | None = None
    fed = 0
    for number, content in enumerate(lines, start=1):
        if not content.strip():
            continue
        line, args = _read(content, number)
        if line.call == OPEN:
            order = build(args[0])
            continue
        if order is None:
            raise LogInvalidError(f"line {number}: no open before it")
        decided = _encode(_called(order, line, args))
        fed += 1
        if msgspec.json.decode(decided) != msgspec.json.decode(bytes(line.result)):
            return fed, Difference(number, line.call, bytes(line.result).decode(), decided.decode())
    return fed, None


def opened(policy: str, share_level: float, prefill_tps: int, replicas: int, classes: Classes) -> Opened:
    """Return what an order is made of."""
    return Opened(policy, share_level, prefill_tps, replicas, dict(classes))


def _called(order: Order, line: Line, args: tuple[Any, ...]) -> Any:
    name = line.call.removeprefix("order.")
    if name == "withdraw":
        return order.withdraw(args[0])
    return getattr(order, name)(line.at_us, *(Room(*each) if isinstance(each, tuple) else each for each in args))


def _read(content: bytes, number: int) -> tuple[Line, tuple[Any, ...]]:
    try:
        line = msgspec.json.decode(content, type=Line)
        if line.call not in _ARGS:
            raise LogInvalidError(f"line {number}: {line.call!r}")
        return line, msgspec.json.decode(line.args, type=_ARGS[line.call])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogInvalidError(f"line {number}: {error}") from error


def _figures(room: Room) -> _RoomFigures:
    return room.seats, room.prefill_left, room.kv_free, room.seat_waits_us, room.hold_us
