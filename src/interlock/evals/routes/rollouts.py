"""What control serves of rollouts: made, moved, shown, followed.

No call raises a weight by hand; the monitor does, with a verdict.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from interlock.evals.domain.rollout_states import ACTIVE, RolloutState
from interlock.evals.service.rollouts import Rollouts, RolloutWanted, topic_of
from interlock.foundation.clock import Clock
from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.control.stream import Numbered, follow, last_event_id
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import parse_id
from interlock.foundation.store import Transaction
from interlock.foundation.telemetry import EventLog

_PATH: Final = "/v1/rollouts"
_REASON_CHARS_MAX: Final = 1_000
_OPEN: Final = frozenset({*ACTIVE, RolloutState.DRAFT, RolloutState.KILLED})
Act = Callable[[Transaction, str, str | None], Awaitable[dict[str, Any]]]


class MetricBody(msgspec.Struct, forbid_unknown_fields=True):
    """Bounds of a metric: the relative risk and the share of bad units that a promotion rules out."""

    r_max: float | None = None
    bad_max: float | None = None


class RolloutBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/rollouts`; stages in percent. For `shadow_s` the version sees copies only, before its first stage."""

    route: str
    version: int
    stages: list[float] = msgspec.field(default_factory=lambda: [1.0, 5.0, 25.0, 50.0, 100.0])
    dwell_s: float = 600.0
    shadow_s: float = 0.0
    metrics: dict[str, MetricBody] = msgspec.field(default_factory=dict)


class ReasonBody(msgspec.Struct, forbid_unknown_fields=True):
    """Why a rollout is moved."""

    reason: str | None = None


class RolloutObject(msgspec.Struct):
    """A rollout as it is answered."""

    id: str
    state: str
    route: str
    from_version: int
    to_version: int
    artifact_digest: str
    stages: list[float]
    stage: int
    weight: float
    dwell_s: float
    shadow_s: float
    gate: dict[str, Any] | None
    lease_until: str | None
    decision: str | None
    reasons: list[dict[str, Any]]
    reason: str | None
    look: int
    monitor: dict[str, dict[str, Any]]
    created_at: str
    ended_at: str | None


class LookObject(msgspec.Struct):
    """A look as it is answered."""

    look: int
    at: str
    stage: int
    weight: float
    counts: dict[str, Any]
    monitor: dict[str, Any]
    decision: str
    reasons: list[dict[str, Any]]


def rollout_routes(rollouts: Rollouts, events: EventLog, clock: Clock) -> list[Route]:
    """Return the routes of rollouts."""
    served = _Served(rollouts, events, clock)
    one = f"{_PATH}/{{id}}"
    return [
        _reading(_PATH, served.list, "Rollouts, newest first", list[RolloutObject], ("state",)),
        _reading(one, served.get, "One rollout with what its monitor came to", RolloutObject),
        _reading(f"{one}/looks", served.looks, "The looks of a rollout, newest first", list[LookObject]),
        Route(
            "GET", f"{one}/events", Level.WORKSPACE, served.follow, "Follow a rollout: rollout.state, rollout.look",
            action="evals:read", query=("after",), media_type="text/event-stream",
        ),
        Route(
            "POST", _PATH, Level.WORKSPACE, served.create, "Make a rollout of a route's version, as a draft",
            action="rollouts:write", body=RolloutBody, answer=RolloutObject, status=201, is_mutation=True,
            codes=("rollout_active", "state_conflict"), query=("workspace_id",),
        ),
        *(_acting(act, summary, served) for act, summary in _ACTS.items()),
    ]  # fmt: skip


_ACTS: Final = {
    "start": "Put the first stage into force, with live evidence; its share is copied first where `shadow_s` is set",
    "pause": "Keep the weight as it is; the monitor goes on looking",
    "resume": "Let the monitor go on to the next stage, with live evidence",
    "rollback": "Give everything back to the stable version",
    "kill": "End a rollout whatever it waits for",
    "unkill": "Bring a killed rollout back as a draft, once two people asked for it",
}


def _reading(path: str, handler: Any, summary: str, answer: Any, query: tuple[str, ...] = ()) -> Route:
    return Route("GET", path, Level.WORKSPACE, handler, summary, action="evals:read", answer=answer, query=query)


def _acting(act: str, summary: str, served: "_Served") -> Route:
    return Route(
        "POST", f"{_PATH}/{{id}}/{act}", Level.WORKSPACE, served.acting(act), summary, action="rollouts:write",
        body=ReasonBody, answer=RolloutObject, is_mutation=True,
        codes=("gate_blocked", "rollout_active", "state_conflict"),
    )  # fmt: skip


class _Served:
    def __init__(self, rollouts: Rollouts, events: EventLog, clock: Clock) -> None:
        self._rollouts = rollouts
        self._events = events
        self._clock = clock

    async def list(self, call: Call) -> Reply:
        page = call.page
        before = parse_id("rol", str(page.after[0])) if page.after else None
        state = call.query.get("state")
        if state is not None and state not in set(RolloutState):
            raise InterlockError("invalid_request", "`state` is no state of a rollout.", detail={"field": "state"})
        found = await self._rollouts.page(call.within, state, before, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each["id"],))
        return call.listed(kept, position)

    async def get(self, call: Call) -> Reply:
        return Reply(body=await self._rollouts.get(call.within, call.params["id"]))

    async def looks(self, call: Call) -> Reply:
        page = call.page
        before = int(page.after[0]) if page.after else None
        found = await self._rollouts.looks(call.within, call.params["id"], before, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each["look"],))
        return call.listed(kept, position)

    async def create(self, call: Call) -> Reply:
        body: RolloutBody = call.body
        metrics = {
            name: {each: value for each, value in msgspec.structs.asdict(bounds).items() if value is not None}
            for name, bounds in body.metrics.items()
        }
        wanted = RolloutWanted(body.route, body.version, tuple(body.stages), body.dwell_s, metrics, body.shadow_s)
        made = await self._rollouts.create(call.tx, wanted)
        return Reply(status=201, body=made)

    async def follow(self, call: Call) -> Reply:
        scope, after = call.within, last_event_id(call.headers, call.query)
        rollout = await self._rollouts.get(scope, call.params["id"])
        topic = topic_of(parse_id("rol", rollout["id"]))

        async def read(seq: int) -> Sequence[Numbered]:
            found = await self._events.after(scope, [topic], seq)
            return [_numbered(each.seq, each.payload) for each in found]

        return Reply(stream=follow(read, after, self._clock), media_type="text/event-stream")

    def acting(self, act: str) -> Any:
        """Return the handler that moves a rollout."""

        async def handle(call: Call) -> Reply:
            do: Act = getattr(self._rollouts, act)
            reason = call.body.reason
            if reason is not None and len(reason) > _REASON_CHARS_MAX:
                text = f"`reason` has at most {_REASON_CHARS_MAX} characters."
                raise InterlockError("invalid_request", text, detail={"field": "reason"})
            return Reply(body=await do(call.tx, call.params["id"], reason))

        return handle


def _numbered(seq: int, payload: dict[str, Any]) -> Numbered:
    content = dict(payload)
    event = str(content.pop("event", "rollout.state"))
    is_last = event == "rollout.state" and content.get("state") not in _OPEN
    return Numbered(seq, event, content, is_last=is_last)
