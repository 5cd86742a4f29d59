"""The scheduler as the edge reaches it: `GrantBroker` over its unix socket.

Keeps no grants; `service/grants.py` does. What is asked again is a grant alone, while the scheduler starts anew.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from interlock.contracts.scheduling import (
    AdoptedGrant,
    AdoptReply,
    Granted,
    GrantProgress,
    GrantRequest,
    Predicted,
    ProgressReply,
    Refused,
    Settled,
    Settlement,
)
from interlock.foundation.wire import Client, Timeouts, UpstreamBroken, UpstreamConnectError, UpstreamError
from interlock.gateway.config import EdgeConfig

ANSWER_BYTES_MAX: Final = 1 << 20
# A scheduler that is away is started again within two seconds.
_AWAY: Final = Refused("no_capacity", 503, 1.0, "The scheduler is away.", {"rule": "scheduler.away"})
_BACK_POLL_S: Final = 0.05
BodyT = TypeVar("BodyT")
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


class GrantClient:
    """Asks the scheduler. Cancelling the task that awaits `acquire` closes the call, which gives the seat back."""

    def __init__(self, client: Client, socket: Path, token: str, config: EdgeConfig) -> None:
        self._client = client
        self._base = f"unix:{socket}:/internal"
        self._headers = ((b"authorization", b"Bearer " + token.encode()), (b"content-type", b"application/json"))
        self._call = Timeouts(config.scheduler_call_s, config.scheduler_call_s, config.scheduler_call_s)
        self._held = Timeouts(config.scheduler_call_s, config.acquire_s, config.scheduler_call_s, config.acquire_s)
        self._back_s = config.scheduler_back_s
        self._acquiring: dict[str, asyncio.Task[Any]] = {}

    async def acquire(self, request: GrantRequest) -> Granted | Refused:
        task = asyncio.current_task()
        if task is not None:
            self._acquiring[request.request_id] = task
        try:
            answer = await self._ask_again(_encode(request_body(request)))
        except SchedulerAwayError:
            return _AWAY
        finally:
            self._acquiring.pop(request.request_id, None)
        if isinstance(answer, Refused):
            return answer
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

    async def _ask_again(self, body: bytes) -> "_Granted | Refused":
        """Ask for a grant; one that is away is asked again until it is back, for as long as a start takes."""
        clock = self._client.clock
        until = clock.monotonic() + self._back_s
        while True:
            try:
                return await self._post("/grants", body, _Granted, self._held)
            except SchedulerAwayError as error:
                is_gone = isinstance(error.__cause__, UpstreamConnectError | UpstreamBroken)
                if not is_gone or clock.monotonic() >= until:
                    raise
            await clock.sleep(_BACK_POLL_S)

    async def progress(self, grants: Sequence[GrantProgress]) -> ProgressReply:
        answer = await self._post("/progress", _encode({"grants": grants}), ProgressReply, self._call)
        return _required(answer)

    async def settle(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        return await self._post(f"/grants/{grant_id}/settle", _encode(settlement), Settled, self._call)

    async def cancel(self, request_id: str) -> None:
        task = self._acquiring.get(request_id)
        if task is not None:
            task.cancel()

    async def adopt(self, worker: str, grants: Sequence[AdoptedGrant]) -> AdoptReply:
        lines = [
            {
                **request_body(each.request),
                "grant_id": each.grant_id,
                "engine_id": each.engine_id,
                "age_ms": each.age_ms,
                "output_tokens": each.output_tokens,
            }
            for each in grants
        ]
        answer = await self._post("/adopt", _encode({"worker": worker, "grants": lines}), AdoptReply, self._call)
        return _required(answer)

    async def _post(self, path: str, body: bytes, kind: type[BodyT], timeouts: Timeouts) -> BodyT | Refused:
        try:
            async with self._client.request("POST", self._base + path, self._headers, body, timeouts) as answer:
                content = await answer.read(ANSWER_BYTES_MAX)
                if answer.status == 200:
                    return msgspec.json.decode(content, type=kind)
                body_of_fault = msgspec.json.decode(content, type=_FaultBody)
                fault, steps = body_of_fault.error, tuple(body_of_fault.decision)
                return Refused(fault.code, answer.status, fault.retry_after_s, fault.message, fault.detail, steps)
        except (UpstreamError, msgspec.DecodeError) as error:
            raise SchedulerAwayError(str(error)) from error


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


def _required(answer: BodyT | Refused) -> BodyT:
    if isinstance(answer, Refused):
        raise SchedulerAwayError(f"{answer.code}: {answer.message}")
    return answer
