"""`DocumentSink` for the crawler: a source by name, documents one by one with byte credit, withdrawals before all else.

Fetches nothing and obeys no signal but those that concern the index: `noindex` withdraws.
"""

from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from uuid import UUID

from interlock.contracts.documents import (
    Accepted,
    AccessList,
    Backlogged,
    DocumentUpsert,
    Pressure,
    PutRefused,
    Signal,
    Tombstoned,
    WithdrawReason,
)
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.domain.paths import InvalidPathError, normal
from interlock.retrieval.domain.types import PutStatus, Source, SourceState
from interlock.retrieval.service.backlog import Full, Room
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.ingest import Incoming
from interlock.retrieval.service.sources import SourceService, SourceWanted, source_in
from interlock.retrieval.store.ingest import documents as rows
from interlock.retrieval.store.ingest import sources as source_rows

_RETRY_S: Final = 5.0
_NOINDEX: Final = "noindex"


class Sink:
    """Implements `contracts.documents.DocumentSink`."""

    def __init__(self, store: Store, sources: SourceService, documents: DocumentService, room: Room) -> None:
        self._store = store
        self._sources = sources
        self._documents = documents
        self._room = room

    async def open_source(self, scope: Scope, name: str, kind: str, acl: AccessList) -> UUID:
        """Return the source of this name, made on the first call. Raises as `SourceService.create`."""

        async def work_in(tx: Transaction) -> UUID:
            found = await source_rows.source_by_name(tx, name)
            if found is not None:
                return found.id
            return (await self._sources.create(tx, SourceWanted(name, kind, default_acl=acl))).id

        try:
            return await self._store.run(scope, work_in)
        except InterlockError as error:
            if error.code != "source_exists":
                raise
        # Somebody made it between the look and the making.
        return await self._store.run(scope, work_in)

    async def put(self, scope: Scope, document: DocumentUpsert) -> Accepted | Backlogged | PutRefused:
        """Store one version of a document."""
        try:
            async with self._store.transaction(scope) as tx:
                source = await source_in(tx, document.source_id)
        except InterlockError as error:
            if error.code != "source_not_found":
                raise
            return PutRefused(error.code)
        if source.state in {SourceState.PAUSED, SourceState.DARK}:
            return Backlogged(_RETRY_S)
        signal = document.signals.get(_NOINDEX)
        if signal is not None and signal.value.lower() not in {"false", "no", "0"}:
            reason = WithdrawReason.SIGNAL
            await self.tombstone(scope, source.id, document.external_id, reason, document.observed_at_us)
            return PutRefused(_NOINDEX)
        try:
            incoming = _incoming(document)
        except InvalidPathError:
            return PutRefused("invalid_request")
        return await self._put(scope, source, incoming)

    async def _put(self, scope: Scope, source: Source, incoming: Incoming) -> Accepted | Backlogged | PutRefused:
        taken = await self._room.take(scope, source.id, 1, incoming.size)
        if isinstance(taken, Full):
            return Backlogged(taken.retry_after_s)
        try:
            stored = await self._documents.store_batch(scope, source, [incoming], taken.id)
        except BaseException:
            await self._room.give_back(scope, source.id, taken)
            raise
        self._room.stored(1)
        result = stored.results[0]
        if result.status is PutStatus.REJECTED or result.document_id is None:
            return PutRefused(result.code or "rejected")
        return Accepted(result.document_id, result.version or 0)

    async def tombstone(
        self, scope: Scope, source_id: UUID, external_id: str, reason: WithdrawReason, observed_at_us: int
    ) -> Tombstoned:
        """Withdraw a document; what was observed again later stays."""

        async def work_in(tx: Transaction) -> Tombstoned:
            held = await rows.hold_document_at(tx, source_id, external_id)
            if held is None:
                return Tombstoned(None)
            if held.is_indexed and (held.observed_at_us or 0) <= observed_at_us:
                await rows.touch_document(tx, held.id, held.source_version, observed_at_us)
                await self._documents.withdraw(tx, source_id, [held], str(reason))
            return Tombstoned(held.id)

        return await self._store.run(scope, work_in)

    async def pressure(self, scope: Scope, source_id: UUID) -> Pressure:
        """Tell how much the index can take from this source; a source that is paused or dark takes nothing.

        What is accepted is found by its words at once, so nothing lags; vectors that wait close by their number alone,
        or a site would be held up for hours by a model that takes seconds for a page.
        """
        async with self._store.transaction(scope) as tx:
            source = await source_in(tx, source_id)
            found = await self._room.pressure(tx, source_id)
        is_shut = source.state in {SourceState.PAUSED, SourceState.DARK}
        return replace(found, credit_bytes=0 if is_shut else found.credit_bytes, lag_s=0.0)


def _incoming(document: DocumentUpsert) -> Incoming:
    return Incoming(
        external_id=document.external_id,
        title=document.title,
        media_type=document.media_type,
        uri=document.uri,
        origin=str(document.origin),
        text=document.text,
        container=None if document.container is None else normal(document.container),
        acl=document.acl,
        source_version=document.source_version,
        observed_at_us=document.observed_at_us,
        language=document.language,
        labels=document.labels,
        signals={name: {"value": each.value, "origin": each.origin} for name, each in document.signals.items()},
        snippet_chars_max=document.snippet_chars_max,
        retain_until_us=_until_us(document.signals.get("unavailable_after")),
    )


def _until_us(signal: Signal | None) -> int | None:
    """Return the moment after which a page wants to be gone (RFC 850, 822 or 3339), None for what is no date."""
    if signal is None:
        return None
    text = str(signal.value).strip()
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
        except ValueError:
            continue
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    return None
