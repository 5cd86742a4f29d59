"""The words of retrieval: kinds and states of sources, documents and work, and what a store function gives back.

Holds no rules; access is `access.py`, states change where their transactions are.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from interlock.contracts.documents import AccessList

WHOLE_ORGANIZATION: Final = UUID(int=0)
VECTOR_DIMENSIONS: Final = 384


class SourceKind(StrEnum):
    """Where documents come from."""

    PUSH = "push"
    FOLDER = "folder"
    CRAWL = "crawl"


LISTING_KINDS: Final = frozenset({SourceKind.FOLDER})


class SourceState(StrEnum):
    """What a source does now; in `dark` nobody sees anything of it."""

    IDLE = "idle"
    RUNNING = "running"
    THROTTLED = "throttled"
    PAUSED = "paused"
    DARK = "dark"
    FAILED = "failed"


class SourceMode(StrEnum):
    """`observe`: indexed, and searched by a named few, still through the access lists."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class DocumentState(StrEnum):
    """`quarantined` is stored and visible to nobody, as its access list is absent or could not be read."""

    LIVE = "live"
    QUARANTINED = "quarantined"
    DELETED = "deleted"
    PURGED = "purged"


class PutStatus(StrEnum):
    """What became of one document of a push."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    QUARANTINED = "quarantined"
    STALE = "stale"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Source:
    """A source as its row says."""

    id: UUID
    workspace_id: UUID
    name: str
    kind: SourceKind
    config: Mapping[str, Any]
    state: SourceState
    state_reason: str | None
    default_acl: AccessList | None
    strict: bool
    mode: SourceMode
    observe_principals: tuple[UUID, ...]
    sync_every_s: int
    acl_max_age_s: int
    acl_confirmed_us: int | None
    retention_days: int | None
    created_us: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One passage of a text: `text[start:end]` under a heading."""

    start: int
    end: int
    heading: str | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document as text, with its headings as (offset, level, title) and its passages."""

    text: str
    title: str | None
    headings: tuple[tuple[int, int, str], ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class IndexedPiece:
    """A passage with its words: term -> twice its frequency (body 2, title 4, heading 3), and its length in words."""

    piece: Piece
    terms: Mapping[str, int]
    tokens: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """What became of one document; `document_id` is None where nothing of it is stored."""

    external_id: str
    status: PutStatus
    document_id: UUID | None = None
    code: str | None = None
    version: int | None = None
    is_vector_ready: bool = False


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits of a source and of its organization."""

    source_documents: int
    source_bytes: int
    organization_documents: int
    organization_bytes: int
    vectors_pending: int
    organization_vectors_pending: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How an index stands: live documents, those whose list was confirmed lately, removals that are not over."""

    live: int
    confirmed: int
    purges: int
    quarantined: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SyncCounts:
    """What a sync run did so far; `errors` are (external id, code)."""

    added: int = 0
    changed: int = 0
    acl_changed: int = 0
    deleted: int = 0
    quarantined: int = 0
    skipped: int = 0
    errors: tuple[tuple[str, str], ...] = field(default=())


def embedder_no(embedder_id: str) -> int:
    """Return the number under which an embedder's codes and vectors are kept: the first 31 bits of a SHA-256."""
    return int.from_bytes(hashlib.sha256(embedder_id.encode()).digest()[:4], "big") >> 1
