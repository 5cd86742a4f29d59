"""The core of a candidate policy beside the live one: it hears the same calls and keeps a book of what it would do.

Grants nothing to anybody. A request that only the candidate would serve ends in its book when its own predictions say.
"""

import copy
import heapq
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

from interlock.contracts.scheduling import UNUSED, Refused, Settlement, SettleOutcome
from interlock.scheduler.domain.beside import BesidePolicy
from interlock.scheduler.domain.decisions import Call, called, decided_again
from interlock.scheduler.domain.log_lines import LogInvalidError
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.replicas import Running
from interlock.scheduler.domain.types import Arrival, Expired, Grant, PoolRules

SHOWN_MAX: Final = 50
_MICRO: Final = 1_000_000


class Kind(StrEnum):
    """How the candidate would have decided otherwise."""

    REFUSED = "refused"  # live queued it, the candidate would have refused it
    ADMITTED = "admitted"  # live refused it at its arrival, the candidate would have queued it
    DISPLACED = "displaced"  # it would have given way, or its wait ended sooner
    KEPT = "kept"  # live ended its wait, the candidate would not have
    CODE = "code"  # both refuse, for another reason
    SOONER = "sooner"  # granted by both, by the candidate first
    LATER = "later"  # granted by both, by the candidate last
    ENGINE = "engine"  # granted by both at once, on another engine


@dataclass(frozen=True, slots=True)
class Otherwise:
    """One request that the two decide differently; `at_us` is the host's monotonic time."""

    at_us: int
    kind: Kind
    request_id: str
    live: str
    candidate: str


def fork(policy: Policy) -> BesidePolicy:
    """Return a core that knows and holds what this one does, and shares nothing with it that changes."""
    held = [each.request for each in policy.waiting.values()] + [each.request for each in policy.running.values()]
    state = {name: value for name, value in vars(policy).items() if name not in {"_sink", "tap"}}
    twin = BesidePolicy.__new__(BesidePolicy)
    vars(twin).update(copy.deepcopy(state, {id(each): each for each in held}))
    return twin


class Shadow:
    """Hears every call of a live core in order, and counts what a candidate would have decided otherwise."""

    def __init__(self, live: Policy, rules: PoolRules, now_us: int) -> None:
        self.rules = rules
        self.core = fork(live)
        self.arrived = 0
        self.live_counts: Counter[str] = Counter()
        self.own_counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.newest: deque[Otherwise] = deque(maxlen=SHOWN_MAX)
        # Who waits and runs in truth, with the time and engine of its grant; the same of the candidate's book.
        self._waiting = set(live.waiting)
        self._running = dict.fromkeys(live.running, (now_us, ""))
        self._granted: dict[str, tuple[int, str]] = {}
        # Requests that only the book holds: what happens to them is not heard but predicted.
        self._ends: list[tuple[int, int, str]] = []
        self._refused_own(now_us, self.core.configure(now_us, rules, live.weights), ())

    def hear(self, call: Call) -> None:
        """Decide one call that the live core has decided."""
        self._let_end(call.at_us)
        if call.name == "configure":
            # The live rules changed; the candidate keeps its own, weights are the platform's.
            self._refused_own(call.at_us, self.core.configure(call.at_us, self.rules, call.args[1]), call.result)
            return
        if call.name == "settle":
            self._settle(call)
            return
        if call.name == "cancel":
            self._cancel(call)
            return
        if call.name == "expire":
            self._renew(call.at_us)
        own = called(self.core, call.name, call.at_us, call.args)
        if call.name == "arrive":
            self._arrived(call, own)
        elif call.name == "next_grants":
            self._compare_grants(call.at_us, call.result, own)
        elif call.name == "expire":
            self._expired(call, own)
        elif call.name in {"engine_changed", "engine_removed", "drain"}:
            self._refused_own(call.at_us, own, call.result)
        elif call.name == "adopt" and call.result:
            self._running[call.args[0].request.request_id] = (call.at_us, call.args[0].engine_id)

    def figures(self) -> dict[str, Any]:
        """Return what was heard and what would have been otherwise."""
        return {
            "requests": self.arrived,
            "differences": {kind.value: self.kinds[kind.value] for kind in Kind},
            "live": {name: self.live_counts[name] for name in ("granted", "refused")},
            "candidate": {name: self.own_counts[name] for name in ("granted", "refused")},
            "newest": [asdict(each) for each in reversed(self.newest)],
        }

    def _arrived(self, call: Call, own: Arrival) -> None:
        live: Arrival = call.result
        [request] = call.args
        name, seen, thought = request.request_id, _verdict(live), _verdict(own)
        self.arrived += 1
        if isinstance(live.outcome, Refused):
            self.live_counts["refused"] += 1
        else:
            self._waiting.add(name)
        if isinstance(own.outcome, Refused):
            self.own_counts["refused"] += 1
        kind = None
        if isinstance(live.outcome, Refused) and isinstance(own.outcome, Refused):
            kind = Kind.CODE if seen != thought else None
        elif isinstance(own.outcome, Refused):
            kind = Kind.REFUSED
        elif isinstance(live.outcome, Refused):
            kind = Kind.ADMITTED
        if kind is not None:
            self._note(call.at_us, kind, name, seen, thought)
        self._refused_own(call.at_us, own.displaced, live.displaced)

    def _refused_own(
        self, now_us: int, own: Iterable[tuple[str, Refused]], live: Iterable[tuple[str, Refused]]
    ) -> None:
        """Compare whose wait ended in the two."""
        ended, would = dict(live), dict(own)
        self.live_counts["refused"] += len(ended)
        self.own_counts["refused"] += len(would)
        for name, refusal in ended.items():
            self._waiting.discard(name)
            if name in would:
                if would[name].code != refusal.code:
                    self._note(now_us, Kind.CODE, name, refusal.code, would[name].code)
            elif name in self.core.waiting or name in self.core.running:
                self._note(now_us, Kind.KEPT, name, refusal.code, "granted" if name in self._granted else "queued")
                self._predict(now_us, name)
        for name, refusal in would.items():
            if name in self._waiting or name in self._running:
                self._note(now_us, Kind.DISPLACED, name, "granted" if name in self._running else "queued", refusal.code)

    def _compare_grants(self, now_us: int, live: list[Grant], own: list[Grant]) -> None:
        self.live_counts["granted"] += len(live)
        self.own_counts["granted"] += len(own)
        mine = {each.request.request_id: each.engine.engine_id for each in own}
        for each in live:
            name, engine = each.request.request_id, each.engine.engine_id
            self._waiting.discard(name)
            self._running[name] = (now_us, engine)
            if name in mine and mine[name] != engine:
                self._note(now_us, Kind.ENGINE, name, engine, mine[name])
            elif name not in mine and name in self._granted:
                earlier_ms = (now_us - self._granted[name][0]) // 1_000
                self._note(now_us, Kind.SOONER, name, "granted", f"granted {earlier_ms} ms before")
        for name, engine in mine.items():
            self._granted[name] = (now_us, engine)
            if name in self._running and self._running[name] != (now_us, engine):
                later_ms = (now_us - self._running[name][0]) // 1_000
                if later_ms:
                    self._note(now_us, Kind.LATER, name, "granted", f"granted {later_ms} ms after")
            elif name not in self._running and name not in self._waiting:
                self._predict(now_us, name)

    def _expired(self, call: Call, own: Expired) -> None:
        live: Expired = call.result
        self._refused_own(call.at_us, own.refused, live.refused)
        for name in live.lost:
            self._running.pop(name, None)
        for name in own.lost:
            self._granted.pop(name, None)

    def _settle(self, call: Call) -> None:
        name, settlement = call.args
        self._running.pop(name, None)
        self._granted.pop(name, None)
        if name in self.core.waiting:
            # It ended in truth before the candidate would have begun it.
            self._note(call.at_us, Kind.LATER, name, "ended", "queued")
            self.core.cancel(call.at_us, name)
        else:
            self.core.settle(call.at_us, name, settlement)

    def _cancel(self, call: Call) -> None:
        [name] = call.args
        if name not in self._waiting:
            # A granted one is settled next; the book of an unknown one holds nothing.
            return
        self._waiting.discard(name)
        self._granted.pop(name, None)
        self.core.cancel(call.at_us, name)
        if name in self.core.running:
            self.core.settle(call.at_us, name, UNUSED)

    def _predict(self, now_us: int, name: str) -> None:
        """Let a request that nobody serves in truth end as the candidate predicts."""
        running = self.core.running.get(name)
        if running is not None:
            read_us, end_us = self._service(now_us, running)
            heapq.heappush(self._ends, (now_us + read_us, 0, name))
            heapq.heappush(self._ends, (now_us + end_us, 1, name))

    def _service(self, now_us: int, running: Running) -> tuple[int, int]:
        replica = self.core.fleet.replicas[running.engine_id]
        read_us = round(max(replica.prefill_left(now_us), running.ask.prefill) * _MICRO / replica.rho)
        return read_us, read_us + running.ask.output * replica.tpot_us

    def _let_end(self, now_us: int) -> None:
        while self._ends and self._ends[0][0] <= now_us:
            at_us, is_end, name = heapq.heappop(self._ends)
            running = self.core.running.get(name)
            if running is None or name in self._running:
                continue
            ttft_ms = (at_us - running.granted_us) // 1_000
            if not is_end:
                self.core.progress(at_us, name, 1, ttft_ms)
                continue
            self._granted.pop(name, None)
            # As of a caller who left: nothing is learned of an answer that nobody made.
            tokens = (running.request.input_tokens, running.cached_tokens, running.ask.output)
            self.core.settle(at_us, name, Settlement(SettleOutcome.CLIENT_GONE, *tokens, running.ttft_ms, ttft_ms))

    def _renew(self, now_us: int) -> None:
        """Keep what runs in the book alone: no edge renews it."""
        for name, running in self.core.running.items():
            if name not in self._running:
                running.lease_until_us = now_us + self.rules.lease_us

    def _note(self, now_us: int, kind: Kind, name: str, live: str, candidate: str) -> None:
        self.kinds[kind.value] += 1
        self.newest.append(Otherwise(now_us, kind, name, live, candidate))


def _verdict(arrival: Arrival) -> str:
    return arrival.outcome.code if isinstance(arrival.outcome, Refused) else arrival.outcome.promise


def compared(lines: Iterable[bytes], change: Mapping[str, Any], since_us: int) -> dict[str, Any]:
    """Return what the rules of a recorded log, changed so, would have decided otherwise from a time on.

    Raises `LogInvalidError`.
    """
    shadow: Shadow | None = None
    for _, _, live, call in decided_again(lines):
        if shadow is not None:
            shadow.hear(call)
        elif call.at_us >= since_us:
            shadow = Shadow(live, replace(live.rules, **change), call.at_us)
    if shadow is None:
        raise LogInvalidError("line 1: nothing was decided")
    return shadow.figures()
