"""The statements of one search, each under the access of the reader: slots, words, meaning, passages.

Opens no transaction: the service gives its snapshot.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from interlock.contracts.retrieval import SearchQuery
from interlock.foundation.store import Queries, Transaction
from interlock.retrieval.domain.asking import Reader, is_by_document
from interlock.retrieval.domain.bm25 import K1, B, EligibleCounts, counted_at_most, idf, kept_terms, weighed
from interlock.retrieval.domain.embedding import Embedding
from interlock.retrieval.domain.plan import Chosen, Plan, Spread

SQL: Final = Queries(__package__)


@dataclass(frozen=True, slots=True)
class Eligible:
    """What a reader may see in this snapshot. `held` are the reader, its groups and every other name of it."""

    acl_ids: tuple[int, ...]
    counts: EligibleCounts
    pending_vectors: int
    has_dark: bool
    sets: int
    held: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A candidate and the document it is part of."""

    chunk_id: int
    document_id: UUID
    version: int
    start: int
    end: int
    source_id: UUID
    source_kind: str
    title: str
    uri: str
    updated_us: int
    snippet_chars_max: int | None
    signals: Mapping[str, Any]


async def epoch_of(tx: Transaction) -> int:
    """Return the epoch of this snapshot."""
    return int(await tx.fetchval(SQL.epoch, tx.scope.organization_id))


async def same_outsider(tx: Transaction, external_id: UUID) -> tuple[UUID, ...]:
    """Return an outside name and the others that its source has for the same person."""
    rows = await tx.fetch(SQL.same_outsider, tx.scope.organization_id, external_id)
    return tuple(sorted({external_id, *(row["external_principal_id"] for row in rows)}))


async def resolve(
    tx: Transaction, reader: Reader, sources: Iterable[UUID] | None, now_us: int, shut: Iterable[UUID] = ()
) -> Eligible:
    """Return the slots that a reader may read; those of `shut` sources are dark."""
    row = await tx.fetchrow(
        SQL.resolve,
        tx.scope.organization_id,
        list(reader.roots),
        list(reader.extras),
        moment(now_us),
        None if sources is None else list(sources),
        list(shut),
    )
    assert row is not None
    counts = EligibleCounts(row["documents"], row["chunks"], row["tokens"])
    held = tuple(row["held"] or ())
    return Eligible(tuple(row["acl_ids"]), counts, row["pending_vectors"], row["has_dark"], row["sets"], held)


async def lexical(
    tx: Transaction, eligible: Eligible, words: Mapping[str, int], query: SearchQuery, depth: int
) -> tuple[list[tuple[int, int]], dict[str, float]]:
    """Return passages with their score, best first, and the idf of each word of the query in the eligible set."""
    organization_id, acl_ids = tx.scope.organization_id, list(eligible.acl_ids)
    chunks = eligible.counts.chunks
    limit = counted_at_most(chunks)
    rows = await tx.fetch(SQL.find_terms, organization_id, acl_ids, sorted(words), limit + 1)
    found = {row["term_id"]: row["term"] for row in rows}
    frequencies = {row["term_id"]: row["frequency"] for row in rows}
    worth = {word: idf(chunks, 0) for word in words}
    worth |= {found[term]: idf(chunks, min(chunks, frequency)) for term, frequency in frequencies.items()}
    kept = kept_terms(frequencies, chunks)
    if not kept:
        return [], worth
    common = [term for term in kept if frequencies[term] > limit]
    if common:
        whole = await tx.fetch(SQL.count_terms, organization_id, acl_ids, common)
        frequencies |= {row["term_id"]: row["frequency"] for row in whole}
    asked = {term: words[found[term]] for term in kept}
    scanned = weighed({term: frequencies[term] for term in kept}, asked, chunks)
    average = eligible.counts.average_tokens
    arguments = (
        organization_id,
        acl_ids,
        [each.term_id for each in scanned],
        [each.weight for each in scanned],
        K1 * (1 - B),
        K1 * B / average,
        depth,
    )
    best = await tx.fetch(SQL.lexical, *arguments, *by_document(query))
    return [(row["chunk_id"], row["score"]) for row in best], worth


async def vector(
    tx: Transaction, eligible: Eligible, asked: Embedding, embedder_no: int, query: SearchQuery, chosen: Chosen
) -> list[tuple[int, float]]:
    """Return passages with their cosine, nearest first."""
    arguments: list[Any] = [
        tx.scope.organization_id, list(eligible.acl_ids), list(asked.vector), embedder_no, chosen.depth,
    ]  # fmt: skip
    statement = SQL.exact
    if chosen.plan is not Plan.EXACT:
        statement = SQL.bits
        arguments += [asyncpg.BitString.frombytes(asked.code), chosen.rescored]
    rows = await tx.fetch(statement, *arguments, *by_document(query))
    return [(row["chunk_id"], -row["distance"]) for row in rows]


async def bound_statements(tx: Transaction, milliseconds: int) -> None:
    """Bound each later statement of the transaction."""
    await tx.fetchval(SQL.bound_statements, str(milliseconds))


async def spread(tx: Transaction, chunks: Sequence[int], room: Spread) -> dict[int, UUID]:
    """Return the first passages of each document, best first as they came, with the document of each."""
    rows = await tx.fetch(SQL.spread, tx.scope.organization_id, list(chunks), room.a_document, room.passages)
    return {row["chunk_id"]: row["document_id"] for row in rows}


async def cosines(tx: Transaction, chunks: Sequence[int], asked: Embedding, embedder_no: int) -> dict[int, float]:
    """Return how near passages are to a query, for those that have a vector."""
    if not chunks:
        return {}
    rows = await tx.fetch(SQL.distances, tx.scope.organization_id, list(chunks), list(asked.vector), embedder_no)
    return {row["chunk_id"]: -row["distance"] for row in rows}


async def passages(tx: Transaction, chunks: Sequence[int]) -> dict[int, Passage]:
    """Return what candidates are part of."""
    if not chunks:
        return {}
    rows = await tx.fetch(SQL.passages, tx.scope.organization_id, list(chunks))
    return {row["chunk_id"]: _passage(row) for row in rows}


async def passage_texts(tx: Transaction, wanted: Sequence[Passage]) -> dict[int, str]:
    """Return the text of passages."""
    if not wanted:
        return {}
    columns = zip(
        *((each.chunk_id, each.document_id, each.version, each.start, each.end) for each in wanted), strict=True
    )
    rows = await tx.fetch(SQL.passage_texts, tx.scope.organization_id, *map(list, columns))
    return {row["chunk_id"]: row["text"] for row in rows}


def by_document(query: SearchQuery) -> tuple[str | None, int, str | None]:
    """Return the labels, age and folder that a statement narrows by; labels None let it look at no document."""
    if not is_by_document(query):
        return (None, -1, None)
    prefix = query.container_prefix
    return (
        msgspec.json.encode(dict(query.labels)).decode(),
        -1 if query.updated_after_us is None else query.updated_after_us,
        None if prefix is None or prefix.strip("/") == "" else "/" + prefix.strip("/"),
    )


def moment(at_us: int) -> datetime:
    """Return a time as the driver takes it."""
    return datetime.fromtimestamp(at_us / 1_000_000, tz=UTC)


def _passage(row: Any) -> Passage:
    return Passage(
        chunk_id=row["chunk_id"],
        document_id=row["document_id"],
        version=row["version"],
        start=row["start_at"],
        end=row["end_at"],
        source_id=row["source_id"],
        source_kind=row["kind"],
        title=row["title"],
        uri=row["uri"],
        updated_us=row["updated_us"],
        snippet_chars_max=row["snippet_chars_max"],
        signals=msgspec.json.decode(row["signals"]),
    )
