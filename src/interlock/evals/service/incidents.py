"""Use cases of incidents: reported once, triaged, made into a case that failed, closed only behind a required gate.

Asks no model itself; what live targets answer is a run of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from interlock.contracts.incidents import Deduplicated, IncidentReport, Opened, Severity
from interlock.contracts.rollouts import RolloutActuator
from interlock.evals.domain.cases import Case, InvalidCaseError, read_case
from interlock.evals.domain.fingerprint import fingerprint
from interlock.evals.domain.oracles import Output, Passed, require_failing, score
from interlock.evals.domain.pii import redact
from interlock.evals.domain.stats import clopper_pearson
from interlock.evals.service.proving import Controls
from interlock.evals.service.runs import Runs, RunWanted
from interlock.evals.service.suites import Suites, cases_of, tenant_of
from interlock.evals.service.targets import RECORDED, read_target
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
# Detectors that say by themselves what failing is.
_DETECTORS: Final = frozenset({"no_pii", "refusal", "no_refusal"})
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

    @property
    def is_live(self) -> bool:
        """Whether one of the targets has to be asked."""
        return any(each.get("kind") != RECORDED for each in (self.bad, self.reference))


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an incident's input is tried on, how often, and what failing is where the incident does not say."""

    candidate: dict[str, Any]
    tries: int
    oracle: list[Any] | None


class Incidents:
    """Incidents of a workspace; `report` is `contracts.incidents.IncidentSink`."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        store: Store,
        *,
        suites: Suites,
        runs: Runs,
        controls: Controls,
        actuator: RolloutActuator,
        audit: AuditLog,
        redactor: Redactor,
        clock: Clock,
        ids: IdFactory,
    ) -> None:
        self._store = store
        self._suites = suites
        self._runs = runs
        self._controls = controls
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

    async def make_case(
        self, tx: Transaction, named: str, wanted: CaseWanted, run: str | None = None
    ) -> dict[str, Any]:
        """Admit a case that fails on the bad artifact and passes on the reference, into a new version of a suite.

        `run` is the one that asked live targets. Raises `case_not_admitted` with the numbers, `capture_missing`.
        """
        row = await self._locked(tx, named, OPEN | {"guarded"})
        body, case = _case_of(row, wanted.key, wanted.oracle)
        bad, reference = await self._tried(tx, wanted, case) if run is None else await self._asked(tx, run)
        admission = {
            "bad": {"failed": bad.count(False), "n": wanted.tries},
            "reference": {"passed": reference.count(True), "n": wanted.tries},
        }
        is_told_apart = bad.count(False) >= _FAILED_MIN_SHARE * wanted.tries and reference.count(True) == wanted.tries
        if not is_told_apart:
            raise InterlockError("case_not_admitted", detail=admission)
        suite = await self._suites.add_case(tx, wanted.suite, body)
        await self._controls.keep(tx, wanted.suite, {case.key: await self._references(tx, wanted, run)})
        repro = repro_of(bad.count(False), wanted.tries)
        await self._move(tx, row, "guarded", "case", None, repro=repro, suite=wanted.suite, case_key=wanted.key)
        return {"case_id": wanted.key, "suite": wanted.suite, "suite_version": suite["version"], "admission": admission}

    async def try_case(self, tx: Transaction, named: str, wanted: CaseWanted) -> dict[str, Any]:
        """Begin the run that asks both targets before a case is admitted."""
        row = await self._locked(tx, named, OPEN | {"guarded"})
        _, case = _case_of(row, wanted.key, wanted.oracle)
        return await self._begin(tx, row, case, ("admission", wanted.bad, wanted.reference, wanted.tries))

    async def is_tried(self, scope: Scope, run: str) -> bool:
        """Tell whether that run has ended."""
        return (await self._runs.show(scope, run))["state"] in {"complete", "failed", "canceled"}

    async def reproduce(self, tx: Transaction, named: str, wanted: Attempt) -> dict[str, Any]:
        """Begin the run that tries the incident's input; its end is written into the incident."""
        row = await self._locked(tx, named, OPEN | {"guarded"})
        oracle = wanted.oracle or await self._oracle_of(tx, row)
        _, case = _case_of(row, named, oracle)
        return await self._begin(tx, row, case, ("reproduce", wanted.candidate, None, wanted.tries))

    async def _begin(self, tx: Transaction, row: Any, case: Case, about: tuple[Any, ...]) -> dict[str, Any]:
        purpose, candidate, baseline, tries = about
        case_id = await self._suites.put_case(tx, case)
        labels = {"incident": format_id("inc", row["id"])}
        wanted = RunWanted("", candidate, baseline, epochs=tries, labels=labels, purpose=purpose)
        return await self._runs.start_case(tx, labels["incident"], (case_id, case), wanted)

    async def _oracle_of(self, tx: Transaction, row: Any) -> list[Any]:
        """Return what failing is: the case that was made of it, else a detector that is an oracle by itself."""
        if row["case_key"] is not None:
            version = await tx.fetchrow(SQL.suite_version, tx.scope.organization_id, row["suite"], None)
            cases = [] if version is None else await cases_of(tx, version["name"], version["version"])
            made = [case for _, case in cases if case.key == row["case_key"]]
            if made:
                return list(made[0].body["oracle"])
        if row["detector"] in _DETECTORS:
            return [{"type": row["detector"]}]
        raise InterlockError(
            "capture_missing", "Neither the incident nor the call says what failing is: give `oracle`."
        )

    async def _tried(self, tx: Transaction, wanted: CaseWanted, case: Case) -> tuple[list[bool], list[bool]]:
        found = []
        for body in (wanted.bad, wanted.reference):
            outputs = (await read_target(self._actuator, tx.scope, body)).outputs.get(case.key)
            if not outputs:
                raise InterlockError("invalid_request", f"The recording has no output for {case.key!r}.")
            tries = [outputs[number % len(outputs)] for number in range(wanted.tries)]
            found.append([isinstance(score(case, each), Passed) for each in tries])
        return found[0], found[1]

    async def _asked(self, tx: Transaction, run: str) -> tuple[list[bool], list[bool]]:
        """Return what the run came to; what was not scored is neither a failure nor a pass."""
        samples = await tx.fetch(SQL.samples_of, tx.scope.organization_id, parse_id("run", run), 0, None, None, 1_000)
        arms: dict[str, list[bool]] = {"candidate": [], "baseline": []}
        for each in samples:
            if each["outcome"] in {"pass", "fail"}:
                arms[each["arm"]].append(each["outcome"] == "pass")
        return arms["candidate"], arms["baseline"]

    async def _references(self, tx: Transaction, wanted: CaseWanted, run: str | None) -> list[Output]:
        if run is None:
            return list((await read_target(self._actuator, tx.scope, wanted.reference)).outputs[wanted.key])
        found = await tx.fetch(
            SQL.samples_of, tx.scope.organization_id, parse_id("run", run), 0, "baseline", None, 1_000
        )
        return [Output.read(rows.decode(each["output"])) for each in found]

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


def repro_of(failed: int, tries: int) -> dict[str, Any]:
    """Return how often an incident came back, with the bounds of its rate."""
    bounds = clopper_pearson(failed, tries, 0.05)
    ci95 = [round(bounds.low, 6), round(bounds.high, 6)]
    return {"k": failed, "n": tries, "rate": failed / tries, "ci95": ci95}


def _case_of(row: Any, key: str, oracle: list[Any]) -> tuple[dict[str, Any], Case]:
    """Return the case that an incident's input makes. Raises `capture_missing`, and what a case may be refused for."""
    given = rows.decode(row["input"])
    if given is None:
        raise InterlockError("capture_missing", "The incident has no input that a case could be made of.")
    body = {"key": key, "input": given, "oracle": oracle, "provenance": format_id("inc", row["id"])}
    try:
        case = read_case(body)
        require_failing(case)
    except InvalidCaseError as error:
        raise InterlockError(error.code, str(error), detail={"key": error.key}) from error
    return body, case
