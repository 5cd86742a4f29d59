"""The shape of a control route: who may call it, what it takes, what it answers.

Holds no routes and no rules; `app.py` serves the registry, `identity/domain/policy.py` decides.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from interlock.foundation.control.cursors import Cursors, Page, Position
from interlock.foundation.control.story import StoryDecision, StoryLink
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import RequestId
from interlock.foundation.scope import Principal, Scope
from interlock.foundation.store import Store, Transaction


class Level(StrEnum):
    """What a caller must be before the action is even looked at."""

    PUBLIC = "public"
    SESSION = "session"
    WORKSPACE = "workspace"
    ORGANIZATION = "organization"
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: a JSON-encodable `body`, or raw `content`, or a `stream` of SSE bytes.

    `settle` is called once the call's transaction has committed and gives the answer in its place, such as one that
    waits for a worker; what an Idempotency-Key keeps is this one.
    """

    status: int = 200
    body: Any = None
    content: bytes | None = None
    stream: AsyncIterator[bytes] | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    settle: Callable[[], Awaitable["Reply"]] | None = None


# Whether the caller may GET the route of this path, by the level and the action of that route itself.
MayOpen = Callable[[str], bool]
# Whether the caller would be answered who GETs the route of this path with this id in it.
Sees = Callable[[str, str], Awaitable[bool]]


def opens_nothing(_path: str) -> bool:
    """Answer for a caller whom nobody knows."""
    return False


async def sees_nothing(_path: str, _id: str) -> bool:
    """Answer for a caller whom nobody knows."""
    return False


@dataclass(slots=True)
class Call:
    """One authorized call, as a handler sees it.

    A mutation runs inside `tx`, which the kit commits together with its idempotency row and which
    rolls back when the handler raises. A read opens `store.transaction(scope)` itself.
    `may_open` tells whether the caller may open a page, by its path, `sees` whether one thing is there for the caller.
    `form` holds the fields of an HTML form post, `cookies` the request's cookies. Forms that a page renders
    carry `csrf_token`. `decisions` and `links` go into the story of the request.
    """

    request_id: RequestId
    principal: Principal | None
    scope: Scope | None
    store: Store
    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    transaction: Transaction | None = None
    route: str = ""
    address: str | None = None
    csrf_token: str = ""
    cursors: Cursors | None = None
    decisions: list[StoryDecision] = field(default_factory=list)
    links: list[StoryLink] = field(default_factory=list)
    may_open: MayOpen = opens_nothing
    sees: Sees = sees_nothing

    @property
    def page(self) -> Page:
        """What `limit` and `cursor` of the query ask for. Raises `invalid_cursor`, `invalid_request`."""
        if self.cursors is None:
            raise InterlockError("internal_error")
        return self.cursors.page(self.route, self.within, self.query)

    def listed(self, objects: Sequence[Any], next_position: Position | None = None) -> "Reply":
        """Answer a list; `next_position` is None on the last page."""
        if self.cursors is None:
            raise InterlockError("internal_error")
        cursor = None if next_position is None else self.cursors.issue(self.route, self.within, next_position)
        return Reply(body={"data": list(objects), "next_cursor": cursor})

    @property
    def if_match(self) -> int | None:
        """The version of `If-Match: "version"`; None where the header is absent or `*`."""
        text = self.headers.get("if-match")
        if text is None or text.strip() == "*":
            return None
        bare = text.strip().removeprefix("W/").strip('"')
        if not bare.isascii() or not bare.isdigit() or len(bare) > 18:
            raise InterlockError("version_conflict", detail={"if_match": text[:64]})
        return int(bare)

    @property
    def who(self) -> Principal:
        """The authenticated caller; only public routes have none."""
        if self.principal is None:
            raise InterlockError("invalid_key")
        return self.principal

    @property
    def within(self) -> Scope:
        """The scope that the policy granted."""
        if self.scope is None:
            raise InterlockError("invalid_key")
        return self.scope

    @property
    def tx(self) -> Transaction:
        """The open transaction of a mutation."""
        if self.transaction is None:
            raise InterlockError("internal_error")
        return self.transaction


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path. `action` is a key scope of platform.md 6.6; only public routes have none.

    `path` is written in Starlette's form: `/admin/v1/keys/{id}`. `body` is the struct that a JSON body must
    decode to, unknown fields refused. `is_mutation` opens `Call.tx` and honours `Idempotency-Key`; `is_idempotent`
    honours it for a call that ends transactions of its own and does no harm when it runs twice.
    `codes` are the error codes beyond those that every route can answer, `media_type` is that of its answer, which
    may be a stream of events instead where the call asks for one and the route `may_stream`.
    """

    method: str
    path: str
    level: Level
    handler: Handler
    summary: str
    action: str | None = None
    body: type[msgspec.Struct] | None = None
    answer: Any = None
    status: int = 200
    is_mutation: bool = False
    is_idempotent: bool = False
    is_html: bool = False
    body_bytes_max: int = 1 << 20
    codes: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    media_type: str = "application/json"
    may_stream: bool = False

    def __post_init__(self) -> None:
        if (self.action is None) is not (self.level is Level.PUBLIC):
            raise ValueError(f"{self.method} {self.path}: a route has an action unless it is public")
