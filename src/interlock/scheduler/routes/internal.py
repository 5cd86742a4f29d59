"""The internal calls of scheduler.md, section 4.2, on a unix socket: parse, one call of the front, render.

Decides nothing, and is never reachable through the public port.
"""

import hmac
import math
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.contracts.scheduling import UNUSED, Granted, Refused, Settled
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.wire import ClientGone, Exchange, Server, WireLimits, WireRefusal
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain import messages
from interlock.scheduler.service import FrontService
from interlock.scheduler.service.leading import Leading
from interlock.scheduler.service.pool_view import pool_view

_GRANTS: Final = "/internal/grants"
_POOLS: Final = "/internal/pools/"
_SETTLE: Final = "/settle"
_JSON: Final = (b"content-type", b"application/json")


class SchedulerServer:
    """Serves a `FrontService` to the edges. Every call carries the internal token.

    `leading` says which pools of the store are led here; who asks for another is told who leads it. Without it all are.
    """

    leading: Leading | None = None

    def __init__(
        self, front: FrontService, *, token: str, leader: str, clock: Clock, ids: IdFactory, config: SchedulerConfig
    ) -> None:
        self._front = front
        self._expected = f"Bearer {token}".encode()
        self._leader = leader
        self._config = config
        self._server = Server(self.handle, WireLimits(), mint=lambda: format_id("req", ids.new()), clock=clock)

    async def listen(self, path: Path) -> None:
        """Serve on a unix socket of mode 0600."""
        await self._server.listen_unix(path)

    async def listen_tcp(self, host: str, port: int) -> int:
        """Serve on a port too, for edges of other machines; return which it is."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        await self._server.listen(sock)
        return int(sock.getsockname()[1])

    async def drain(self, grace_s: float) -> None:
        """Refuse what waits, then close."""
        self._front.drain()
        await self._server.drain(grace_s)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one call."""
        try:
            await self._answer(exchange)
        except WireRefusal as refusal:
            exchange.refuse(refusal)
        except InterlockError as error:
            refused = Refused(error.code, error.http_status, error.retry_after_s, error.message, error.safe_detail)
            await _refuse(exchange, refused)

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        presented = request.headers.get(b"authorization") or b""
        if not hmac.compare_digest(presented, self._expected):
            raise InterlockError("internal_only")
        if request.method == "GET" and request.path.startswith(_POOLS):
            await self._pool(exchange, request.path.removeprefix(_POOLS))
            return
        if not request.path.startswith("/internal/") or request.path.startswith(_POOLS):
            raise InterlockError("not_found")
        if request.method != "POST":
            raise InterlockError("method_not_allowed")
        content = await request.body(self._config.body_bytes_max)
        if request.path == _GRANTS:
            await self._acquire(exchange, content)
        elif request.path == "/internal/progress":
            reports = messages.progress_reports(messages.decode(content, messages.ProgressBody))
            await _respond(exchange, await self._front.progress(reports))
        elif request.path == "/internal/adopt":
            body = messages.decode(content, messages.AdoptBody)
            grants = messages.adopted_grants(body)
            self._require_led(each.request.pool for each in grants)
            await _respond(exchange, await self._front.adopt(body.worker, grants))
        elif request.path == "/internal/cancel":
            await self._front.cancel(messages.decode(content, messages.CancelBody).request_id)
            await _respond(exchange, {})
        elif request.path.startswith(f"{_GRANTS}/") and request.path.endswith(_SETTLE):
            grant_id = request.path.removeprefix(f"{_GRANTS}/").removesuffix(_SETTLE)
            figures = messages.settlement(messages.decode(content, messages.SettleBody))
            await _answer_with(exchange, await self._front.settle(grant_id, figures))
        else:
            raise InterlockError("not_found")

    async def _acquire(self, exchange: Exchange, content: bytes) -> None:
        """Hold the call until it is decided; the server cancels it when the caller goes."""
        asked = messages.grant_request(messages.decode(content, messages.GrantBody))
        self._require_led([asked.pool])
        answer = await self._front.acquire(asked)
        is_delivered = False
        try:
            await _answer_with(exchange, answer)
            is_delivered = True
        except ClientGone:
            return
        finally:
            if not is_delivered and isinstance(answer, Granted):
                await self._front.settle(answer.grant_id, UNUSED)

    def _require_led(self, pools: Iterable[str]) -> None:
        """Send who asks for a pool that another leads there. Raises `not_leader`."""
        for pool in pools:
            if self.leading is not None and self.leading.knows(pool) and not self.leading.leads(pool):
                raise InterlockError("not_leader", detail=self._whereabouts(pool))

    def _whereabouts(self, pool: str) -> dict[str, Any]:
        found = None if self.leading is None else self.leading.leader(pool)
        where = {} if found is None else {"leader": found.address, "fence": found.fence}
        return {"rule": "not_leader", "pool": pool, **where}

    async def _pool(self, exchange: Exchange, name: str) -> None:
        name, _, view = name.partition("/")
        self._require_led([name])
        statistics = self._front.statistics(name)
        if statistics is None:
            raise InterlockError("pool_unknown", detail={"pool": name[:64]})
        if view == "metrics":
            figures = self._front.measuring.figures(name)
            await _respond(exchange, {"pool": name, **figures, "tenants": self._front.measuring.by_tenant(name)})
        elif view == "autoscale":
            await _respond(exchange, self._front.measuring.signals(statistics))
        elif view == "candidate":
            await _respond(exchange, self._front.trials.view(name))
        elif view == "history":
            await _respond(exchange, self._front.measuring.shown(name))
        elif view:
            raise InterlockError("not_found")
        else:
            await _respond(exchange, pool_view(statistics, self._leader))


async def _answer_with(exchange: Exchange, answer: Granted | Settled | Refused) -> None:
    if isinstance(answer, Refused):
        await _refuse(exchange, answer)
    else:
        await _respond(exchange, answer)


async def _respond(exchange: Exchange, body: Any) -> None:
    await exchange.respond(200, [_JSON], msgspec.json.encode(body))


async def _refuse(exchange: Exchange, refused: Refused) -> None:
    error = {
        "code": refused.code,
        "message": refused.message,
        "request_id": exchange.request_id,
        "retry_after_s": refused.retry_after_s,
        "detail": refused.detail,
    }
    headers = [_JSON, (b"x-should-retry", b"false" if refused.retry_after_s is None else b"true")]
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(refused.retry_after_s)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(refused.retry_after_s * 1_000)))
    body = {"error": error, "decision": refused.decision} if refused.decision else {"error": error}
    await exchange.respond(refused.http_status, headers, msgspec.json.encode(body))
