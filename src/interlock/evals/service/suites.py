"""Use cases of suites: push a version by content, list, show. A version never changes.

Runs nothing.
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.evals.domain.cases import (
    CASES_MAX,
    Case,
    InvalidCaseError,
    SuiteKind,
    read_case,
    read_cases,
    suite_digest,
)
from interlock.evals.domain.oracles import require_failing
from interlock.evals.store import SQL, rows
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Transaction

_NAME_CHARS_MAX: Final = 100
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class SuiteWanted:
    """A suite as it is pushed."""

    name: str
    kind: str
    description: str
    cases: list[Any]


class Suites:
    """Suites of a workspace."""

    def __init__(self, audit: AuditLog, clock: Clock, ids: IdFactory, redactor: Redactor) -> None:
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._redactor = redactor

    async def push(self, tx: Transaction, wanted: SuiteWanted) -> tuple[dict[str, Any], bool]:
        """Publish a version; return it and whether it is new. Raises the codes of a case that cannot be taken."""
        if not 1 <= len(wanted.name) <= _NAME_CHARS_MAX or not wanted.name.isprintable():
            raise InterlockError("invalid_request", f"A name has 1 to {_NAME_CHARS_MAX} printable characters.")
        if len(wanted.cases) > CASES_MAX:
            raise InterlockError("suite_too_large", detail={"cases_max": CASES_MAX})
        try:
            kind = SuiteKind(wanted.kind)
            cases = read_cases([self._redactor.value(each) for each in wanted.cases])
            for each in cases:
                require_failing(each)
        except InvalidCaseError as error:
            detail = {"keys": list(error.keys)} if error.keys else {"key": error.key}
            raise InterlockError(error.code, str(error), detail=detail) from error
        except ValueError as error:
            raise InterlockError("invalid_request", f"Kinds are {', '.join(SuiteKind)}.") from error
        if not cases:
            raise InterlockError("invalid_request", "A suite has at least one case.")
        return await self._publish(tx, wanted, kind, cases)

    async def add_case(self, tx: Transaction, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Publish a version with one more case, of kind `must_pass` where the suite is new."""
        organization_id, workspace_id = tenant_of(tx.scope)
        newest = await tx.fetchrow(SQL.newest_suite, organization_id, workspace_id, name)
        kind, description, bodies = "must_pass", "", []
        if newest is not None:
            kind, description = newest["kind"], newest["description"]
            bodies = [each.body for _, each in await cases_of(tx, name, newest["version"])]
        kept = [each for each in bodies if each["key"] != body["key"]]
        return (await self.push(tx, SuiteWanted(name, kind, description, [*kept, body])))[0]

    async def show(self, tx: Transaction, name: str, version: int | None) -> dict[str, Any]:
        """Return a version, the newest where none is named. Raises `not_found`."""
        return rows.suite_json(await version_of(tx, name, version))

    async def names(self, tx: Transaction, count: int) -> list[str]:
        """Return the names of up to `count` suites."""
        return [row["name"] for row in await tx.fetch(SQL.list_suites, tx.scope.organization_id, "", count)]

    async def _publish(
        self, tx: Transaction, wanted: SuiteWanted, kind: SuiteKind, cases: list[Case]
    ) -> tuple[dict[str, Any], bool]:
        organization_id, workspace_id = tenant_of(tx.scope)
        await tx.fetchrow(SQL.lock_suite, f"{organization_id} {workspace_id} {wanted.name}")
        newest = await tx.fetchrow(SQL.newest_suite, organization_id, workspace_id, wanted.name)
        digest = suite_digest(kind, cases)
        if newest is not None and newest["suite_digest"] == digest:
            return rows.suite_json(newest), False
        before = (
            {}
            if newest is None
            else {key: c.digest for key, (_, c) in _keyed(await cases_of(tx, wanted.name, newest["version"]))}
        )
        after = {each.key: each.digest for each in cases}
        version = 1 if newest is None else newest["version"] + 1
        ids = await self._put_cases(tx, cases)
        await tx.execute(
            SQL.add_suite_version, organization_id, workspace_id, wanted.name, version, str(kind), wanted.description,
            digest, len(cases), len(set(after) - set(before)),
            sum(after[key] != before[key] for key in set(after) & set(before)), len(set(before) - set(after)),
            tx.scope.principal.id, self._clock.now_us(),
        )  # fmt: skip
        lines = [(organization_id, workspace_id, wanted.name, version, each.key, ids[each.digest]) for each in cases]
        await tx.executemany(SQL.add_suite_case, lines)
        detail = {"version": version, "digest": digest, "cases": len(cases)}
        await self._audit.append(tx, AuditEntry("suite.publish", "suite", wanted.name, detail=detail))
        return rows.suite_json(await version_of(tx, wanted.name, version)), True

    async def put_case(self, tx: Transaction, case: Case) -> UUID:
        """Keep a case that is in no suite yet; return its id."""
        return (await self._put_cases(tx, [case]))[case.digest]

    async def _put_cases(self, tx: Transaction, cases: list[Case]) -> dict[str, UUID]:
        organization_id, workspace_id = tenant_of(tx.scope)
        lines = [
            (organization_id, workspace_id, self._ids.new(), each.digest, rows.encode(each.body), each.cluster,
             each.body.get("provenance"))
            for each in cases
        ]  # fmt: skip
        await tx.executemany(SQL.put_case, lines)
        found = await tx.fetch(SQL.case_ids, organization_id, workspace_id, [each.digest for each in cases])
        return {row["case_digest"]: row["case_id"] for row in found}


async def version_of(tx: Transaction, name: str, version: int | None) -> Any:
    """Return the row of a version. Raises `unknown_suite`."""
    row = await tx.fetchrow(SQL.suite_version, tx.scope.organization_id, name, version)
    if row is None:
        raise InterlockError("unknown_suite", detail={"suite": name[:_NAME_CHARS_MAX]})
    return row


async def cases_of(tx: Transaction, name: str, version: int) -> list[tuple[UUID, Case]]:
    """Return all cases of a version with their ids, by key."""
    found: list[tuple[UUID, Case]] = []
    after = ""
    while True:
        page = await tx.fetch(SQL.cases_of, tx.scope.organization_id, name, version, after, _PAGE)
        found += [(row["case_id"], read_case(rows.decode(row["body"]))) for row in page]
        if len(page) < _PAGE:
            return found
        after = page[-1]["key"]


def tenant_of(scope: Scope) -> tuple[UUID, UUID]:
    """Return organization and workspace; who sees all workspaces means that of the key. Raises `invalid_request`."""
    where = scope.principal.workspace_id if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
    if where is None:
        raise InterlockError(
            "invalid_request", "This belongs to one workspace; name it.", detail={"field": "workspace_id"}
        )
    return scope.organization_id, where


def _keyed(cases: list[tuple[UUID, Case]]) -> list[tuple[str, tuple[UUID, Case]]]:
    return [(case.key, (case_id, case)) for case_id, case in cases]
