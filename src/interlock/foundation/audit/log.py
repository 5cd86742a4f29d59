"""Appends to the chain, inside the transaction of the change that it tells about.

Never decides whether a change is made: when the append fails, the change rolls back with it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
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
_FUNCTIONS: Final = ("audit_leave", "audit_chain_event")


@dataclass(slots=True)
class AuditStatistics:
    """Appends of this process."""

    events: int = 0
    failed: int = 0


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
        left = self.left(entry, scope or tx.scope)
        try:
            await tx.fetchval(SQL.append, left)
        except RETRYABLE:
            raise
        except asyncpg.PostgresError as error:
            raise self._refusal(error) from error
        self._statistics.events += 1

    def left(self, entry: AuditEntry, scope: Scope) -> list[str | None]:
        """Return an event as the function `audit_leave` takes it, for a statement that leaves it itself.

        Such a statement is run inside `leaving`.
        """
        event = self._event(entry, scope)
        return [
            str(event.organization_id),
            str(event.at_us),
            canonical(event.actor).decode(),
            event.action,
            event.target_kind,
            event.target_id,
            event.outcome,
            event.reason,
            None if event.request_id is None else str(event.request_id),
            canonical(event.detail).decode(),
            *around_seq(event),
        ]

    @contextmanager
    def leaving(self, events: int = 1) -> Iterator[None]:
        """Count what a statement left that is its own transaction.

        Raises `audit_unavailable` where it came to nothing because of that.
        """
        try:
            yield
        except RETRYABLE:
            raise
        except asyncpg.PostgresError as error:
            if not is_audit_failure(error):
                raise
            raise self._refusal(error) from error
        self._statistics.events += events

    def statistics(self) -> AuditStatistics:
        """Return a copy of the counts."""
        return replace(self._statistics)

    def _refusal(self, error: asyncpg.PostgresError) -> InterlockError:
        self._statistics.failed += 1
        return InterlockError("audit_unavailable", detail={"cause": type(error).__name__})

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
    """Tell whether a transaction failed because its event could not be left, or not be chained at the commit."""
    context = getattr(error, "context", None) or ""
    return any(function in context for function in _FUNCTIONS)


def event_of(row: Any) -> AuditEvent:
    """Return the event of a row of `listed` or `walked`."""
    return AuditEvent(**{**row, "actor": json.loads(row["actor"]), "detail": json.loads(row["detail"])})
