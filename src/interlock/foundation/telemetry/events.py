"""Streams that consoles and tasks follow: events by topic, numbered, so that a reader resumes where it was.

Pushes nothing; a reader asks for what came after the number it has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.stories import QUERIES

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event; `seq` only rises within a topic."""

    seq: int
    topic: str
    at_us: int
    payload: dict[str, Any]


class EventLog:
    """Events of one organization, as a scope may see them."""

    def __init__(self, store: Store, clock: Clock, redactor: Redactor, config: TelemetryConfig | None = None) -> None:
        self._store = store
        self._clock = clock
        self._redactor = redactor
        self._config = config or TelemetryConfig()

    async def append(self, tx: Transaction, topic: str, payload: dict[str, Any]) -> int:
        """Add an event, redacted, in the caller's transaction; return its number. Writers of a topic take turns."""
        scope = tx.scope
        workspace = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        now = datetime.fromtimestamp(self._clock.now_us() / 1_000_000, tz=UTC)
        text = _encode(self._redactor.value(payload)).decode()
        await tx.execute(QUERIES.lock_topic, str(scope.organization_id), topic)
        seq = await tx.fetchval(QUERIES.append_event, scope.organization_id, topic, now, workspace, text)
        return int(seq)

    async def after(self, scope: Scope, topics: Sequence[str], seq: int, limit: int = 100) -> list[StreamEvent]:
        """Return what came after `seq` in these topics, oldest first."""
        rows_max = max(1, min(limit, self._config.search_rows_max))
        async with self._store.transaction(scope) as tx:
            rows = await tx.fetch(QUERIES.events_after, scope.organization_id, list(topics), seq, rows_max)
        return [
            StreamEvent(
                row["seq"], row["topic"], round(row["created_at"].timestamp() * 1_000_000), _decode(row["payload"])
            )
            for row in rows
        ]
