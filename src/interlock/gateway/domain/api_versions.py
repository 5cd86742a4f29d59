"""Versions of our own API, by the day from which each holds.

Changes nothing yet: there is one.
"""

import datetime as dt
from typing import Final

from interlock.gateway.domain.refusals import Refusal

# Oldest first. A version holds until the next one begins; what is older than the first is served no more.
VERSIONS: Final = (dt.date(2026, 1, 1),)


def version_at(asked: bytes | None, pinned_us: int, now_us: int) -> dt.date | Refusal:
    """Return the version that a request gets: the one it asks for, else the one of the day its key was made."""
    today = _day(now_us)
    if asked is None:
        return _in_force(_day(pinned_us)) or VERSIONS[0]
    try:
        wanted = dt.date.fromisoformat(asked.decode("latin-1").strip())
    except ValueError:
        wanted = dt.date.max
    found = _in_force(wanted)
    if found is None or wanted > today:
        return Refusal(
            "version_unknown",
            "header.interlock-version",
            param="interlock-version",
            detail={"versions": [str(each) for each in VERSIONS]},
            step="version",
        )
    return found


def _in_force(day: dt.date) -> dt.date | None:
    return max((each for each in VERSIONS if each <= day), default=None)


def _day(moment_us: int) -> dt.date:
    return dt.datetime.fromtimestamp(moment_us / 1_000_000, tz=dt.UTC).date()
