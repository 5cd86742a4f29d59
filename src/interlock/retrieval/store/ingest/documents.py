"""Documents in the store: held, written, pointed at an access list, deleted, with the counts that go along.

`point_at_acl` is the only writer of where documents, codes and postings point. Counts are added up in a `Tally` and
written by ascending slot, after all rows and before the stamp.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.foundation.store import Transaction
from interlock.retrieval.domain.access import acl_digest
from interlock.retrieval.domain.types import DocumentState, Extracted, IndexedPiece
from interlock.retrieval.store.ingest.access import Slot
from interlock.retrieval.store.ingest.rows import SQL, acl_of, acl_text, to_text


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """A document as it was before anything was locked."""

    id: UUID
    external_id: str
    container: str | None
    acl_id: int
    own_acl: AccessList | None
    acl_digest: bytes | None
    state: DocumentState
    state_code: str | None
    version: int
    content_digest: bytes
    source_version: int | None
    observed_at_us: int | None


@dataclass(frozen=True, slots=True)
class HeldDocument:
    """A document whose row is ours until the transaction ends; `version` 0 is one that was just made."""

    id: UUID
    external_id: str
    container_id: int | None
    acl_id: int
    own_acl: AccessList | None
    acl_digest: bytes | None
    state: DocumentState
    state_code: str | None
    version: int
    content_digest: bytes
    source_version: int | None
    observed_at_us: int | None
    chunks: int
    tokens: int

    @property
    def is_indexed(self) -> bool:
        """Whether it has passages that count for its slot."""
        return self.state in {DocumentState.LIVE, DocumentState.QUARANTINED}


@dataclass(frozen=True, slots=True)
class Content:
    """What a version holds, read and cut."""

    digest: bytes
    title: str
    uri: str
    media_type: str
    language: str | None
    origin: str
    labels: Mapping[str, str]
    signals: Mapping[str, Any]
    snippet_chars_max: int | None
    source_version: int | None
    observed_at_us: int | None
    retain_until_us: int | None
    extracted: Extracted
    pieces: Sequence[IndexedPiece]

    @property
    def tokens(self) -> int:
        """Words of all passages."""
        return sum(each.tokens for each in self.pieces)


@dataclass(frozen=True, slots=True)
class Pointing:
    """Where a document shall point, and what is told about it."""

    slot: Slot
    own_acl: AccessList | None
    state: DocumentState
    code: str | None = None


@dataclass(slots=True)
class Tally:
    """What a transaction adds to the counts of slots: documents, passages, words, passages without a vector."""

    by_slot: dict[int, list[int]] = field(default_factory=dict)

    def add(self, acl_id: int, documents: int, chunks: int, tokens: int, pending: int) -> None:
        """Add to one slot; what is negative is taken away."""
        if not acl_id:
            return
        held = self.by_slot.setdefault(acl_id, [0, 0, 0, 0])
        for place, value in enumerate((documents, chunks, tokens, pending)):
            held[place] += value

    async def write(self, tx: Transaction) -> None:
        """Write the sums, by ascending slot."""
        rows = [
            (tx.scope.organization_id, acl_id, *added) for acl_id, added in sorted(self.by_slot.items()) if any(added)
        ]
        if rows:
            await tx.executemany(SQL.change_counts, rows)


async def known_documents(tx: Transaction, source_id: UUID, external_ids: Sequence[str]) -> dict[str, KnownDocument]:
    """Return the documents of a source by outside id, unlocked."""
    rows = await tx.fetch(SQL.known_documents, tx.scope.organization_id, source_id, list(external_ids))
    return {
        row["external_id"]: KnownDocument(
            row["id"],
            row["external_id"],
            row["container"],
            row["acl_id"],
            acl_of(row["own_acl"]),
            row["acl_digest"],
            DocumentState(row["state"]),
            row["state_code"],
            row["version"],
            row["content_digest"],
            row["source_version"],
            row["observed_at_us"],
        )
        for row in rows
    }


async def hold_documents(
    tx: Transaction, source_id: UUID, wanted: Mapping[str, UUID], origin: str, now_us: int
) -> dict[str, HeldDocument]:
    """Lock the documents of a batch, making those that are new under the given ids."""
    names = sorted(wanted)
    rows = await tx.fetch(
        SQL.hold_documents,
        tx.scope.organization_id,
        source_id,
        [wanted[name] for name in names],
        names,
        origin,
        now_us,
    )
    return {row["external_id"]: _held(row) for row in rows}


async def hold_document(tx: Transaction, document_id: UUID) -> tuple[UUID, HeldDocument] | None:
    """Lock one document; return its source and itself."""
    row = await tx.fetchrow(SQL.hold_document, tx.scope.organization_id, document_id)
    return None if row is None else (row["source_id"], _held(row))


async def hold_document_at(tx: Transaction, source_id: UUID, external_id: str) -> HeldDocument | None:
    """Lock one document by the id that its source gives it."""
    row = await tx.fetchrow(SQL.hold_document_at, tx.scope.organization_id, source_id, external_id)
    return None if row is None else _held(row)


async def hold_expired(tx: Transaction, now_us: int, limit: int) -> dict[UUID, list[HeldDocument]]:
    """Lock documents whose `retain_until` has passed; return them by source."""
    found: dict[UUID, list[HeldDocument]] = {}
    for row in await tx.fetch(SQL.hold_expired, tx.scope.organization_id, now_us, limit):
        found.setdefault(row["source_id"], []).append(_held(row))
    return found


def _held(row: Any) -> HeldDocument:
    return HeldDocument(
        row["id"],
        row["external_id"],
        row["container_id"],
        row["acl_id"],
        acl_of(row["own_acl"]),
        row["acl_digest"],
        DocumentState(row["state"]),
        row["state_code"],
        row["version"],
        bytes(row["content_digest"]),
        row["source_version"],
        row["observed_at_us"],
        row["chunks"],
        row["tokens"],
    )


async def point_at_acl(
    tx: Transaction, moves: Sequence[tuple[HeldDocument, Pointing]], tally: Tally, *, is_content_gone: bool = False
) -> None:
    """Point documents with their codes and postings at other slots; the only writer of where anything points.

    `is_content_gone` says that the passages of these documents are dropped already, and out of the tally.
    """
    if not moves:
        return
    organization_id = tx.scope.organization_id
    ids = [held.id for held, _ in moves]
    slots = [to.slot.acl_id for _, to in moves]
    await tx.execute(
        SQL.point_documents,
        organization_id,
        ids,
        slots,
        [to.slot.container_id or 0 for _, to in moves],
        [acl_text(to.own_acl) for _, to in moves],
        [None if to.own_acl is None else acl_digest(to.own_acl) for _, to in moves],
        [str(to.state) for _, to in moves],
        [to.code for _, to in moves],
    )
    moving = [(held, to) for held, to in moves if held.acl_id and held.acl_id != to.slot.acl_id and held.is_indexed]
    if is_content_gone or not moving:
        return
    moved_ids, moved_to = [held.id for held, _ in moving], [to.slot.acl_id for _, to in moving]
    before = [held.acl_id for held, _ in moving]
    rows = await tx.fetch(SQL.pending_of, organization_id, moved_ids, before)
    pending = {row["document_id"]: row["pending"] for row in rows}
    await tx.execute(SQL.point_codes, organization_id, moved_ids, moved_to, before)
    await tx.execute(SQL.point_postings, organization_id, moved_ids, moved_to)
    for held, to in moving:
        waits = pending.get(held.id, 0)
        tally.add(held.acl_id, -1, -held.chunks, -held.tokens, -waits)
        tally.add(to.slot.acl_id, 1, held.chunks, held.tokens, waits)


async def drop_passages(tx: Transaction, documents: Sequence[HeldDocument], tally: Tally) -> None:
    """Drop the passages of documents with all that hangs on them, and take them out of the counts."""
    indexed = [each for each in documents if each.is_indexed and each.version]
    if not indexed:
        return
    organization_id, ids = tx.scope.organization_id, [each.id for each in indexed]
    await tx.execute(SQL.drop_postings, organization_id, ids)
    pending: dict[UUID, int] = {}
    for row in await tx.fetch(SQL.drop_codes, organization_id, ids, [each.acl_id for each in indexed]):
        pending[row["document_id"]] = pending.get(row["document_id"], 0) + row["is_pending"]
    await tx.execute(SQL.drop_vectors, organization_id, ids)
    await tx.execute(SQL.drop_chunks, organization_id, ids)
    for each in indexed:
        tally.add(each.acl_id, -1, -each.chunks, -each.tokens, -pending.get(each.id, 0))


async def write_contents(
    tx: Transaction,
    written: Sequence[tuple[HeldDocument, Content]],
    slots: Mapping[UUID, int],
    terms: Mapping[str, int],
    tally: Tally,
    now_us: int,
) -> None:
    """Write versions whose documents point where they shall already; `slots` says where, for the counts."""
    if not written:
        return
    organization_id = tx.scope.organization_id
    await tx.executemany(SQL.write_document, [_document_row(organization_id, *each, now_us) for each in written])
    await tx.executemany(SQL.add_text, [_text_row(organization_id, *each) for each in written])
    ids = [held.id for held, _ in written]
    await tx.execute(SQL.forget_old_texts, organization_id, ids)
    passages = [
        (held.id, held.version + 1, number, each.piece.start, each.piece.end, each.piece.heading, each.tokens)
        for held, content in written
        for number, each in enumerate(content.pieces)
    ]
    if passages:
        rows = await tx.fetch(SQL.add_chunks, organization_id, *map(list, zip(*passages, strict=True)))
        chunk_ids = {(row["document_id"], row["ord"]): row["chunk_id"] for row in rows}
        await tx.execute(SQL.add_codes, organization_id, ids)
        await _add_postings(tx, written, chunk_ids, terms)
    for held, content in written:
        count = len(content.pieces)
        tally.add(slots[held.id], 1, count, content.tokens, count)


async def _add_postings(
    tx: Transaction,
    written: Sequence[tuple[HeldDocument, Content]],
    chunk_ids: Mapping[tuple[UUID, int], int],
    terms: Mapping[str, int],
) -> None:
    term_ids: list[int] = []
    chunks: list[int] = []
    weights: list[int] = []
    for held, content in written:
        for number, piece in enumerate(content.pieces):
            chunk_id = chunk_ids[held.id, number]
            term_ids += [terms[term] for term in piece.terms]
            chunks += [chunk_id] * len(piece.terms)
            weights += [min(weight, 32_767) for weight in piece.terms.values()]
    if term_ids:
        await tx.execute(SQL.add_postings, tx.scope.organization_id, term_ids, chunks, weights)


def _document_row(organization_id: UUID, held: HeldDocument, content: Content, now_us: int) -> tuple[Any, ...]:
    return (
        organization_id,
        held.id,
        held.version + 1,
        content.digest,
        content.source_version,
        content.observed_at_us,
        content.title,
        content.uri,
        content.media_type,
        content.language,
        content.origin,
        to_text(dict(content.labels)),
        to_text(dict(content.signals)),
        content.snippet_chars_max,
        len(content.extracted.text.encode()),
        len(content.pieces),
        content.tokens,
        content.retain_until_us,
        now_us,
    )


def _text_row(organization_id: UUID, held: HeldDocument, content: Content) -> tuple[Any, ...]:
    headings = to_text([list(each) for each in content.extracted.headings])
    return (organization_id, held.id, held.version + 1, content.title, content.extracted.text, headings)


async def touch_document(
    tx: Transaction, document_id: UUID, source_version: int | None, observed_us: int | None
) -> None:
    """Remember that the same content was seen under a later number."""
    await tx.execute(SQL.touch_document, tx.scope.organization_id, document_id, source_version, observed_us)


async def delete_documents(
    tx: Transaction, documents: Sequence[HeldDocument], code: str, now_us: int, tally: Tally
) -> list[UUID]:
    """Tombstone documents: out of every answer from the next statement on. Returns those that were not gone yet."""
    alive = [each for each in documents if each.is_indexed]
    await drop_passages(tx, alive, tally)
    ids = [each.id for each in alive]
    if ids:
        await tx.execute(SQL.delete_documents, tx.scope.organization_id, ids, code, now_us)
    return ids


async def intern_terms(tx: Transaction, terms: Iterable[str]) -> dict[str, int]:
    """Return the number of each word, in a short transaction of its own."""
    wanted, organization_id = sorted(set(terms)), tx.scope.organization_id
    found = {row["term"]: row["term_id"] for row in await tx.fetch(SQL.find_terms, organization_id, wanted)}
    missing = [each for each in wanted if each not in found]
    if missing:
        found |= {row["term"]: row["term_id"] for row in await tx.fetch(SQL.add_terms, organization_id, missing)}
    late = [each for each in missing if each not in found]
    if late:
        found |= {row["term"]: row["term_id"] for row in await tx.fetch(SQL.find_terms, organization_id, late)}
    return found
