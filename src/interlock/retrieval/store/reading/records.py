"""What reading writes: one audit row a search, and darkness where the two paths disagreed.

Reads nothing for a caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.foundation.store import Transaction
from interlock.retrieval.store.reading.search import SQL


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One row of `retrieval_searches`, by ids and ranks; the columns in their order."""

    request_id: UUID
    created_at: datetime
    workspace_id: UUID | None
    kind: str
    caller_id: UUID
    principal: str
    closure_digest: bytes
    epoch: int
    query_hmac: bytes
    plan: str
    profile_digest: str
    eligible_chunks: int
    eligible_documents: int
    acl_ids: list[int]
    candidates: Mapping[str, Any]
    fused: Sequence[Any]
    emitted: Sequence[Any]
    dropped: Sequence[Any]
    degraded: list[str]
    timing: Mapping[str, float]
    answer_id: UUID | None


_JSON: Final = frozenset({"candidates", "fused", "emitted", "dropped", "timing"})


async def record_search(tx: Transaction, record: SearchRecord) -> None:
    """Write the row of a search."""
    columns = ((name, getattr(record, name)) for name in record.__dataclass_fields__)
    values = [msgspec.json.encode(value).decode() if name in _JSON else value for name, value in columns]
    await tx.execute(SQL.record_search, tx.scope.organization_id, *values)


async def darken(tx: Transaction, sources: Sequence[UUID], reason: str) -> None:
    """Show nothing of these sources from the next statement on; the last statement of its transaction."""
    await tx.execute(SQL.darken, tx.scope.organization_id, list(sources), reason)
