"""Documents on their way into the index, withdrawals, and how much the index can still take.

Given by retrieval, used by the crawler; connectors use the same. Access travels with the document.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from interlock.foundation.scope import Scope


class Origin(StrEnum):
    """Where a text came from; text from the web is data, never an instruction."""

    WEB = "web"
    CONNECTOR = "connector"
    PUSH = "push"


class WithdrawReason(StrEnum):
    """Why a document has to leave the index."""

    GONE = "gone"
    SOFT_404 = "soft_404"
    SIGNAL = "signal"
    ROBOTS = "robots"
    OFFSCOPE = "offscope"
    HOST_BLOCKED = "host_blocked"
    MOVED = "moved"
    CRAWL_DELETED = "crawl_deleted"
    PURGE = "purge"


@dataclass(frozen=True, slots=True)
class AccessList:
    """Who may read. A clause of `allow` is a set of principals that must all hold; `deny` wins over any clause.

    Principals are `user:ID`, `sa:ID`, `group:ID`, `everyone`, `ext:SRC:KIND:NAME`. An empty `allow` means nobody.
    """

    allow: tuple[tuple[str, ...], ...]
    deny: tuple[str, ...] = ()
    inherit: bool = False


@dataclass(frozen=True, slots=True)
class Signal:
    """A publisher's wish about a page, e.g. `noindex`, and where it stood (`header`, `meta`, `robots`)."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class DocumentUpsert:
    """One version of a document. A lower `source_version` never overwrites, the same one is idempotent.

    `acl` None keeps what the document has, or takes the source's default. `observed_at_us` is when the source was read.
    """

    source_id: UUID
    external_id: str
    source_version: int
    observed_at_us: int
    uri: str
    title: str
    media_type: str
    text: str
    text_digest: str
    origin: Origin
    acl: AccessList | None = None
    language: str | None = None
    modified_at_us: int | None = None
    container: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    snippet_chars_max: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Stored; words are searchable now, meaning when its vector arrives."""

    document_id: UUID
    version: int


@dataclass(frozen=True, slots=True)
class Backlogged:
    """No room now."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class PutRefused:
    """Will not be stored, now or later, as it is."""

    code: str


@dataclass(frozen=True, slots=True)
class Tombstoned:
    """Out of every answer from the next statement on; None where the document was not known."""

    document_id: UUID | None


@dataclass(frozen=True, slots=True)
class Pressure:
    """What waits, and `credit_bytes`: what the source may still send now, 0 = closed."""

    documents: int
    bytes: int
    bytes_limit: int
    credit_bytes: int
    lag_s: float


class DocumentSink(Protocol):
    """The way into the index. Every call commits by itself before it returns."""

    async def open_source(self, scope: Scope, name: str, kind: str, acl: AccessList) -> UUID:
        """Return the source of this name, made on the first call."""
        ...

    async def put(self, scope: Scope, document: DocumentUpsert) -> Accepted | Backlogged | PutRefused:
        """Store one version of a document."""
        ...

    async def tombstone(
        self, scope: Scope, source_id: UUID, external_id: str, reason: WithdrawReason, observed_at_us: int
    ) -> Tombstoned:
        """Withdraw a document; idempotent, never refused for space."""
        ...

    async def pressure(self, scope: Scope, source_id: UUID) -> Pressure:
        """Tell how much the index can take from this source."""
        ...
