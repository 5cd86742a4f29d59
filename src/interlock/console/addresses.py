"""How a page of the console becomes a route: the same form for the pages of every system.

Knows no page.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from interlock.foundation.control.route import Handler, Level, Route
from interlock.foundation.scope import Scope

HTML: Final = "text/html"
# Returns the id of what a screen can show right now in a scope; None where there is nothing yet.
Sampler = Callable[[Scope], Awaitable[str | None]]


def page_at(
    path: str, handler: Handler, summary: str, query: tuple[str, ...] = (), *, action: str = "requests:read",
    codes: tuple[str, ...] = (),
) -> Route:  # fmt: skip
    """Return the route of a page at `/console` + `path`, for readers whose key or session allows `action`."""
    return Route("GET", f"/console{path}", Level.WORKSPACE, handler, summary, action=action, is_html=True,
                 query=query, codes=codes, media_type=HTML)  # fmt: skip


def as_type(route: Route, media_type: str) -> Route:
    """Return the route of something that is no page: events, CSV."""
    return replace(route, media_type=media_type)


def form_at(
    path: str, handler: Handler, summary: str, *, action: str, codes: tuple[str, ...] = (), bytes_max: int = 65_536
) -> Route:
    """Return the route of a form that a page at `/console` + `path` posts; the kit checks origin and token."""
    return Route("POST", f"/console{path}", Level.WORKSPACE, handler, summary, action=action, is_html=True,
                 is_mutation=True, body_bytes_max=bytes_max, codes=codes, media_type=HTML)  # fmt: skip
