"""The schedulers as the edge reaches them: `GrantBroker` over the socket of whoever leads the pool.

Keeps no grants; `service/grants.py` does. What is asked again is a grant alone, while a scheduler starts anew or
another one takes over.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from interlock.contracts.scheduling import (
    FINAL_REFUSALS,
    AdoptedGrant,
    AdoptReply,
    Granted,
    GrantProgress,
    GrantRequest,
    PoolLeader,
    Predicted,
    ProgressReply,
    Refused,
    Settled,
    Settlement,
)
from interlock.foundation.clock import Clock
from interlock.foundation.wire import Client, Timeouts, UpstreamBroken, UpstreamConnectError, UpstreamError
from interlock.gateway.adapters.schedulers import Schedulers
from interlock.gateway.config import EdgeConfig

ANSWER_BYTES_MAX: Final = 1 << 20
# A scheduler that is away is started again within two seconds.
_AWAY: Final = Refused("no_capacity", 503, 1.0, "The scheduler is away.", {"rule": "scheduler.away"})
_BACK_POLL_S: Final = 0.05
# For so long a scheduler of a former version is told only what it knows, until it may have been brought up to date.
_FORMER_S: Final = 60.0
BodyT = TypeVar("BodyT")
GrantT = TypeVar("GrantT")
_encode: Final = msgspec.json.Encoder().encode


class SchedulerAwayError(ConnectionError):
    """The scheduler cannot be asked at this moment."""


class _Granted(msgspec.Struct):
    grant_id: str
    engine_id: str
    engine_url: str
    engine_model: str
    expires_in_ms: int
    queue_wait_ms: int
    predicted: Predicted
    promise: str
    decision: list[dict[str, Any]] = []


class _Fault(msgspec.Struct):
    code: str
    message: str = ""
    retry_after_s: float | None = None
    detail: dict[str, Any] = {}


class _FaultBody(msgspec.Struct):
    error: _Fault
    decision: list[dict[str, Any]] = []


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    grant_id: str
    output_tokens: int
    ttft_ms: int | None = None
    silent_ms: int | None = None


class _Patience:
    """For how long a call without a scheduler is asked again: as a start takes, from when one last had it in line."""

    def __init__(self, clock: Clock, back_s: float) -> None:
        self._clock = clock
        self._back_s = back_s
        self.renew()

    @property
    def is_over(self) -> bool:
        return self._clock.monotonic() >= self._until

    def renew(self) -> None:
        self._until = self._clock.monotonic() + self._back_s

    def was_held_since(self, asked_at: float) -> None:
        """Begin anew where a call was lost that had been held; one that failed at once was never in line."""
        if self._clock.monotonic() - asked_at > _BACK_POLL_S:
            self.renew()


class GrantClient:
    """Asks the scheduler. Cancelling the task that awaits `acquire` closes the call, which gives the seat back."""

    def __init__(self, client: Client, schedulers: Schedulers, token: str, config: EdgeConfig) -> None:
        self._client = client
        self._schedulers = schedulers
        schedulers.on_move = self._moved
        schedulers.on_new_term = self._began_anew
        self.on_new_leader: Callable[[], None] = lambda: None
        self._headers = ((b"authorization", b"Bearer " + token.encode()), (b"content-type", b"application/json"))
        self._call = Timeouts(config.scheduler_call_s, config.scheduler_call_s, config.scheduler_call_s)
        self._held = Timeouts(config.scheduler_call_s, config.acquire_s, config.scheduler_call_s, config.acquire_s)
        self._back_s = config.scheduler_back_s
        self._acquiring: dict[str, tuple[str, asyncio.Task[Any]]] = {}
        self._moving: set[str | asyncio.Task[Any]] = set()
        self._reporting: set[asyncio.Task[Any]] = set()
        self._pool_of: OrderedDict[str, str] = OrderedDict()
        # Pools of calls that were left, by request: a grant may have been on its way.
        self._left: OrderedDict[str, str] = OrderedDict()
        self._pools_kept_max = 2 * config.grants_held_max
        # Schedulers of a former version, who refuse a report that names what they do not know.
        self._plain_until: dict[str, float] = {}

    async def acquire(self, request: GrantRequest) -> Granted | Refused:
        task = asyncio.current_task()
        if task is not None:
            self._acquiring[request.request_id] = (request.pool, task)
        try:
            answer = await self._ask_again(request, _encode(request_body(request)))
        except SchedulerAwayError:
            return _AWAY
        except asyncio.CancelledError:
            self._left[request.request_id] = request.pool
            _bound(self._left, self._pools_kept_max)
            raise
        finally:
            self._acquiring.pop(request.request_id, None)
            self._moving.discard(request.request_id)
        if isinstance(answer, Refused):
            return answer
        self._note_pool(answer.grant_id, request.pool)
        return Granted(
            grant_id=answer.grant_id,
            engine_id=answer.engine_id,
            engine_url=answer.engine_url,
            engine_model=answer.engine_model,
            expires_in_ms=answer.expires_in_ms,
            queue_wait_ms=answer.queue_wait_ms,
            predicted=answer.predicted,
            promise=answer.promise,
            decision=tuple(answer.decision),
        )

    async def _ask_again(self, request: GrantRequest, body: bytes) -> "_Granted | Refused":
        """Ask for a grant; where nobody leads the pool, again until somebody does, for as long as a start takes.

        A scheduler that had the call before may not have seen yet that it was left, and then knows of two.
        """
        clock = self._client.clock
        patience, has_left = _Patience(clock, self._back_s), False
        while True:
            address = self._schedulers.of(request.pool)
            try:
                answer = await self._ask_once(address, request.pool, body, patience)
                is_twice = has_left and isinstance(answer, Refused) and answer.code == "grant_exists"
                if answer is not None and not (is_twice and not patience.is_over):
                    return answer
                has_left = True
                if self._schedulers.of(request.pool) == address or patience.is_over:
                    await clock.sleep(_BACK_POLL_S)
            except asyncio.CancelledError:
                if not self._has_moved(request.request_id):
                    raise
                patience.renew()
                has_left = True

    async def _ask_once(
        self, address: str, pool: str, body: bytes, patience: "_Patience"
    ) -> "_Granted | Refused | None":
        """Return the answer of the pool's leader; None where this scheduler is away or leads no more."""
        asked_at = self._client.clock.monotonic()
        try:
            answer = await self._post(address, "/grants", body, _Granted, self._held)
        except SchedulerAwayError as error:
            if isinstance(error.__cause__, UpstreamBroken):
                patience.was_held_since(asked_at)
            elif not isinstance(error.__cause__, UpstreamConnectError):
                raise
            if patience.is_over:
                raise
            self._schedulers.missed(pool, address)
            return None
        if not isinstance(answer, Refused) or not self._is_elsewhere(answer, address):
            return answer
        patience.was_held_since(asked_at)
        return _AWAY if patience.is_over else None

    def _moved(self, pool: str) -> None:
        """Another scheduler leads a pool now: calls that wait at the former one are asked there."""
        for request_id, (of_pool, task) in self._acquiring.items():
            if of_pool == pool and request_id not in self._moving:
                self._moving.add(request_id)
                task.cancel()
        for task in self._reporting - self._moving:
            # A scheduler that stands still would keep the report for as long as a call may take.
            self._moving.add(task)
            task.cancel()
        self.on_new_leader()

    def _began_anew(self) -> None:
        """A scheduler leads again where it did before; calls that its former life held were cut and are asked again."""
        self.on_new_leader()

    def _has_moved(self, call: str | asyncio.Task[Any]) -> bool:
        """Whether a call was cancelled for a change of leader alone."""
        task = asyncio.current_task()
        if call not in self._moving or task is None:
            return False
        self._moving.discard(call)
        return task.uncancel() == 0

    def _is_elsewhere(self, answer: Refused, address: str) -> bool:
        """Whether the asked scheduler leads no more; note whom it named, or that the next one has to be asked."""
        if answer.code != "not_leader":
            return False
        pool, leader, fence = (answer.detail.get(name) for name in ("pool", "leader", "fence"))
        if isinstance(pool, str) and isinstance(leader, str) and isinstance(fence, int) and leader != address:
            self._schedulers.learn(PoolLeader(pool, leader, fence))
        elif isinstance(pool, str):
            self._schedulers.missed(pool, address)
        return True

    async def progress(self, grants: Sequence[GrantProgress]) -> ProgressReply:
        unknown: list[str] = []
        revoked: list[str] = []
        drained: list[str] = []
        is_away = False
        batches = list(self._by_address(grants, lambda each: self._reported_pool(each.grant_id)))
        for reply in await self._report_all(batches):
            if reply is not None:
                unknown.extend(reply.unknown)
                revoked.extend(reply.revoked)
                drained.extend(reply.drained)
            else:
                is_away = True
        if is_away and not unknown and not revoked:
            raise SchedulerAwayError("a scheduler did not take its report")
        return ProgressReply(tuple(unknown), tuple(revoked), tuple(drained))

    async def _report_all(self, batches: "Sequence[tuple[str, Sequence[GrantProgress]]]") -> list[ProgressReply | None]:
        """Report to all schedulers at once: one that is slow delays no pool of another."""
        if len(batches) == 1:
            return [await self._report(*batches[0])]
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._report(*each)) for each in batches]
        return [each.result() for each in asked]

    async def _report(self, address: str, batch: Sequence[GrantProgress]) -> ProgressReply | None:
        """Report to one scheduler; None where it is away, or where another takes over meanwhile."""
        task = asyncio.current_task()
        if task is None:
            return None
        self._reporting.add(task)
        try:
            return _required(await self._post_report(address, batch))
        except SchedulerAwayError:
            for pool in {self._pool_of.get(each.grant_id, "") for each in batch}:
                self._schedulers.missed(pool, address)
            return None
        except asyncio.CancelledError:
            if not self._has_moved(task):
                raise
            return None
        finally:
            self._reporting.discard(task)
            self._moving.discard(task)

    async def _post_report(self, address: str, batch: Sequence[GrantProgress]) -> ProgressReply | Refused:
        """Report all; to a scheduler of a former version, who refuses the whole of it for that, without silences."""
        now = self._client.clock.monotonic()
        is_former = self._plain_until.get(address, now) > now
        answer = await self._post_lines(address, batch, is_plain=is_former)
        is_refused = isinstance(answer, Refused) and (answer.http_status, answer.code) == (400, "invalid_request")
        if is_former or not is_refused:
            return answer
        self._plain_until.pop(address, None)
        if any(each.silent_ms is not None for each in batch):
            answer = await self._post_lines(address, batch, is_plain=True)
            if isinstance(answer, ProgressReply):
                self._plain_until[address] = now + _FORMER_S
        return answer

    async def _post_lines(
        self, address: str, batch: Sequence[GrantProgress], *, is_plain: bool
    ) -> ProgressReply | Refused:
        body = _encode({"grants": [_line(each, is_plain=is_plain) for each in batch]})
        return await self._post(address, "/progress", body, ProgressReply, self._call)

    async def settle(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        address = self._schedulers.of(self._pool_of.get(grant_id, ""))
        answer = await self._post(address, f"/grants/{grant_id}/settle", _encode(settlement), Settled, self._call)
        if isinstance(answer, Settled) or answer.code in FINAL_REFUSALS:
            self._pool_of.pop(grant_id, None)
        return answer

    async def cancel(self, request_id: str) -> None:
        found = self._acquiring.get(request_id)
        if found is not None:
            found[1].cancel()
            return
        pool = self._left.get(request_id)
        if pool is not None:
            body = _encode({"request_id": request_id})
            # Who leads the pool no more need not hear of it: the next leader knows what edges report, and nothing else.
            answer = await self._post(self._schedulers.of(pool), "/cancel", body, dict[str, Any], self._call)
            if isinstance(answer, Refused) and answer.http_status >= 500:
                raise SchedulerAwayError(answer.code)
            self._left.pop(request_id, None)

    async def adopt(self, worker: str, grants: Sequence[AdoptedGrant]) -> AdoptReply:
        adopted = 0
        rejected: list[str] = []
        for each in grants:
            # A scheduler that did not know it may have been asked to settle it before.
            self._note_pool(each.grant_id, each.request.pool)
        for address, batch in self._by_address(grants, lambda each: each.request.pool):
            body = _encode({"worker": worker, "grants": [_adopted_body(each) for each in batch]})
            answer = await self._post(address, "/adopt", body, AdoptReply, self._call)
            if isinstance(answer, Refused):
                self._is_elsewhere(answer, address)
            reply = _required(answer)
            adopted += reply.adopted
            rejected.extend(reply.rejected)
        return AdoptReply(adopted, tuple(rejected))

    def _by_address(
        self, grants: Sequence[GrantT], pool_of: Callable[[GrantT], str]
    ) -> Iterable[tuple[str, Sequence[GrantT]]]:
        """Return grants by the scheduler that leads their pool."""
        batches: dict[str, list[GrantT]] = {}
        for each in grants:
            batches.setdefault(self._schedulers.of(pool_of(each)), []).append(each)
        return batches.items()

    def _reported_pool(self, grant_id: str) -> str:
        """Return the pool of a grant that runs, which is forgotten after all those that nobody reports."""
        pool = self._pool_of.get(grant_id)
        if pool is None:
            return ""
        self._pool_of.move_to_end(grant_id)
        return pool

    def _note_pool(self, grant_id: str, pool: str) -> None:
        self._pool_of[grant_id] = pool
        _bound(self._pool_of, self._pools_kept_max)

    async def _post(
        self, address: str, path: str, body: bytes, kind: type[BodyT], timeouts: Timeouts
    ) -> BodyT | Refused:
        try:
            url = f"{address}/internal{path}"
            async with self._client.request("POST", url, self._headers, body, timeouts) as answer:
                content = await answer.read(ANSWER_BYTES_MAX)
                if answer.status == 200:
                    return msgspec.json.decode(content, type=kind)
                body_of_fault = msgspec.json.decode(content, type=_FaultBody)
                fault, steps = body_of_fault.error, tuple(body_of_fault.decision)
                return Refused(fault.code, answer.status, fault.retry_after_s, fault.message, fault.detail, steps)
        except (UpstreamError, msgspec.DecodeError) as error:
            raise SchedulerAwayError(str(error)) from error


def _bound(kept: "OrderedDict[str, str]", most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


def request_body(request: GrantRequest) -> dict[str, Any]:
    """Return a request as it travels."""
    return {
        "request_id": request.request_id,
        "pool": request.pool,
        "organization_id": str(request.organization_id),
        "workspace_id": str(request.workspace_id),
        "key_id": None if request.key_id is None else str(request.key_id),
        "class": request.service_class,
        "input_tokens": request.input_tokens,
        "max_tokens": request.max_tokens,
        "ttft_ms": request.ttft_ms,
        "deadline_ms": request.deadline_ms,
        "prefix": request.prefix,
        "model": request.model,
        "route": request.route,
    }


def _line(told: GrantProgress, *, is_plain: bool) -> _Line:
    return _Line(told.grant_id, told.output_tokens, told.ttft_ms, None if is_plain else told.silent_ms)


def _adopted_body(grant: AdoptedGrant) -> dict[str, Any]:
    return {
        **request_body(grant.request),
        "grant_id": grant.grant_id,
        "engine_id": grant.engine_id,
        "age_ms": grant.age_ms,
        "output_tokens": grant.output_tokens,
    }


def _required(answer: BodyT | Refused) -> BodyT:
    if isinstance(answer, Refused):
        raise SchedulerAwayError(f"{answer.code}: {answer.message}")
    return answer
