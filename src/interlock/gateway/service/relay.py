"""An answer on its way from a model server to the client: its head, its events, and every way in which it can end.

Chooses no target and settles nothing.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from interlock.foundation.clock import Clock
from interlock.foundation.identity import TASK
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import Attempt, Outcome
from interlock.foundation.telemetry.traces import end_of_lines, parent_lines
from interlock.foundation.wire import Answer, Asker, Client, Timeouts, UpstreamError
from interlock.gateway.adapters import upstream_http
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain import dialect
from interlock.gateway.domain.arms import STABLE
from interlock.gateway.domain.cost import cost_usd_micros
from interlock.gateway.domain.envelope import Dialect
from interlock.gateway.domain.events import StreamTooLongError
from interlock.gateway.domain.passing import Passing
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.replies import Reply
from interlock.gateway.domain.times import Times
from interlock.gateway.domain.translate.prompt import PromptError
from interlock.gateway.domain.translate.talk import PATHS, Facts, Talk, talk_of
from interlock.gateway.domain.troubles import may_repeat
from interlock.gateway.service.grants import GrantBook
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import Place
from interlock.gateway.service.replays import Replays, replayed_headers

# As long as the bound of the call itself, behind which it fails.
_IDLE: Final = float("inf")
_EVENT_STREAM: Final = b"text/event-stream"
_JSON: Final = dialect.JSON[1]
_ON_STABLE: Final = (b"x-interlock-arm", STABLE.encode())
_ONCE: Final = (b"x-interlock-attempts", b"1")
# How long the end of a finished answer may take before its connection is given up instead of kept.
_TAIL_S: Final = 0.25


@dataclass(slots=True)
class Sent:
    """A question to a model server: how it was put, since when it counts, and the call that makes it."""

    talk: Talk
    attempt: Attempt
    began: float
    call: Any


@dataclass(frozen=True, slots=True)
class Clients:
    """What asks model servers: the platform's may be anywhere, an organization's own are public."""

    anywhere: Client
    public: Client


class Relay:
    """Sends a request to its place and passes the answer on."""

    def __init__(
        self,
        clients: Clients,
        grants: GrantBook,
        redactor: Redactor,
        config: EdgeConfig,
        clock: Clock,
        replays: Replays,
    ) -> None:
        self._clients = clients
        self._grants = grants
        self._redactor = redactor
        self._config = config
        self.clock = clock
        self._replays = replays
        self.gaps = Times()

    def put(self, passage: Passage, place: Place, timeouts: Timeouts) -> Sent | Refusal:
        """Put the request as its place is asked. Nothing is sent before the call is entered."""
        envelope, placement = passage.envelope, passage.placement
        if envelope is None or placement is None:
            return Refusal("internal_error", "edge.no_envelope", step="attempt")
        try:
            talk = talk_of(envelope, place.dialect, self._facts(passage))
            question = talk.question(place.model)
        except PromptError as error:
            return error.refusal
        passage.dropped = question.dropped
        number = len(passage.attempts) + 1
        attempt = Attempt(n=number, deployment=placement.deployment.name)
        passage.attempts.append(attempt)
        passage.decide("attempt", placement.called, "sent", f"attempt {number} as {place.model}")
        headers = place.headers
        if passage.betas:
            headers = (*headers, *upstream_http.beta_headers(place.dialect, passage.betas))
        client = self._client_of(place)
        began = passage.elapsed_ms()
        lines = b""
        if place.is_own:
            lines = parent_lines(passage.request_id, number, passage.trace_id, self.end_of_lines(passage))
        call = client.request("POST", place.url + question.path, headers, question.body, timeouts, lines)
        return Sent(talk, attempt, began, call)

    def asker(self, passage: Passage, place: Place) -> Asker:
        """Return what asks a place again as it was asked for a request, which was translated for nobody."""
        path = PATHS[passage.envelope.dialect] if passage.envelope is not None else ""
        return self._client_of(place).asker("POST", place.url + path, place.headers)

    def end_of_lines(self, passage: Passage) -> bytes:
        """Return what the lines of a call's trace end with, which is the same for all of one head."""
        headers = passage.exchange.request.headers
        return end_of_lines(headers.get(b"traceparent"), headers.getall(b"tracestate"))

    def _client_of(self, place: Place) -> Client:
        return self._clients.anywhere if place.may_be_private else self._clients.public

    async def hear(self, passage: Passage, sent: Sent) -> tuple[Refusal, bool] | None:
        """Answer the client; or return why nothing was sent to it yet, and whether another call is safe."""
        talk, attempt, began = sent.talk, sent.attempt, sent.began
        try:
            async with sent.call as answer:
                passage.is_called = True
                attempt.status = answer.status
                if answer.connect_s:
                    attempt.connect_ms = answer.connect_s * 1_000
                attempt.upstream_request_id = upstream_http.upstream_request_id(answer)
                refusal = await self._pass_on(passage, answer, attempt, began, talk)
            retry = refusal is not None and may_repeat(answer.status)
        except UpstreamError as fault:
            # Of the two that hold together, the caller's and the route's, the shorter one ended the call.
            is_callers = passage.asked_s is not None and passage.asked_s <= passage.total_s
            refusal = upstream_http.refusal_of_fault(fault, is_callers_deadline=is_callers)
            retry = upstream_http.may_retry(fault)
            passage.is_called = passage.is_called or not upstream_http.is_unsent(fault)
        finally:
            passage.skipped += talk.skipped
            attempt.total_ms = passage.elapsed_ms() - began
            passage.upstream_ms = (passage.upstream_ms or 0.0) + attempt.total_ms
        if refusal is None:
            return None
        refusal = replace(refusal, note=self._redactor.text(refusal.note), message=self._clean(refusal.message))
        attempt.error = refusal.note or refusal.code
        return refusal, retry

    def _facts(self, passage: Passage) -> Facts:
        return Facts(
            request_id=passage.exchange.request_id,
            created_s=passage.started_us // 1_000_000,
            input_estimate=passage.input_estimate,
            event_bytes_max=self._config.event_bytes_max,
        )

    async def _pass_on(
        self, passage: Passage, answer: Answer, attempt: Attempt, began: float, talk: Talk
    ) -> Refusal | None:
        if answer.status != 200:
            content = await answer.read(self._config.error_bytes_max)
            is_embedding = passage.envelope is not None and passage.envelope.dialect is Dialect.EMBEDDINGS
            if is_embedding and answer.status in upstream_http.NO_SUCH_ENDPOINT:
                return upstream_http.no_embeddings(answer.status)
            return upstream_http.refusal_of_status(answer.status, content, answer.headers.get(b"retry-after"))
        media_type = answer.headers.get(b"content-type") or b""
        if media_type != _JSON:
            media_type = media_type.partition(b";")[0].strip().lower()
        is_stream = media_type == _EVENT_STREAM
        if is_stream is not passage.is_stream:
            note = f"content-type {media_type.decode('latin-1')[:64]}"
            return Refusal("upstream_bad_reply", "upstream.content_type", step="attempt", note=note)
        if is_stream:
            return await _Stream(self, passage, attempt, began, talk).run(answer)
        content = await answer.read(self._config.answer_bytes_max)
        try:
            content, usage = talk.whole(content)
            passage.usage = usage
        except ValueError as error:
            return Refusal("upstream_bad_reply", "upstream.not_a_completion", step="attempt", note=str(error)[:200])
        if passage.placement is not None:
            passage.cost_usd_micros = cost_usd_micros(passage.placement.deployment, usage)
        attempt.ttft_ms = self.note_first(passage) - began
        passage.decide("head", "upstream.status_200", "ok", f"{len(content)} bytes")
        self.succeed(passage, Outcome.OK)
        headers = self.answer_headers(passage, dialect.JSON)
        if passage.capture is None:
            await passage.exchange.respond(200, headers, content)
        else:
            await self._respond(passage, headers, content)
        return None

    async def tell_estimate(self, passage: Passage) -> None:
        """Answer a count of tokens from what was learned of this alias, and say that it is one."""
        self.succeed(passage, Outcome.OK)
        headers = [(b"x-interlock-estimated", b"true"), *self.answer_headers(passage, dialect.JSON)]
        body = dialect.encode_json({"input_tokens": passage.input_estimate})
        await self._respond(passage, headers, body)

    async def replay(self, passage: Passage, reply: Reply) -> None:
        """Give a kept answer again, byte for byte."""
        passage.end(Outcome.OK_REPLAYED, 200, "idempotency.replayed")
        headers = [*replayed_headers(reply), *passage.common_headers]
        exchange = passage.exchange
        if dialect.SSE not in reply.headers:
            await exchange.respond(200, headers, reply.content)
            return
        await exchange.start(200, headers)
        await exchange.write(reply.content)
        await exchange.finish()

    async def gather(self, passage: Passage, piece: bytes, *, is_last: bool) -> None:
        """Gather a piece for whoever repeats the call, before it is sent; with the last one the answer is kept."""
        if passage.capture is None:
            return
        passage.capture.add(piece)
        if is_last:
            await self._replays.keep(passage)

    async def forget(self, passage: Passage) -> None:
        """Let an answer that failed be asked for again."""
        if passage.capture is not None:
            await self._replays.release(passage)

    async def _respond(self, passage: Passage, headers: dialect.HeaderList, content: bytes) -> None:
        if passage.capture is not None:
            passage.capture.begin(headers)
            await self.gather(passage, content, is_last=True)
        await passage.exchange.respond(200, headers, content)

    def note_first(self, passage: Passage) -> float:
        """Note that the first output has come; return when, in milliseconds."""
        passage.ttft_ms = ttft_ms = passage.elapsed_ms()
        # Of an answer that comes whole nobody saw the first token; its time would look like a slow engine's.
        if passage.grant is not None and passage.is_stream:
            self._grants.first_token(passage, passage.grant)
        return ttft_ms

    def succeed(self, passage: Passage, outcome: Outcome) -> None:
        """Note a whole answer; what chose the target is its rule."""
        placement = passage.placement
        rule = placement.rule if placement is not None else "route"
        if passage.degraded is not None:
            outcome, rule = Outcome.OK_DEGRADED, f"route.{passage.alias}.degrade_to"
        elif passage.is_bypassed:
            outcome, rule = Outcome.OK_DEGRADED, "scheduler.bypass"
        elif passage.is_fallback:
            outcome, rule = Outcome.OK_FALLBACK, f"{rule}.fallbacks"
        passage.end(outcome, 200, rule)

    def answer_headers(self, passage: Passage, content_type: tuple[bytes, bytes]) -> dialect.HeaderList:
        """Return the headers of an answer; its server-timing ends with the upstream's first output."""
        headers: dialect.HeaderList = [content_type]
        if passage.placement is not None:
            headers.append(passage.placement.header)
        arm, attempts = passage.arm or STABLE, len(passage.attempts)
        headers.append(_ON_STABLE if arm == STABLE else (b"x-interlock-arm", arm.encode()))
        headers.append(_ONCE if attempts == 1 else (b"x-interlock-attempts", b"%d" % attempts))
        headers.append((b"server-timing", _server_timing(passage)))
        if passage.reservation is not None:
            limits = passage.reservation.headers()
            is_others = passage.dialect == dialect.ANTHROPIC
            headers += dialect.in_form_of(passage.dialect, limits, self.clock.now_us()) if is_others else limits
        if passage.degraded is not None or passage.is_bypassed:
            headers.append((b"x-interlock-degraded", (passage.lessened or "").encode()))
        if passage.dropped:
            headers.append((b"x-interlock-dropped", ",".join(passage.dropped).encode()))
        if passage.key_kind == TASK and passage.cost_usd_micros is not None:
            # Work of the platform's own keeps a budget, and cannot wait for the story.
            headers.append((b"x-interlock-cost-usd-micros", b"%d" % passage.cost_usd_micros))
        return headers + passage.common_headers

    def _clean(self, message: str | None) -> str | None:
        return None if message is None else self._redactor.text(message)

    @property
    def config(self) -> EdgeConfig:
        """The bounds of streams."""
        return self._config


class _Stream:
    """One streamed answer. The client's head is held back until there is an event, or silence must be filled."""

    def __init__(self, relay: Relay, passage: Passage, attempt: Attempt, began: float, talk: Talk) -> None:
        self._relay = relay
        self._passage = passage
        self._attempt = attempt
        self._began = began
        self._config = relay.config
        self._talk = talk
        self._scanner = talk.scanner()
        self._monotonic = relay.clock.monotonic
        # Its `last` waits for the end of the answer, with which it leaves in one piece.
        self._passing = Passing(self._scanner, passage.exchange.push, relay.gaps, self._monotonic, passage.grant)

    async def run(self, answer: Answer) -> Refusal | None:
        """Relay to the end. Returns a refusal only while the client has no head."""
        passage = self._passage
        failure: Refusal | None = None
        try:
            await self._events(answer, await self._first_piece(answer))
            failure = self._judge_end()
        except UpstreamError as fault:
            if not passage.exchange.head_sent:
                raise
            failure = _cut(upstream_http.refusal_of_fault(fault, is_callers_deadline=False))
        except StreamTooLongError as error:
            failure = Refusal("upstream_stream_cut", "upstream.event_too_long", step="finished", note=str(error))
        except asyncio.CancelledError:
            failure = passage.resumed() if passage.exchange.head_sent else None
            if failure is None:
                raise
        finally:
            passage.output_events = self._scanner.events
            passage.usage = self._scanner.usage
        if failure is not None:
            return await self._fail(failure)
        self._relay.succeed(passage, Outcome.OK_STREAM)
        # The upstream may have named its finish but not the end, which clients wait for.
        tail = self._talk.tail(self._scanner)
        await self._relay.gather(passage, tail, is_last=True)
        if tail:
            passage.usage = self._scanner.usage
        await passage.exchange.finish(self._passing.last + tail)
        with suppress(UpstreamError):
            await answer.skip(_TAIL_S)
        return None

    async def _first_piece(self, answer: Answer) -> bytes:
        passage, config = self._passage, self._config
        ttft_s = self._ttft_s()
        waited_s = (passage.elapsed_ms() - self._began) / 1_000
        quiet_s = max(0.0, min(config.keep_alive_s, ttft_s) - waited_s)
        piece = await answer.within(quiet_s)
        if piece is None and quiet_s + waited_s < ttft_s:
            # The caller would take a longer silence for a dead connection.
            await self._begin()
            piece = await answer.within(ttft_s - quiet_s - waited_s)
        if piece is None:
            raise upstream_http.first_byte_timeout()
        return piece

    def _ttft_s(self) -> float:
        placement = self._passage.placement
        given = placement.route.spec.timeouts_ms.ttft if placement is not None else None
        return self._config.ttft_s if given is None else given / 1_000

    async def _begin(self) -> None:
        exchange = self._passage.exchange
        if not exchange.head_sent:
            self._passage.decide("head", "upstream.status_200", "ok", "stream")
            headers = self._relay.answer_headers(self._passage, dialect.SSE)
            if self._passage.capture is not None:
                self._passage.capture.begin(headers)
            await exchange.start(200, headers)
            exchange.heartbeat(self._config.keep_alive_s)

    async def _events(self, answer: Answer, piece: bytes) -> None:
        passage, scanner, exchange = self._passage, self._scanner, self._passage.exchange
        passing = self._passing
        passing.came = self._monotonic()
        while piece:
            block = passing.scan(piece)
            # A comment before the first event is not worth a head that could still be an error's.
            if block and (scanner.events or scanner.is_done or exchange.head_sent):
                if passage.ttft_ms is None and scanner.events:
                    self._attempt.ttft_ms = self._relay.note_first(passage) - self._began
                    passage.decide("first_event", "upstream.first_event", "ok")
                await self._begin()
                if passage.grant is not None:
                    passage.grant.output_tokens = scanner.events
                await self._relay.gather(passage, block, is_last=scanner.is_done)
                await self._write(block)
            if self._is_over():
                return
            # With its first event out, and nobody who keeps the answer, a stream needs this task only for its end.
            if passage.ttft_ms is not None and passage.capture is None:
                await answer.pump(passing.take)
                if self._is_over():
                    return
                await self._write(b"")
            piece = await answer.within(_IDLE) or b""
            passing.note_gap()

    async def _write(self, block: bytes) -> None:
        """Pass a block on; while its reader is slow, nothing is awaited of the engine."""
        grant, exchange = self._passage.grant, self._passage.exchange
        if grant is None:
            await exchange.write(block)
            return
        grant.is_blocked = True
        await exchange.write(block)
        grant.is_blocked = False

    def _is_over(self) -> bool:
        return self._scanner.is_done or self._scanner.failure is not None

    def _judge_end(self) -> Refusal | None:
        scanner = self._scanner
        if scanner.failure is not None:
            note = scanner.failure[:300]
            if not self._passage.exchange.head_sent:
                return Refusal("upstream_error", "upstream.error_event", step="attempt", note=note)
            return Refusal("upstream_stream_cut", "upstream.error_event", step="finished", note=note)
        if scanner.is_done:
            return None
        if not self._passage.exchange.head_sent:
            return Refusal("upstream_bad_reply", "upstream.empty_stream", step="attempt")
        if scanner.is_finished:
            return None
        return Refusal("upstream_stream_cut", "upstream.no_finish", step="finished", note="ended without its finish")

    async def _fail(self, failure: Refusal) -> Refusal | None:
        passage = self._passage
        if not passage.exchange.head_sent:
            return failure
        self._attempt.error = failure.note or failure.code
        is_killed = failure.code == "killed"
        passage.decide(failure.step, failure.rule, "cut", failure.note or failure.text)
        passage.end(Outcome.KILLED if is_killed else Outcome.STREAM_CUT, 200, failure.rule, failure.code)
        await self._relay.forget(passage)
        await passage.exchange.write(self._talk.failed(self._scanner, failure))
        passage.exchange.is_last = True
        await passage.exchange.finish()
        return None


def _cut(refusal: Refusal) -> Refusal:
    """Return the failure of a stream that had begun: the class is its own, the rule stays what decided."""
    return Refusal("upstream_stream_cut", refusal.rule, step="finished", note=refusal.note)


def _server_timing(passage: Passage) -> bytes:
    if passage.queue_ms is None and passage.auth_ms is not None and passage.ttft_ms is not None:
        return b"auth;dur=%.1f, upstream;dur=%.1f" % (passage.auth_ms, passage.ttft_ms)
    parts = (("auth", passage.auth_ms), ("queue", passage.queue_ms), ("upstream", passage.ttft_ms))
    return b", ".join(b"%b;dur=%.1f" % (name.encode(), value) for name, value in parts if value is not None)
