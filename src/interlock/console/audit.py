"""The audit chain in the console: events newest first with their filters in the URL, one event, verify, checkpoint.

Appends no event of its own: what a button does is audited by the call that does it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from interlock.console.addresses import HTML, as_type, page_at
from interlock.console.config import ConsoleConfig
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame
from interlock.console.places import place_of_id
from interlock.console.render import sent_to
from interlock.console.views import CAUTION, GO, STOP, ago
from interlock.contracts.places import PLACES
from interlock.foundation.audit import (
    AuditEntry,
    AuditEvent,
    AuditFilter,
    AuditLog,
    AuditReader,
    Checkpointer,
    audit_filter,
    event_of_call,
)
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.identity import authorize
from interlock.foundation.ids import OrganizationId, format_id
from interlock.foundation.scope import Scope

READ: Final = "audit:read"
CSV_COLUMNS: Final = (
    "seq", "at", "action", "target_kind", "target_id", "outcome", "reason", "actor_kind", "actor_id", "key_id",
    "session_id", "address", "request_id", "detail", "hash",
)  # fmt: skip
_FILTERS: Final = ("action", "target", "actor", "from", "to")
_TONES: Final = {"ok": GO, "refused": CAUTION, "failed": STOP}
# Besides those of `contracts/places.py`, what the box that opens any id knows.
_FOUND: Final = frozenset({"dep", "key", "kill", "limit", "prov", "req", "route", "ws"})
_CHECKPOINTS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class AuditPages:
    """Serves the pages of the chain."""

    frame: Frame
    log: AuditLog
    reader: AuditReader
    checkpointer: Checkpointer
    clock: Clock
    config: ConsoleConfig

    async def show(self, call: Call) -> Reply:
        """Answer the events that the filters keep. Raises `invalid_request`, `invalid_cursor`."""
        return await self._page(call)

    async def one(self, call: Call) -> Reply:
        """Answer one event, and whether its hash is that of its text. Raises `not_found`."""
        event = await event_of_call(call, self.reader)
        newest = await self.reader.events(call.within, AuditFilter(), 1)
        values = {
            "event": self._row(event),
            "prev_hash": event.prev_hash.hex(),
            "is_true": event.expected_hash(event.prev_hash) == event.hash,
            "detail": sorted((name, _text(value)) for name, value in event.detail.items()),
            "links": {text: link_of(text) for text in map(_text, event.detail.values())},
            "newest": newest[0].seq if newest else event.seq,
        }
        return self.frame.page(call, "audit_event", values)

    async def export(self, call: Call) -> Reply:
        """Answer the events that the filters keep as CSV, newest first. Raises `invalid_request`."""
        wanted = audit_filter(_asked(call))

        async def read(before: int | None, limit: int) -> Sequence[AuditEvent]:
            return await self.reader.events(call.within, wanted, limit, before)

        events = await all_rows(read, None, lambda each: each.seq, self.config.csv_rows_max)
        return csv_of("audit.csv", CSV_COLUMNS, map(_exported, events))

    async def verify(self, call: Call) -> Reply:
        """Walk the chain and show what was found: the operator's walk is over the chains of all organizations."""
        wanted = None if call.who.is_platform_operator else call.within.organization_id
        return await self._page(call, verdict=(await self.reader.verify(wanted)).public())

    async def checkpoint(self, call: Call) -> Reply:
        """Sign the end of the own chain, and go back to the list."""
        made = await self.checkpointer.checkpoint(call.within.organization_id)
        await self.log.append(
            call.tx, AuditEntry("audit.checkpoint", "audit", "chain", detail={"checkpoints": len(made)})
        )
        return sent_to("/console/audit")

    async def newest(self, scope: Scope) -> str | None:
        """Return the number of an event that can be shown to who asks."""
        may_see = isinstance(authorize(scope.principal, READ, Level.ORGANIZATION), Scope)
        found = await self.reader.events(scope, AuditFilter(), 1) if may_see else []
        return str(found[0].seq) if found else None

    async def _page(self, call: Call, verdict: Mapping[str, Any] | None = None) -> Reply:
        asked = _asked(call)
        page = call.page
        before = int(page.after[0]) if page.after else None
        events = await self.reader.events(call.within, audit_filter(asked), page.limit_plus_one, before)
        kept, position = page.cut(events, lambda each: (each.seq,))
        cursor = call.listed([], position).body["next_cursor"]
        signed = await self.reader.newest_checkpoints(call.within.organization_id, _CHECKPOINTS_SHOWN)
        values = {
            "events": [self._row(each) for each in kept],
            "asked": {name: asked.get(name, "") for name in _FILTERS},
            "moments": {name: _field_of(asked.get(name)) for name in ("from", "to")},
            "is_filtered": bool(asked),
            "is_first_page": not page.after,
            "here_url": _url("/console/audit", asked),
            "next_url": None if cursor is None else _url("/console/audit", {**asked, "cursor": cursor}),
            "csv_url": _url("/console/audit.csv", asked),
            "json_url": _url("/admin/v1/audit", asked),
            "verdict": verdict,
            "is_operator": call.who.is_platform_operator,
            "may_sign": isinstance(authorize(call.who, "admin:write", Level.ORGANIZATION), Scope),
            "checkpoints": [{**each.public(), "age": ago(each.at_us, self.clock.now_us())} for each in signed],
        }
        return self.frame.page(call, "audit", values)

    def _row(self, event: AuditEvent) -> dict[str, Any]:
        actor = event.actor
        told = {
            "actor": str(actor.get("id") or "system"),
            "actor_kind": str(actor.get("kind") or "system"),
            "key": str(actor.get("key_id") or ""),
            "session": str(actor.get("session_id") or ""),
            "address": str(actor.get("ip") or ""),
            "request": "" if event.request_id is None else format_id("req", event.request_id),
            "target": event.target_id,
        }
        return {
            **told,
            "seq": event.seq,
            "at": rfc3339(event.at_us),
            "age": ago(event.at_us, self.clock.now_us()),
            "action": event.action,
            "target_kind": event.target_kind,
            "outcome": event.outcome,
            "tone": _TONES.get(event.outcome, ""),
            "reason": event.reason or "",
            "hash": event.hash.hex(),
            "organization": format_id("org", OrganizationId(event.organization_id)),
            "links": {name: link_of(told[name]) for name in ("actor", "key", "request", "target")},
        }  # fmt: skip


def audit_pages(pages: AuditPages) -> list[Route]:
    """Return the routes of the pages."""
    return [
        _of_organization(page_at("/audit", pages.show, "The audit chain, newest first.", (*_FILTERS, "cursor"),
                                 action=READ, codes=("invalid_cursor",))),
        _of_organization(as_type(page_at("/audit.csv", pages.export, "The audit chain as CSV.", _FILTERS, action=READ),
                                 "text/csv")),
        _of_organization(page_at("/audit/{seq}", pages.one, "One event of the audit chain.", action=READ)),
        Route("POST", "/console/audit/verify", Level.ORGANIZATION, pages.verify, "Walk the chain.", action=READ,
              is_html=True, body_bytes_max=65_536, media_type=HTML),
        Route("POST", "/console/audit/checkpoint", Level.ORGANIZATION, pages.checkpoint,
              "Sign the end of the chain now.", action="admin:write", is_html=True, is_mutation=True, status=303,
              body_bytes_max=65_536, media_type=HTML),
    ]  # fmt: skip


def link_of(text: str) -> str | None:
    """Return where an id of the chain leads: its page, else what the box that opens any id finds."""
    kind, _, body = text.partition("_")
    if not body.isalnum() or not body.isascii() or kind not in _FOUND | PLACES.keys():
        return None
    return place_of_id(text) or _url("/console/find", {"id": text})


def _of_organization(route: Route) -> Route:
    return replace(route, level=Level.ORGANIZATION)


def _asked(call: Call) -> dict[str, str]:
    return {name: text for name in _FILTERS if (text := call.query.get(name, "").strip())}


def _field_of(text: str | None) -> str:
    """Return a moment as a field of a form holds it, in UTC; the filter has already found that it is one."""
    if not text:
        return ""
    moment = datetime.fromisoformat(text)
    return (moment.astimezone(UTC) if moment.tzinfo else moment).strftime("%Y-%m-%dT%H:%M:%S")


def _url(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return str(value)


def _exported(event: AuditEvent) -> dict[str, Any]:
    actor = event.actor
    values = (
        event.seq, rfc3339(event.at_us), event.action, event.target_kind, event.target_id, event.outcome,
        event.reason, actor.get("kind"), actor.get("id"), actor.get("key_id"), actor.get("session_id"),
        actor.get("ip"), None if event.request_id is None else format_id("req", event.request_id),
        _text(event.detail), event.hash.hex(),
    )  # fmt: skip
    return dict(zip(CSV_COLUMNS, values, strict=True))
