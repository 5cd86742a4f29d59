"""Everything that the edge does not serve itself, passed on to control over its unix socket and back as it comes.

Judges no route and no key; control does. Reads only the internal header in which control says what it decided.
"""

from pathlib import Path
from typing import Final

from interlock.foundation.clock import Clock
from interlock.foundation.control import ControlStory
from interlock.foundation.telemetry import Link, Outcome
from interlock.foundation.wire import Answer, Client, Timeouts, UpstreamError
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.outcomes import outcome_of
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.service.passage import Passage

_STORY: Final = b"x-interlock-story"
_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"content-length", b"expect",
})  # fmt: skip
_NEVER_IN: Final = frozenset({b"x-request-id", b"request-id", b"x-forwarded-for", b"forwarded"})
_NEVER_OUT: Final = frozenset({b"x-request-id", b"request-id", b"date", b"server", _STORY})
# An answer of known length up to this size is sent in one piece.
_WHOLE_BYTES_MAX: Final = 1 << 18
_HEADER_BYTES_MAX: Final = 32 << 10


class ControlProxy:
    """Relays one request to control."""

    def __init__(self, client: Client, socket: Path, config: EdgeConfig, clock: Clock) -> None:
        self._client = client
        self._base = f"unix:{socket}:"
        self._config = config
        self._clock = clock
        self._timeouts = Timeouts(config.connect_s, config.control_s, config.control_idle_s, config.control_idle_s * 24)

    async def serve(self, passage: Passage, address: str | None) -> Refusal | None:
        """Answer the request; return a refusal when control is away."""
        exchange = passage.exchange
        request = exchange.request
        passage.open()
        body = await request.body(self._config.control_body_bytes_max)
        url = self._base + _safe_target(request.path, request.query)
        headers = [
            (name, value)
            for name, value in request.headers.items
            if name not in _HOP_BY_HOP and name not in _NEVER_IN and not name.startswith(b"x-interlock-")
        ]
        headers.append((b"x-request-id", exchange.request_id.encode()))
        if address is not None:
            headers.append((b"x-interlock-address", address.encode()))
        began = passage.elapsed_ms()
        try:
            async with self._client.request(request.method, url, headers, body, self._timeouts) as answer:
                passage.is_called = True
                await self._pass_back(passage, answer)
        except UpstreamError as fault:
            if exchange.head_sent:
                passage.end(Outcome.STREAM_CUT, answer.status, "control.broken", "upstream_stream_cut")
                exchange.abort()
                return None
            return Refusal("control_unavailable", "control.away", step="attempt", note=str(fault))
        finally:
            passage.upstream_ms = passage.elapsed_ms() - began
        return None

    async def _pass_back(self, passage: Passage, answer: Answer) -> None:
        exchange = passage.exchange
        self._read_story(passage, answer)
        headers = [
            (name, value)
            for name, value in answer.headers.items
            if name not in _NEVER_OUT and (name not in _HOP_BY_HOP or _is_told_length(exchange.request.method, name))
        ]
        headers += passage.common_headers
        length = answer.headers.get(b"content-length")
        if length is not None and int(length) <= _WHOLE_BYTES_MAX:
            await exchange.respond(answer.status, headers, await answer.read(_WHOLE_BYTES_MAX))
            return
        await exchange.start(answer.status, headers)
        async for piece in answer.chunks():
            await exchange.write(piece)
        await exchange.finish()

    def _read_story(self, passage: Passage, answer: Answer) -> None:
        told = _told(answer.headers.get(_STORY))
        status = answer.status
        if told.organization_id is not None:
            passage.organization_id = told.organization_id
            passage.workspace_id = told.workspace_id
            passage.key_id = told.key_id
            passage.note()
        for each in told.decisions:
            passage.decide(each.step, each.rule, each.verdict, each.detail)
        passage.links += [Link(each.kind, each.id) for each in told.links]
        code = told.outcome_code if status >= 400 else None
        passage.end(outcome_of(code, status), status, told.rule, code)


def _told(header: bytes | None) -> ControlStory:
    if header is None or len(header) > _HEADER_BYTES_MAX:
        return ControlStory()
    try:
        return ControlStory.from_header(header.decode("ascii"))
    except ValueError:
        return ControlStory()


def _safe_target(path: str, query: bytes) -> str:
    target = path if path.startswith("/") else f"/{path}"
    return f"{target}?{query.decode('ascii')}" if query else target


def _is_told_length(method: str, name: bytes) -> bool:
    return method == "HEAD" and name == b"content-length"
