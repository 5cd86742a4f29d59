"""HTTP of suites and runs: push, list, start, follow, cancel, evidence. No rules and no SQL."""

from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.evals.service.running import evidence_key
from interlock.evals.service.runs import Runs, RunWanted, found_run, topic_of
from interlock.evals.service.suites import Suites, SuiteWanted, cases_of, version_of
from interlock.evals.store import SQL, rows
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.clock import Clock
from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.control.stream import Numbered, follow, last_event_id
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import parse_id
from interlock.foundation.telemetry import EventLog

SUITE_BYTES_MAX: Final = 64 << 20
_SUITES: Final = "/v1/evals/suites"
_RUNS: Final = "/v1/evals/runs"
_ENDED: Final = "run.finished"
_CASE_CODES: Final = ("invalid_case", "duplicate_case_key", "oracle_cannot_fail", "unknown_judge", "suite_too_large")
_TARGET_CODES: Final = ("unsupported_target", "unknown_suite", "runs_queue_full", "suite_too_large")


class SuiteBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/evals/suites`."""

    name: str
    kind: str
    cases: list[Any]
    description: str = ""


class RunBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/evals/runs`."""

    suite: str
    candidate: dict[str, Any]
    baseline: dict[str, Any] | None = None
    suite_version: int | None = None
    epochs: int = 1
    seed: int = 0
    concurrency: int = 16
    deadline_s: float = 900.0
    sample_timeout_s: float = 60.0
    attempts_max: int = 4
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class RunHandlers:
    """One method a call."""

    def __init__(self, suites: Suites, runs: Runs, events: EventLog, artifacts: ArtifactStore, clock: Clock) -> None:
        self._suites = suites
        self._runs = runs
        self._events = events
        self._artifacts = artifacts
        self._clock = clock

    async def push(self, call: Call) -> Reply:
        """Publish a version of a suite; the same content answers 200 with the version that is there."""
        body: SuiteBody = call.body
        wanted = SuiteWanted(body.name, body.kind, body.description, body.cases)
        shown, is_new = await self._suites.push(call.tx, wanted)
        return Reply(201 if is_new else 200, shown)

    async def suites(self, call: Call) -> Reply:
        """Answer the newest version of each suite."""
        page = call.page
        async with call.store.transaction(call.within) as tx:
            after = page.after[0] if page.after else ""
            found = await tx.fetch(SQL.list_suites, call.within.organization_id, after, page.limit_plus_one)
        kept, position = page.cut(found, lambda row: (row["name"],))
        return call.listed([rows.suite_json(row) for row in kept], position)

    async def suite(self, call: Call) -> Reply:
        """Answer a version."""
        async with call.store.transaction(call.within) as tx:
            return Reply(body=await self._suites.show(tx, call.params["name"], _version(call)))

    async def cases(self, call: Call) -> Reply:
        """Answer the cases of a version."""
        async with call.store.transaction(call.within) as tx:
            row = await version_of(tx, call.params["name"], _version(call))
            found = await cases_of(tx, row["name"], row["version"])
        return call.listed([{**case.body, "digest": case.digest} for _, case in found])

    async def start(self, call: Call) -> Reply:
        """Write a run's manifest; a worker goes on."""
        body: RunBody = call.body
        fields = {name: getattr(body, name) for name in body.__struct_fields__}
        return Reply(202, await self._runs.start(call.tx, RunWanted(**fields)))

    async def list(self, call: Call) -> Reply:
        """Answer runs, newest first."""
        page = call.page
        before = UUID(page.after[0]) if page.after else None
        found = await self._runs.page(call.within, call.query.get("state"), before, page.limit_plus_one)
        kept, position = page.cut(found, lambda run: (str(parse_id("run", run["id"])),))
        return call.listed(kept, position)

    async def get(self, call: Call) -> Reply:
        """Answer one run."""
        return Reply(body=await self._runs.show(call.within, call.params["id"]))

    async def cancel(self, call: Call) -> Reply:
        """Stop a run."""
        return Reply(202, await self._runs.cancel(call.tx, call.params["id"]))

    async def samples(self, call: Call) -> Reply:
        """Answer a page of results."""
        page = call.page
        found = await self._runs.samples(
            call.within, call.params["id"], page.after[0] if page.after else 0, page.limit_plus_one,
            arm=call.query.get("arm"), outcome=call.query.get("outcome"),
        )  # fmt: skip
        kept, position = page.cut(found, lambda row: (row["ord"],))
        return call.listed([rows.sample_json(row) for row in kept], position)

    async def evidence(self, call: Call) -> Reply:
        """Answer the sealed bundle. Raises `run_not_finished`."""
        async with call.store.transaction(call.within) as tx:
            row = await found_run(tx, call.params["id"])
        content = await self._artifacts.get(evidence_key(call.within, call.params["id"]))
        if row["evidence_digest"] is None or content is None:
            raise InterlockError("run_not_finished")
        return Reply(content=content, media_type="application/jsonl")

    async def events(self, call: Call) -> Reply:
        """Follow a run."""
        async with call.store.transaction(call.within) as tx:
            row = await found_run(tx, call.params["id"])
        scope, topic = call.within, topic_of(row["id"])

        async def read(after: int) -> list[Numbered]:
            found = await self._events.after(scope, [topic], after)
            return [
                Numbered(each.seq, each.payload["event"], each.payload, each.payload["event"] == _ENDED)
                for each in found
            ]

        stream = follow(read, last_event_id(call.headers, call.query), self._clock)
        return Reply(stream=stream, media_type="text/event-stream")


def run_routes(handlers: RunHandlers) -> list[Route]:
    """Return the routes of suites and runs."""
    one, workspace = f"{_RUNS}/{{id}}", ("workspace_id",)
    return [
        Route("POST", _SUITES, Level.WORKSPACE, handlers.push, "Publish a version of a suite.", action="evals:write",
              body=SuiteBody, status=201, is_mutation=True, body_bytes_max=SUITE_BYTES_MAX, codes=_CASE_CODES,
              query=workspace),
        _reading(_SUITES, handlers.suites, "Suites, the newest version of each."),
        _reading(f"{_SUITES}/{{name}}", handlers.suite, "A version of a suite.", ("version",), ("unknown_suite",)),
        _reading(f"{_SUITES}/{{name}}/cases", handlers.cases, "The cases of a version.", ("version",),
                 ("unknown_suite",)),
        Route("POST", _RUNS, Level.WORKSPACE, handlers.start, "Run a suite over one or two arms.", action="evals:run",
              body=RunBody, status=202, is_mutation=True, body_bytes_max=SUITE_BYTES_MAX, codes=_TARGET_CODES,
              query=workspace),
        _reading(_RUNS, handlers.list, "Runs, newest first.", ("state",)),
        _reading(one, handlers.get, "One run with how far it is."),
        Route("POST", f"{one}/cancel", Level.WORKSPACE, handlers.cancel, "Stop a run; what was scored stays.",
              action="evals:run", status=202, is_mutation=True),
        _reading(f"{one}/samples", handlers.samples, "Results of a run.", ("arm", "outcome")),
        Route("GET", f"{one}/evidence", Level.WORKSPACE, handlers.evidence, "The sealed evidence of a run.",
              action="evals:read", codes=("run_not_finished",), media_type="application/jsonl"),
        Route("GET", f"{one}/events", Level.WORKSPACE, handlers.events, "Follow a run.", action="evals:read",
              query=("after",), media_type="text/event-stream"),
    ]  # fmt: skip


def _reading(path: str, handler: Any, summary: str, query: tuple[str, ...] = (), codes: tuple[str, ...] = ()) -> Route:
    query = (*query, "limit", "cursor", "workspace_id")
    return Route("GET", path, Level.WORKSPACE, handler, summary, action="evals:read", query=query, codes=codes)


def _version(call: Call) -> int | None:
    text = call.query.get("version")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InterlockError("invalid_request", "`version` is a number.", detail={"field": "version"})
    return int(text)
