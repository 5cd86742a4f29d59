"""One HTTP request as the kit reads it from ASGI: headers, cookies, query and its id.

Does not read the body; that waits until the caller is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.types import Receive

from interlock.foundation.control.route import MayOpen, opens_nothing
from interlock.foundation.control.story import ControlStory
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, MalformedIdError, RequestId, format_id, parse_id
from interlock.foundation.scope import Principal
from interlock.foundation.telemetry.traces import parse_traceparent

_QUERY_FIELDS_MAX = 100
# Every list takes these, so a route need not name them.
LIST_PARAMETERS = frozenset({"limit", "cursor"})


@dataclass(slots=True)
class Incoming:
    """What the edge passed on. `story` collects what is told about the call, `principal` is set once known."""

    method: str
    path: str
    query_text: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    cookies: Mapping[str, str]
    receive: Receive
    request_id: RequestId
    story: ControlStory = field(default_factory=ControlStory)
    principal: Principal | None = None
    may_open: MayOpen = opens_nothing

    @property
    def public_id(self) -> str:
        """The id as callers see it."""
        return format_id("req", self.request_id)

    @property
    def trace_id(self) -> str | None:
        """The trace that the caller named."""
        caller = parse_traceparent(self.headers.get("traceparent", "").encode("latin-1"))
        return None if caller is None else caller.trace_id

    @property
    def target(self) -> str:
        """The path with its query."""
        return f"{self.method} {self.path}?{self.query_text}"


def incoming(scope: Mapping[str, Any], receive: Receive, ids: IdFactory) -> Incoming:
    """Read the head of a request; of a header that is there twice the first one counts."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return Incoming(
        method=scope["method"],
        path=scope["path"],
        query_text=scope.get("query_string", b"").decode("latin-1"),
        params={name: str(value) for name, value in scope.get("path_params", {}).items()},
        headers=headers,
        cookies=_cookies(headers.get("cookie", "")),
        receive=receive,
        request_id=RequestId(_request_id(headers.get("x-request-id", ""), ids)),
    )


def parse_query(text: str, known: frozenset[str] | None) -> dict[str, str]:
    """Return the parameters of a query. Raises `unknown_field`, or `invalid_request` for what is ambiguous.

    `known` is None where any parameter may stand.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX, errors="strict")
    except (ValueError, UnicodeDecodeError) as error:
        raise InterlockError("invalid_request", "The query is not well formed.") from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if known is not None and name not in known:
            raise InterlockError(
                "unknown_field", "The query has a parameter that this call does not know.", detail={"field": name[:64]}
            )
        if name in found:
            raise InterlockError("invalid_request", "A parameter is there twice.", detail={"field": name[:64]})
        if "\x00" in value:
            raise InterlockError("invalid_request", "A parameter holds a NUL character.", detail={"field": name[:64]})
        found[name] = value
    return found


def _request_id(text: str, ids: IdFactory) -> UUID:
    try:
        return parse_id("req", text)
    except (MalformedIdError, IndexError):
        return ids.new()


def _cookies(text: str) -> dict[str, str]:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(text)
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}
