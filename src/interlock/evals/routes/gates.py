"""HTTP of gates and incidents. No rules and no SQL.

An evaluation commits before it is waited for: a worker has to see it.
"""

import base64
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.contracts.incidents import IncidentReport
from interlock.evals.service.gate_rows import find_gate
from interlock.evals.service.gates import EvaluationWanted, Gates, verdict_json
from interlock.evals.service.incidents import Attempt, CaseWanted, Incidents, severity_of
from interlock.evals.store import SQL, rows
from interlock.foundation.clock import Clock
from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import parse_id

_GATES: Final = "/v1/gates"
_INCIDENTS: Final = "/v1/incidents"
_BODY_BYTES_MAX: Final = 64 << 20
_WAIT_S_MAX: Final = 60.0
_POLL_S: Final = 0.1
_POLICY_CODES: Final = ("gate_not_armed", "required_gate_exists", "margin_out_of_range", "unknown_suite", "name_taken")


class CheckBody(msgspec.Struct, forbid_unknown_fields=True):
    """One check of a gate."""

    name: str
    suite: str
    rule: str
    margin_pp: float = 5.0
    alpha: float = 0.05
    n_min: int | None = None
    mde_max_pp: float | None = None
    upper_max: float = 0.05
    repeats: int = 5
    protected_slices: list[str] = []
    accept_recorded: bool = False


class GateBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/gates` and `PUT /v1/gates/{id}`."""

    name: str
    route: str
    checks: list[CheckBody]
    mode: str = "advisory"
    risk_tier: str = "medium"
    freshness_h: float = 168.0
    verdict_ttl_h: float = 24.0
    controls_max_age_h: float = 24.0


class ControlsBody(msgspec.Struct, forbid_unknown_fields=True):
    """What controls are built from; without a baseline the newest complete run."""

    baseline: dict[str, Any] | None = None


class EvaluateBody(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be decided."""

    candidate: dict[str, Any]
    baseline: dict[str, Any] | None = None
    runs: list[str] = []
    wait_s: float = 0.0


class IncidentBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/incidents`."""

    title: str
    severity: str
    source: str
    request_id: str | None = None
    artifact_digest: str | None = None
    detector: str | None = None
    taxonomy: str | None = None
    route: str | None = None
    text: str | None = None
    input: dict[str, Any] | None = None


class NoteBody(msgspec.Struct, forbid_unknown_fields=True):
    """Why an incident is moved."""

    note: str
    owner: str | None = None


class CaseBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/incidents/{id}/case`."""

    suite: str
    key: str
    oracle: list[Any]
    bad: dict[str, Any]
    reference: dict[str, Any]
    tries: int = 5


class ReproduceBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/incidents/{id}/reproduce`; the oracle says what failing is where the incident does not."""

    candidate: dict[str, Any]
    tries: int = 10
    oracle: list[Any] | None = None


class GateHandlers:
    """One method a call."""

    def __init__(self, gates: Gates, incidents: Incidents, clock: Clock) -> None:
        self._gates = gates
        self._incidents = incidents
        self._clock = clock

    async def create(self, call: Call) -> Reply:
        """Make a gate."""
        return Reply(201, await self._gates.create(call.tx, msgspec.to_builtins(call.body)))

    async def change(self, call: Call) -> Reply:
        """Change a gate's policy or mode."""
        return Reply(body=await self._gates.change(call.tx, call.params["id"], msgspec.to_builtins(call.body)))

    async def list(self, call: Call) -> Reply:
        """Answer gates by name."""
        page = call.page
        found = await self._gates.page(call.within, page.after[0] if page.after else "", page.limit_plus_one)
        kept, position = page.cut(found, lambda gate: (gate["name"],))
        return call.listed(kept, position)

    async def get(self, call: Call) -> Reply:
        """Answer a gate with controls, power and live verdicts."""
        async with call.store.transaction(call.within) as tx:
            return Reply(body=await self._gates.shown(tx, await find_gate(tx, call.params["id"])))

    async def controls(self, call: Call) -> Reply:
        """Prove that each check can fail, and need not."""
        return Reply(202, await self._gates.controls(call.tx, call.params["id"], call.body.baseline))

    async def evaluate(self, call: Call) -> Reply:
        """Ask for a verdict and wait for it at most `wait_s`."""
        body: EvaluateBody = call.body
        if not 0 <= body.wait_s <= _WAIT_S_MAX:
            raise InterlockError("invalid_request", f"`wait_s` is from 0 to {_WAIT_S_MAX:g}.")
        wanted = EvaluationWanted(body.candidate, body.baseline, tuple(body.runs))
        asked = await self._gates.evaluate(call.tx, call.params["id"], wanted)
        return Reply(202, asked, settle=lambda: self._decided(call, asked["id"], body.wait_s))

    async def _decided(self, call: Call, evaluation_id: str, wait_s: float) -> Reply:
        until_s = self._clock.monotonic() + wait_s
        while True:
            found = await self._gates.answer(call.within, evaluation_id)
            if found["state"] != "pending":
                return Reply(200, found)
            if self._clock.monotonic() >= until_s:
                return Reply(202, found)
            await self._clock.sleep(_POLL_S)

    async def verdict(self, call: Call) -> Reply:
        """Answer one verdict."""
        return Reply(body=await self._gates.answer(call.within, call.params["id"]))

    async def verdicts(self, call: Call) -> Reply:
        """Answer the verdicts of a gate, newest first."""
        page = call.page
        before = UUID(page.after[0]) if page.after else None
        async with call.store.transaction(call.within) as tx:
            gate = await find_gate(tx, call.params["id"])
            artifact = call.query.get("artifact_digest")
            found = await tx.fetch(
                SQL.verdicts_of, call.within.organization_id, gate.id, artifact, before, page.limit_plus_one
            )
        kept, position = page.cut(found, lambda row: (str(row["id"]),))
        return call.listed([verdict_json(row) for row in kept], position)

    async def keys(self, call: Call) -> Reply:
        """Answer the public keys that verdicts are checked with: a handful, so one page."""
        wanted = call.page
        async with call.store.transaction(call.within) as tx:
            found = await tx.fetch(SQL.signing_keys, call.within.organization_id)
        shown = [{**rows.key_json(row), "public_key": base64.b64encode(row["public_key"]).decode()} for row in found]
        return call.listed(shown[: wanted.limit])

    async def report(self, call: Call) -> Reply:
        """Open an incident, or count one more occurrence."""
        body: IncidentBody = call.body
        report = IncidentReport(
            title=body.title, severity=severity_of(body.severity), source=body.source, detector=body.detector or "",
            taxonomy=body.taxonomy, request_id=body.request_id, artifact_digest=body.artifact_digest,
            route=body.route, text=body.text,
        )  # fmt: skip
        found = await self._incidents.open(call.tx, report, body.input)
        return Reply(200 if found["deduplicated"] else 201, found)

    async def incidents(self, call: Call) -> Reply:
        """Answer incidents, newest first."""
        page = call.page
        before = UUID(page.after[0]) if page.after else None
        found = await self._incidents.page(call.within, call.query.get("state"), before, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (str(parse_id("inc", each["id"])),))
        return call.listed(kept, position)

    async def incident(self, call: Call) -> Reply:
        """Answer one incident with its timeline."""
        async with call.store.transaction(call.within) as tx:
            return Reply(body=await self._incidents.show(tx, call.params["id"]))

    async def triage(self, call: Call) -> Reply:
        """Say whose it is."""
        body: NoteBody = call.body
        return Reply(body=await self._incidents.triage(call.tx, call.params["id"], body.note, body.owner))

    async def dismiss(self, call: Call) -> Reply:
        """Say that it is none."""
        return Reply(body=await self._incidents.dismiss(call.tx, call.params["id"], call.body.note))

    async def close(self, call: Call) -> Reply:
        """Close what a required gate guards."""
        return Reply(body=await self._incidents.close(call.tx, call.params["id"], call.body.note))

    async def case(self, call: Call) -> Reply:
        """Make the incident a case."""
        body: CaseBody = call.body
        _require_tries(body.tries)
        wanted = CaseWanted(body.suite, body.key, body.oracle, body.bad, body.reference, body.tries)
        if not wanted.is_live:
            return Reply(201, await self._incidents.make_case(call.tx, call.params["id"], wanted))
        run = await self._incidents.try_case(call.tx, call.params["id"], wanted)
        pending = {"state": "pending", "run_id": run["id"]}
        return Reply(202, pending, settle=lambda: self._admitted(call, wanted, run["id"]))

    async def _admitted(self, call: Call, wanted: CaseWanted, run_id: str) -> Reply:
        until_s = self._clock.monotonic() + _WAIT_S_MAX
        while not await self._incidents.is_tried(call.within, run_id):
            if self._clock.monotonic() >= until_s:
                return Reply(202, {"state": "pending", "run_id": run_id})
            await self._clock.sleep(_POLL_S)
        made = await call.store.run(
            call.within, lambda tx: self._incidents.make_case(tx, call.params["id"], wanted, run_id)
        )
        return Reply(201, made)

    async def reproduce(self, call: Call) -> Reply:
        """Try the incident's input on a target."""
        body: ReproduceBody = call.body
        _require_tries(body.tries)
        wanted = Attempt(body.candidate, body.tries, body.oracle)
        return Reply(202, await self._incidents.reproduce(call.tx, call.params["id"], wanted))


def _require_tries(tries: int) -> None:
    if not 1 <= tries <= 100:
        raise InterlockError("invalid_request", "`tries` is from 1 to 100.", detail={"field": "tries"})


def gate_routes(handlers: GateHandlers) -> list[Route]:
    """Return the routes of gates."""
    one = f"{_GATES}/{{id}}"
    return [
        _writing("POST", _GATES, handlers.create, "Make a gate.", "gates:write", GateBody, 201, _POLICY_CODES),
        _writing("PUT", one, handlers.change, "Change a gate.", "gates:write", GateBody, 200, _POLICY_CODES),
        _writing("POST", f"{one}/controls", handlers.controls, "Prove that each check can fail.", "gates:write",
                 ControlsBody, 202, ("unsupported_target", "unknown_suite")),
        Route("POST", f"{one}/evaluate", Level.WORKSPACE, handlers.evaluate, "Ask for a verdict.", action="evals:run",
              body=EvaluateBody, is_mutation=True, body_bytes_max=_BODY_BYTES_MAX, query=("workspace_id",),
              codes=("same_artifact", "attempts_exhausted", "unsupported_target", "unknown_suite", "runs_queue_full",
                     "suite_too_large", "internal_error")),
        _reading(_GATES, handlers.list, "Gates by name."),
        _reading(f"{_GATES}/keys", handlers.keys, "Public keys that verdicts are checked with."),
        _reading(f"{_GATES}/verdicts/{{id}}", handlers.verdict, "One verdict."),
        _reading(one, handlers.get, "A gate with its controls, power and live verdicts."),
        _reading(f"{one}/verdicts", handlers.verdicts, "Verdicts of a gate, newest first.", ("artifact_digest",)),
    ]  # fmt: skip


def incident_routes(handlers: GateHandlers) -> list[Route]:
    """Return the routes of incidents."""
    one, action = f"{_INCIDENTS}/{{id}}", "incidents:write"
    moved = ("state_conflict",)
    return [
        _writing("POST", _INCIDENTS, handlers.report, "Report an incident.", action, IncidentBody, 201, ()),
        _reading(_INCIDENTS, handlers.incidents, "Incidents, newest first.", ("state",)),
        _reading(one, handlers.incident, "One incident with its timeline."),
        _writing("POST", f"{one}/triage", handlers.triage, "Say whose it is.", action, NoteBody, 200, moved),
        _writing("POST", f"{one}/dismiss", handlers.dismiss, "Say that it is none.", action, NoteBody, 200, moved),
        _writing("POST", f"{one}/close", handlers.close, "Close what a required gate guards.", action, NoteBody, 200,
                 (*moved, "incident_unguarded")),
        _writing("POST", f"{one}/reproduce", handlers.reproduce, "Try its input.", action, ReproduceBody, 202,
                 (*moved, "capture_missing", "invalid_case", "oracle_cannot_fail", "unsupported_target",
                  "runs_queue_full")),
        _writing("POST", f"{one}/case", handlers.case, "Make the incident a case.", action, CaseBody, 201,
                 (*moved, "case_not_admitted", "capture_missing", "invalid_case", "oracle_cannot_fail",
                  "unknown_judge", "unsupported_target", "duplicate_case_key", "suite_too_large", "runs_queue_full")),
    ]  # fmt: skip


def _reading(path: str, handler: Any, summary: str, query: tuple[str, ...] = ()) -> Route:
    query = (*query, "limit", "cursor", "workspace_id")
    return Route("GET", path, Level.WORKSPACE, handler, summary, action="evals:read", query=query)


def _writing(method: str, path: str, handler: Any, summary: str, action: str, *about: Any) -> Route:
    body, status, codes = about
    return Route(method, path, Level.WORKSPACE, handler, summary, action=action, body=body, status=status,
                 is_mutation=True, body_bytes_max=_BODY_BYTES_MAX, codes=codes, query=("workspace_id",))  # fmt: skip
