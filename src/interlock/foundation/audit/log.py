"""Appends to the chain, inside the transaction of the change that it tells about.

Never decides whether a change is made: when the append fails, the change rolls back with it.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg

from interlock.foundation.audit.config import AuditConfig
from interlock.foundation.audit.event import AuditEntry, AuditEvent, actor_of, around_seq, canonical, plain, storable
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Transaction
from interlock.foundation.store.failures import RETRYABLE

SQL = Queries(__package__)
CHAIN_FUNCTION: Final = "audit_chain_event"


@dataclass(slots=True)
class AuditStatistics:
    """Appends of this process; `append_seconds` is their sum."""

    events: int = 0
    failed: int = 0
    append_seconds: float = 0.0


class AuditLog:
    """`append(tx, entry)` in every transaction that changes something."""

    def __init__(self, clock: Clock, redactor: Redactor, config: AuditConfig | None = None) -> None:
        self._clock = clock
        self._redactor = redactor
        self._config = config or AuditConfig()
        self._statistics = AuditStatistics()

    async def append(self, tx: Transaction, entry: AuditEntry, scope: Scope | None = None) -> None:
        """Leave the event to be chained when `tx` commits, in the order of the appends; one round trip, no wait.

        `scope` names organization and actor in a transaction of the loops, which has none of its own.
        Raises `InterlockError` `audit_unavailable`, or the store's own failure to be retried or reported. What
        fails at the commit is told apart by `is_audit_failure`.
        """
        event = self._event(entry, scope or tx.scope)
        head, tail = around_seq(event)
        began_s = self._clock.monotonic()
        try:
            await tx.execute(
                SQL.append,
                event.organization_id,
                event.at_us,
                canonical(event.actor).decode(),
                event.action,
                event.target_kind,
                event.target_id,
                event.outcome,
                event.reason,
                event.request_id,
                canonical(event.detail).decode(),
                head,
                tail,
            )
        except RETRYABLE:
            raise
        except asyncpg.PostgresError as error:
            self._statistics.failed += 1
            raise InterlockError("audit_unavailable", detail={"cause": type(error).__name__}) from error
        self._statistics.events += 1
        self._statistics.append_seconds += self._clock.monotonic() - began_s

    def statistics(self) -> AuditStatistics:
        """Return a copy of the counts."""
        return replace(self._statistics)

    def _event(self, entry: AuditEntry, scope: Scope) -> AuditEvent:
        limit = self._config.text_chars_max
        return AuditEvent(
            organization_id=scope.organization_id,
            seq=0,
            at_us=self._clock.now_us(),
            actor=actor_of(scope.principal),
            action=storable(entry.action),
            target_kind=storable(entry.target_kind),
            target_id=storable(self._redactor.text(entry.target_id))[:limit],
            outcome=storable(entry.outcome),
            reason=None if entry.reason is None else storable(self._redactor.text(entry.reason))[:limit],
            request_id=scope.request_id,
            detail=self._detail(entry.detail),
        )

    def _detail(self, detail: Any) -> dict[str, Any]:
        kept: dict[str, Any] = plain(self._redactor.value(dict(detail)))
        size = len(canonical(kept))
        if size <= self._config.detail_bytes_max:
            return kept
        # The head of the text is enough to recognise the change; the size says that something is missing.
        return {"cut_bytes": size, "head": canonical(kept).decode()[: self._config.detail_bytes_max // 4]}


def is_audit_failure(error: asyncpg.PostgresError) -> bool:
    """Tell whether a transaction could not commit because its event could not be chained."""
    return CHAIN_FUNCTION in (getattr(error, "context", None) or "")


def event_of(row: Any) -> AuditEvent:
    """Return the event of a row of `listed` or `walked`."""
    return AuditEvent(**{**row, "actor": json.loads(row["actor"]), "detail": json.loads(row["detail"])})
