"""Documents as whoever administers a source sees them: metadata, access lists, history; never a word of the text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.foundation.store import Transaction
from interlock.retrieval.store.ingest.rows import SQL, acl_of, from_text


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One document without its text."""

    id: UUID
    source_id: UUID
    external_id: str
    title: str
    uri: str
    media_type: str
    state: str
    state_code: str | None
    version: int
    acl: AccessList | None
    acl_digest: bytes | None
    container: str | None
    labels: Mapping[str, str]
    chunks: int
    text_bytes: int
    created_us: int
    updated_us: int
    deleted_us: int | None
    source_version: int | None


async def list_documents(
    tx: Transaction, after: UUID, limit: int, source_id: UUID | None, state: str | None, workspace_id: UUID | None
) -> list[DocumentRow]:
    """Return documents by id, those behind `after`."""
    values = (tx.scope.organization_id, after, source_id, state, workspace_id, limit)
    return [_row(row) for row in await tx.fetch(SQL.list_documents, *values)]


async def document_row(tx: Transaction, document_id: UUID, workspace_id: UUID | None) -> DocumentRow | None:
    """Return one document; None where there is none in the workspace."""
    row = await tx.fetchrow(SQL.document_row, tx.scope.organization_id, document_id, workspace_id)
    return None if row is None else _row(row)


async def document_path(tx: Transaction, document_id: UUID) -> str | None:
    """Return the folder that a document lies in."""
    found: str | None = await tx.fetchval(SQL.document_path, tx.scope.organization_id, document_id)
    return found


async def history(tx: Transaction, document_id: UUID, limit: int) -> list[dict[str, Any]]:
    """Return what a document was and where it lay, by epoch, newest first."""
    rows = await tx.fetch(SQL.document_history, tx.scope.organization_id, document_id, limit)
    return [dict(row) for row in rows]


def _row(row: Any) -> DocumentRow:
    values = dict(row)
    values["acl"] = acl_of(values.pop("own_acl"))
    values["labels"] = from_text(values["labels"])
    return DocumentRow(**values)


async def live_ids(tx: Transaction, source_id: UUID, limit: int) -> list[UUID]:
    """Return some documents of a source that are not gone."""
    rows = await tx.fetch(SQL.live_documents, tx.scope.organization_id, source_id, limit)
    return [row["id"] for row in rows]


async def live_external_ids(tx: Transaction, source_id: UUID, after: str, limit: int) -> list[str]:
    """Return the outside ids of documents that are not gone, in their order."""
    rows = await tx.fetch(SQL.live_external_ids, tx.scope.organization_id, source_id, after, limit)
    return [row["external_id"] for row in rows]


@dataclass(frozen=True, slots=True)
class Readable:
    """A document with the text of its live version."""

    id: UUID
    source_id: UUID
    external_id: str
    title: str
    uri: str
    media_type: str
    version: int
    labels: Mapping[str, str]
    text: str
    updated_us: int


async def readable_document(tx: Transaction, document_id: UUID) -> Readable | None:
    """Return a live document with its text; whether it may be read, the caller has judged in the same snapshot."""
    row = await tx.fetchrow(SQL.readable_document, tx.scope.organization_id, document_id)
    if row is None:
        return None
    values = dict(row)
    values["labels"] = from_text(values["labels"])
    return Readable(**values)
