"""What a request reserves of its limits, and how a decided reservation reads: headers, refusals, story.

Keeps no level; the store does for all machines, and a worker's pools for what they lease.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id
from interlock.gateway.domain.buckets import MICRO, Bucket
from interlock.gateway.domain.dialect import HeaderList
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode
from interlock.gateway.domain.leasing import LeaseMode
from interlock.gateway.domain.pools import Plan, Pool, limit_header, scope_header
from interlock.gateway.domain.refusals import Refusal

_TOKENS: Final = (Dimension.TOKENS, Dimension.INPUT_TOKENS, Dimension.OUTPUT_TOKENS)
_CODES: Final = {
    Dimension.REQUESTS: "requests_limit",
    Dimension.CONCURRENCY: "concurrency_limit",
    Dimension.USD_DAY: "budget_exhausted",
    Dimension.USD_MONTH: "budget_exhausted",
}
_PHRASES: Final = {
    Dimension.REQUESTS: "requests a minute",
    Dimension.TOKENS: "tokens a minute",
    Dimension.INPUT_TOKENS: "input tokens a minute",
    Dimension.OUTPUT_TOKENS: "output tokens a minute",
    Dimension.CONCURRENCY: "concurrent requests",
    Dimension.USD_DAY: "dollars a day",
    Dimension.USD_MONTH: "dollars a month",
}
_HEADERS: Final = (
    (b"requests", Dimension.REQUESTS),
    (b"tokens", Dimension.TOKENS),
    (b"input-tokens", Dimension.INPUT_TOKENS),
    (b"output-tokens", Dimension.OUTPUT_TOKENS),
)


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What a request may use: tokens of input and output, how many answers it wants, and what that may cost."""

    input_tokens: int
    output_tokens: int
    n: int = 1
    usd_micros: int = 0

    @property
    def tokens(self) -> int:
        """All tokens that are reserved."""
        return self.input_tokens + self.output_tokens

    def amounts(self) -> tuple[int, ...]:
        """Return what is reserved, in the order of the dimensions."""
        input_micro, output_micro = self.input_tokens * MICRO, self.output_tokens * MICRO
        usd = self.usd_micros
        return (MICRO, input_micro + output_micro, input_micro, output_micro, MICRO, usd, usd)


class Used(msgspec.Struct, frozen=True, gc=False):
    """What a request that called a model server used in the end; without a known price it cost nothing here."""

    input_tokens: int
    output_tokens: int
    usd_micros: int = 0

    def amounts(self) -> tuple[int, ...]:
        """Return what stays taken, in the order of the dimensions; a slot never does."""
        input_micro, output_micro = self.input_tokens * MICRO, self.output_tokens * MICRO
        usd = self.usd_micros
        return (MICRO, input_micro + output_micro, input_micro, output_micro, 0, usd, usd)


NOTHING: Final = (0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Fill:
    """One bucket as it was answered: its level in millionths, after the debit where there was one, at `at_us`."""

    limit: Limit
    bucket: Bucket
    requested_micro: int
    level_micro: int
    is_short: bool
    at_us: int

    @property
    def used(self) -> int | float:
        """What is used of the burst; more than the burst while a debt is paid."""
        return units(self.limit, self.bucket.burst_micro - self.level_micro)

    @property
    def requested(self) -> int | float:
        """What the request asked for."""
        return units(self.limit, self.requested_micro)

    @property
    def remaining(self) -> int:
        """Whole units left."""
        return max(0, self.level_micro // MICRO)

    @property
    def wait_s(self) -> float:
        """Seconds until the refused amount fits."""
        return self.bucket.wait_us(self.requested_micro - self.level_micro, self.at_us) / MICRO

    @property
    def reset_us(self) -> int:
        """Microseconds until the bucket is full."""
        return self.bucket.wait_us(self.bucket.burst_micro - self.level_micro, self.at_us)

    def described(self) -> str:
        """`scope/dimension/model mode= limit= used= requested=`, for the story."""
        if self.limit.dimension.is_usd:
            used, requested = self.bucket.burst_micro - self.level_micro, self.requested_micro
            return f"{self.limit.words} used={told_usd(used)} requested={told_usd(requested)}"
        return f"{self.limit.words} used={self.used} requested={self.requested}"


@dataclass(slots=True)
class Reservation:
    """What a request holds of its buckets until it is settled: by pool, which amount it is and how much.

    `levels_micro` are those of all its limits after the debit, at `at_us`; fills are made of them for who reads them.
    """

    plan: Plan
    amounts: tuple[int, ...]
    levels_micro: list[int]
    shorts: list[bool]
    at_us: int
    tokens: int
    mode: LeaseMode
    held: list[tuple[Pool, int, int]]

    @property
    def fills(self) -> tuple[Fill, ...]:
        """Each bucket as it was after the debit."""
        plan = self.plan
        return tuple(
            Fill(limit, pool.bucket, self.amounts[place], level, short, self.at_us)
            for limit, pool, place, level, short in zip(
                plan.limits, plan.pools, plan.places, self.levels_micro, self.shorts, strict=True
            )
        )

    def described(self) -> str:
        """What the story says of all buckets; numbers are rounded up, dollars are told to the millionth."""
        told = []
        plan, amounts = self.plan, self.amounts
        for words, (pool, place), level in zip(plan.stories, plan.steps, self.levels_micro, strict=True):
            used, amount = pool.bucket.burst_micro - level, amounts[place]
            if place < _USD_PLACE:
                told.append(f"{words} used={-(-used // MICRO)} requested={amount // MICRO}")
            else:
                told.append(f"{words} used={told_usd(used)} requested={told_usd(amount)}")
        return "; ".join(told)

    def headers(self) -> HeaderList:
        """What the answer says of all buckets."""
        return rate_headers(self.fills)

    def give_back(self, used: Used | None, due: set[Pool]) -> Iterable[tuple[Pool, int]]:
        """Give back to the pools what was not used, once; what has to be told is put into `due`.

        Returns the slots that are free now, by pool.
        """
        kept = NOTHING if used is None else used.amounts()
        slots = []
        for pool, place, amount in self.held:
            if pool.bucket.is_slots:
                slots.append((pool, amount))
            elif amount != kept[place]:
                pool.credit += amount - kept[place]
                due.add(pool)
        return slots


_USD_PLACE: Final = tuple(Dimension).index(Dimension.USD_DAY)


def units(limit: Limit, micro: int) -> int | float:
    """Return millionths as the limit's own units: whole ones rounded up, dollars exactly."""
    return micro / MICRO if limit.dimension.is_usd else math.ceil(micro / MICRO)


def limit_units(limit: Limit, value: int | None = None) -> int | float:
    """Return a limit, or its burst, as it was set."""
    figure = limit.limit if value is None else value
    if not limit.dimension.is_usd:
        return figure
    return figure // MICRO if figure % MICRO == 0 else figure / MICRO


def lease(plan: Plan, ask: Ask, now: float, now_us: int, due: set[Pool]) -> Reservation | None:
    """Reserve a request from the worker's own leases, which waits for nobody; None where they do not cover it.

    Pools of which less than half is left are put into `due`.
    """
    if plan.leases is not None:
        leased: Reservation | None = plan.leases.take(plan, ask, now, now_us, due)
        return leased
    amounts = ask.amounts()
    if never_fits(plan.limits, plan.pools, amounts, ask) is not None or not plan.spend(amounts, now):
        return None
    held, levels = [], []
    for pool, place in plan.steps:
        held.append((pool, place, amounts[place]))
        levels.append(pool.level_now(now_us))
        if pool.bucket.is_slots:
            pool.slots += amounts[place]
        if pool.left < pool.half:
            due.add(pool)
    return Reservation(plan, amounts, levels, [False] * len(levels), now_us, ask.tokens, LeaseMode.LEASED, held)


def never_fits(limits: tuple[Limit, ...], pools: list[Pool], amounts: tuple[int, ...], ask: Ask) -> Refusal | None:
    """Refuse what even a full bucket could not serve, naming the largest `max_tokens` that one could."""
    over = None
    for limit, pool in zip(limits, pools, strict=True):
        if amounts[_PLACE[limit.dimension]] > pool.bucket.burst_micro and limit.mode is LimitMode.ENFORCE:
            over = (limit, pool) if over is None or pool.bucket.burst_micro < over[1].bucket.burst_micro else over
    if over is None:
        return None
    limit, pool = over
    amount = units(limit, amounts[_PLACE[limit.dimension]])
    burst = limit_units(limit, limit.burst)
    detail = _numbers(limit, amount, None)
    detail["fits_max_tokens"] = _fits(limit, pool.bucket.burst_micro // MICRO, ask)
    noun = _PHRASES[limit.dimension].rpartition(" a ")[0]
    return Refusal(
        "request_exceeds_limit",
        format_id("limit", limit.id),
        message=f"The request reserves {amount} {noun}; the limit of this {limit.scope} never holds more than {burst}.",
        detail=detail,
        step="limits",
    )


def refused(fills: tuple[Fill, ...], ask: Ask, now_us: int) -> Refusal | None:
    """Return the refusal of the bucket that is ready last, or None when every enforced bucket had enough."""
    short = [fill for fill in fills if fill.is_short and fill.limit.mode is LimitMode.ENFORCE]
    if not short:
        return None
    last = max(short, key=lambda fill: fill.wait_s)
    limit, wait_s = last.limit, last.wait_s
    detail = _numbers(limit, last.requested, last.used)
    detail["retry_at"] = rfc3339(now_us + math.ceil(wait_s * MICRO))
    detail["fits_max_tokens"] = _fits(limit, last.level_micro // MICRO, ask)
    phrase = _PHRASES[limit.dimension]
    return Refusal(
        _CODES.get(limit.dimension, "tokens_limit"),
        format_id("limit", limit.id),
        message=(
            f"The limit of {limit_units(limit)} {phrase} of this {limit.scope} is used up: {last.used} used, "
            f"{last.requested} requested. Try again in {wait_s:.1f} s."
        ),
        retry_after_s=wait_s,
        detail=detail,
        headers=tuple(rate_headers(fills)),
        step="limits",
        note=last.described(),
    )


def told_usd(micros: int) -> str:
    """Return dollars to the millionth."""
    return f"{micros // MICRO}.{micros % MICRO:06d}"


def rate_headers(fills: tuple[Fill, ...]) -> HeaderList:
    """Return `x-ratelimit-*` of the tightest bucket of each dimension, and the scope of the tightest of all."""
    headers: HeaderList = []
    for name, dimension in _HEADERS:
        buckets = [fill for fill in fills if fill.limit.dimension is dimension]
        if buckets:
            tight = min(buckets, key=lambda fill: fill.remaining)
            headers += [
                limit_header(tight.limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % tight.remaining),
                (b"x-ratelimit-reset-" + name, _duration(tight.reset_us / MICRO)),
            ]
    if fills:
        headers.append(scope_header(tightest(fills).limit))
    return headers


def tightest(fills: tuple[Fill, ...]) -> Fill:
    """Return the bucket of which the smallest part is left."""
    return min(fills, key=lambda fill: fill.level_micro / fill.bucket.burst_micro)


_PLACE: Final = {dimension: at for at, dimension in enumerate(Dimension)}


def _numbers(limit: Limit, amount: float, used: float | None) -> dict[str, Any]:
    return {
        "scope": str(limit.scope),
        "dimension": str(limit.dimension),
        "model": limit.model,
        "limit": limit_units(limit),
        "used": used,
        "requested": amount,
    }


def _fits(limit: Limit, tokens: int, ask: Ask) -> int | None:
    """Return the largest `max_tokens` that so many tokens leave room for; None where it would change nothing."""
    if limit.dimension not in _TOKENS or limit.dimension is Dimension.INPUT_TOKENS:
        return None
    given = ask.input_tokens if limit.dimension is Dimension.TOKENS else 0
    room = (tokens - given) // ask.n
    return room if room > 0 else None


def _duration(seconds: float) -> bytes:
    """Write a duration as OpenAI does: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1_000)
    whole = math.ceil(seconds)
    return b"%ds" % whole if whole < 60 else b"%dm%ds" % divmod(whole, 60)
