"""A small world for tests of reading: people, groups, documents with access lists, written row by row.

The rows are those of the design page, written here by hand, so that reading is tested without the code that writes.
"""

import hashlib
import json
from dataclasses import replace

import asyncpg

from interlock.contracts.documents import AccessList
from interlock.foundation.ids import format_id
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import acl_json, canonical, effective, principal_id, set_digest
from interlock.retrieval.domain.analyzer import index_terms
from interlock.retrieval.domain.embedding import Embedding
from interlock.retrieval.domain.types import embedder_no
from tests.support.store import IDS, make_tenant

EMBEDDER_ID = "words/test/384"
# On a machine that others use too, what is slow is not too late.
PATIENT = RetrievalConfig(search_deadline_s=240.0, answer_deadline_s=600.0, fresh_wait_s=240.0)


class WordEmbedder:
    """A vector whose axes are words: near is what shares words. Implements the Protocol, loads nothing."""

    id = EMBEDDER_ID

    async def embed(self, texts):
        return [self.one(text) for text in texts]

    @staticmethod
    def one(text):
        values = [-0.01] * 384
        for term in index_terms("", None, text)[0]:
            values[int.from_bytes(hashlib.sha256(term.encode()).digest()[:4], "big") % 384] += 1.0
        length = sum(value * value for value in values) ** 0.5
        return Embedding(tuple(value / length for value in values))


class World:
    """One organization."""

    def __init__(self, store, organization_id, workspace_id):
        self.store = store
        self.organization_id = organization_id
        self.workspace_id = workspace_id
        self.scope = self.as_(IDS.new())
        self.sources = {}
        self.people = {}

    @classmethod
    async def make(cls, store):
        return cls(store, *await make_tenant(store))

    def as_(self, principal_id, *scopes, memberships=()):
        principal = Principal(
            principal_id, PrincipalKind.USER, self.organization_id, scopes=frozenset(scopes), memberships=memberships
        )
        return Scope(self.organization_id, ALL_WORKSPACES, principal, IDS.new())

    def scope_of(self, name):
        return self.as_(self.people[name])

    async def sql(self, sql, *args):
        async with self.store.transaction(self.scope) as tx:
            return await tx._connection.fetch(sql, *args)

    async def user(self, name):
        identity = self.people[name] = IDS.new()
        await self.sql(
            "INSERT INTO identity_users (organization_id, id, email, name) VALUES ($1, $2, $3, $4)",
            self.organization_id, identity, f"{name}@{self.organization_id.hex}.example", name,
        )  # fmt: skip
        return identity

    async def group(self, name, *members):
        identity = self.people[name] = IDS.new()
        await self.sql(
            "INSERT INTO identity_groups (organization_id, id, name) VALUES ($1, $2, $3)",
            self.organization_id, identity, name,
        )  # fmt: skip
        for each in members:
            await self.join(name, each)
        return identity

    async def epoch(self):
        (row,) = await self.sql(
            "INSERT INTO identity_authz_epochs AS e (organization_id, epoch) VALUES ($1, 1)"
            " ON CONFLICT (organization_id) DO UPDATE SET epoch = e.epoch + 1 RETURNING epoch",
            self.organization_id,
        )
        return row["epoch"]

    async def join(self, group, member, kind="user"):
        epoch = await self.epoch()
        await self.sql(
            "INSERT INTO identity_group_edges (organization_id, group_id, member_id, member_kind, from_epoch)"
            " VALUES ($1, $2, $3, $4, $5)",
            self.organization_id, self.people[group], self.people[member], kind, epoch,
        )  # fmt: skip

    async def leave(self, group, member):
        epoch = await self.epoch()
        await self.sql(
            "UPDATE identity_group_edges SET to_epoch = $4 WHERE organization_id = $1 AND group_id = $2"
            " AND member_id = $3",
            self.organization_id, self.people[group], self.people[member], epoch,
        )  # fmt: skip

    async def source(self, name="shop", kind="push", **columns):
        identity = self.sources[name] = IDS.new()
        values = {
            "organization_id": self.organization_id, "id": identity, "workspace_id": self.workspace_id, "name": name,
            "kind": kind, "config": "{}", "state": "idle", "sync_every_s": 300, "acl_max_age_s": 3600, "created_us": 1,
            **columns,
        }  # fmt: skip
        marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await self.sql(f"INSERT INTO retrieval_sources ({', '.join(values)}) VALUES ({marks})", *values.values())
        return identity

    def acl(self, *allow, deny=(), inherit=False):
        """A list by short names: `acl("ann", ("support", "eu"), deny=["bob"])`."""
        clauses = tuple(tuple(map(self.name, each if isinstance(each, tuple) else (each,))) for each in allow)
        return canonical(AccessList(clauses, tuple(map(self.name, deny)), inherit))

    def name(self, short):
        if short == "everyone" or ":" in short:
            return short
        kind = "group" if short in self.groups else "user"
        return f"{kind}:{format_id({'group': 'grp', 'user': 'usr'}[kind], self.people[short])}"

    @property
    def groups(self):
        return {name for name in self.people if name.startswith("g-")}

    async def container(self, source, path, own=None, *, inherit=True, parent=None):
        set_id = None if own is None else await self._set(own)
        (row,) = await self.sql(
            "INSERT INTO retrieval_containers (organization_id, source_id, parent_id, path, own_set_id, inherit)"
            " VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
            self.organization_id, self.sources[source], parent, path, set_id, inherit,
        )  # fmt: skip
        return row["id"]

    async def document(
        self, text, acl, *, source="shop", title="", folders=(), container=None, with_vector=True, **columns
    ):
        """A live document of one passage a line of `text`; `folders` are what it inherits, for its slot."""
        if source not in self.sources:
            await self.source(source)
        document_id = IDS.new()
        acl_id = await self._slot(self.sources[source], container, acl, effective(acl, folders))
        epoch = await self.epoch()
        values = {
            "organization_id": self.organization_id, "id": document_id, "source_id": self.sources[source],
            "external_id": document_id.hex, "container_id": container, "acl_id": acl_id,
            "own_acl": json.dumps(acl_json(acl)), "state": "live", "version": 1, "content_digest": b"1", "title": title,
            "uri": f"shop://{document_id.hex}", "media_type": "text/plain", "origin": "push", "text_bytes": len(text),
            "created_us": epoch, "updated_us": epoch, **columns,
        }  # fmt: skip
        marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await self.sql(f"INSERT INTO retrieval_documents ({', '.join(values)}) VALUES ({marks})", *values.values())
        await self.sql(
            "INSERT INTO retrieval_document_texts (organization_id, document_id, version, title, text)"
            " VALUES ($1, $2, 1, $3, $4)",
            self.organization_id, document_id, title, text,
        )  # fmt: skip
        await self.sql(
            "INSERT INTO retrieval_document_versions (organization_id, document_id, from_epoch, version, acl_id,"
            " container_id, state, cause, at_us) VALUES ($1, $2, $3, 1, $4, $5, $6, 'put', 1)",
            self.organization_id, document_id, epoch, acl_id, container, values["state"],
        )  # fmt: skip
        at = tokens = 0
        lines = text.split("\n")
        for number, line in enumerate(lines):
            tokens += await self._chunk(document_id, number, at, title, line, acl_id, with_vector=with_vector)
            at += len(line) + 1
        await self.sql(
            "INSERT INTO retrieval_acl_counts AS c (organization_id, acl_id, live_documents, live_chunks, live_tokens,"
            " pending_vectors) VALUES ($1, $2, 1, $3, $4, $5) ON CONFLICT (organization_id, acl_id) DO UPDATE SET"
            " live_documents = c.live_documents + 1, live_chunks = c.live_chunks + $3,"
            " live_tokens = c.live_tokens + $4, pending_vectors = c.pending_vectors + $5",
            self.organization_id, acl_id, len(lines), tokens, 0 if with_vector else len(lines),
        )  # fmt: skip
        return document_id

    async def _chunk(self, document_id, number, at, title, line, acl_id, *, with_vector):
        weighed, length = index_terms(title, None, line)
        (row,) = await self.sql(
            "INSERT INTO retrieval_chunks (organization_id, document_id, version, ord, start_at, end_at, tokens)"
            " VALUES ($1, $2, 1, $3, $4, $5, $6) RETURNING chunk_id",
            self.organization_id, document_id, number, at, at + len(line), length,
        )  # fmt: skip
        chunk_id = row["chunk_id"]
        for term, tf in weighed.items():
            await self.sql(
                "WITH t AS (INSERT INTO retrieval_terms (organization_id, term) VALUES ($1, $2)"
                " ON CONFLICT (organization_id, term) DO NOTHING RETURNING term_id)"
                " INSERT INTO retrieval_postings (organization_id, term_id, acl_id, chunk_id, tf, dl)"
                " SELECT $1, coalesce((SELECT term_id FROM t), (SELECT term_id FROM retrieval_terms"
                " WHERE organization_id = $1 AND term = $2)), $3, $4, $5, $6",
                self.organization_id, term, acl_id, chunk_id, tf, length,
            )  # fmt: skip
        found = WordEmbedder.one(line)
        await self.sql(
            "INSERT INTO retrieval_chunk_codes (organization_id, acl_id, chunk_id, embedder_no, code)"
            " VALUES ($1, $2, $3, $4, $5)",
            self.organization_id, acl_id, chunk_id, *(
                (embedder_no(EMBEDDER_ID), asyncpg.BitString.frombytes(found.code)) if with_vector else (None, None)
            ),
        )  # fmt: skip
        if with_vector:
            await self.sql(
                "INSERT INTO retrieval_chunk_vectors (organization_id, chunk_id, embedder_no, embedding)"
                " VALUES ($1, $2, $3, $4::real[]::halfvec(384))",
                self.organization_id, chunk_id, embedder_no(EMBEDDER_ID), list(found.vector),
            )  # fmt: skip
        return length

    async def _set(self, acl):
        bare = replace(canonical(acl), inherit=False)
        rows = await self.sql(
            "INSERT INTO retrieval_acl_sets (organization_id, digest, canonical) VALUES ($1, $2, $3)"
            " ON CONFLICT DO NOTHING RETURNING set_id",
            self.organization_id, set_digest(bare), json.dumps(acl_json(bare)),
        )  # fmt: skip
        if not rows:
            rows = await self.sql(
                "SELECT set_id FROM retrieval_acl_sets WHERE organization_id = $1 AND digest = $2",
                self.organization_id, set_digest(bare),
            )  # fmt: skip
            return rows[0]["set_id"]
        clauses = [("allow", number, name) for number, clause in enumerate(bare.allow) for name in clause]
        clauses += [("deny", number, name) for number, name in enumerate(bare.deny)]
        for effect, number, name in clauses:
            await self.sql(
                "INSERT INTO retrieval_acl_clauses VALUES ($1, $2, $3, $4, $5)",
                self.organization_id, rows[0]["set_id"], number, effect, principal_id(name),
            )  # fmt: skip
        return rows[0]["set_id"]

    async def _slot(self, source_id, container, own, counts):
        own_set, set_id = await self._set(own), await self._set(counts)
        rows = await self.sql(
            "SELECT acl_id FROM retrieval_acls WHERE organization_id = $1 AND source_id = $2"
            " AND container_id IS NOT DISTINCT FROM $3 AND own_set_id = $4",
            self.organization_id, source_id, container, own_set,
        )  # fmt: skip
        if rows:
            return rows[0]["acl_id"]
        (row,) = await self.sql(
            "INSERT INTO retrieval_acls (organization_id, source_id, container_id, own_set_id) VALUES ($1, $2, $3, $4)"
            " RETURNING acl_id",
            self.organization_id, source_id, container, own_set,
        )  # fmt: skip
        await self.sql(
            "INSERT INTO retrieval_acl_bindings (organization_id, acl_id, from_epoch, set_id) VALUES ($1, $2, $3, $4)",
            self.organization_id, row["acl_id"], await self.epoch(), set_id,
        )  # fmt: skip
        return row["acl_id"]
