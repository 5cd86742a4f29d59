"""What a request reserves of its limits, and how a decided reservation reads: headers, refusals, story.

Keeps no level; the store does, by the same rule for every process (`gateway_reserve` in the migrations).
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id
from interlock.gateway.domain.dialect import HeaderList
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode
from interlock.gateway.domain.refusals import Refusal

MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request may use: tokens of input and output, and how many answers it wants."""

    input_tokens: int
    output_tokens: int
    n: int = 1

    @property
    def tokens(self) -> int:
        """All tokens that are reserved."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Fill:
    """One bucket as the store answered: its level in millionths, after the debit where there was one."""

    limit: Limit
    requested: int
    level_micro: int
    is_short: bool

    @property
    def used(self) -> int:
        """Units used of the burst; more than the burst while a debt is paid."""
        return math.ceil(self.limit.burst - self.level_micro / MICRO)

    @property
    def remaining(self) -> int:
        """Whole units left."""
        return max(0, self.level_micro // MICRO)

    @property
    def wait_s(self) -> float:
        """Seconds until the refused amount fits."""
        missing = self.requested * MICRO - self.level_micro
        return max(0.0, missing * 60 / self.limit.limit / MICRO)

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, (self.limit.burst * MICRO - self.level_micro) * 60 / self.limit.limit / MICRO)

    def described(self) -> str:
        """`scope/dimension/model limit= used= requested= mode=`, for the story."""
        limit = self.limit
        return (
            f"{limit.scope}/{limit.dimension}/{limit.model} limit={limit.limit} used={self.used}"
            f" requested={self.requested} mode={limit.mode}"
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request holds of its buckets until it is settled."""

    fills: tuple[Fill, ...]
    tokens: int


def requested(limit: Limit, ask: Ask) -> int:
    """Return how much of a limit the request reserves."""
    return 1 if limit.dimension is Dimension.REQUESTS else ask.tokens


def never_fits(limits: tuple[Limit, ...], ask: Ask) -> Refusal | None:
    """Refuse what even a full bucket could not serve, naming the largest `max_tokens` that one could."""
    over = [limit for limit in limits if limit.mode is LimitMode.ENFORCE and requested(limit, ask) > limit.burst]
    if not over:
        return None
    limit = min(over, key=lambda each: each.burst)
    detail = _numbers(limit, requested(limit, ask), 0)
    detail["fits_max_tokens"] = _fits(limit.burst, ask)
    return Refusal(
        "request_exceeds_limit",
        format_id("limit", limit.id),
        message=(
            f"The request reserves {requested(limit, ask)} tokens; the limit of this {limit.scope} never holds "
            f"more than {limit.burst}."
        ),
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
    is_tokens = limit.dimension is Dimension.TOKENS
    if is_tokens:
        detail["fits_max_tokens"] = _fits(last.level_micro // MICRO, ask)
    noun = "tokens" if is_tokens else "requests"
    return Refusal(
        "tokens_limit" if is_tokens else "requests_limit",
        format_id("limit", limit.id),
        message=(
            f"The limit of {limit.limit} {noun} a minute of this {limit.scope} is used up: {last.used} used, "
            f"{last.requested} requested. Try again in {wait_s:.1f} s."
        ),
        retry_after_s=wait_s,
        detail=detail,
        headers=tuple(rate_headers(fills)),
        step="limits",
        note=last.described(),
    )


def rate_headers(fills: tuple[Fill, ...]) -> HeaderList:
    """Return `x-ratelimit-*` of the tightest bucket of each dimension, and the scope of the tightest of all."""
    headers: HeaderList = []
    for name, dimension in ((b"requests", Dimension.REQUESTS), (b"tokens", Dimension.TOKENS)):
        buckets = [fill for fill in fills if fill.limit.dimension is dimension]
        if buckets:
            tight = min(buckets, key=lambda fill: fill.remaining)
            headers += [
                (b"x-ratelimit-limit-" + name, b"%d" % tight.limit.limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % tight.remaining),
                (b"x-ratelimit-reset-" + name, _duration(tight.reset_s)),
            ]
    if fills:
        tightest = min(fills, key=lambda fill: fill.level_micro / fill.limit.burst)
        headers.append((b"x-interlock-limit-scope", tightest.limit.scope.encode()))
    return headers


def _numbers(limit: Limit, amount: int, used: int) -> dict[str, Any]:
    return {
        "scope": str(limit.scope),
        "dimension": str(limit.dimension),
        "model": limit.model,
        "limit": limit.limit,
        "used": used,
        "requested": amount,
    }


def _fits(tokens: int, ask: Ask) -> int | None:
    room = (tokens - ask.input_tokens) // ask.n
    return room if room > 0 else None


def _duration(seconds: float) -> bytes:
    """Write a duration as OpenAI does: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1_000)
    whole = math.ceil(seconds)
    return b"%ds" % whole if whole < 60 else b"%dm%ds" % divmod(whole, 60)
