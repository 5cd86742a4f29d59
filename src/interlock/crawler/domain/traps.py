"""URLs that a site can make without end: which rule holds one back.

Does not count: how many pages a template has and how many of them were new is the frontier's knowledge.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from interlock.crawler.domain.types import CanonicalUrl

SEGMENTS_MAX: Final = 16
REPEATS_MAX: Final = 3
QUERY_KEYS_MAX: Final = 8
DAYS_AHEAD_MAX: Final = 730
TEMPLATE_PAGES_MAX: Final = 500
NOVELTY_WINDOW: Final = 50
NOVELTY_SHARE_MIN: Final = 0.10

# Without separators only eight digits are a date: six are as likely a number of an article.
_DATE: Final = re.compile(
    r"(?<!\d)((?:19|20|21)\d\d)(?:[-/_.](0?[1-9]|1[0-2])(?:[-/_.](0?[1-9]|[12]\d|3[01]))?"
    r"|(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01]))(?!\d)"
)
_LONG_TOKEN_CHARS: Final = 24
_HEX: Final = re.compile(r"(?=[0-9a-f-]*\d)[0-9a-f-]{8,}", re.IGNORECASE)
_DIGITS: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Trapped:
    """The rule that held a URL back, with the number that it saw."""

    rule: str
    seen: int
    limit: int


def trapped(url: CanonicalUrl, now_us: int) -> Trapped | None:
    """Return the rule that the form of a URL breaks, None where none does."""
    segments = [segment for segment in url.path.split("/") if segment]
    if len(segments) > SEGMENTS_MAX:
        return Trapped("trap_depth", len(segments), SEGMENTS_MAX)
    repeats = _repeats(segments)
    if repeats > REPEATS_MAX:
        return Trapped("trap_repeat", repeats, REPEATS_MAX)
    keys = len(_query_keys(url))
    if keys > QUERY_KEYS_MAX:
        return Trapped("trap_query", keys, QUERY_KEYS_MAX)
    days = _days_ahead(url.target, now_us)
    return Trapped("trap_calendar", days, DAYS_AHEAD_MAX) if days > DAYS_AHEAD_MAX else None


def template_of(url: CanonicalUrl) -> str:
    """Return what pages of one kind share: the path without its dates, numbers and ids, and the names of its query."""
    path = "/".join(_shape(segment) for segment in _DATE.sub("{date}", url.path).split("/"))
    keys = sorted(set(_query_keys(url)))
    return f"{path}?{'&'.join(keys)}" if keys else path


def is_exhausted(pages: int, novel_of_window: int) -> bool:
    """Tell whether a template brings too little that is new to go on (`trap_low_novelty`)."""
    return pages > TEMPLATE_PAGES_MAX and novel_of_window < NOVELTY_WINDOW * NOVELTY_SHARE_MIN


def _repeats(segments: list[str]) -> int:
    """Return how often in a row some sequence of segments stands, at most."""
    most = 1 if segments else 0
    for length in range(1, len(segments) // 2 + 1):
        for start in range(len(segments) - 2 * length + 1):
            times, at = 1, start + length
            while segments[at : at + length] == segments[start : start + length]:
                times, at = times + 1, at + length
            most = max(most, times)
    return most


def _query_keys(url: CanonicalUrl) -> list[str]:
    return [part.partition("=")[0] for part in url.query.split("&") if part]


def _days_ahead(target: str, now_us: int) -> int:
    today = datetime.fromtimestamp(now_us / 1_000_000, tz=UTC)
    most = 0
    for year, month, day, plain_month, plain_day in _DATE.findall(target):
        try:
            named = datetime(int(year), int(month or plain_month), int(day or plain_day or 1), tzinfo=UTC)
        except ValueError:
            continue
        most = max(most, (named - today) // timedelta(days=1))
    return most


def _shape(segment: str) -> str:
    if len(segment) >= _LONG_TOKEN_CHARS:
        return "{token}"
    if _HEX.fullmatch(segment):
        return "{hex}"
    return _DIGITS.sub("{n}", segment)
