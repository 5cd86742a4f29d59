"""A pool's decisions as lines of JSON, and the proof that the core decides the same again.

Opens no file; the host gives a sink, the command line gives lines. A line is one call with its result.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from interlock.contracts.scheduling import AdoptedGrant, GrantRequest, Refused, Settled, Settlement
from interlock.scheduler.domain.beside import BesidePolicy
from interlock.scheduler.domain.log_lines import Difference, Line, LogInvalidError, Sink
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.types import Arrival, EngineState, Expired, Grant, Phase, PoolRules, Renewal

_encode: Final = msgspec.json.Encoder().encode
ResultT = TypeVar("ResultT")
_Ended = list[tuple[str, Refused]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a core with what it came to, as whoever decides beside it hears of it."""

    name: str
    at_us: int
    args: tuple[Any, ...]
    result: Any


Tap = Callable[[Call], None]


class RecordedPolicy(BesidePolicy):
    """A policy that writes down every call that can change what it decides; `tap` hears each of them, too."""

    def __init__(self, rules: PoolRules, weights: Mapping[str, float], sink: Sink | None) -> None:
        super().__init__(rules, weights)
        self._sink = sink
        self.tap: Tap | None = None
        self._write("open", 0, (rules, dict(weights)), None)

    def arrive(self, now_us: int, request: GrantRequest) -> Arrival:
        return self._write("arrive", now_us, (request,), super().arrive(now_us, request))

    def next_grants(self, now_us: int) -> list[Grant]:
        return self._write("next_grants", now_us, (), super().next_grants(now_us))

    def grant_one(self, now_us: int) -> list[Grant]:
        return self._write("grant_one", now_us, (), super().grant_one(now_us))

    def foremost(self, now_us: int) -> int | None:
        return self._write("foremost", now_us, (), super().foremost(now_us))

    def offered(self, now_us: int, request: GrantRequest) -> None:
        super().offered(now_us, request)
        self._write("offered", now_us, (request,), None)

    def ahead(self, now_us: int, tokens: int, requests: int) -> None:
        super().ahead(now_us, tokens, requests)
        self._write("ahead", now_us, (tokens, requests), None)

    def expire(self, now_us: int) -> Expired:
        return self._write("expire", now_us, (), super().expire(now_us))

    def progress(self, now_us: int, request_id: str, output_tokens: int, ttft_ms: int | None) -> Renewal:
        args = (request_id, output_tokens, ttft_ms)
        return self._write("progress", now_us, args, super().progress(now_us, *args))

    def settle(self, now_us: int, request_id: str, settlement: Settlement) -> Settled | None:
        args = (request_id, settlement)
        return self._write("settle", now_us, args, super().settle(now_us, *args))

    def cancel(self, now_us: int, request_id: str) -> Phase | None:
        return self._write("cancel", now_us, (request_id,), super().cancel(now_us, request_id))

    def adopt(self, now_us: int, grant: AdoptedGrant) -> bool:
        return self._write("adopt", now_us, (grant,), super().adopt(now_us, grant))

    def engine_changed(self, now_us: int, state: EngineState) -> _Ended:
        return self._write("engine_changed", now_us, (state,), super().engine_changed(now_us, state))

    def engine_removed(self, now_us: int, engine_id: str) -> _Ended:
        return self._write("engine_removed", now_us, (engine_id,), super().engine_removed(now_us, engine_id))

    def engine_scraped(self, now_us: int, engine_id: str, others: int, kv_share: float) -> None:
        args = (engine_id, others, kv_share)
        super().engine_scraped(now_us, *args)
        self._write("engine_scraped", now_us, args, None)

    def engine_paced(self, now_us: int, engine_id: str, tokens: int, took_us: int) -> None:
        args = (engine_id, tokens, took_us)
        super().engine_paced(now_us, *args)
        self._write("engine_paced", now_us, args, None)

    def drain(self, now_us: int, *, is_draining: bool) -> _Ended:
        return self._write("drain", now_us, (is_draining,), super().drain(now_us, is_draining=is_draining))

    def configure(self, now_us: int, rules: PoolRules, weights: Mapping[str, float]) -> _Ended:
        return self._write("configure", now_us, (rules, dict(weights)), super().configure(now_us, rules, weights))

    def recall(self, now_us: int, kept: Mapping[str, Any]) -> None:
        super().recall(now_us, kept)
        self._write("recall", now_us, (dict(kept),), None)

    def _write(self, call: str, now_us: int, args: tuple[Any, ...], result: ResultT) -> ResultT:
        if self._sink is not None:
            self._sink(_encode({"call": call, "at_us": now_us, "args": args, "result": result}))
        if self.tap is not None:
            self.tap(Call(call, now_us, args, result))
        return result


_ARGS: Final[Mapping[str, tuple[Any, ...]]] = {
    "arrive": (GrantRequest,),
    "next_grants": (),
    "grant_one": (),
    "foremost": (),
    "offered": (GrantRequest,),
    "ahead": (int, int),
    "expire": (),
    "progress": (str, int, int | None),
    "settle": (str, Settlement),
    "cancel": (str,),
    "adopt": (AdoptedGrant,),
    "engine_changed": (EngineState,),
    "engine_removed": (str,),
    "engine_scraped": (str, int, float),
    "engine_paced": (str, int, int),
    "drain": (bool,),
    "configure": (PoolRules, dict[str, float]),
    "recall": (dict[str, Any],),
}


def replay_decisions(lines: Iterable[bytes]) -> tuple[int, Difference | None]:
    """Feed recorded calls to the core again; return how many were fed, and the first that it decides otherwise.

    Raises `LogInvalidError`.
    """
    fed = 0
    for number, line, _, call in decided_again(lines):
        fed += 1
        result = _encode(call.result)
        if msgspec.json.decode(result) != msgspec.json.decode(bytes(line.result)):
            return fed, Difference(number, line.call, bytes(line.result).decode(), result.decode())
    return fed, None


def decided_again(lines: Iterable[bytes]) -> Iterator[tuple[int, Line, Policy, Call]]:
    """Give each recorded call after a core has decided it again: its line, that core, and what it decided.

    Raises `LogInvalidError`.
    """
    policy: Policy | None = None
    for number, content in enumerate(lines, start=1):
        if not content.strip():
            continue
        line = _decoded(content, number)
        if line.call == "open":
            rules, weights = _args(line, (PoolRules, dict[str, float]), number)
            policy = BesidePolicy(rules, weights)
            continue
        if policy is None or line.call not in _ARGS:
            raise LogInvalidError(f"line {number}: {'no open before it' if policy is None else line.call!r}")
        args = tuple(_args(line, _ARGS[line.call], number))
        yield number, line, policy, Call(line.call, line.at_us, args, called(policy, line.call, line.at_us, args))


def called(policy: Policy, name: str, at_us: int, args: tuple[Any, ...]) -> Any:
    """Make one call of a core by its name."""
    if name == "drain":
        return policy.drain(at_us, is_draining=args[0])
    return getattr(policy, name)(at_us, *args)


def _decoded(content: bytes, number: int) -> Line:
    try:
        return msgspec.json.decode(content, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogInvalidError(f"line {number}: {error}") from error


def _args(line: Line, kinds: tuple[Any, ...], number: int) -> list[Any]:
    try:
        given = msgspec.json.decode(line.args, type=list[msgspec.Raw])
        if len(given) != len(kinds):
            raise LogInvalidError(f"line {number}: {len(kinds)} arguments belong to {line.call}")
        return [msgspec.json.decode(each, type=kind) for each, kind in zip(given, kinds, strict=True)]
    except msgspec.DecodeError as error:
        raise LogInvalidError(f"line {number}: {error}") from error
