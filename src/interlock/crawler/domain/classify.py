"""From what a fetch brought to its class: a success, a redirect, a push-back, or a row of the retry table.

Does not look into bodies, and decides nothing about the URL's future.
"""

from interlock.crawler.domain.delay import retry_after_s
from interlock.crawler.domain.types import Fetched

OK, NOT_MODIFIED, REDIRECT = "ok", "not_modified", "redirect"
PUSHBACKS = frozenset({"http_429", "http_503"})
# Statuses on which a site may name a time; nothing goes to the host before it.
RETRY_AFTER_STATUSES = frozenset({301, 302, 303, 307, 308, 403, 408, 413, 429, 503})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAMED = frozenset({401, 403, 404, 410, 429, 503})


def classify(fetched: Fetched) -> str:
    """Return `ok`, `not_modified`, `redirect`, `http_404`, .. `http_4xx`, `http_5xx`, or the fault's name."""
    if fetched.fault is not None or fetched.status is None:
        return str(fetched.fault or "reset")
    status = fetched.status
    if 200 <= status < 300:
        return OK
    if status == 304:
        return NOT_MODIFIED
    if status in _REDIRECTS:
        return REDIRECT if fetched.header("location") else "http_4xx"
    if status in _NAMED:
        return f"http_{status}"
    return "http_5xx" if status >= 500 else "http_4xx"


def asked_away_s(fetched: Fetched, now_us: int) -> float | None:
    """Return how long an answer asks its host to be left alone, None where it names no time."""
    if fetched.status not in RETRY_AFTER_STATUSES:
        return None
    return retry_after_s(fetched.header("retry-after"), fetched.header("date"), now_us)
