"""From the class of a failure to what happens with the URL: the one table, and nothing retries outside it.

Rolls no dice: the jitter comes in as a number.
"""

from dataclasses import dataclass
from typing import Final

JITTER: Final = 0.2
PUSHBACK_DAYS_MAX: Final = 30


@dataclass(frozen=True, slots=True)
class RetryRule:
    """One row. `waits_s` are the delays after the first, second, .. failed attempt; after the last one it is dead."""

    is_host_fault: bool
    waits_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """Queued again, not before `after_s` from now."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter."""


_CONNECTION: Final = RetryRule(is_host_fault=True, waits_s=tuple(30.0 * 4**n for n in range(4)))
_NAME: Final = RetryRule(is_host_fault=True, waits_s=(3_600.0, 86_400.0))
_FORM: Final = RetryRule(is_host_fault=False, waits_s=(300.0,))
_FINAL: Final = RetryRule(is_host_fault=False)

TABLE: Final = {
    **dict.fromkeys(
        ("dns_timeout", "connect_timeout", "connect_refused", "reset", "read_timeout", "too_slow"), _CONNECTION
    ),
    **dict.fromkeys(("dns_nxdomain", "tls_invalid"), _NAME),
    "http_5xx": RetryRule(is_host_fault=True, waits_s=tuple(60.0 * 4**n for n in range(4))),
    **dict.fromkeys(("bad_length", "bad_encoding", "header_overflow"), _FORM),
    **dict.fromkeys(("http_401", "http_403", "http_4xx"), _FINAL),
    # A robots.txt that cannot be had: five tries, then the URLs of a crawl that runs once are dead.
    "robots_unreachable": RetryRule(is_host_fault=False, waits_s=tuple(30.0 * 4**n for n in range(4))),
}

# Never retried: the URL is refused under this name.
REFUSALS: Final = frozenset({
    "body_too_large", "decompression_bomb", "unsupported_type", "redirect_loop", "egress_blocked", "robots_denied",
    "offscope",
})  # fmt: skip


def decide(kind: str, attempt: int, roll: float) -> Again | Dead:
    """Return what follows the `attempt`-th failure (from 1) of a class of the table; `roll` in [0, 1)."""
    waits_s = TABLE[kind].waits_s
    if attempt > len(waits_s):
        return Dead()
    return Again(waits_s[attempt - 1] * (1 + JITTER * roll))


def is_host_fault(kind: str) -> bool:
    """Tell whether a failure counts against the host."""
    rule = TABLE.get(kind)
    return rule is not None and rule.is_host_fault
