"""The last steps before anything leaves: the second path must agree, on the epoch of now, and the audit row is written.

Finds nothing; `looking.py` does. What lost its right meanwhile is dropped and recorded, unseen by the caller.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import structlog

from interlock.contracts.incidents import IncidentReport, IncidentSink, Severity
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Store
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.metrics import SearchMetrics
from interlock.retrieval.service.looking import Look
from interlock.retrieval.service.readers import tell_delegation
from interlock.retrieval.store.reading import guard
from interlock.retrieval.store.reading.records import SearchRecord, darken, record_search
from interlock.retrieval.store.reading.search import epoch_of, moment

REVOKED: Final = "revoked_in_flight"
_log = structlog.get_logger("interlock.retrieval")


@dataclass(slots=True)
class Leaving:
    """What is about to leave; `dropped` are (document, stage, reason)."""

    look: Look
    kind: str
    request_id: UUID
    profile_digest: str
    documents: list[UUID]
    answer_id: UUID | None = None
    dropped: list[tuple[UUID, str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Emitter:
    """Guards and records. `incidents` is None where nobody takes reports; the source goes dark all the same."""

    store: Store
    clock: Clock
    ids: IdFactory
    audit: AuditLog
    metrics: SearchMetrics
    key: bytes
    incidents: IncidentSink | None = None

    async def checked(self, scope: Scope, look: Look) -> None:
        """Refuse to go on where the two paths disagreed about a hit. Raises `retrieval_guard_tripped`."""
        tripped = look.unreadable()
        if not tripped:
            look.trace.add("guard.check", "second_path", f"documents={len(look.judged)}", "allow")
            return
        look.trace.add("guard.check", "second_path", f"tripped={len(tripped)}", "deny")
        await self._trip(scope, look, tripped)
        raise InterlockError("retrieval_guard_tripped")

    async def leave(self, scope: Scope, leaving: Leaving) -> frozenset[UUID]:
        """Record a search and return the documents that may leave, by the epoch of now."""
        look, now_us = leaving.look, self.clock.now_us()
        await self.delegated(scope, look.reader, leaving.kind)
        async with self.store.snapshot(scope, is_read_only=False) as tx:
            gone: list[UUID] = []
            epoch = await epoch_of(tx)
            if epoch != look.epoch and leaving.documents:
                with look.trace.timed("guard"):
                    closure = await guard.closure_of(tx, look.reader, epoch)
                    judged = await guard.judge(tx, closure, leaving.documents, now_us)
                gone = [each for each in leaving.documents if not (each in judged and judged[each].is_readable)]
                detail = f"epoch={epoch} documents={len(leaving.documents)} dropped={len(gone)}"
                look.trace.add("guard.check", "new_epoch", detail, "deny" if gone else "allow")
            leaving.dropped += [(each, "guard", REVOKED) for each in gone]
            kept = [each for each in leaving.documents if each not in gone]
            await record_search(tx, self._record(scope, leaving, kept, now_us))
        look.trace.add("emit", leaving.kind, f"documents={len(kept)}", "allow")
        return frozenset(kept)

    async def delegated(self, scope: Scope, reader: Reader, what: str) -> None:
        """Tell the audit that somebody read as somebody else."""
        await tell_delegation(self.store, self.audit, scope, reader, what)

    async def still(self, scope: Scope, look: Look, documents: Iterable[UUID]) -> frozenset[UUID]:
        """Return which documents may be read by the epoch of now; for what is released piece by piece."""
        wanted = list(documents)
        async with self.store.snapshot(scope) as tx:
            epoch = await epoch_of(tx)
            if epoch == look.epoch:
                return frozenset(wanted)
            closure = await guard.closure_of(tx, look.reader, epoch)
            judged = await guard.judge(tx, closure, wanted, self.clock.now_us())
        return frozenset(each for each in wanted if each in judged and judged[each].is_readable)

    async def require(self, scope: Scope, look: Look, documents: set[UUID]) -> None:
        """Go on only while all of these may be read. Raises `sources_revoked`."""
        if await self.still(scope, look, documents) != documents:
            raise InterlockError("sources_revoked")

    def _record(self, scope: Scope, leaving: Leaving, kept: Sequence[UUID], now_us: int) -> SearchRecord:
        look = leaving.look
        where = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        counts = look.seen.counts
        return SearchRecord(
            request_id=leaving.request_id,
            created_at=moment(now_us),
            workspace_id=where,
            kind=leaving.kind,
            caller_id=scope.principal.id,
            principal=look.reader.name,
            closure_digest=hashlib.sha256(b"".join(each.bytes for each in look.seen.held)).digest(),
            epoch=look.epoch,
            query_hmac=hmac.digest(self.key, scope.organization_id.bytes + look.query.text.encode(), hashlib.sha256),
            plan=str(look.plan.plan),
            profile_digest=leaving.profile_digest,
            eligible_chunks=counts.chunks,
            eligible_documents=counts.documents,
            acl_ids=list(look.seen.acl_ids),
            candidates=candidates_json(look),
            fused=[[each.chunk_id, round(each.score, 6)] for each in look.fused],
            emitted=emitted_json(look, set(kept)),
            dropped=[[format_id("doc", document), stage, reason] for document, stage, reason in leaving.dropped],
            degraded=look.degraded,
            timing=look.trace.timing_ms,
            answer_id=leaving.answer_id,
        )

    async def _trip(self, scope: Scope, look: Look, tripped: Sequence[UUID]) -> None:
        """Darken the sources at once, tell the audit, count, and open an incident."""
        sources = sorted({each.source_id for each in look.passages.values() if each.document_id in tripped})
        named = [format_id("doc", each) for each in tripped]
        async with self.store.transaction(scope) as tx:
            for source in sources:
                entry = AuditEntry(
                    "retrieval.guard_trip", "source", format_id("src", source), "failed", "guard_tripped",
                    {"principal": look.reader.name, "epoch": look.epoch, "documents": ",".join(named[:20])},
                )  # fmt: skip
                await self.audit.append(tx, entry)
            await darken(tx, sources, "guard_tripped")
        self.metrics.guard_trips.inc()
        _log.error("retrieval_guard_tripped", documents=named[:20], epoch=look.epoch)
        if self.incidents is not None:
            report = IncidentReport(
                title="The two paths of retrieval disagreed about a document",
                severity=Severity.SEV1,
                source="retrieval",
                detector="guard",
                taxonomy="LLM02",
                request_id=None if scope.request_id is None else format_id("req", scope.request_id),
                evidence={"documents": named[:20], "epoch": look.epoch},
            )
            await self.incidents.report(scope, report)


def candidates_json(look: Look) -> dict[str, Any]:
    """Return the candidates of both legs by document, with their numbers."""

    def told(chunk: int, score: float) -> list[Any]:
        passage = look.passages.get(chunk)
        return [chunk, None if passage is None else format_id("doc", passage.document_id), score]

    return {
        "lexical": [told(chunk, score) for chunk, score in look.lexical],
        "vector": [told(chunk, round(score, 6)) for chunk, score in look.vector],
    }


def emitted_json(look: Look, kept: set[UUID]) -> list[Mapping[str, Any]]:
    """Return what left, by document and passage."""
    return [
        {
            "document_id": format_id("doc", hit.document_id),
            "score": hit.score,
            "chunks": [each.chunk_id for each in hit.passages],
        }
        for hit in look.hits
        if hit.document_id in kept
    ]
