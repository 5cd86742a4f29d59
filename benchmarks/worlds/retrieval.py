"""A large synthetic index: one organization, its access lists in slots, passages with words and vectors.

Measures nothing. Vectors are drawn from a latent space of 64 dimensions with a falling spectrum and a little noise in
all 384, as embeddings of text lie; words from a Zipf law. Access is drawn apart from both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
from tests.support.store import IDS

from interlock.contracts.documents import AccessList
from interlock.foundation.ids import OrganizationId
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.foundation.store import StoreUrls
from interlock.retrieval.domain.access import acl_json, canonical, principal_id, principal_name, set_digest
from interlock.retrieval.domain.embedding import Embedding
from interlock.retrieval.domain.types import embedder_no

EMBEDDER_ID = "synthetic/latent/384"
DIMENSIONS, LATENT = 384, 64
CHUNKS_A_DOCUMENT = 10
SLOTS = 1_000
WORDS_A_CHUNK, VOCABULARY = 30, 30_000
SHARES = (1.0, 0.5, 0.1, 0.01, 0.001)


def word_of(number: int) -> str:
    """Return a word that the analyzer leaves as it is."""
    letters = ""
    while number:
        number, rest = divmod(number, 26)
        letters += chr(97 + rest)
    return f"q{letters}zx"


def zipf_edges() -> Any:
    """Return the cumulative weights of the words."""
    weights = 1 / np.arange(1, VOCABULARY + 1) ** 0.9
    return np.cumsum(weights / weights.sum())


class Latent:
    """Draws vectors of length 1."""

    def __init__(self, seed: int) -> None:
        self._dice = np.random.default_rng(seed)
        spectrum = 1 / np.sqrt(np.arange(1, LATENT + 1))
        self._basis = self._dice.standard_normal((LATENT, DIMENSIONS)) * spectrum[:, None]

    def draw(self, count: int) -> Any:
        inner = self._dice.standard_normal((count, LATENT)) @ self._basis
        noise = self._dice.standard_normal((count, DIMENSIONS)) * 0.05 * inner.std()
        return ((inner + noise) / np.linalg.norm(inner + noise, axis=1, keepdims=True)).astype(np.float32)


class Given:
    """Implements `Embedder` with vectors that were drawn before."""

    id = EMBEDDER_ID

    def __init__(self) -> None:
        self.vectors: dict[str, Embedding] = {}

    async def embed(self, texts: Sequence[str]) -> list[Embedding]:
        return [self.vectors[each] for each in texts]


@dataclass(frozen=True, slots=True)
class SyntheticIndex:
    """What was filled; `readers` maps an eligible share to a user who may read that share."""

    organization_id: UUID
    readers: dict[float, UUID]
    chunks: int

    def scope_of(self, share: float) -> Scope:
        principal = Principal(self.readers[share], PrincipalKind.USER, self.organization_id)  # type: ignore[arg-type]
        return Scope(OrganizationId(self.organization_id), ALL_WORKSPACES, principal, IDS.new())  # type: ignore[arg-type]


async def fill(urls: StoreUrls, chunks: int, latent: Latent, seed: int = 1) -> SyntheticIndex:
    """Write the index past the service, as the superuser: filling it is not what is measured."""
    connection = await asyncpg.connect(urls.superuser, database="interlock")
    organization_id, source_id = IDS.new(), IDS.new()
    readers = {share: IDS.new() for share in SHARES}
    groups = {share: IDS.new() for share in SHARES}
    await _identity(connection, organization_id, readers, groups)
    await connection.execute(
        "INSERT INTO retrieval_sources (organization_id, id, workspace_id, name, kind, config, state, sync_every_s,"
        " acl_max_age_s, created_us) VALUES ($1, $2, $2, 'bench', 'push', '{}', 'idle', 300, 3600, 1)",
        organization_id, source_id,
    )  # fmt: skip
    slots = await _slots(connection, organization_id, source_id, groups)
    dice = np.random.default_rng(seed)
    documents = chunks // CHUNKS_A_DOCUMENT
    slot_of = np.array(slots)[dice.permutation(np.arange(documents) % SLOTS)]
    ids = [IDS.new() for _ in range(documents)]
    await _documents(connection, organization_id, source_id, ids, slot_of)
    first = 1 + await connection.fetchval("SELECT coalesce(max(chunk_id), 0) FROM retrieval_chunks")
    await _chunks(connection, organization_id, ids, slot_of, first, latent)
    await _postings(connection, organization_id, slot_of, first, dice)
    await connection.execute(
        "INSERT INTO retrieval_acl_counts SELECT organization_id, acl_id, count(DISTINCT c.document_id), count(*),"
        " count(*) * $2, 0 FROM retrieval_chunk_codes k JOIN retrieval_chunks c USING (organization_id, chunk_id)"
        " WHERE organization_id = $1 GROUP BY 1, 2",
        organization_id, WORDS_A_CHUNK,
    )  # fmt: skip
    for table in ("chunks", "chunk_codes", "chunk_vectors", "postings", "documents", "acls", "acl_bindings"):
        await connection.execute(f"VACUUM (ANALYZE) retrieval_{table}")
    await connection.execute("VACUUM (ANALYZE) retrieval_acl_clauses, retrieval_terms, retrieval_document_texts")
    await connection.close()
    return SyntheticIndex(organization_id, readers, chunks)


async def _identity(
    connection: Any, organization_id: UUID, readers: dict[float, UUID], groups: dict[float, UUID]
) -> None:
    name = organization_id.hex
    await connection.execute("INSERT INTO identity_organizations (id, name) VALUES ($1, $2)", organization_id, name)
    await connection.execute(
        "INSERT INTO identity_authz_epochs (organization_id, epoch) VALUES ($1, 1)", organization_id
    )
    for share, reader in readers.items():
        await connection.execute(
            "INSERT INTO identity_group_edges (organization_id, group_id, member_id, member_kind, from_epoch)"
            " VALUES ($1, $2, $3, 'user', 1)",
            organization_id, groups[share], reader,
        )  # fmt: skip


async def _slots(connection: Any, organization_id: UUID, source_id: UUID, groups: dict[float, UUID]) -> list[int]:
    """Return the slots; of them a reader's share names its group, beside a team that nobody is in."""
    slots = []
    for number in range(SLOTS):
        allowed = [groups[share] for share in SHARES if number < share * SLOTS]
        names = [principal_name("group", each) for each in [*allowed, IDS.new()]]
        acl = canonical(AccessList(tuple((each,) for each in names)))
        set_id = await connection.fetchval(
            "INSERT INTO retrieval_acl_sets (organization_id, digest, canonical) VALUES ($1, $2, $3) RETURNING set_id",
            organization_id, set_digest(acl), json.dumps(acl_json(acl)),
        )  # fmt: skip
        await connection.executemany(
            "INSERT INTO retrieval_acl_clauses VALUES ($1, $2, $3, 'allow', $4)",
            [(organization_id, set_id, at, principal_id(clause[0])) for at, clause in enumerate(acl.allow)],
        )
        acl_id = await connection.fetchval(
            "INSERT INTO retrieval_acls (organization_id, source_id, own_set_id) VALUES ($1, $2, $3) RETURNING acl_id",
            organization_id, source_id, set_id,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO retrieval_acl_bindings (organization_id, acl_id, from_epoch, set_id) VALUES ($1, $2, 1, $3)",
            organization_id, acl_id, set_id,
        )  # fmt: skip
        slots.append(acl_id)
    return slots


async def _documents(connection: Any, organization_id: UUID, source_id: UUID, ids: list[UUID], slot_of: Any) -> None:
    await connection.execute("CREATE TEMP TABLE made (id uuid, acl_id integer)")
    await connection.copy_records_to_table("made", records=zip(ids, slot_of.tolist(), strict=True))
    await connection.execute(
        "INSERT INTO retrieval_documents (organization_id, id, source_id, external_id, acl_id, own_acl, state, version,"
        " content_digest, title, uri, media_type, origin, text_bytes, created_us, updated_us)"
        " SELECT $1, m.id, $2, m.id::text, m.acl_id, s.canonical, 'live', 1, '', 'Document', 'bench://' || m.id,"
        " 'text/plain', 'push', 0, 1, 1 FROM made m JOIN retrieval_acls a USING (acl_id)"
        " JOIN retrieval_acl_sets s ON s.set_id = a.own_set_id",
        organization_id, source_id,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO retrieval_document_texts (organization_id, document_id, version, title, text)"
        " SELECT $1, id, 1, 'Document', repeat('words of a passage ', 500) FROM made",
        organization_id,
    )


async def _chunks(
    connection: Any, organization_id: UUID, ids: list[UUID], slot_of: Any, first: int, latent: Latent
) -> None:
    await connection.execute(
        "CREATE TEMP TABLE vectors (chunk_id bigint, document_id uuid, ord integer, acl_id integer, v real[])"
    )
    for start in range(0, len(ids), 1_000):
        some = ids[start : start + 1_000]
        drawn = latent.draw(len(some) * CHUNKS_A_DOCUMENT).tolist()
        await connection.copy_records_to_table(
            "vectors",
            records=[
                (first + (start + at) * CHUNKS_A_DOCUMENT + ord_, each, ord_, int(slot_of[start + at]), drawn.pop())
                for at, each in enumerate(some)
                for ord_ in range(CHUNKS_A_DOCUMENT)
            ],
        )
    await connection.execute(
        "INSERT INTO retrieval_chunks (organization_id, chunk_id, document_id, version, ord, start_at, end_at, tokens)"
        " SELECT $1, chunk_id, document_id, 1, ord, ord * 900, ord * 900 + 900, $2 FROM vectors",
        organization_id, WORDS_A_CHUNK,
    )  # fmt: skip
    number = embedder_no(EMBEDDER_ID)
    await connection.execute(
        "INSERT INTO retrieval_chunk_codes SELECT $1, acl_id, chunk_id, $2, binary_quantize(v::halfvec(384))"
        " FROM vectors",
        organization_id, number,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO retrieval_chunk_vectors SELECT $1, chunk_id, $2, v::halfvec(384) FROM vectors",
        organization_id, number,
    )  # fmt: skip


async def _postings(connection: Any, organization_id: UUID, slot_of: Any, first: int, dice: Any) -> None:
    await connection.execute("CREATE TEMP TABLE vocabulary (word integer, term_id integer)")
    await connection.execute(
        "WITH made AS (INSERT INTO retrieval_terms (organization_id, term)"
        " SELECT $1, w.term FROM unnest($2::text[]) w (term)"
        " RETURNING term, term_id) INSERT INTO vocabulary SELECT w.word, m.term_id FROM made m"
        " JOIN unnest($2::text[]) WITH ORDINALITY AS w (term, word) USING (term)",
        organization_id, [word_of(number) for number in range(1, VOCABULARY + 1)],
    )  # fmt: skip
    await connection.execute("CREATE TEMP TABLE words (chunk_id bigint, acl_id integer, word integer)")
    edges = zipf_edges()
    for start in range(0, len(slot_of), 1_000):
        some = slot_of[start : start + 1_000].tolist()
        drawn = 1 + np.searchsorted(edges, dice.random((len(some), CHUNKS_A_DOCUMENT, WORDS_A_CHUNK)))
        np.minimum(drawn, VOCABULARY, out=drawn)
        rows = (
            (first + (start + at) * CHUNKS_A_DOCUMENT + ord_, slot, word)
            for at, slot in enumerate(some)
            for ord_ in range(CHUNKS_A_DOCUMENT)
            for word in set(drawn[at, ord_].tolist())
        )
        await connection.copy_records_to_table("words", records=rows)
    await connection.execute(
        "INSERT INTO retrieval_postings (organization_id, term_id, acl_id, chunk_id, tf, dl)"
        " SELECT $1, t.term_id, w.acl_id, w.chunk_id, 2, $2 FROM words w JOIN vocabulary t USING (word)"
        " ORDER BY 2, 3, 4",
        organization_id, WORDS_A_CHUNK,
    )  # fmt: skip
