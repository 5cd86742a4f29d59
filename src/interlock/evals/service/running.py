"""Runs a run: what is due is asked and scored, results are committed under the lease, the end is sealed.

Decides no gate. A worker that dies leaves what it committed; another goes on with what is due.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.contracts.inference import ChatCall, Credential, ModelClient, ModelRefused
from interlock.evals.config import EvalsConfig
from interlock.evals.domain.canonical import canonical, digest_of
from interlock.evals.domain.cases import Case, read_case
from interlock.evals.domain.evidence import bundle
from interlock.evals.domain.oracles import Failed, Output, Passed, score
from interlock.evals.domain.pii import redact
from interlock.evals.domain.results import Result, numbers_of
from interlock.evals.metrics import EvalMetrics
from interlock.evals.service.incidents import repro_of
from interlock.evals.service.runs import topic_of
from interlock.evals.service.signing import SigningKeys
from interlock.evals.store import SQL, rows
from interlock.foundation.artifacts import ArtifactStore, key_of
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.ids import PrincipalId, format_id, parse_id
from interlock.foundation.leases import Lease, LeaseLostError, LeaseSpec
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Principal, PrincipalKind, Scope
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry import EventLog

RUN_LEASES: Final = LeaseSpec(
    table="evals_runs",
    shares_table="evals_shares",
    due_sql="w.state IN ('queued', 'running', 'canceling')",
    dead_sql="state = 'failed', reason = 'workers_died'",
    ttl_s=15.0,
    attempts_max=10,
)
_READ_ROWS: Final = 1_000
_COMMIT_S: Final = 0.2
_SEAL_ROWS: Final = 2_000
_CREDENTIAL_S: Final = 600.0
_BACKOFF_S_MAX: Final = 20.0
_RETRIED: Final = frozenset({0, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """What the runner works with."""

    store: Store
    models: ModelClient
    artifacts: ArtifactStore
    signing: SigningKeys
    events: EventLog
    audit: AuditLog
    redactor: Redactor
    clock: Clock
    dice: Dice
    config: EvalsConfig
    metrics: EvalMetrics


@dataclass(slots=True)
class _Work:
    """One run under its lease."""

    lease: Lease
    scope: Scope
    row: Any
    targets: dict[str, dict[str, Any]]
    retries_left: int
    credential: Credential | None = None

    @property
    def run_id(self) -> UUID:
        return self.lease.key

    @property
    def place(self) -> tuple[UUID, UUID | None, UUID]:
        """Where its samples lie: the beginning of their primary key."""
        return self.lease.organization_id, self.lease.workspace_id, self.lease.key


@dataclass(frozen=True, slots=True)
class _Scored:
    key: str
    arm: str
    epoch: int
    state: str
    outcome: str
    why: str | None
    output: Output | None
    request_id: str | None
    latency_ms: float | None
    tries: int


class Runner:
    """Works on one run at a time; `work` is what the lease worker calls."""

    def __init__(self, parts: RunnerParts) -> None:
        self._p = parts

    async def work(self, lease: Lease) -> float | None:
        """Bring a run to its end, or as far as this lease goes."""
        work = await self._begin(lease)
        if work is None:
            return None
        try:
            async with asyncio.timeout(self._left_s(work)):
                state, reason = await self._score_all(work), None
        except TimeoutError:
            state, reason = "failed", "deadline_exceeded"
        await self._seal(work, state, reason)
        if work.credential is not None:
            await self._p.models.revoke(work.scope, work.credential)
        return None

    async def _begin(self, lease: Lease) -> _Work | None:
        store = self._p.store
        async with store.transaction(RUN_LEASES.scope_of(lease)) as tx:
            row = await tx.fetchrow(SQL.get_run, lease.organization_id, lease.key)
            if row is None or row["state"] not in {"queued", "running", "canceling"}:
                return None
            begun = await tx.execute(SQL.begin_run, lease.organization_id, lease.key, lease.token)
            if begun:
                told = {"event": "run.state", "state": "running"}
                await self._p.events.append(tx, topic_of(lease.key), told)
        principal = Principal(
            PrincipalId(row["principal_id"]), PrincipalKind(row["principal_kind"]), lease.organization_id,
            lease.workspace_id,
        )  # fmt: skip
        scope = Scope(lease.organization_id, lease.workspace_id, principal)
        targets = {"candidate": rows.decode(row["candidate"]), "baseline": rows.decode(row["baseline"])}
        budget = round(row["expected"] * self._p.config.retry_share) - row["retries"]
        return _Work(lease, scope, row, targets, max(budget, 0))

    def _left_s(self, work: _Work) -> float:
        left_us: int = work.row["deadline_us"] - self._p.clock.now_us()
        return max(left_us / 1e6, 0.0)

    async def _score_all(self, work: _Work) -> str:
        while True:
            async with self._p.store.transaction(work.scope) as tx:
                row = await tx.fetchrow(SQL.get_run, work.scope.organization_id, work.run_id)
                if row is None or row["state"] == "canceling":
                    return "canceled"
                due = await tx.fetch(SQL.due_samples, *work.place, _READ_ROWS)
            if not due:
                return "complete"
            await self._score_page(work, due)

    async def _score_page(self, work: _Work, due: list[Any]) -> None:
        """Score these, `concurrency` at once, and commit what is done meanwhile; a cancel ends it early."""
        seats = asyncio.Semaphore(work.row["concurrency"])
        # Read once for both arms and all epochs: its patterns and schemas are compiled each time.
        cases: dict[str, Case] = {}

        async def one(row: Any) -> _Scored:
            async with seats:
                case = cases.get(row["key"]) or cases.setdefault(row["key"], read_case(rows.decode(row["body"])))
                return await self._score_one(work, row, case)

        pending = {asyncio.ensure_future(one(row)) for row in due}
        ready: list[_Scored] = []
        committed_s = self._p.clock.monotonic()
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                ready += [task.result() for task in done]
                is_late = self._p.clock.monotonic() - committed_s >= _COMMIT_S
                if pending and len(ready) < self._p.config.batch_rows and not is_late:
                    continue
                if not await self._commit_all(work, ready):
                    return
                ready, committed_s = [], self._p.clock.monotonic()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _commit_all(self, work: _Work, scored: list[_Scored]) -> bool:
        rows_max = self._p.config.batch_rows
        batches = [scored[at : at + rows_max] for at in range(0, len(scored), rows_max)]
        return all([await self._commit(work, batch) for batch in batches])

    async def _score_one(self, work: _Work, row: Any, case: Case) -> _Scored:
        place = (row["key"], row["arm"], row["epoch"])
        if work.targets[row["arm"]]["kind"] == "recorded":
            given = rows.decode(row["output"])
            output = None if given is None else Output.read(given)
            if output is None:
                return _Scored(*place, "errored", "output_missing", "output_missing", None, None, None, 1)
            return _judged(place, score(case, output), output, (None, output.latency_ms, 1))
        return await self._asked(work, place, case)

    async def _asked(self, work: _Work, place: tuple[str, str, int], case: Case) -> _Scored:
        target = work.targets[place[1]]
        call = ChatCall(
            model=target["route"],
            messages=case.messages,
            tools=case.body["input"].get("tools") or (),
            temperature=0.0,
            seed=work.row["seed"],
            route_version=target["version"],
            tags={"eval": format_id("run", work.run_id)},
            timeout_s=work.row["sample_timeout_s"],
        )
        tries = 0
        while True:
            tries += 1
            answer = await self._p.models.chat(await self._lent(work), call)
            if not isinstance(answer, ModelRefused):
                calls = tuple(
                    {"name": each.name, "arguments": _arguments(each.arguments)} for each in answer.tool_calls
                )
                output = Output(answer.text, calls)
                return _judged(place, score(case, output), output, (answer.request_id, answer.total_ms, tries))
            if answer.http_status not in _RETRIED or tries >= work.row["attempts_max"] or work.retries_left <= 0:
                outcome = "timeout" if answer.http_status == 504 else "target_failed"
                return _Scored(*place, "errored", outcome, answer.code, None, answer.request_id, None, tries)
            work.retries_left -= 1
            wait_s = answer.retry_after_s or min(_BACKOFF_S_MAX, 0.5 * 2**tries)
            await self._p.clock.sleep(wait_s * (0.5 + self._p.dice.random() / 2))

    async def _lent(self, work: _Work) -> Credential:
        models, now_us = self._p.models, self._p.clock.now_us()
        link = format_id("run", work.run_id)
        if work.credential is None:
            work.credential = await models.lend(work.scope, link=link, ttl_s=_CREDENTIAL_S)
        elif work.credential.expires_at_us - now_us < _CREDENTIAL_S * 0.5e6:
            work.credential = await models.extend(work.scope, work.credential, _CREDENTIAL_S)
        return work.credential

    async def _commit(self, work: _Work, scored: list[_Scored]) -> bool:
        """Write results under the lease; tell whether the run goes on."""
        organization_id = work.scope.organization_id
        columns = [list(each) for each in zip(*(self._line(each) for each in scored), strict=True)]
        async with self._p.store.transaction(work.scope) as tx:
            kept = await tx.execute(SQL.score_samples, *work.place, work.lease.token, *columns)
            if kept < len(scored):
                # Somebody else holds the run: nothing of this batch may stay.
                raise LeaseLostError
            await tx.execute(SQL.note_retries, organization_id, work.run_id, sum(each.tries - 1 for each in scored))
            done: Any = await tx.fetchrow(SQL.progress_of, organization_id, work.run_id)
            run: Any = await tx.fetchrow(SQL.get_run, organization_id, work.run_id)
            told = {"event": "run.progress", "scored": done["scored"], "errored": done["errored"],
                    "expected": done["expected"]}  # fmt: skip
            await self._p.events.append(tx, topic_of(work.run_id), told)
        for each in scored:
            self._p.metrics.sample(each.outcome, each.latency_ms)
            self._p.metrics.retries.inc(each.tries - 1)
        return bool(run["state"] != "canceling")

    def _line(self, each: _Scored) -> tuple[Any, ...]:
        told = None if each.output is None else self._shown(each.output)
        sha256 = None if told is None else hashlib.sha256(canonical(told)).hexdigest()
        return (
            each.key, each.arm, each.epoch, each.state, each.outcome, each.why,
            None if told is None else rows.encode(told), sha256, each.request_id, each.latency_ms, each.tries,
        )  # fmt: skip

    def _shown(self, output: Output) -> dict[str, Any]:
        """Return what is kept of an output: without secrets and typed personal data, and without what no row holds."""
        found: dict[str, Any] = self._p.redactor.value(output.public())
        text = rows.encode({**found, "text": redact(found["text"])[0]})
        kept: dict[str, Any] = rows.decode(text.replace("\\u0000", "\\ufffd"))
        return kept

    async def _seal(self, work: _Work, state: str, reason: str | None) -> None:
        results = await self._results(work)
        numbers = numbers_of(results)
        async with self._p.store.transaction(work.scope) as tx:
            signer = await self._p.signing.signer(tx)
        content = bundle(_header(work), results, signer)
        digest = digest_of(content)
        named = format_id("run", work.run_id)
        await self._p.artifacts.put(evidence_key(work.scope, named), content)
        organization_id = work.scope.organization_id
        async with self._p.store.transaction(work.scope) as tx:
            sealed = await tx.execute(
                SQL.seal_run, organization_id, work.run_id, work.lease.token, state, rows.encode(numbers), digest,
                reason, self._p.clock.now_us(),
            )  # fmt: skip
            if not sealed:
                raise LeaseLostError
            entry = AuditEntry("run.seal", "run", named, detail={"state": state, "evidence_digest": digest})
            await self._p.audit.append(tx, entry)
            if work.row["purpose"] == "reproduce" and state == "complete":
                await note_repro(tx, work.row, results, self._p.clock.now_us())
            await self._p.events.append(tx, topic_of(work.run_id), {"event": "run.finished", "state": state})

    async def _results(self, work: _Work) -> list[Result]:
        found: list[Result] = []
        after = 0
        while True:
            async with self._p.store.transaction(work.scope) as tx:
                page = await tx.fetch(
                    SQL.samples_of, work.scope.organization_id, work.run_id, after, None, None, _SEAL_ROWS
                )
            found += [result_of(row) for row in page]
            if len(page) < _SEAL_ROWS:
                return found
            after = page[-1]["ord"]


async def note_repro(tx: Transaction, run: Any, results: list[Result], now_us: int) -> None:
    """Write into the incident how often its input failed; from then on it counts as reproduced, if it ever did."""
    incident_id = parse_id("inc", rows.decode(run["labels"])["incident"])
    scored = [each.outcome == "fail" for each in results if each.is_scored]
    if not scored:
        return
    repro = repro_of(sum(scored), len(scored))
    state = "reproduced" if repro["k"] else None
    scope = tx.scope
    await tx.execute(SQL.note_repro, scope.organization_id, incident_id, rows.encode(repro), state, now_us)
    await tx.execute(
        SQL.add_incident_event, scope.organization_id, run["workspace_id"], incident_id, now_us, "reproduced",
        str(scope.principal.id), None, rows.encode({**repro, "run": format_id("run", run["id"])}),
    )  # fmt: skip


def result_of(row: Any) -> Result:
    """Return the result in a row of a sample."""
    slices = tuple(rows.decode(row["body"]).get("slices") or ())
    output = rows.decode(row["output"]) if row["state"] == "scored" else None
    return Result(
        row["key"], row["arm"], row["epoch"], row["outcome"], row["why"], row["output_sha256"], output,
        row["cluster"], slices,
    )  # fmt: skip


def evidence_key(scope: Scope, named: str) -> str:
    """Return where the bundle of a run lies."""
    return key_of("evals", format_id("org", scope.organization_id), f"{named}.jsonl")


def _header(work: _Work) -> dict[str, Any]:
    row = work.row
    names = ("suite", "suite_version", "suite_digest", "candidate_digest", "baseline_digest", "seed", "epochs",
             "expected", "code_version")  # fmt: skip
    return {"run_id": format_id("run", work.run_id), **{name: row[name] for name in names}}


def _judged(
    place: tuple[str, str, int], found: Any, output: Output, about: tuple[str | None, float | None, int]
) -> _Scored:
    if isinstance(found, Passed):
        return _Scored(*place, "scored", "pass", None, output, *about)
    if isinstance(found, Failed):
        return _Scored(*place, "scored", "fail", found.why, output, *about)
    return _Scored(*place, "errored", "unscorable", found.why, output, *about)


def _arguments(text: str) -> Any:
    try:
        return rows.decode(text)
    except ValueError:
        return {"text": text}
