"""The journal as it is written by a leg: intent, outcome, change of state; each one transaction under the fence.

Decides nothing. A write whose fence is not the current one changes nothing and raises `LeaseLostError`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from interlock.agents.config import AgentsConfig
from interlock.agents.domain.journal import Step, StepKind, StepStatus, idem_key, sha256_of
from interlock.agents.domain.states import FINAL, Reason, TaskState
from interlock.agents.domain.types import KillProof, ProcessRecord
from interlock.agents.store.rows import Task, decision_text, step_of, task_of
from interlock.foundation.artifacts import ArtifactStore, key_of
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory
from interlock.foundation.leases import LeaseLostError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Store, Transaction

SQL: Final = Queries("interlock.agents")
_EVENT_CHARS_MAX: Final = 4_000
Event = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended. What is None stays as it is."""

    status: StepStatus
    result: str = "{}"
    error: str | None = None
    tree: str | None = None
    commit: str | None = None
    changed: tuple[str, ...] = ()
    checkpoint: str | None = None
    request_id: str | None = None
    tokens: int = 0
    usd_micros: int = 0
    tool_ms: int = 0
    redactions: int = 0
    ms: float = 0.0
    rejections: int = 0
    violations: int = 0
    verify_state: str | None = None
    artifact: tuple[str, str, int, str] | None = None
    events: tuple[Event, ...] = ()
    audit: AuditEntry | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """A state that a task goes to, why, and what there is to show for it."""

    state: TaskState
    reason: Reason | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    proof: KillProof | None = None


class Journal:
    """Journals of all tasks of a process."""

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
        *,
        config: AgentsConfig | None = None,
    ) -> None:
        self.store = store
        self.artifacts = artifacts
        self.audit = audit
        self.clock = clock
        self.ids = ids
        self.config = config or AgentsConfig()

    async def find(self, scope: Scope, task_id: Any) -> Task | None:
        """Return a task, as far as the scope may see it."""
        async with self.store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.find_task, scope.organization_id, task_id)
        return None if row is None else task_of(row)

    async def steps(self, scope: Scope, task: Task) -> list[Step]:
        """Return the whole journal, long bodies included."""
        async with self.store.transaction(scope) as tx:
            rows = await tx.fetch(SQL.list_steps, *task.key)
        return [step_of(row, await self._body(row["args_key"]), await self._body(row["result_key"])) for row in rows]

    async def start(self, task: Task, token: int) -> str | None:
        """Make the leg that holds the lease the one that writes; return the reason to show: `recovered` or None."""
        async with self.store.transaction(task.scope()) as tx:
            row = await tx.fetchrow(SQL.start_leg, *task.key, token, self.clock.now_us())
        if row is None:
            raise LeaseLostError(task.public_id)
        return None if row["reason"] is None else str(row["reason"])

    async def begin(self, task: Task, token: int, step: Step, events: Sequence[Event] = ()) -> Step:
        """Write the intent of a step: one statement, in one round trip."""
        given = await self._begun(task, token, step, events)
        rows = await self.store.single(SQL.begin_step, *given)
        _require(rows[0]["seq"], task)
        return step

    async def begin_in(self, tx: Transaction, task: Task, token: int, step: Step, events: Sequence[Event] = ()) -> None:
        """Write the intent in an open transaction. Raises `LeaseLostError`, also once a cancel was asked for."""
        _require(await tx.fetchval(SQL.begin_step, *await self._begun(task, token, step, events)), task)

    async def _begun(self, task: Task, token: int, step: Step, events: Sequence[Event]) -> tuple[Any, ...]:
        """Return the arguments of an intent."""
        args, args_key = await self._kept(task, f"{step.seq}-args", step.args)
        started: Event = (
            "step.started",
            {"step": step.seq, "kind": step.kind, "tool": step.tool, "attempt": token, "args": shown(step.args)},
        )
        told = [started, *events]
        return (
            *task.key,
            token,
            step.seq,
            [each[0] for each in told],
            [event_text(each[1]) for each in told],
            step.started_us,
            step.tokens_reserved,
            self.ids.new(),
            step.kind,
            step.status,
            step.tool,
            step.call_id,
            step.model_seq,
            args,
            args_key,
            step.args_sha256 or sha256_of(step.args),
            idem_key(task.public_id, step.seq, step.tool or step.kind, step.args),
            decision_text(step.decision),
            step.tree_before,
        )

    async def reopen(self, task: Task, token: int, seq: int) -> None:
        """Take over a step that an earlier attempt began."""
        async with self.store.transaction(task.scope()) as tx:
            found = await tx.fetchval(SQL.reopen_step, *task.key, token, seq, self.clock.now_us())
        if found is None:
            raise LeaseLostError(task.public_id)

    async def end(self, task: Task, token: int, step: Step, outcome: Outcome) -> None:
        """Write the outcome of a step in one round trip; only what is committed here has happened."""
        given = await self._ended(task, token, step, outcome)
        with self.audit.leaving(outcome.audit is not None):
            try:
                rows = await self.store.single(SQL.end_step, *given)
            except asyncpg.NoDataFoundError:
                # The step is not open: another leg ended it.
                raise LeaseLostError(task.public_id) from None
            _require(rows[0]["seq"], task)

    async def _ended(self, task: Task, token: int, step: Step, outcome: Outcome) -> tuple[Any, ...]:
        """Return the arguments of an outcome."""
        result, result_key = await self._kept(task, f"{step.seq}-{token}-result", outcome.result)
        finished: Event = ("step.finished", _finished(step, outcome))
        told = [*outcome.events, finished]
        if outcome.checkpoint is not None:
            told.append(("checkpoint.created", {"step": step.seq, "tree": outcome.tree, "files": outcome.changed[:50]}))
        return (
            *task.key,
            token,
            step.seq,
            [each[0] for each in told],
            [event_text(each[1]) for each in told],
            self.clock.now_us(),
            outcome.tree,
            outcome.commit,
            outcome.tokens,
            step.tokens_reserved,
            outcome.usd_micros,
            0 if outcome.status is StepStatus.ABORTED else 1,
            outcome.tool_ms,
            outcome.rejections,
            outcome.violations,
            outcome.verify_state,
            self.ids.new(),
            outcome.status,
            result,
            result_key,
            outcome.error,
            clean_text(json.dumps(outcome.changed)),
            outcome.checkpoint,
            outcome.request_id,
            outcome.redactions,
            outcome.ms,
            decision_text(step.decision),
            *(outcome.artifact or (None, None, None, None)),
            None if outcome.audit is None else self.audit.left(outcome.audit, task.scope()),
        )

    async def change(self, task: Task, token: int | None, before: TaskState, ending: Ending) -> bool:
        """Change the state, if it still is `before` and the fence holds; tell whether it did."""
        async with self.store.transaction(task.scope()) as tx:
            return await self.change_in(tx, task, token, before, ending)

    async def change_in(
        self, tx: Transaction, task: Task, token: int | None, before: TaskState, ending: Ending
    ) -> bool:
        """Change the state in an open transaction, with one event and one audit row."""
        told: list[Event] = [("task.state", {"state": ending.state, "reason": ending.reason, "detail": ending.detail})]
        if ending.state in FINAL:
            told.append(("task.end", {"state": ending.state, "reason": ending.reason, "result": ending.result}))
        base = await tx.fetchval(
            SQL.change_state,
            *task.key,
            before,
            ending.state,
            ending.reason,
            event_text(ending.detail),
            self.clock.now_us(),
            None if ending.proof is None else json.dumps(proof_json(ending.proof)),
            None if ending.result is None else clean_text(json.dumps(ending.result)),
            [each[0] for each in told],
            [event_text(each[1]) for each in told],
            token,
        )
        if base is None:
            return False
        detail = {"before": str(before), "reason": str(ending.reason or "")}
        if ending.proof is not None:
            detail |= {key: str(value) for key, value in proof_json(ending.proof).items()}
        entry = AuditEntry(f"task.{ending.state}", "task", task.public_id, detail=detail)
        await self.audit.append(tx, entry)
        if ending.state is TaskState.QUEUED:
            await tx.notify("agents", "due")
        return True

    async def process_started(self, task: Task, step: int, record: ProcessRecord, timeout_s: float) -> None:
        """Write down a namespace before its program is let go."""
        async with self.store.transaction(task.scope()) as tx:
            await tx.execute(
                SQL.add_process,
                *task.key,
                self.ids.new(),
                step,
                record.host_id,
                record.boot_id,
                record.pid,
                record.pid_start,
                record.pidns_inode,
                record.uid,
                timeout_s,
                self.clock.now_us(),
            )

    async def _kept(self, task: Task, name: str, text: str) -> tuple[str | None, str | None]:
        """Return a body as it goes into its row: itself, or the key of the object that holds it."""
        text = clean_text(text)
        if len(text) <= self.config.inline_bytes:
            return text, None
        key = key_of("agents", str(task.organization_id), task.public_id, "steps", name)
        await self.artifacts.put(key, text.encode())
        return None, key

    async def _body(self, key: str | None) -> str | None:
        if key is None:
            return None
        content = await self.artifacts.get(key)
        if content is None:
            raise InterlockError("store_unavailable", "The body of a step is not in the artifact store.")
        return content.decode()


def _require(seq: int | None, task: Task) -> None:
    if seq is None:
        raise LeaseLostError(task.public_id)


def proof_json(proof: KillProof) -> dict[str, Any]:
    """Return a proof as it is shown."""
    return {"kind": proof.kind, "pidns": proof.pidns, "killed": proof.killed, "ms": proof.ms}


def clean_text(text: str) -> str:
    """Return a text that the store can hold: no NUL, no half of a surrogate pair."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def shown(text: str) -> str:
    """Return as much of a text as an event holds."""
    return text if len(text) <= _EVENT_CHARS_MAX // 2 else text[: _EVENT_CHARS_MAX // 2] + "…"


def event_text(content: Mapping[str, Any]) -> str:
    """Return the content of an event as its row holds it."""
    return clean_text(json.dumps(content, ensure_ascii=False))


def _finished(step: Step, outcome: Outcome) -> dict[str, Any]:
    return {
        "step": step.seq,
        "kind": step.kind,
        "tool": step.tool,
        "status": outcome.status,
        "error": outcome.error,
        "result": shown(outcome.result) if step.kind is not StepKind.VERIFY else outcome.result,
        "tree": outcome.tree,
        "request_id": outcome.request_id,
        "tokens": outcome.tokens,
        "usd_micros": outcome.usd_micros,
        "ms": round(outcome.ms, 3),
    }
