"""How long a host is left alone between two requests, and for how long it asked to be left alone altogether.

Looks at no clock: latencies, headers and the local time come in as arguments.
"""

import math
import re
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

ALPHA: Final = 0.2
DELAY_MS_MAX: Final = 60_000
CRAWL_DELAY_S_MAX: Final = 300.0
RETRY_AFTER_S_MAX: Final = 7 * 86_400.0
BLOCK_S_MAX: Final = 86_400.0
DATE_SKEW_S_MAX: Final = 86_400.0
# Fractions and a header sent twice are against the letter of RFC 9110, and yet clear: the longest time counts.
_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:\s*,\s*[0-9]+(?:\.[0-9]+)?)*")
_HEADERLESS_S: Final = 60.0
_DECAY: Final = 0.95
_DOUBLINGS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Pace:
    """What a host's delay is made of. `floor_ms` is the largest floor of the crawls that wait for the host."""

    floor_ms: int = 1000
    crawl_delay_ms: int = 0
    adaptive_ms: float = 0.0
    ewma_latency_ms: float = 0.0

    @property
    def delay_ms(self) -> int:
        """The milliseconds from the start of one request to the start of the next."""
        return self._deciding()[0]

    @property
    def source(self) -> str:
        """Which part decides: `floor`, `latency`, `adaptive` or `crawl_delay`."""
        return self._deciding()[1]

    def _deciding(self) -> tuple[int, str]:
        adaptive = max(
            (float(self.floor_ms), "floor"),
            (self.ewma_latency_ms, "latency"),
            (self.adaptive_ms, "adaptive"),
            key=lambda each: each[0],
        )
        # A floor that somebody asked for, and a crawl-delay, are kept also above the bound of what we learn.
        bounded = (min(adaptive[0], max(DELAY_MS_MAX, self.floor_ms)), adaptive[1])
        found = max(bounded, (float(self.crawl_delay_ms), "crawl_delay"), key=lambda each: each[0])
        return math.ceil(found[0]), found[1]


def is_lesson(status: int) -> bool:
    """Tell whether an answer's latency says how fast the host serves; an error comes quickly and says nothing."""
    return 200 <= status < 400 or status in {404, 410}


def after_answer(pace: Pace, status: int, latency_ms: float) -> Pace:
    """Return the pace after an answer that is no push-back; what is no lesson changes nothing."""
    if not is_lesson(status):
        return pace
    known = pace.ewma_latency_ms
    ewma = latency_ms if known <= 0 else known + ALPHA * (latency_ms - known)
    adaptive = pace.adaptive_ms * _DECAY
    return replace(pace, ewma_latency_ms=ewma, adaptive_ms=0.0 if adaptive <= max(pace.floor_ms, ewma) else adaptive)


def after_pushback(pace: Pace) -> Pace:
    """Return the pace after a 429 or 503: the adaptive part doubles."""
    base = max(pace.adaptive_ms, float(pace.floor_ms), pace.ewma_latency_ms, 1.0)
    return replace(pace, adaptive_ms=min(float(DELAY_MS_MAX), 2 * base))


def retry_after_s(value: str | None, date: str | None, now_us: int) -> float | None:
    """Return the seconds that a `Retry-After` asks for, rounded up; None where it is absent or unreadable.

    A date is measured from the answer's own `Date`, since the host's clock may be wrong; from ours where that is absent
    or more than a day off (RFC 9110, section 10.2.3).
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return min(RETRY_AFTER_S_MAX, max(float(math.ceil(float(each.strip()[:12]))) for each in text.split(",")))
    until = _epoch_s(text)
    if until is None:
        return None
    now_s = now_us / 1_000_000
    own = _epoch_s((date or "").strip())
    since = now_s if own is None or abs(own - now_s) > DATE_SKEW_S_MAX else own
    return min(RETRY_AFTER_S_MAX, max(0.0, float(math.ceil(until - since))))


def headerless_block_s(pushbacks: int, roll: float) -> float:
    """Return the block after the n-th push-back in a row (from 0) that named no time; `roll` in [0, 1)."""
    whole = min(BLOCK_S_MAX, _HEADERLESS_S * float(1 << min(pushbacks, _DOUBLINGS_MAX)))
    return whole * (0.5 + 0.5 * roll)


def _epoch_s(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        # The form of asctime names no zone, and is GMT (RFC 9110, section 5.6.7), whatever the zone of this machine.
        return float((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
