"""HTTP of the audit chain: list, verify, checkpoint, export.

Appends nothing; a caller cannot write an event.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.foundation.audit.checkpoints import Checkpoint, MalformedCheckpointError, parse_checkpoint
from interlock.foundation.audit.event import AuditEntry, AuditEvent
from interlock.foundation.audit.log import AuditLog
from interlock.foundation.audit.service import AuditFilter, AuditReader, Checkpointer
from interlock.foundation.clock import rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import parse_id

NDJSON: Final = "application/x-ndjson"
_VERIFY_BODY_BYTES_MAX: Final = 16 << 20
_SEQ_DIGITS_MAX: Final = 18


class VerifyBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to verify; a platform operator may name another organization, and gets all of them by default."""

    organization_id: str | None = None
    checkpoints: list[dict[str, Any]] = []


class EventView(msgspec.Struct):
    """One event as lists show it: what is hashed, and the hash."""

    v: int
    organization_id: str
    seq: int
    at: str
    at_us: int
    actor: dict[str, Any]
    action: str
    target: dict[str, str]
    outcome: str
    reason: str | None
    request_id: str | None
    detail: dict[str, Any]
    hash: str


class EventShown(EventView, kw_only=True):
    """One event by itself."""

    prev_hash: str


class EventList(msgspec.Struct):
    """A page of events, newest first."""

    data: list[EventView]
    next_cursor: str | None


class VerdictView(msgspec.Struct, omit_defaults=True):
    """The object of `audit verify --json`."""

    ok: bool
    events: int | None = None
    organizations: int | None = None
    checkpoints: int | None = None
    organization_id: str | None = None
    first_bad_seq: int | None = None
    code: str | None = None
    detail: str | None = None


class CheckpointView(msgspec.Struct):
    """A signed checkpoint as files and answers show it."""

    organization_id: str
    seq: int
    hash: str
    at: str
    at_us: int
    key_id: str
    signature: str


class CheckpointList(msgspec.Struct):
    """The checkpoints that were just made."""

    data: list[CheckpointView]
    next_cursor: str | None


class AuditHandlers:
    """One method a call."""

    def __init__(self, log: AuditLog, reader: AuditReader, checkpointer: Checkpointer) -> None:
        self._log = log
        self._reader = reader
        self._checkpointer = checkpointer

    async def list_events(self, call: Call) -> Reply:
        """Answer a page of events."""
        page = call.page
        before_seq = page.after[0] if page.after else None
        events = await self._reader.events(call.within, audit_filter(call.query), page.limit_plus_one, before_seq)
        kept, after = page.cut(events, lambda event: (event.seq,))
        return call.listed([view(event) for event in kept], after)

    async def get_event(self, call: Call) -> Reply:
        """Answer one event, with the hash that stands before it."""
        event = await event_of_call(call, self._reader)
        return Reply(body={**view(event), "prev_hash": event.prev_hash.hex()})

    async def verify(self, call: Call) -> Reply:
        """Walk the caller's chain, or the chains that a platform operator asks for."""
        body: VerifyBody = call.body
        own = call.within.organization_id
        wanted: UUID | None = own
        if call.who.is_platform_operator:
            wanted = None
        if body.organization_id is not None:
            wanted = parse_id("org", body.organization_id)
            if wanted != own and not call.who.is_platform_operator:
                raise InterlockError("not_found")
        verdict = await self._reader.verify(wanted, _checkpoints(body))
        return Reply(body=verdict.public())

    async def checkpoint(self, call: Call) -> Reply:
        """Sign the heads that grew; the call's own event is in the next checkpoint."""
        wanted = None if call.who.is_platform_operator else call.within.organization_id
        made = await self._checkpointer.checkpoint(wanted)
        entry = AuditEntry("audit.checkpoint", "audit", "chain", detail={"checkpoints": len(made)})
        await self._log.append(call.tx, entry)
        return call.listed([each.public() for each in made])

    async def export(self, call: Call) -> Reply:
        """Stream the caller's chain as JSON lines."""
        return Reply(stream=self._reader.export(call.within.organization_id), media_type=NDJSON)


def routes(log: AuditLog, reader: AuditReader, checkpointer: Checkpointer) -> list[Route]:
    """Return the routes of the audit chain."""
    handlers = AuditHandlers(log, reader, checkpointer)
    level, path = Level.ORGANIZATION, "/admin/v1/audit"
    return [
        Route(
            "GET", path, level, handlers.list_events, "Events of the organization, newest first.",
            action="audit:read", answer=EventList,
            query=("action", "target", "actor", "from", "to", "limit", "cursor"),
        ),
        Route(
            "POST", f"{path}/verify", level, handlers.verify, "Walk the chain and name the first bad event.",
            action="audit:read", body=VerifyBody, answer=VerdictView, body_bytes_max=_VERIFY_BODY_BYTES_MAX,
        ),
        Route(
            "POST", f"{path}/checkpoint", level, handlers.checkpoint, "Sign the end of the chain now.",
            action="admin:write", answer=CheckpointList, is_mutation=True,
        ),
        Route(
            "GET", f"{path}/{{seq}}", level, handlers.get_event, "One event, by its number in the chain.",
            action="audit:read", answer=EventShown,
        ),
        Route(
            "GET", f"{path}/export", level, handlers.export, "The chain as JSON lines, checkpoints last.",
            action="audit:read", media_type=NDJSON,
        ),
    ]  # fmt: skip


def view(event: AuditEvent) -> dict[str, Any]:
    """Return the object of a list."""
    return {**event.public(), "at": rfc3339(event.at_us), "hash": event.hash.hex()}


async def event_of_call(call: Call, reader: AuditReader) -> AuditEvent:
    """Return the event that the path names by its number. Raises `not_found`."""
    text = call.params["seq"]
    if not text.isascii() or not text.isdigit() or len(text) > _SEQ_DIGITS_MAX:
        raise InterlockError("not_found")
    found = await reader.events(call.within, AuditFilter(), 1, int(text) + 1)
    if not found or found[0].seq != int(text):
        raise InterlockError("not_found")
    return found[0]


def audit_filter(query: Mapping[str, str]) -> AuditFilter:
    """Return which events a query asks for. Raises `invalid_request`."""
    return AuditFilter(
        action=query.get("action"),
        target_id=query.get("target"),
        actor=query.get("actor"),
        from_us=_moment("from", query),
        to_us=_moment("to", query),
    )


def _moment(name: str, query: Mapping[str, str]) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(zoned.timestamp() * 1_000_000)
    except (ValueError, OverflowError) as error:
        raise InterlockError("invalid_request", f"`{name}` is not an RFC 3339 time.", detail={"field": name}) from error


def _checkpoints(body: VerifyBody) -> list[Checkpoint]:
    try:
        return [
            parse_checkpoint(msgspec.json.encode(each).decode(), f"checkpoints.{n}")
            for n, each in enumerate(body.checkpoints)
        ]
    except MalformedCheckpointError as error:
        raise InterlockError("invalid_request", f"{error}.", detail={"field": "checkpoints"}) from error
