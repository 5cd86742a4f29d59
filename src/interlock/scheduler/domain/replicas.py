"""One engine of a pool by the scheduler's own accounting: slots, granted prefill, KV, what it has read, how fast it is.

Decides nothing; `policy.py` asks for its room. Scraped gauges only add the seats that others take.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from interlock.contracts.scheduling import GrantRequest
from interlock.scheduler.domain.asks import Ask
from interlock.scheduler.domain.cost import Meter
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.estimate import Mean
from interlock.scheduler.domain.prefix import PrefixCache
from interlock.scheduler.domain.rates import CREDIT_SHARE
from interlock.scheduler.domain.tempo import Tempo
from interlock.scheduler.domain.types import EngineCondition, EngineState, EngineStatistics

BLOCK: Final = 16
_SAMPLE_TOKENS: Final = 200
_SAMPLE_US_MIN: Final = 10_000
_STEP_TOKENS: Final = 256
_RHO_WEIGHT: Final = 0.05
_MICRO: Final = 1_000_000
_TPOT_US: Final = 50_000
_OWN_FLOOR: Final = 0.02
# What is left of a prompt whose first token is late by the plan, for as long again as reading all of it should take, or
# with our own engine, which tells, until it comes: an engine that turns out slower than it was is not given prompt
# after prompt, which it would all read at once.
_LATE_SHARE: Final = 0.2
_OWN_LATE_SHARE: Final = 0.25


@dataclass(slots=True)
class Running:
    """A granted request until it is settled or lost."""

    request: GrantRequest
    ask: Ask
    engine_id: str
    arrived_us: int
    granted_us: int
    lease_until_us: int
    first_due_us: int | None
    cached_tokens: int
    reserved_kv: int
    promise: str
    began_usd: float = 0.0
    output_tokens: int = 0
    ttft_ms: int | None = None
    # When its tokens were counted last, and how many they were then; None before the first.
    counted_us: int | None = None
    counted_tokens: int = 0
    is_revoked: bool = False
    # An adopted grant came without its wait; what it is charged for the first token begins at its grant.
    is_adopted: bool = False

    @property
    def waited_us(self) -> int:
        """Microseconds between arrival and grant."""
        return self.granted_us - self.arrived_us


@dataclass(slots=True)
class _Chain:
    """First tokens that came one right after the other, which tell how fast prompts are read."""

    tokens: int = 0
    took_us: int = 0
    last_us: int = 0


@dataclass(slots=True)
class _Reading:
    """A granted prompt without a first token: its tokens, those left by the plan, and when it counts as read unseen."""

    tokens: float
    left: float
    rest: float
    read_by_us: int | None = None
    is_written_off: bool = False

    @property
    def counted(self) -> float:
        """What it still holds of the engine's credit."""
        return 0.0 if self.is_written_off else max(self.left, self.rest)


@dataclass(slots=True)
class Replica:
    """Accounting of one engine."""

    state: EngineState
    rho: float
    meter: Meter
    prefix: PrefixCache
    tempo: Tempo
    granted: int = 0
    # How many sequences it may run for the tightest objective in use; None: as many as it has slots.
    sequences_max: int | None = None
    others: int = 0
    kv_share: float = 0.90
    kv_reserved: int = 0
    ttft_ms: Mean = field(default_factory=Mean)
    tpot_ms: Mean = field(default_factory=Mean)
    events: int = 0
    # Until then others are asked first: its last grant ended without a byte.
    doubted_until_us: int = 0
    _prefilling: dict[str, _Reading] = field(default_factory=dict)
    _drained_us: int = 0
    # What is left of all granted prompts, until one of them changes.
    _sum: int | None = 0
    _samples: int = 0
    _chain: _Chain = field(default_factory=_Chain)

    @classmethod
    def of(cls, state: EngineState) -> "Replica":
        """Return an engine that holds nothing yet."""
        meter, prefix = Meter(state.price_usd_hour), PrefixCache(state.kv_tokens)
        return cls(state, float(state.prefill_tps), meter, prefix, Tempo(state.slots))

    @property
    def seats(self) -> int:
        """Sequences that may still be granted."""
        if self.state.condition is not EngineCondition.READY:
            return 0
        return max(0, self.places - self.granted - self.others)

    @property
    def places(self) -> int:
        """Sequences that may run at once: its slots, or fewer while its tokens come too late."""
        slots = self.state.slots
        return slots if self.sequences_max is None else min(slots, self.sequences_max)

    @property
    def crowd(self) -> int:
        """Sequences that run beyond that: so many have to end before a seat comes free."""
        return max(0, self.granted + self.others - self.places)

    @property
    def tpot_us(self) -> int:
        """Time between tokens, as measured, else as declared; while they come too late as they come now."""
        if self.tempo.is_held and self.tempo.gap_us:
            return max(1, round(self.tempo.gap_us))
        measured = self.tpot_ms.value
        if measured is not None:
            return max(1, round(measured * 1_000))
        return round(self.state.tpot_ms * 1_000) if self.state.tpot_ms else _TPOT_US

    @property
    def predicted_tpot_ms(self) -> int | None:
        """The time per output token that an answer may expect; None before any was measured."""
        return round(self.tempo.gap_us / 1_000) if self.tempo.is_held else self.tpot_ms.rounded

    def prefill_left(self, now_us: int) -> int:
        """Return granted prompt tokens without a first token, drained at the rate of the engine."""
        self._drain(now_us)
        return self._left

    def unread(self, now_us: int) -> int:
        """Return what a plan counts on: of an engine that does not tell, what should be read by now is."""
        self._drain(now_us)
        return self._left if self._is_own else round(sum(each.left for each in self._prefilling.values()))

    def has_credit(self, now_us: int, tightest_us: int) -> bool:
        """Tell whether it may be given more: its unread prompts stay under a tenth of the tightest promise."""
        return self.seats > 0 and self.credit_in_us(now_us, tightest_us) == 0

    def credit_in_us(self, now_us: int, tightest_us: int) -> int:
        """Return after how long its unread prompts are below that again, as fast as it reads; 0 where they are."""
        over = self.prefill_left(now_us) * _MICRO - CREDIT_SHARE * tightest_us * self.rho
        return math.ceil(over / self.rho) if over > 0 else 0

    @property
    def unread_prompts(self) -> tuple[int, dict[str, _Reading]]:
        """The granted prompts without a first token, and when they were last let drain."""
        return self._drained_us, self._prefilling

    def follow(self, other: "Replica") -> None:
        """Count on the speed and the unread prompts of another account of the same engine, where both know them."""
        self._drained_us, known = other.unread_prompts
        self.rho, self._sum = other.rho, None
        for request_id in self._prefilling.keys() & known.keys():
            self._prefilling[request_id] = replace(known[request_id])

    def holds(self, request: GrantRequest) -> bool:
        """Tell whether a request fits the context and the whole KV of the engine at all."""
        kv_tokens = self.state.kv_tokens
        need = request.input_tokens + 1
        return need <= self.state.context_tokens and (kv_tokens is None or need <= kv_tokens)

    def has_kv(self, reserve: int) -> bool:
        """Tell whether the KV has room; an engine that runs nothing takes whatever it can hold."""
        kv_tokens = self.state.kv_tokens
        return kv_tokens is None or not self.granted or self.kv_reserved + reserve <= self.kv_share * kv_tokens

    def cached(self, request: GrantRequest) -> int:
        """Return the prompt tokens that it need not read again."""
        return self.prefix.cached_tokens(request.model or "", request.prefix, request.input_tokens)

    def start(self, running: Running, now_us: int) -> None:
        """Take a request in."""
        self._drain(now_us)
        request = running.request
        self.granted += 1
        self.events += 1
        self.tempo.begun(now_us)
        self.kv_reserved += running.reserved_kv
        if running.ttft_ms is None and not running.output_tokens:
            tokens = float(running.ask.prefill)
            self._prefilling[request.request_id] = _Reading(
                tokens, tokens, tokens * (_OWN_LATE_SHARE if self._is_own else _LATE_SHARE)
            )
            self._sum = None
        self.prefix.note(request.model or "", request.prefix)
        running.began_usd = self.meter.begin(now_us, running.ask.cost)

    def first_token(self, running: Running, now_us: int) -> None:
        """Note that a prompt is read, and learn how fast."""
        self.doubted_until_us = 0
        if self._prefilling.pop(running.request.request_id, None) is None:
            return
        self._sum = None
        self.events += 1
        chain = self._chain
        is_chained = chain.last_us > running.granted_us
        begun_us = chain.last_us if is_chained else running.granted_us
        if not is_chained:
            chain.tokens = chain.took_us = 0
        chain.tokens += running.ask.prefill
        chain.took_us += max(0, now_us - begun_us)
        chain.last_us = max(now_us, chain.last_us)
        if chain.tokens > _SAMPLE_TOKENS and chain.took_us >= _SAMPLE_US_MIN:
            self._learn_rho(chain.tokens, chain.took_us)
            chain.tokens = chain.took_us = 0

    def streamed(self, running: Running, now_us: int, output_tokens: int, objectives_us: tuple[int, ...]) -> None:
        """Note how many tokens an answer has: what came since the last look tells how far apart they are."""
        if running.counted_us is None:
            if running.is_adopted:
                running.counted_us, running.counted_tokens = now_us, output_tokens
                return
            running.counted_us, running.counted_tokens = running.granted_us + (running.ttft_ms or 0) * 1_000, 1
        took_us, tokens = now_us - running.counted_us, output_tokens - running.counted_tokens
        if tokens > 0 and took_us > 0:
            running.counted_us, running.counted_tokens = now_us, output_tokens
            self.tempo.slots = self.state.slots
            self.tempo.streamed(now_us, tokens, took_us, self.granted + self.others, objectives_us)

    def finish(self, running: Running, now_us: int) -> float:
        """Let a request go; return what it cost in dollars."""
        self._drain(now_us)
        if self._prefilling.pop(running.request.request_id, None) is not None:
            self._sum = None
        self.granted -= 1
        self.events += 1
        self.kv_reserved -= running.reserved_kv
        return self.meter.end(now_us, running.ask.cost, running.began_usd)

    def statistics(self) -> EngineStatistics:
        """Return what it holds, as of its last event: looking must not let time pass."""
        return EngineStatistics(
            state=self.state,
            granted=self.granted,
            ttft_ms=self.ttft_ms.rounded,
            tpot_ms=self.tpot_ms.rounded,
            others=self.others,
            prefill_left=self._left,
            prefill_tps=round(self.rho),
            kv_reserved=self.kv_reserved,
            kv_limit_share=self.kv_share,
            sequences_max=self.places,
            busy_us=self.meter.busy_us,
            since_us=self.meter.since_us,
            idle_usd=self.meter.idle_usd,
        )

    def learn_tpot(self, milliseconds: float) -> None:
        """Take in the mean time between the tokens of one answer."""
        self.tpot_ms.add(milliseconds)

    def paced(self, tokens: int, took_us: int) -> None:
        """Take in how fast it read a prompt that was not a grant's; counts as long as no grant's was seen."""
        if not self._samples:
            self._learn_rho(tokens, max(1, took_us))

    def _learn_rho(self, tokens: int, took_us: int) -> None:
        """Weigh a sample like the steps that it was made of; what was declared counts until the first one."""
        self._samples += 1
        weight = max(1 - (1 - _RHO_WEIGHT) ** -(-tokens // _STEP_TOKENS), 1 / self._samples)
        self.rho = max(self._floor, self.rho + weight * (tokens * _MICRO / took_us - self.rho))

    @property
    def has_unread(self) -> bool:
        """Whether a granted prompt has no first token yet."""
        return bool(self._prefilling)

    @property
    def reading_s(self) -> float:
        """How long the longest of its unread prompts takes to read, while all else may stand."""
        return max((each.tokens for each in self._prefilling.values()), default=0.0) / self.rho

    @property
    def _is_own(self) -> bool:
        return self.state.dialect is Dialect.EMBEDDED

    @property
    def _floor(self) -> float:
        """Our own engine shares the cores with all else, so a slow second says little of the next one."""
        return self.state.prefill_tps * _OWN_FLOOR if self._is_own else 1.0

    @property
    def _left(self) -> int:
        if self._sum is None:
            self._sum = round(sum(each.counted for each in self._prefilling.values()))
        return self._sum

    def _drain(self, now_us: int) -> None:
        """Let the prompts in front be read at rho, in the order of their grants.

        A late one counts on with a part of itself, but what it keeps is not read of the next one meanwhile: the engine
        would be given prompts faster than it reads them.
        """
        passed_us = now_us - self._drained_us
        if passed_us <= 0:
            return
        self._drained_us = now_us
        if not self._prefilling:
            return
        budget, self._sum = passed_us * self.rho / _MICRO, None
        for each in self._prefilling.values():
            if budget <= 0.0 and each.read_by_us is None:
                # They are read in order: nobody behind it has been begun.
                break
            taken = min(each.left, budget)
            each.left -= taken
            budget -= taken
            if each.read_by_us is None and each.left <= 0.0:
                each.read_by_us = now_us + round(each.tokens * _MICRO / self.rho)
            elif each.read_by_us is not None and now_us >= each.read_by_us and not self._is_own:
                each.is_written_off = True


def blocks(tokens: int) -> int:
    """Return KV tokens in whole blocks."""
    return -(-tokens // BLOCK) * BLOCK
