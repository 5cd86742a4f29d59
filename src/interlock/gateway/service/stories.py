"""Looking up what happened: a story by its id, a search, any id that a caller holds in hand, a request as curl.

Writes nothing. A story that the caller may not see is not told apart from one that never was.
"""

import re
import shlex
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from interlock.contracts.places import AUDITED, PLACES
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.control.route import MayOpen, Sees
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, MalformedIdError, OrganizationId, format_id, parse_id
from interlock.foundation.scope import ALL_WORKSPACES, Scope
from interlock.foundation.store import Queries, Query, Store
from interlock.foundation.telemetry import RequestRecord, StoryFilters, StoryStore

SQL = Queries("interlock.gateway")
_TRACE: Final = re.compile(r"[0-9a-f]{32}")
_EVENT: Final = re.compile(r"audit:[0-9]{1,18}")
_LOOKUP: Final = re.compile(r"[0-9A-Za-z]{8}")
_HEAD: Final = '{{"model":"{alias}","stream":{stream},'
_MESSAGES: Final = '"messages":[{{"role":"user","content":"..."}}]}}'
_BODIES: Final = {
    "/v1/chat/completions": _HEAD + _MESSAGES,
    "/v1/responses": _HEAD + '"input":"..."}}',
    "/v1/embeddings": '{{"model":"{alias}","input":"..."}}',
    "/v1/messages": _HEAD + '"max_tokens":1024,' + _MESSAGES,
    "/v1/messages/count_tokens": '{{"model":"{alias}",' + _MESSAGES,
}
# By the prefix of an id: whether the caller may see it, and where it is told, which of some is the list alone.
_OBJECTS: Final = {
    "key": (SQL.find_key, "/admin/v1/keys/{}"),
    "ws": (SQL.find_workspace, "/admin/v1/workspaces/{}"),
    "limit": (SQL.find_limit, "/admin/v1/limits"),
    "prov": (SQL.find_provider_id, "/admin/v1/providers"),
    "dep": (SQL.find_deployment_id, "/admin/v1/deployments"),
    "route": (SQL.find_route_id, "/admin/v1/routes/{}"),
    "kill": (SQL.find_kill, "/admin/v1/kill-switches"),
}
_VERSION: Final = "anthropic-version: 2023-06-01"


@dataclass(frozen=True, slots=True)
class Found:
    """What an id names."""

    kind: str
    url: str
    story_url: str | None = None


class Stories:
    """Stories as a scope may see them; the operator of the platform may see those of every tenant.

    Who reads another organization's story by that right leaves an event in the chain of the organization.
    """

    def __init__(self, store: Store, audit: AuditLog) -> None:
        self._store = store
        self._audit = audit
        self._stories = StoryStore(store)

    async def get(self, scope: Scope, request_id: str) -> RequestRecord:
        """Return a story. Raises `request_not_found`."""
        try:
            identity = parse_id("req", request_id)
        except (MalformedIdError, IndexError) as error:
            raise InterlockError("request_not_found") from error
        record = await self._stories.get(scope, identity)
        if record is None and scope.principal.is_platform_operator:
            record = await self._of_any_tenant(scope, identity)
        if record is None:
            raise InterlockError("request_not_found")
        return record

    async def search(
        self, scope: Scope, filters: StoryFilters, cursor: str | None, limit: int
    ) -> tuple[list[RequestRecord], str | None]:
        """Return a page of stories, newest first, and where the next one begins."""
        page = await self._stories.search(scope, filters, cursor, limit)
        return page.records, page.next_cursor

    async def find(self, scope: Scope, text: str, sees: Sees, may_open: MayOpen) -> Found:
        """Return what an id of any system, a key's lookup part or a trace id names. Raises `not_found`.

        What other systems keep is there when their own call answers this caller.
        """
        if text.startswith("req_"):
            return _story(await self.get(scope, text))
        if _TRACE.fullmatch(text):
            page = await self._stories.search(scope, StoryFilters(trace_id=text), None, 1)
            if page.records:
                return replace(_story(page.records[0]), kind="trace", url=f"/v1/requests?trace_id={text}")
            raise InterlockError("not_found")
        if _EVENT.fullmatch(text):
            return await _audited(text.partition(":")[2], sees, may_open)
        kind = text.partition("_")[0]
        if kind in PLACES and kind not in _OBJECTS:
            return await _elsewhere(kind, text, sees, may_open)
        return await self._find_object(scope, text)

    async def _find_object(self, scope: Scope, text: str) -> Found:
        for kind, (query, url) in _OBJECTS.items():
            identity = await self._identity(scope, kind, query, text)
            if identity is not None:
                return Found(kind, url.format(format_id(kind, identity)))
        raise InterlockError("not_found")

    async def _identity(self, scope: Scope, kind: str, query: Query, text: str) -> UUID | None:
        lookup = text if kind == "key" and _LOOKUP.fullmatch(text) else None
        identity = None
        if lookup is None:
            try:
                identity = parse_id(kind, text)
            except (MalformedIdError, IndexError):
                return None
        is_operator = scope.principal.is_platform_operator
        args: tuple[Any, ...] = (None if is_operator else scope.organization_id, identity)
        args = args if kind != "key" else (*args, lookup)
        transaction = self._store.ops("the operator finds an object") if is_operator else self._store.transaction(scope)
        async with transaction as tx:
            found: UUID | None = await tx.fetchval(query, *args)
        return found

    async def _of_any_tenant(self, scope: Scope, identity: UUID) -> RequestRecord | None:
        async with self._store.ops("the operator reads a story by its id") as tx:
            owner = await tx.fetchval(SQL.story_tenant, identity)
            organization_id = OrganizationId(owner) if owner is not None else SYSTEM_ORGANIZATION_ID
            there = replace(scope, organization_id=organization_id, workspace_id=ALL_WORKSPACES)
            if organization_id not in {SYSTEM_ORGANIZATION_ID, scope.organization_id}:
                # Nothing is read that cannot be told: where the event cannot be kept, the story is not shown.
                entry = AuditEntry("story.read", "request", format_id("req", identity), reason="platform operator")
                await self._audit.append(tx, entry, there)
        return await self._stories.get(there, identity)


def as_curl(record: RequestRecord) -> str:
    """Return the request as a curl line, with placeholders where the key and the content were."""
    parts = ["curl", "--request", record.method or "GET", f"$INTERLOCK_URL{record.target}"]
    parts += ["--header", "authorization: Bearer $INTERLOCK_API_KEY"]
    if record.client_request_id is not None:
        parts += ["--header", f"x-client-request-id: {record.client_request_id}"]
    body = _BODIES.get(record.endpoint)
    if body is not None:
        if record.endpoint.startswith("/v1/messages"):
            parts += ["--header", _VERSION]
        parts += ["--header", "content-type: application/json"]
        parts += ["--data", body.format(alias=record.alias or "default", stream=str(record.stream).lower())]
    return " ".join(_quoted(part) for part in parts)


async def _audited(seq: str, sees: Sees, may_open: MayOpen) -> Found:
    """Return the event of the caller's own chain; events have no id but their number in it."""
    if not await sees(AUDITED.call, seq):
        raise InterlockError("not_found")
    page = AUDITED.page.format(seq=seq) if may_open(AUDITED.page) else None
    return Found("audit_event", AUDITED.call.format(seq=seq), page)


async def _elsewhere(kind: str, text: str, sees: Sees, may_open: MayOpen) -> Found:
    place = PLACES[kind]
    try:
        parse_id(kind, text)
    except (MalformedIdError, IndexError) as error:
        raise InterlockError("not_found") from error
    if not await sees(place.call, text):
        raise InterlockError("not_found")
    page = place.page.format(id=text) if place.page and may_open(place.page) else None
    return Found(kind, place.call.format(id=text), page)


def _quoted(part: str) -> str:
    """Quote for a shell, but let it fill in the two variables."""
    if part.startswith(("$INTERLOCK_URL", "authorization: Bearer $")):
        safe = part.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`")
        head, mark, rest = safe.partition("$INTERLOCK_")
        return f'"{head}{mark}{rest.replace("$", chr(92) + "$")}"'
    return shlex.quote(part)


def _story(record: RequestRecord) -> Found:
    request_id = format_id("req", record.id)
    return Found("request", f"/v1/requests/{request_id}", f"/console/requests/{request_id}")
