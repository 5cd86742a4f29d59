"""A moment on a page: how long ago it was or how soon it will be, with the exact time on focus and under the pointer.

Reads no clock; the page says when it is made.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial

from interlock.console.render import environment
from interlock.console.views import ago

# Renders an RFC 3339 time as it stands while a page is made; a dash for none.
When = Callable[[str | None], str]


def when_at(now_us: int) -> When:
    """Return what renders moments for a page that is made at `now_us`."""
    return partial(_moment, now_us=now_us)


def _moment(moment: str | None, now_us: int) -> str:
    if not moment:
        return "-"
    at_us = round(datetime.fromisoformat(moment).timestamp() * 1_000_000)
    # A module of a template is markup by itself: the page that shows it escapes it no second time.
    return environment().get_template("moment.html").make_module({"at": moment, "words": ago(at_us, now_us)}).__html__()
