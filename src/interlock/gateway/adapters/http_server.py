"""The handler of the public port: one story for every request, then the service that its path belongs to.

Decides nothing about a request itself; it opens and closes the frame around whoever does.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, format_id, parse_id
from interlock.foundation.supervisor import PlatformState
from interlock.foundation.telemetry import Decision, Outcome, RequestRecord, Spool, Timing, bind_request, step_of
from interlock.foundation.wire import ClientGone, Exchange, Request, WireRefusal, envelope
from interlock.gateway.adapters.control_proxy import ControlProxy
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain import dialect
from interlock.gateway.domain.envelope import Dialect
from interlock.gateway.domain.outcomes import outcome_of
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.strangers import RateMeter
from interlock.gateway.metrics import EdgeMetrics
from interlock.gateway.service.admit import ABORT, DRAIN, Admission
from interlock.gateway.service.chat import ChatService
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.settle import Settler
from interlock.gateway.service.ways import Errand, Ways

log = structlog.get_logger("interlock.gateway")
Answerer = Callable[[Passage], Awaitable[Refusal | None]]
_MODELS: Final = "/v1/models"
_READS: Final = ("GET", "HEAD")
# What is asked of models, and in which dialect.
_INFERENCE: Final = {
    "/v1/chat/completions": Dialect.CHAT,
    "/v1/responses": Dialect.RESPONSES,
    "/v1/embeddings": Dialect.EMBEDDINGS,
    "/v1/messages": Dialect.MESSAGES,
    "/v1/messages/count_tokens": Dialect.COUNT,
}
# Whose form their answers have.
_FAMILIES: Final = {
    path: dialect.ANTHROPIC if path.startswith("/v1/messages") else dialect.OPENAI for path in _INFERENCE
}
# Inference of vendors' dialects that this edge does not speak.
_UNSPOKEN: Final = frozenset({"/v1/completions", "/internal"})
# What no caller may reach, and what one vendor has below its answers, of which none is kept.
_NOT_HERE: Final = ("/internal/", "/v1/responses/")
_OWN_RULES: Final = {"/healthz": "edge.health", "/readyz": "edge.ready", "/metrics": "edge.metrics"}
# Ids that were minted for heads whose handler has not begun yet.
_MINTED_MAX: Final = 4_096
_SAMPLED_OUT: Final = (b"x-interlock-story", b"sampled-out")


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` and `/metrics` answer from: the supervisor's last word, and all processes' metrics."""

    state: Callable[[], PlatformState]
    metrics: Callable[[], Awaitable[str]]


class Edge:
    """One edge process, as the wire server sees it: `handle`, `mint`, `on_refusal`, `body_of`, `on_forgone`."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        *,
        chat: ChatService,
        admission: Admission,
        settler: Settler,
        control: ControlProxy,
        readiness: Readiness,
        spool: Spool,
        metrics: EdgeMetrics,
        stale_s: Callable[[], float | None],
        ways: Ways,
        config: EdgeConfig,
        clock: Clock,
        ids: IdFactory,
    ) -> None:
        self._chat = chat
        self._admission = admission
        self._settler = settler
        self._control = control
        self._readiness = readiness
        self._spool = spool
        self._metrics = metrics
        self._stale_s = stale_s
        self._clock = clock
        self._ids = ids
        self._strangers = RateMeter(config.stranger_stories_per_s)
        self._passages: set[Passage] = set()
        self._minted: dict[str, UUID] = {}
        # Inference by path: whose form its answers have, and what it is written in.
        self._asked = {path: (_FAMILIES[path], spoken) for path, spoken in _INFERENCE.items()}
        self._own: dict[str, Answerer] = {
            _MODELS: self._models,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._all_metrics,
        }
        self.take = ways.open(
            self, passages=self._passages, minted=self._minted, stale_s=stale_s, chat=chat, finished=metrics.finished
        )

    def mint(self) -> str:
        """Return the id of a request that is about to be parsed."""
        value = self._ids.new()
        text = format_id("req", value)
        if len(self._minted) >= _MINTED_MAX:
            self._minted.clear()
        self._minted[text] = value
        return text

    async def handle(self, exchange: Exchange, errand: Errand | None = None) -> None:
        """Serve one request, or go on with an errand; its story is closed when this returns, however it returns."""
        passage = self._received(exchange) if errand is None else errand.passage
        bind_request(passage)
        try:
            try:
                refusal = await (self._answer(passage) if errand is None else self._chat.go_on(errand))
            except WireRefusal as fault:
                refusal = _of_the_wire(fault)
            except asyncio.CancelledError:
                refusal = passage.resumed()
                if refusal is None or exchange.head_sent:
                    raise
            if refusal is not None:
                passage.refused(refusal, outcome_of(refusal.code, refusal.http_status))
                await self._refuse(passage, refusal)
        except (asyncio.CancelledError, ClientGone):
            # An answer that was decided keeps its class, even when nobody was there to read it.
            if passage.error_code is None and not exchange.is_finished:
                note = f"after {_phase(passage)}"
                gone = Refusal("client_gone", "client.disconnected", step="cancel", note=note)
                passage.refused(gone, Outcome.CLIENT_GONE)
            raise
        except Exception:  # the story of a fault of ours must be told, too; the server answers with 500
            passage.refused(Refusal("internal_error", "edge.fault", step="finished"), Outcome.INTERNAL_ERROR)
            log.exception("edge_fault", request_id=exchange.request_id, path=exchange.request.path)
            await self._refuse(passage, Refusal("internal_error", "edge.fault"))
        finally:
            self.close(passage)

    def close(self, passage: Passage) -> None:
        """Settle and count a request that has ended."""
        self._passages.discard(passage)
        if passage.is_sampled_out:
            passage.close(is_told=False)
        else:
            self._settler.settle(passage)
        self._metrics.finished(passage)

    def interrupt_killed(self) -> None:
        """End what a switch stops that came on: of mode `abort` what runs, of `drain` as well what waits."""
        for passage in list(self._passages):
            if passage.envelope is not None or passage.is_waiting:
                refusal = self._admission.stopped(passage, DRAIN if passage.is_waiting else ABORT)
                if refusal is not None:
                    passage.interrupt(refusal)

    def on_refusal(
        self, refusal: WireRefusal, peer: str | None, request_id: str, method: str | None, target: bytes | None
    ) -> dialect.HeaderList | None:
        """Tell the story of what no handler saw: bytes that are no request. All of them are counted."""
        self._metrics.refused(refusal.code)
        if not self._strangers.take(self._clock.monotonic()):
            return [_SAMPLED_OUT]
        now_us = self._clock.now_us()
        identity = self.uuid_of(request_id)
        where = (target or b"").decode("latin-1")
        reason = str(refusal.safe_detail.get("reason", "")) or refusal.message
        frame = self._spool.open(identity, now_us, method or "", where)
        frame.close(
            RequestRecord(
                id=identity,
                started_us=now_us,
                endpoint=where.partition("?")[0][:256],
                outcome=outcome_of(refusal.code, refusal.http_status),
                status=refusal.http_status,
                error_code=refusal.code,
                rule=f"http.{refusal.code}",
                timing=Timing(total_ms=0.0),
                decisions=[Decision(now_us, "received", f"http.{refusal.code}", "refused", f"{peer or '-'}: {reason}")],
                method=method or "",
                target=where,
            )
        )
        self._metrics.count("other", outcome_of(refusal.code, refusal.http_status))
        return None

    def body_of(self, refusal: WireRefusal, request_id: str, target: bytes | None) -> bytes | None:
        """Return a refusal at the head in the form of its path, where the line with the path was read; else None."""
        family = _FAMILIES.get((target or b"").partition(b"?")[0].decode("latin-1"))
        return None if family is None else _body_in(family, _of_the_wire(refusal), request_id)

    def on_forgone(self, exchange: Exchange, rule: str) -> None:
        """Tell the story of a request that stood behind another one when its connection ended: nothing was done.

        A head that was let in before says whose it is; nobody else is asked.
        """
        passage = self._received(exchange)
        passage.dialect, _ = self._asked.get(passage.endpoint, (None, None))
        if not self._admission.name(passage):
            passage.is_sampled_out = not self._strangers.take(self._clock.monotonic())
        passage.refused(Refusal("client_gone", rule, step="cancel", note="before its turn"), Outcome.CLIENT_GONE)
        self.close(passage)

    def uuid_of(self, request_id: str) -> UUID:
        """Return the uuid of an id; of one that was just minted without parsing it."""
        return self._minted.pop(request_id, None) or parse_id("req", request_id)

    def _received(self, exchange: Exchange) -> Passage:
        request = exchange.request
        passage = Passage(exchange, self.uuid_of(exchange.request_id), self._spool, self._clock)
        passage.decide("received", "http.request", "ok", f"{request.method} {request.path}"[:256])
        self._passages.add(passage)
        return passage

    def _answer(self, passage: Passage) -> Awaitable[Refusal | None]:
        """Return what answers the request, by its path, or refuses it."""
        request = passage.exchange.request
        stale_s = self._stale_s()
        if stale_s is not None:
            passage.common_headers.append((b"x-interlock-stale-config", b"%d" % stale_s))
        path = request.path
        asked = self._asked.get(path)
        if asked is not None:
            passage.dialect, spoken = asked
            return self._chat.serve(passage, spoken) if request.method == "POST" else _refused(_wrong_method(b"POST"))
        own = self._own.get(path)
        if own is None and path.startswith(f"{_MODELS}/"):
            own = self._models
        if own is not None:
            passage.dialect = _family(request)
            return own(passage) if request.method in _READS else _refused(_wrong_method(b"GET, HEAD"))
        if path.startswith(_NOT_HERE) or path in _UNSPOKEN:
            return _refused(Refusal("not_found", "http.not_found", step="received"))
        return self._control.serve(passage, self._admission.address_of(request))

    async def _refuse(self, passage: Passage, refusal: Refusal) -> None:
        exchange = passage.exchange
        if exchange.head_sent:
            exchange.abort()
            return
        if passage.organization_id is not None:
            passage.open()
        status = refusal.http_status
        limits = dialect.in_form_of(passage.dialect, list(refusal.headers), self._clock.now_us())
        headers: dialect.HeaderList = [dialect.JSON, *limits]
        may_retry = refusal.code != "budget_exhausted"
        headers += dialect.retry_headers(status, refusal.wait_s, may_retry=may_retry)
        headers += passage.common_headers
        if passage.placement is not None:
            headers.append(passage.placement.header)
            headers.append((b"x-interlock-arm", (passage.arm or "stable").encode()))
        if passage.attempts:
            headers.append((b"x-interlock-attempts", b"%d" % len(passage.attempts)))
        if passage.organization_id is None and not self._strangers.take(self._clock.monotonic()):
            passage.is_sampled_out = True
            headers.append(_SAMPLED_OUT)
        if passage.dialect is not None:
            body = _body_in(passage.dialect, refusal, exchange.request_id)
        else:
            error = InterlockError(refusal.code, refusal.text, detail=refusal.detail, retry_after_s=refusal.wait_s)
            body = envelope(error, exchange.request_id)
        await exchange.respond(status, headers, body)

    async def _models(self, passage: Passage) -> Refusal | None:
        refusal = await self._admission.identify(passage)
        if refusal is not None:
            return refusal
        directory = self._admission.directory
        routes = directory.aliases(passage.tenant, passage.key_models)
        models = [
            dialect.model_object(each.alias, each.created_us // 1_000_000, rfc3339(each.created_us)) for each in routes
        ]
        wanted = unquote(passage.exchange.request.path.removeprefix(_MODELS).strip("/"))
        if not wanted:
            return await self._tell(passage, dialect.model_list(models))
        found = next((each for each in models if each["id"] == wanted), None)
        if found is None:
            near = directory.near(passage.tenant, passage.key_models, wanted)
            detail = {"model": wanted[:128], "near": near}
            return Refusal("model_not_found", "model.alias", param="model", detail=detail, step="model")
        return await self._tell(passage, dialect.encode_json(found))

    async def _health(self, passage: Passage) -> Refusal | None:
        return await self._tell(passage, b'{"status":"ok"}')

    async def _ready(self, passage: Passage) -> Refusal | None:
        state = self._readiness.state()
        if state.ready:
            body = dialect.encode_json({"ready": True, "degraded": state.degraded})
            return await self._tell(passage, body)
        body = dialect.encode_json({"ready": False, "reasons": state.reasons})
        return await self._tell(passage, body, status=503)

    async def _all_metrics(self, passage: Passage) -> Refusal | None:
        if not _is_loopback(self._admission.address_of(passage.exchange.request)):
            refusal = await self._admission.identify(passage, "metrics:read")
            if refusal is not None:
                return refusal
            passage.open()
        text = await self._readiness.metrics()
        media_type = (b"content-type", b"application/openmetrics-text; version=1.0.0; charset=utf-8")
        return await self._tell(passage, text.encode(), media_type=media_type)

    async def _tell(
        self,
        passage: Passage,
        body: bytes,
        *,
        status: int = 200,
        media_type: tuple[bytes, bytes] = dialect.JSON,
    ) -> Refusal | None:
        passage.end(outcome_of(None, status), status, _OWN_RULES.get(passage.endpoint, "edge.models"))
        if passage.organization_id is None and not self._strangers.take(self._clock.monotonic()):
            passage.is_sampled_out = True
            passage.common_headers.append(_SAMPLED_OUT)
        if passage.organization_id is not None:
            passage.open()
        await passage.exchange.respond(status, [media_type, *passage.common_headers], body)
        return None


async def _refused(refusal: Refusal) -> Refusal:
    return refusal


def _body_in(family: str, refusal: Refusal, request_id: str) -> bytes:
    tell = dialect.anthropic_error_body if family == dialect.ANTHROPIC else dialect.error_body
    return tell(refusal, request_id)


def _of_the_wire(fault: WireRefusal) -> Refusal:
    return Refusal(fault.code, f"http.{fault.code}", message=fault.message, detail=fault.safe_detail, step="received")


def _wrong_method(allow: bytes) -> Refusal:
    return Refusal("method_not_allowed", "http.method_not_allowed", headers=((b"allow", allow),), step="received")


def _family(request: Request) -> str | None:
    """Return whose form an answer about models has, which both vendors' clients ask for: by the client's own header."""
    if not request.path.startswith(_MODELS):
        return None
    return dialect.ANTHROPIC if b"anthropic-version" in request.headers else dialect.OPENAI


def _phase(passage: Passage) -> str:
    return step_of(passage.decisions[-1]) if passage.decisions else "received"


def _is_loopback(peer: str | None) -> bool:
    return peer is None or ipaddress.ip_address(peer.partition("%")[0]).is_loopback
