"""Sources and documents in the console: how far a source is, who may read a document, and what it was before.

Shows metadata and access lists; no page of it reads a text.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from interlock.console.addresses import Sampler, as_type, form_at, page_at
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame, place_of
from interlock.console.render import sent_to
from interlock.console.standing import Standing, count
from interlock.console.views import CAUTION, GO, STOP, ago
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import authorize
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.retrieval.public import (
    LISTING_KINDS,
    DocumentRow,
    DocumentService,
    ProbeTold,
    SourceService,
    SourceTold,
    acl_json,
    source_id_of,
)

ADMIN: Final = "retrieval:admin"
_FIRST: Final = UUID(int=0)
CSV_COLUMNS: Final = (
    "id", "name", "kind", "state", "reason", "live", "quarantined", "waiting", "pending", "lag", "coverage",
    "confirmed", "probe",
)  # fmt: skip
STANDING_ROWS: Final = 50
_US: Final = 1_000_000
_TONES: Final = {"idle": GO, "running": GO, "throttled": CAUTION, "paused": CAUTION, "dark": STOP, "failed": STOP}
_DOCUMENT_TONES: Final = {"live": GO, "quarantined": CAUTION, "deleted": STOP, "purged": STOP}
# What a button does: the state that it sets.
_ACTIONS: Final = {"dark": "dark", "light": "idle", "pause": "paused", "resume": "idle"}


@dataclass(frozen=True, slots=True)
class SourcePages:
    """Serves the pages of sources and documents."""

    frame: Frame
    sources: SourceService
    documents: DocumentService
    clock: Clock

    async def show(self, call: Call) -> Reply:
        """Answer the list. Raises `invalid_cursor`."""
        page = call.page
        after = UUID(str(page.after[0])) if page.after else _FIRST
        rows = await self.sources.listed(call.within, after, page.limit_plus_one)
        kept, position = page.cut(rows, lambda told: (told.source.id,))
        cursor = call.listed([], position).body["next_cursor"]
        values = {
            "place": place_of(call.within),
            "sources": [self._told(each) for each in kept],
            "next_url": None if cursor is None else f"/console/sources?cursor={cursor}",
            "is_first_page": not page.after,
        }
        return self.frame.page(call, "sources", values)

    async def export(self, call: Call) -> Reply:
        """Answer the sources as CSV."""
        read = partial(self.sources.listed, call.within)
        found = await all_rows(read, _FIRST, lambda told: told.source.id, self.frame.csv_rows_max)
        told = [self._told(each) for each in found]
        rows = [{**each, **each["documents"], "state": each["state"], "probe": each["probe"]["word"]} for each in told]
        return csv_of("sources.csv", CSV_COLUMNS, rows)

    async def standing(self, scope: Scope) -> Standing:
        """Tell whether sources are fresh, their access lists confirmed, and their revokes proved."""
        told = [self._told(each) for each in await self.sources.listed(scope, _FIRST, STANDING_ROWS)]
        if not told:
            return Standing("", "none yet")
        live = sum(each["documents"]["live"] for each in told)
        ill = [each for each in told if STOP in {each["tone"], each["coverage_tone"], each["probe"]["tone"]}]
        slow = [
            each for each in told if each not in ill and (each["tone"] == CAUTION or each["documents"]["quarantined"])
        ]
        said = [f"{count(len(told), 'source', 'sources')} with {count(live, 'document', 'documents')}"]
        said += [f"{len(ill):,} dark, failed or unproved"] if ill else []
        said += [f"{len(slow):,} paused, slowed down or with quarantined documents"] if slow else []
        return Standing(STOP if ill else CAUTION if slow else GO, "; ".join(said))

    async def one(self, call: Call) -> Reply:
        """Answer one source with its documents. Raises `source_not_found`, `invalid_cursor`."""
        source_id = source_id_of(call)
        told = await self.sources.get(call.within, source_id)
        page, state = call.page, call.query.get("state") or None
        after = UUID(str(page.after[0])) if page.after else _FIRST
        if state is not None and state not in _DOCUMENT_TONES:
            raise InterlockError("invalid_request", "There is no such state.", detail={"field": "state"})
        rows = await self.documents.listed(call.within, after, page.limit_plus_one, source_id, state)
        kept, position = page.cut(rows, lambda row: (row.id,))
        cursor = call.listed([], position).body["next_cursor"]
        here = f"/console/sources/{format_id('src', source_id)}"
        suffix = f"&state={state}" if state else ""
        values = {
            "source": self._told(told),
            "documents": [self._document(each) for each in kept],
            "state": state or "",
            "states": list(_DOCUMENT_TONES),
            "here_url": here,
            "next_url": None if cursor is None else f"{here}?cursor={cursor}{suffix}",
            "is_first_page": not page.after,
            "may_admin": _may(call),
        }
        return self.frame.page(call, "source", values)

    async def act(self, call: Call) -> Reply:
        """Change what a source does, then show it. Raises `source_not_found`, `invalid_request`."""
        source_id, wanted = source_id_of(call), call.form.get("action") or ""
        if wanted == "sync":
            await self.sources.want_sync(call.tx, source_id, is_full=False)
        elif wanted in _ACTIONS:
            await self.sources.change(call.tx, source_id, {"state": _ACTIONS[wanted]})
        else:
            raise InterlockError("invalid_request", "There is no such action.", detail={"field": "action"})
        return sent_to(f"/console/sources/{format_id('src', source_id)}")

    async def document(self, call: Call) -> Reply:
        """Answer a document without its text. Raises `document_not_found`."""
        try:
            document_id = parse_id("doc", call.params["id"])
        except MalformedIdError:
            raise InterlockError("document_not_found") from None
        row, history = await self.documents.with_history(call.within, document_id)
        acl = None if row.acl is None else acl_json(row.acl)
        values = {
            "document": self._document(row),
            "allow": [] if acl is None else [each if isinstance(each, list) else [each] for each in acl["allow"]],
            "deny": [] if acl is None else acl["deny"],
            "inherits": acl is not None and acl["inherit"],
            "history": [{**each, "at": rfc3339(each["at_us"])} for each in history],
        }
        return self.frame.page(call, "document", values)

    async def newest_source(self, scope: Scope) -> str | None:
        """Return a source that can be shown to who asks."""
        if not _may_see(scope):
            return None
        found = await self.sources.listed(scope, _FIRST, 1)
        return format_id("src", found[0].source.id) if found else None

    async def newest_document(self, scope: Scope) -> str | None:
        """Return a document that can be shown to who asks."""
        if not _may_see(scope):
            return None
        found = await self.documents.listed(scope, _FIRST, 1, None, None)
        return format_id("doc", found[0].id) if found else None

    def _told(self, told: SourceTold) -> dict[str, Any]:
        source, now_us = told.source, self.clock.now_us()
        run = told.last_sync
        is_listed = source.kind in LISTING_KINDS
        age_us = None if source.acl_confirmed_us is None else now_us - source.acl_confirmed_us
        is_fresh = not is_listed or (age_us is not None and age_us <= source.acl_max_age_s * _US)
        return {
            "id": format_id("src", source.id),
            "name": source.name,
            "kind": str(source.kind),
            "state": str(source.state),
            "tone": _TONES[source.state],
            "reason": source.state_reason or "",
            "documents": told.documents,
            "waiting": told.backlog.source_documents,
            "pending": told.backlog.vectors_pending,
            "lag": f"{told.pressure.lag_s:.0f} s",
            "coverage": "with each document" if not is_listed else "confirmed" if is_fresh else "too old: dark",
            "coverage_tone": GO if is_fresh else STOP,
            "confirmed": "-" if source.acl_confirmed_us is None else ago(source.acl_confirmed_us, now_us),
            "probe": probe_words(told.probe, now_us),
            "is_listed": is_listed,
            "path": str(source.config.get("path", "")),
            "sync": None if run is None else {
                "state": run.state,
                "at": rfc3339(run.finished_us or run.created_us),
                "counts": run.counts,
                "errors": run.counts.errors[:20],
            },
        }  # fmt: skip

    def _document(self, row: DocumentRow) -> dict[str, Any]:
        return {
            "id": format_id("doc", row.id),
            "source_id": format_id("src", row.source_id),
            "external_id": row.external_id,
            "title": row.title or row.external_id,
            "uri": row.uri,
            "media_type": row.media_type,
            "state": row.state,
            "tone": _DOCUMENT_TONES[row.state],
            "code": row.state_code or "",
            "version": row.version,
            "container": row.container or "-",
            "chunks": row.chunks,
            "bytes": row.text_bytes,
            "updated": ago(row.updated_us, self.clock.now_us()),
            "updated_at": rfc3339(row.updated_us),
            "labels": dict(row.labels),
        }


def probe_words(told: ProbeTold, now_us: int) -> dict[str, str]:
    """Return how soon revokes took effect lately, in words."""
    if told.last_us is None:
        return {"word": "not yet", "tone": "", "detail": ""}
    at = ago(told.last_us, now_us)
    if not told.is_ok:
        return {"word": "failed", "tone": STOP, "detail": f"{told.reason or 'unknown'}, {at}"}
    if told.p50_ms is None or told.p99_ms is None:
        return {"word": "ok", "tone": GO, "detail": at}
    return {"word": "ok", "tone": GO, "detail": f"p50 {told.p50_ms:.0f} ms, p99 {told.p99_ms:.0f} ms, {at}"}


def source_pages(pages: SourcePages, samples: dict[str, Sampler]) -> list[Route]:
    """Return the routes of the pages, and tell what their screens can show."""
    samples |= {"source": pages.newest_source, "document": pages.newest_document}
    return [
        page_at("/sources", pages.show, "Sources.", ("cursor",), action=ADMIN, codes=("invalid_cursor",)),
        as_type(page_at("/sources.csv", pages.export, "Sources as CSV.", action=ADMIN), "text/csv"),
        page_at("/sources/{id}", pages.one, "One source with its documents.", ("cursor", "state"), action=ADMIN,
                codes=("invalid_cursor", "source_not_found")),
        form_at("/sources/{id}", pages.act, "Change what a source does.", action=ADMIN, codes=("source_not_found",)),
        page_at("/documents/{id}", pages.document, "One document without its text.", action=ADMIN,
                codes=("document_not_found",)),
    ]  # fmt: skip


def _may(call: Call) -> bool:
    return isinstance(authorize(call.who, ADMIN, Level.WORKSPACE, None, call.request_id), Scope)


def _may_see(scope: Scope) -> bool:
    return isinstance(authorize(scope.principal, ADMIN, Level.WORKSPACE), Scope)
