"""Use cases of incidents: reported once, triaged, made into a case that failed, closed only behind a required gate.

Runs no model; admission scores recorded outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from interlock.contracts.incidents import Deduplicated, IncidentReport, Opened, Severity
from interlock.contracts.rollouts import RolloutActuator
from interlock.evals.domain.cases import InvalidCaseError, read_case
from interlock.evals.domain.fingerprint import fingerprint
from interlock.evals.domain.oracles import Passed, require_failing, score
from interlock.evals.domain.pii import redact
from interlock.evals.domain.stats import clopper_pearson
from interlock.evals.service.suites import Suites, tenant_of
from interlock.evals.service.targets import RECORDED, Target, read_target
from interlock.evals.store import SQL, rows
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction

OPEN: Final = frozenset({"open", "triaged", "reproduced"})
_FAILED_MIN_SHARE: Final = 0.8
_TITLE_CHARS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class CaseWanted:
    """How an incident becomes a case: fails on `bad`, passes on `reference`."""

    suite: str
    key: str
    oracle: list[Any]
    bad: dict[str, Any]
    reference: dict[str, Any]
    tries: int


class Incidents:
    """Incidents of a workspace; `report` is `contracts.incidents.IncidentSink`."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        store: Store,
        *,
        suites: Suites,
        actuator: RolloutActuator,
        audit: AuditLog,
        redactor: Redactor,
        clock: Clock,
        ids: IdFactory,
    ) -> None:
        self._store = store
        self._suites = suites
        self._actuator = actuator
        self._audit = audit
        self._redactor = redactor
        self._clock = clock
        self._ids = ids

    async def report(self, scope: Scope, report: IncidentReport) -> Opened | Deduplicated:
        """Record a report of another system, in a transaction of its own."""
        found = await self._store.run(scope, lambda tx: self.open(tx, report, None))
        if found["deduplicated"]:
            return Deduplicated(found["id"])
        return Opened(found["id"], found["state"])

    async def open(self, tx: Transaction, report: IncidentReport, given: Any) -> dict[str, Any]:
        """Open an incident, or count one more occurrence of a known one; a closed one is open again."""
        if not report.title.strip() or len(report.title) > _TITLE_CHARS_MAX:
            raise InterlockError("invalid_request", f"A title has 1 to {_TITLE_CHARS_MAX} characters.")
        organization_id, workspace_id = tenant_of(tx.scope)
        print_ = fingerprint(
            f"{report.title} {report.text or ''}", taxonomy=report.taxonomy, detector=report.detector,
            route=report.route,
        )  # fmt: skip
        known = await tx.fetchrow(SQL.incident_by_fingerprint, organization_id, workspace_id, [print_])
        if known is not None:
            return await self._again(tx, known)
        incident_id, now_us = self._ids.new(), self._clock.now_us()
        try:
            async with tx.savepoint():
                await tx.execute(
                    SQL.add_incident, organization_id, workspace_id, incident_id, print_,
                    self._clean(report.title), str(report.severity), report.source, report.detector,
                    report.taxonomy, report.route, report.request_id, report.artifact_digest,
                    None if report.text is None else self._clean(report.text),
                    None if given is None else rows.encode(self._redactor.value(given)),
                    None if report.evidence is None else rows.encode(dict(report.evidence)), "kept", now_us,
                )  # fmt: skip
        except asyncpg.UniqueViolationError:
            # Somebody reported the same at the same moment.
            known = await tx.fetchrow(SQL.incident_by_fingerprint, organization_id, workspace_id, [print_])
            return await self._again(tx, known)
        await self._told(tx, incident_id, "opened", None)
        return {**await self.show(tx, format_id("inc", incident_id)), "deduplicated": False, "reopened": False}

    def _clean(self, text: str) -> str:
        """Return a text without secrets and typed personal data."""
        return redact(self._redactor.text(text))[0]

    async def _again(self, tx: Transaction, known: Any) -> dict[str, Any]:
        was_closed = known["state"] == "closed"
        await tx.execute(SQL.recur_incident, tx.scope.organization_id, known["id"], self._clock.now_us())
        await self._told(tx, known["id"], "reopened" if was_closed else "deduplicated", None)
        shown = await self.show(tx, format_id("inc", known["id"]))
        return {**shown, "deduplicated": True, "reopened": was_closed}

    async def show(self, tx: Transaction, named: str) -> dict[str, Any]:
        """Return an incident with its timeline. Raises `not_found`."""
        row = await self._found(tx, named)
        events = await tx.fetch(SQL.incident_events, tx.scope.organization_id, row["id"])
        return rows.incident_json(row, list(events))

    async def page(self, scope: Scope, state: str | None, before: UUID | None, count: int) -> list[dict[str, Any]]:
        """Return incidents, newest first."""
        async with self._store.transaction(scope) as tx:
            return [
                rows.incident_json(row)
                for row in await tx.fetch(SQL.list_incidents, scope.organization_id, before, state, count)
            ]

    async def triage(self, tx: Transaction, named: str, note: str, owner: str | None) -> dict[str, Any]:
        """Say whose it is."""
        row = await self._locked(tx, named, OPEN)
        state = "triaged" if row["state"] == "open" else row["state"]
        return await self._move(tx, row, state, "triaged", note, owner=owner)

    async def dismiss(self, tx: Transaction, named: str, note: str) -> dict[str, Any]:
        """Say that it is none; the same report opens a new one."""
        row = await self._locked(tx, named, frozenset({"open", "triaged"}))
        return await self._move(tx, row, "dismissed", "dismissed", note)

    async def make_case(self, tx: Transaction, named: str, wanted: CaseWanted) -> dict[str, Any]:
        """Admit a case that fails on the bad artifact and passes on the reference, into a new version of a suite.

        Raises `case_not_admitted` with the numbers, `capture_missing`.
        """
        row = await self._locked(tx, named, OPEN | {"guarded"})
        given = rows.decode(row["input"])
        if given is None:
            raise InterlockError("capture_missing", "The incident has no input that a case could be made of.")
        provenance = format_id("inc", row["id"])
        body = {"key": wanted.key, "input": given, "oracle": wanted.oracle, "provenance": provenance}
        try:
            case = read_case(body)
            require_failing(case)
        except InvalidCaseError as error:
            raise InterlockError(error.code, str(error), detail={"key": error.key}) from error
        bad = await self._tried(tx, wanted.bad, case, wanted.tries)
        reference = await self._tried(tx, wanted.reference, case, wanted.tries)
        admission = {
            "bad": {"failed": bad.count(False), "n": len(bad)},
            "reference": {"passed": reference.count(True), "n": len(reference)},
        }
        if bad.count(False) < _FAILED_MIN_SHARE * len(bad) or not all(reference):
            raise InterlockError("case_not_admitted", detail=admission)
        suite = await self._suites.add_case(tx, wanted.suite, body)
        bounds = clopper_pearson(bad.count(False), len(bad), 0.05)
        repro = {"k": bad.count(False), "n": len(bad), "rate": bad.count(False) / len(bad),
                 "ci95": [round(bounds.low, 6), round(bounds.high, 6)]}  # fmt: skip
        await self._move(tx, row, "guarded", "case", None, repro=repro, suite=wanted.suite, case_key=wanted.key)
        return {"case_id": wanted.key, "suite": wanted.suite, "suite_version": suite["version"], "admission": admission}

    async def _tried(self, tx: Transaction, body: dict[str, Any], case: Any, tries: int) -> list[bool]:
        target: Target = await read_target(self._actuator, tx.scope, body)
        if target.kind != RECORDED:
            raise InterlockError("unsupported_target", detail={"kind": target.kind, "kinds": [RECORDED]})
        outputs = target.outputs.get(case.key)
        if not outputs:
            raise InterlockError("invalid_request", f"The recording has no output for {case.key!r}.")
        return [isinstance(score(case, outputs[number % len(outputs)]), Passed) for number in range(tries)]

    async def close(self, tx: Transaction, named: str, note: str) -> dict[str, Any]:
        """Close an incident whose case a required gate asks for now. Raises `incident_unguarded`."""
        row = await self._locked(tx, named, OPEN | {"guarded"})
        if row["state"] != "guarded" or not await self._is_guarded(tx, row):
            raise InterlockError("incident_unguarded")
        return await self._move(tx, row, "closed", "closed", note)

    async def _is_guarded(self, tx: Transaction, row: Any) -> bool:
        version = await tx.fetchrow(SQL.suite_version, tx.scope.organization_id, row["suite"], None)
        if version is None:
            return False
        named = (tx.scope.organization_id, row["suite"], version["version"], row["case_key"])
        if await tx.fetchval(SQL.has_case, *named) is None:
            return False
        gates = await tx.fetch(SQL.list_gates, tx.scope.organization_id, "", 10_000)
        return any(
            gate["mode"] == "required"
            and any(check["suite"] == row["suite"] for check in rows.decode(gate["policy"])["checks"])
            for gate in gates
        )

    async def _move(
        self, tx: Transaction, row: Any, state: str, kind: str, note: str | None, **brought: Any
    ) -> dict[str, Any]:
        repro = brought.get("repro")
        await tx.execute(
            SQL.move_incident, tx.scope.organization_id, row["id"], state, brought.get("owner"),
            None if repro is None else rows.encode(repro), brought.get("suite"), brought.get("case_key"),
            self._clock.now_us(),
        )  # fmt: skip
        await self._told(tx, row["id"], kind, note, brought)
        return await self.show(tx, format_id("inc", row["id"]))

    async def _told(
        self, tx: Transaction, incident_id: UUID, kind: str, note: str | None, detail: Mapping[str, Any] | None = None
    ) -> None:
        organization_id, workspace_id = tenant_of(tx.scope)
        actor = str(tx.scope.principal.id)
        note = None if note is None else self._clean(note)
        told = {name: value for name, value in (detail or {}).items() if value is not None}
        await tx.execute(
            SQL.add_incident_event, organization_id, workspace_id, incident_id, self._clock.now_us(), kind, actor, note,
            rows.encode(told),
        )  # fmt: skip
        entry = AuditEntry(f"incident.{kind}", "incident", format_id("inc", incident_id), reason=note)
        await self._audit.append(tx, entry)

    async def _found(self, tx: Transaction, named: str) -> Any:
        try:
            incident_id = parse_id("inc", named)
        except MalformedIdError:
            raise InterlockError("not_found") from None
        row = await tx.fetchrow(SQL.get_incident, tx.scope.organization_id, incident_id)
        if row is None:
            raise InterlockError("not_found")
        return row

    async def _locked(self, tx: Transaction, named: str, states: frozenset[str]) -> Any:
        row = await self._found(tx, named)
        await tx.fetchrow(SQL.lock_incident, tx.scope.organization_id, row["id"])
        row = await self._found(tx, named)
        if row["state"] not in states:
            raise InterlockError("state_conflict", detail={"state": row["state"]})
        return row


def severity_of(text: str) -> Severity:
    """Return a severity. Raises `invalid_request`."""
    try:
        return Severity(text)
    except ValueError:
        raise InterlockError("invalid_request", "`severity` is sev1 to sev4.", detail={"field": "severity"}) from None
