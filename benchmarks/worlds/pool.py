"""A pool in virtual time: the live core in front of engines that read one prompt after the other and cache prefixes.

Draws nothing; benchmarks bring the requests.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from interlock.contracts.scheduling import GrantRequest, Refused, Settlement, SettleOutcome
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.prefix import PrefixCache
from interlock.scheduler.domain.types import EngineState, Grant, PoolRules

TICK_US = 50_000
LOOK_US = 10_000
DECODE_US = 300_000
OUTPUT_TOKENS = 20


@dataclass
class Engine:
    """What an engine does, whatever the scheduler believes of it."""

    prefill_tps: int
    cache: PrefixCache
    until_us: int = 0
    read_tokens: int = 0


@dataclass
class VirtualPool:
    """One run. `on_refused` may return when, in microseconds, the caller comes back; None when it does not."""

    rules: PoolRules
    states: Iterable[EngineState]
    on_refused: Callable[[GrantRequest, Refused, bool], int | None] = lambda *_: None
    firsts: dict[str, int] = field(default_factory=dict)
    came_back: int = 0
    admitted_again: int = 0

    def __post_init__(self) -> None:
        self.policy = Policy(self.rules)
        self.engines: dict[str, Engine] = {}
        for each in self.states:
            self.policy.engine_changed(0, each)
            self.engines[each.engine_id] = Engine(each.prefill_tps, PrefixCache(each.kv_tokens))
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._looks_us = 0
        self._arrived_us: dict[str, int] = {}

    def run(self, arrivals: Iterable[tuple[int, GrantRequest]], end_us: int) -> None:
        """Let all arrive and run until nothing is left to happen."""
        for at_us, request in arrivals:
            self._push(at_us, self._arrive, request, False)
        for at_us in range(0, end_us, TICK_US):
            self._push(at_us, self._tick)
        while self._events:
            now_us, _, call, args = heapq.heappop(self._events)
            call(now_us, *args)
            for grant in self.policy.next_grants(now_us):
                self._begin(now_us, grant)
            self._look_later(now_us)

    def _push(self, at_us: int, call: Callable[..., None], *args: Any) -> None:
        self._serial += 1
        heapq.heappush(self._events, (at_us, self._serial, call, args))

    def _arrive(self, now_us: int, request: GrantRequest, is_return: bool) -> None:  # noqa: FBT001 - one event
        self._arrived_us.setdefault(request.request_id, now_us)
        outcome = self.policy.arrive(now_us, request).outcome
        self.came_back += is_return
        if not isinstance(outcome, Refused):
            self.admitted_again += is_return
            return
        wait_us = self.on_refused(request, outcome, is_return)
        if wait_us is not None:
            self._push(now_us + wait_us, self._arrive, request, True)

    def _tick(self, now_us: int) -> None:
        self.policy.expire(now_us)

    def _look_later(self, now_us: int) -> None:
        """Grant when an engine should have read enough, as a front does, not only at the next event."""
        opens_us = self.policy.opens_in_us(now_us)
        if opens_us is not None and now_us + opens_us != self._looks_us:
            self._looks_us = now_us + max(opens_us, LOOK_US)
            self._push(self._looks_us, lambda _: None)

    def _begin(self, now_us: int, grant: Grant) -> None:
        engine, request = self.engines[grant.engine.engine_id], grant.request
        cached = engine.cache.cached_tokens(request.model or "", request.prefix, request.input_tokens)
        engine.cache.note(request.model or "", request.prefix)
        engine.read_tokens += request.input_tokens - cached
        took_us = (request.input_tokens - cached) * 1_000_000 // engine.prefill_tps
        engine.until_us = max(now_us, engine.until_us) + took_us
        self._push(engine.until_us, self._read, request, cached, now_us)

    def _read(self, now_us: int, request: GrantRequest, cached: int, granted_us: int) -> None:
        self.firsts[request.request_id] = now_us - self._arrived_us[request.request_id]
        ttft_ms = (now_us - granted_us) // 1_000
        self.policy.progress(now_us, request.request_id, 1, ttft_ms)
        total_ms = ttft_ms + DECODE_US // 1_000
        done = Settlement(SettleOutcome.OK, request.input_tokens, cached, OUTPUT_TOKENS, ttft_ms, total_ms)
        self._push(now_us + DECODE_US, self._end, request.request_id, done)

    def _end(self, now_us: int, request_id: str, done: Settlement) -> None:
        self.policy.settle(now_us, request_id, done)
