"""Search and answers for other systems: under the very principal that bounds the caller, never under more.

Given by retrieval, used by agents and evals. A refusal is a value with a code of the platform's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from interlock.foundation.scope import Scope


class SearchMode(StrEnum):
    """Which legs are asked."""

    HYBRID = "hybrid"
    LEXICAL = "lexical"
    VECTOR = "vector"


class Rerank(StrEnum):
    """What orders the fused candidates."""

    FEATURES = "features"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """One search. `sources` empty means all, `at_least_as_fresh` is a consistency token."""

    text: str
    hits: int = 10
    sources: tuple[UUID, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    container_prefix: str | None = None
    updated_after_us: int | None = None
    mode: SearchMode = SearchMode.HYBRID
    rerank: Rerank = Rerank.FEATURES
    passages: int = 2
    at_least_as_fresh: str | None = None
    with_facets: bool = False
    profile: str = "default"


@dataclass(frozen=True, slots=True)
class AnswerQuery:
    """One question. `search.hits` is how many documents are looked at; `is_strict` removes what is not supported."""

    search: SearchQuery
    sentences_max: int = 5
    is_strict: bool = True


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """`text` is `document[start:end]` in code points, cut where the publisher wants short snippets."""

    chunk_id: int
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """A document that the reader may read, with its best passages; ranks are those of its best passage in each leg."""

    document_id: UUID
    source_id: UUID
    title: str
    uri: str
    version: int
    updated_us: int
    score: float
    passages: tuple[FoundPassage, ...]
    lexical_rank: int | None
    vector_rank: int | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first; no match and nothing to match look alike. `facets` are counts by `source` and `kind`."""

    request_id: UUID
    hits: tuple[FoundDocument, ...]
    facets: Mapping[str, tuple[tuple[str, int], ...]]
    epoch: int
    consistency_token: str
    degraded: tuple[str, ...]
    profile_digest: str
    timing_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Citation:
    """`quote` is `document[start:end]` of that version, in code points."""

    number: int
    document_id: UUID
    source_id: UUID
    chunk_id: int
    version: int
    start: int
    end: int
    quote: str
    quote_sha256: str
    uri: str


@dataclass(frozen=True, slots=True)
class AnswerSentence:
    """`answer[start:end]` with the numbers of its citations; `support` is 0 to 1."""

    start: int
    end: int
    citations: tuple[int, ...]
    support: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose every sentence is bound to text that the reader may read; `answer` None is an abstention."""

    request_id: UUID
    answer_id: UUID
    answer: str | None
    mode: str
    abstain_reason: str | None
    citations: tuple[Citation, ...]
    sentences: tuple[AnswerSentence, ...]
    removed: tuple[str, ...]
    epoch: int
    consistency_token: str
    degraded: tuple[str, ...]
    profile_digest: str


@dataclass(frozen=True, slots=True)
class RetrievalRefused:
    """No result; `code` is of the platform's table of errors."""

    code: str
    message: str
    retry_after_s: float | None = None


class Retriever(Protocol):
    """Reads the index. `principal` None is the scope's own; another one needs `retrieval:delegate`."""

    async def search(self, scope: Scope, principal: str | None, query: SearchQuery) -> SearchResult | RetrievalRefused:
        """Search once; every call is recorded."""
        ...

    async def answer(self, scope: Scope, principal: str | None, query: AnswerQuery) -> Answer | RetrievalRefused:
        """Answer once, from what the same search would find."""
        ...

    def profile_digest(self, name: str) -> str:
        """Return what settings a search by this profile runs with, as a digest. Raises `LookupError`."""
        ...
