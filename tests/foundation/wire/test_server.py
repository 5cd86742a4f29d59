"""What a client may count on: answers in order, its own deadlines, a clean end, and no harm from others."""

import asyncio
import contextlib
import os
import resource
import socket
import stat

import h11
import pytest

from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import InterlockError
from interlock.foundation.wire import ClientGone, Server, WireLimits, WireRefusal
from interlock.foundation.wire.connection import Connection
from interlock.foundation.wire.limits import AddressCount
from tests.foundation.wire.harness import MemoryTransport, Raw, read_answers, story, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HOST = b"Host: a\r\n"


async def echo(exchange):
    body = await exchange.request.body(10_000_000)
    await exchange.respond(200, [(b"content-type", b"text/plain")], body or exchange.request.path.encode())


def post(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST /p HTTP/1.1\r\n" + HOST + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Watched:
    """A handler that waits at a chosen place and tells how it ended."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.is_waiting = asyncio.Event()
        self.ended_by: str | None = None

    async def __call__(self, exchange) -> None:
        try:
            await getattr(self, self.phase)(exchange)
            self.ended_by = "the end"
        except BaseException as error:
            self.ended_by = type(error).__name__
            raise

    async def before_body(self, exchange) -> None:
        self.is_waiting.set()
        await asyncio.Event().wait()

    async def in_body(self, exchange) -> None:
        self.is_waiting.set()
        await exchange.request.body(1_000_000)

    async def before_answer(self, exchange) -> None:
        await exchange.request.body(1_000_000)
        self.is_waiting.set()
        await asyncio.Event().wait()

    async def in_stream(self, exchange) -> None:
        await exchange.request.body(1_000_000)
        await exchange.start(200, [])
        await exchange.write(b"first")
        self.is_waiting.set()
        await asyncio.Event().wait()

    async def in_write(self, exchange) -> None:
        await exchange.request.body(1_000_000)
        await exchange.start(200, [])
        while True:
            self.is_waiting.set()
            await exchange.write(b"x" * 65_536)


PHASES = ["before_body", "in_body", "before_answer", "in_stream", "in_write"]
PARTIAL = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 900000\r\n\r\nabc"
FULL_AHEAD = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 900000\r\n\r\n" + b"x" * 100_000


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("farewell", ["close", "half-close", "reset"])
@story
async def test_a_client_that_leaves_cancels_its_handler_in_every_phase(stage, phase, farewell):
    handler = Watched(phase)
    scene = await stage.serve(handler)
    raw = await scene.connect()
    await raw.send(PARTIAL if phase == "in_body" else FULL_AHEAD if phase == "before_body" else GET)
    await handler.is_waiting.wait()
    if phase == "before_body":
        await asyncio.sleep(0.02)
    if farewell == "half-close":
        raw.writer.write_eof()
    elif farewell == "reset":
        raw.reset()
    else:
        raw.writer.close()
    await until(lambda: handler.ended_by is not None)
    assert handler.ended_by == "CancelledError"
    await until(lambda: not scene.server.statistics().connections)
    assert scene.metrics == []
    raw.writer.close()


@story
async def test_a_client_that_leaves_while_its_pipeline_is_full_cancels_too(stage):
    handler = Watched("before_answer")
    scene = await stage.serve(handler, pipelined_max=2)
    raw = await scene.connect()
    await raw.send(GET * 50)
    await handler.is_waiting.wait()
    raw.writer.close()
    await until(lambda: handler.ended_by == "CancelledError")


@story
async def test_a_client_that_leaves_in_the_turn_in_which_its_request_came_whole_ends_a_handler_that_has_begun(stage):
    handler = Watched("before_answer")
    scene = await stage.serve(handler)
    connection = Connection(scene.server)
    connection.connection_made(MemoryTransport())
    # As a loop tells of bytes and of the end behind them that it finds in one look.
    connection.data_received(GET)
    connection.connection_lost(None)
    await until(lambda: handler.ended_by == "CancelledError")
    assert scene.server.statistics().handlers_running == 0


@story
async def test_after_its_answer_a_handler_finishes_its_own_work_undisturbed(stage):
    release, done = asyncio.Event(), asyncio.Event()

    async def handler(exchange):
        await exchange.respond(200, [], b"ok")
        await release.wait()
        done.set()

    scene = await stage.serve(handler)
    async with await scene.connect() as raw:
        await raw.send(GET)
        await raw.answer()
    await until(lambda: not scene.server.statistics().connections)
    assert scene.server.statistics().handlers_running == 1
    release.set()
    await until(done.is_set)


@story
async def test_a_handler_that_writes_on_after_the_client_left_is_told(stage):
    told = []

    async def handler(exchange):
        await exchange.start(200, [])
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(ClientGone):
                await exchange.write(b"late")
            told.append(True)
            raise

    scene = await stage.serve(handler)
    raw = await scene.connect()
    await raw.send(GET)
    await raw.read_until(b"\r\n\r\n")
    raw.writer.close()
    await until(lambda: told)


@story
async def test_pipelined_requests_are_answered_in_order_one_at_a_time(stage):
    running = []

    async def handler(exchange):
        running.append(1)
        assert len(running) == 1
        await asyncio.sleep(0.001 if exchange.request.path.endswith("0") else 0)
        running.pop()
        await echo(exchange)

    scene = await stage.serve(handler)
    paths = [f"/{number}" for number in range(60)]
    raw_requests = b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode() for path in paths)
    async with await scene.connect() as raw:
        await raw.send(raw_requests)
        assert [(await raw.answer()).rpartition(b"\r\n")[2].decode() for _ in paths] == paths


@story
async def test_a_pipeline_is_read_no_further_ahead_than_its_depth(stage):
    minted = []
    gate = asyncio.Event()

    async def handler(exchange):
        await gate.wait()
        await exchange.respond(204, [])

    scene = await stage.serve(handler, pipelined_max=16)
    number = iter(range(10_000))
    scene.server.mint = lambda: minted.append(1) or f"req_{next(number)}"
    async with await scene.connect() as raw:
        await raw.send(GET * 3_000)
        await until(lambda: len(minted) >= 17)
        await asyncio.sleep(0.05)
        assert len(minted) == 17
        gate.set()
        for _ in range(3_000):
            await raw.read_until(b"\r\n\r\n")
    assert len(minted) == 3_000


@story
async def test_a_refusal_waits_for_the_answers_before_it(stage):
    async def handler(exchange):
        await asyncio.sleep(0.01)
        await exchange.respond(200, [], b"fine")

    scene = await stage.serve(handler)
    first, second, refused = await scene.ask(GET + GET + b"BROKEN\r\n\r\n", "GET", "GET", "GET")
    assert (first.body, second.body, refused.code) == (b"fine", b"fine", "bad_http")
    assert [each.peer for each in scene.refusals] == ["127.0.0.1"]


@story
async def test_head_gets_the_head_of_get_and_no_body(stage):
    async def handler(exchange):
        if exchange.request.path == "/stream":
            await exchange.start(200, [])
            await exchange.write(b"hidden")
            await exchange.finish()
        elif exchange.request.path == "/proxied":
            await exchange.respond(200, [(b"content-length", b"77")])
        else:
            await exchange.respond(200, [], b"four")

    scene = await stage.serve(handler)
    heads = b"".join(b"HEAD %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in (b"/", b"/stream", b"/proxied"))
    plain, streamed, proxied, last = await scene.ask(
        heads + GET[:-2] + b"Connection: close\r\n\r\n", "HEAD", "HEAD", "HEAD", "GET"
    )
    assert (plain.headers[b"content-length"], plain.body) == (b"4", b"")
    assert streamed.headers[b"transfer-encoding"] == b"chunked"
    assert proxied.headers[b"content-length"] == b"77"
    assert last.body == b"four"


@story
async def test_an_old_client_gets_a_stream_that_ends_with_the_connection(stage):
    async def handler(exchange):
        await exchange.start(200, [])
        await exchange.write(b"a")
        await exchange.write(b"b")
        await exchange.finish()

    scene = await stage.serve(handler)
    [answer] = await scene.ask(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    assert answer.body == b"ab"
    assert b"transfer-encoding" not in answer.headers
    assert answer.headers[b"connection"] == b"close"


@story
async def test_the_server_frames_and_names_every_answer_itself(stage):
    async def handler(exchange):
        forged = [
            (b"x-request-id", b"forged"),
            (b"Connection", b"upgrade"),
            (b"content-length", b"9"),
            (b"x-own", b"1"),
        ]
        await exchange.respond(200, forged, b"ok")

    scene = await stage.serve(handler)
    [answer] = await scene.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.headers[b"x-request-id"] == answer.headers[b"request-id"] == b"req_0"
    assert (answer.headers[b"content-length"], answer.headers[b"x-own"]) == (b"2", b"1")
    assert b"GMT" in answer.headers[b"date"]


@pytest.mark.parametrize("field", [(b"x", b"a\r\nset-cookie: b"), (b"x\n", b"a"), (b"x", b"\0")])
@story
async def test_a_field_that_would_split_the_answer_becomes_an_error(stage, field):
    async def handler(exchange):
        await exchange.respond(200, [field], b"")

    scene = await stage.serve(handler)
    [answer] = await scene.ask(GET)
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"set-cookie" not in answer.headers


@story
async def test_a_handler_that_breaks_answers_with_an_id_and_a_story(stage):
    async def handler(exchange):
        if exchange.request.path == "/silent":
            return
        if exchange.request.path == "/refused":
            raise WireRefusal("body_too_large")
        raise InterlockError("store_unavailable")

    scene = await stage.serve(handler)
    for path, code in ((b"/", "internal_error"), (b"/silent", "internal_error"), (b"/refused", "body_too_large")):
        [answer] = await scene.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.code == code
        assert answer.json["error"]["request_id"].encode() == answer.headers[b"x-request-id"]
    assert [each.refusal.code for each in scene.refusals] == ["internal_error", "internal_error", "body_too_large"]


@story
async def test_an_answer_that_breaks_off_is_seen_as_broken(stage):
    async def handler(exchange):
        await exchange.start(200, [])
        await exchange.write(b"half")
        if exchange.request.path == "/abort":
            exchange.abort()
        elif exchange.request.path == "/raise":
            raise ValueError("broken")

    scene = await stage.serve(handler)
    for path in (b"/abort", b"/raise", b"/return"):
        async with await scene.connect() as raw:
            await raw.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises(h11.RemoteProtocolError, match="without sending complete message body"):
                read_answers(await raw.read_all(), ["GET"])
    assert scene.metrics == []


@story
async def test_misuse_of_an_exchange_is_told_at_once(stage):
    found = []

    async def handler(exchange):
        for call in (exchange.finish(), exchange.write(b"")):
            with pytest.raises(RuntimeError):
                await call
        await exchange.respond(204, [(b"content-type", b"text/plain")], b"dropped")
        with pytest.raises(RuntimeError):
            await exchange.respond(200, [])
        found.append(True)

    scene = await stage.serve(handler)
    async with await scene.connect() as raw:
        await raw.send(GET)
        assert b"content-length" not in await raw.read_until(b"\r\n\r\n")
    await until(lambda: found)


@story
async def test_continue_is_sent_when_the_handler_wants_the_body_and_not_before(stage):
    async def handler(exchange):
        if exchange.request.path == "/denied":
            await exchange.respond(401, [], b"no")
        else:
            await echo(exchange)

    scene = await stage.serve(handler)
    async with await scene.connect() as raw:
        await raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
        assert await raw.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await raw.send(b"ok")
        assert (await raw.answer()).endswith(b"ok")
    [denied] = await scene.ask(
        b"POST /denied HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", "POST"
    )
    assert (denied.status, denied.headers[b"connection"]) == (401, b"close")


@pytest.mark.parametrize("framing", ["declared", "chunked"])
@story
async def test_a_body_over_the_limit_is_refused_without_reading_on(stage, framing):
    async def handler(exchange):
        await exchange.request.body(100_000)

    scene = await stage.serve(handler, linger_s=30.0)
    head = b"POST / HTTP/1.1\r\nHost: a\r\n"
    if framing == "declared":
        raw_request = head + b"Content-Length: 100000000\r\n\r\n"
    else:
        raw_request = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (100_001, b"x" * 100_001)
    async with await scene.connect() as raw:
        await raw.send(raw_request)
        answer = await raw.answer()
        assert b" 413 " in answer
        assert b'"limit_bytes":100000' in answer
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                await raw.send(b"x" * 1_000_000)
                await asyncio.sleep(0)
        # The client that goes on sending is cut off instead of being read.
        await until(lambda: not scene.server.statistics().connections)
    assert [each.refusal.code for each in scene.refusals] == ["body_too_large"]


@story
async def test_a_chunked_body_in_tiny_pieces_costs_no_more_than_its_bytes(stage):
    scene = await stage.serve(echo)
    body = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    [answer] = await scene.ask(request + body, "POST")
    assert answer.body == b"x" * 20_000


@story
async def test_a_large_body_arrives_whole(stage):
    scene = await stage.serve(echo)
    body = os.urandom(5_000_000)
    async with await scene.connect() as raw:
        await raw.send(post(body))
        assert (await raw.answer()).endswith(body)
        await raw.send(post(b"again"))
        assert (await raw.answer()).endswith(b"again")


@story
async def test_an_unread_body_is_taken_in_only_so_far(stage):
    gate = asyncio.Event()
    sizes = []

    async def handler(exchange):
        await gate.wait()
        sizes.append(exchange.request.received_bytes)
        await echo(exchange)

    scene = await stage.serve(handler, body_ahead_bytes=65_536)
    body = bytes(8_000_000)
    async with await scene.connect() as raw:
        sender = asyncio.ensure_future(raw.send(post(body)))
        await asyncio.sleep(0.05)
        gate.set()
        await sender
        assert len(await raw.answer()) > len(body)
    # One read may pass the mark; the loops read at most 256 KiB at a time.
    assert 0 < sizes[0] <= 65_536 + 262_144


@story
async def test_a_slow_reader_makes_the_writer_wait_and_memory_stays_bounded(stage):
    written = []

    async def handler(exchange):
        await exchange.start(200, [])
        for _ in range(2_000):
            await exchange.write(b"x" * 10_000)
            written.append(exchange._wire._transport.get_write_buffer_size())
        await exchange.finish()

    scene = await stage.serve(handler)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", scene.port))
    raw = Raw(*await asyncio.open_connection(sock=sock, limit=8_192))
    async with raw:
        await raw.send(GET)
        await raw.read_until(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        stalled = len(written)
        assert stalled < 1_000
        assert max(written) < 131_072 + 20_000
        total = 0
        async with asyncio.timeout(280):
            while len(written) < 2_000 or total < 20_000_000:
                total += len(await raw.reader.read(65_536))
    assert max(written) < 131_072 + 20_000


@story
async def test_a_reader_that_stopped_for_good_is_cut_off(stage):
    handler = Watched("in_write")
    scene = await stage.serve(handler, write_stall_s=60.0)
    async with await scene.connect() as raw:
        await raw.send(GET)
        await handler.is_waiting.wait()
        await asyncio.sleep(0.1)
        stage.clock.move(59)
        await asyncio.sleep(0.05)
        assert handler.ended_by is None
        # The last bytes may have gone into the kernel's buffers only after the clock was moved.
        await until(lambda: stage.clock.move(2) or handler.ended_by == "CancelledError")


@story
async def test_a_head_must_be_complete_in_its_time(stage):
    scene = await stage.serve(echo)
    async with await scene.connect() as slow, await scene.connect() as good:
        await until(lambda: scene.server.statistics().connections == 2)
        await slow.send(b"GET / HTTP/1.1\r\nX-Slow: ")
        for _ in range(4):
            stage.clock.move(2.4)
            await slow.send(b"X")
            await good.send(GET)
            assert (await good.answer()).endswith(b"/")
            await asyncio.sleep(0.03)
        assert scene.refusals == []
        stage.clock.move(1.0)
        [answer] = read_answers(await slow.read_all(), ["GET"])
        assert answer.code == "request_timeout"
        await good.send(GET)
        assert (await good.answer()).endswith(b"/")
    assert [each.refusal.http_status for each in scene.refusals] == [408]


@story
async def test_a_connection_that_says_nothing_is_closed_without_a_word(stage):
    scene = await stage.serve(echo)
    async with await scene.connect() as raw:
        await until(lambda: scene.server.statistics().connections == 1)
        stage.clock.move(10.5)
        assert await raw.read_all() == b""
    assert scene.refusals == []


@story
async def test_an_idle_connection_is_kept_for_its_time(stage):
    scene = await stage.serve(echo)
    async with await scene.connect() as raw:
        for _ in range(3):
            await raw.send(GET)
            await raw.answer()
            stage.clock.move(74)
            await asyncio.sleep(0.03)
        await raw.send(GET)
        await raw.answer()
        stage.clock.move(76)
        assert await raw.read_all() == b""


@story
async def test_a_connection_ends_after_its_share_of_requests(stage):
    scene = await stage.serve(echo, keep_alive_requests_max=3)
    answers = await scene.ask(GET * 3, "GET", "GET", "GET")
    assert [each.headers.get(b"connection") for each in answers] == [None, None, b"close"]


@story
async def test_a_body_that_stalls_is_refused(stage):
    scene = await stage.serve(echo)
    async with await scene.connect() as raw:
        await raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * 200_000)
        await until(lambda: scene.server.statistics().handlers_running == 1)
        for _ in range(29):
            stage.clock.move(1)
            await asyncio.sleep(0.02)
        assert scene.refusals == []
        # The last bytes may have come only after the clock was moved.
        await until(lambda: stage.clock.move(2) or scene.refusals)
        [answer] = read_answers(await raw.read_all(), ["POST"])
    assert answer.code == "request_timeout"
    assert [each.refusal.code for each in scene.refusals] == ["request_timeout"]


@story
async def test_a_body_that_drips_is_refused_and_a_steady_one_is_not(stage):
    scene = await stage.serve(echo)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n"
    async with await scene.connect() as drip, await scene.connect() as steady:
        await drip.send(head)
        await steady.send(head)
        await until(lambda: scene.server.statistics().handlers_running == 2)
        for _ in range(8):
            await drip.send(b"x" * 500)
            await steady.send(b"x" * 5_000)
            await asyncio.sleep(0.03)
            stage.clock.move(1)
            await asyncio.sleep(0.03)
        [refused] = read_answers(await drip.read_all(), ["POST"])
        assert refused.code == "request_timeout"
        assert (await steady.answer()).endswith(b"x" * 40_000)


@story
async def test_no_client_is_blamed_while_the_handler_does_not_read(stage):
    gate = asyncio.Event()

    async def handler(exchange):
        await gate.wait()
        await echo(exchange)

    scene = await stage.serve(handler)
    async with await scene.connect() as raw:
        await raw.send(post(b"x" * 10)[:-5])
        await until(lambda: scene.server.statistics().handlers_running == 1)
        stage.clock.move(300)
        await asyncio.sleep(0.05)
        gate.set()
        await raw.send(b"xxxxx")
        assert (await raw.answer()).endswith(b"x" * 10)


@story
async def test_connections_of_one_address_and_in_all_are_bounded(stage):
    scene = await stage.serve(echo, connections_per_address_max=3)
    async with contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(await scene.connect()) for _ in range(3)]
        for raw in held:
            await raw.send(GET)
            await raw.answer()
        [refused] = read_answers(await (await stack.enter_async_context(await scene.connect())).read_all(), ["GET"])
        assert (refused.status, refused.code, refused.headers[b"retry-after"]) == (503, "overloaded", b"1")
        assert scene.server.statistics().too_many_total == 1
        held[0].writer.close()
        await until(lambda: scene.server.statistics().connections == 2)
        stage.clock.move(1)
        async with await scene.connect() as fourth:
            await fourth.send(GET)
            assert (await fourth.answer()).endswith(b"/")
    assert [each.refusal.code for each in scene.refusals] == ["overloaded"]


@story
async def test_a_trusted_proxy_holds_more_connections_than_one_caller(stage):
    scene = await stage.serve(echo, is_proxy="127.0.0.1".__eq__, connections_per_address_max=1, connections_max=3)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            raw = await stack.enter_async_context(await scene.connect())
            await raw.send(GET)
            await raw.answer()
        [refused] = read_answers(await (await stack.enter_async_context(await scene.connect())).read_all(), ["GET"])
        assert refused.code == "overloaded"
        raw.writer.close()
        await until(lambda: scene.server.statistics().connections == 2)
        async with await scene.connect() as third:
            await third.send(GET)
            assert (await third.answer()).endswith(b"/")


async def hello(scene):
    """Return the answer to one request on a connection of its own."""
    async with await scene.connect() as raw:
        await raw.send(GET[:-2] + b"Connection: close\r\n\r\n")
        [answer] = read_answers(await raw.read_all(), ["GET"])
    return answer


@story
async def test_new_connections_of_one_address_are_bounded_by_the_second(stage):
    scene = await stage.serve(echo, connections_per_address_max=3, connections_per_address_per_s=2)
    assert [(await hello(scene)).status for _ in range(3)] == [200, 200, 200]
    refused = await hello(scene)
    assert (refused.status, refused.code, refused.headers[b"retry-after"]) == (429, "requests_limit", b"1")
    detail = {"scope": "address", "dimension": "connections_per_second", "limit": 2}
    assert refused.json["error"]["detail"] == detail
    stage.clock.move(0.5)
    assert [(await hello(scene)).status for _ in range(2)] == [200, 429]
    found = scene.server.statistics()
    assert (found.too_fast_total, found.too_many_total) == (2, 0)
    assert [each.refusal.code for each in scene.refusals] == ["requests_limit"] * 2
    stage.clock.move(60)
    assert [(await hello(scene)).status for _ in range(4)] == [200, 200, 200, 429], "a pause fills no more than that"


@story
async def test_the_rate_of_an_address_is_not_the_rate_of_a_trusted_proxy_and_is_forgotten(stage):
    behind = await stage.serve(echo, is_proxy="127.0.0.1".__eq__, connections_per_address_max=1,
                               connections_per_address_per_s=1)  # fmt: skip
    assert [(await hello(behind)).status for _ in range(5)] == [200] * 5
    count = AddressCount(WireLimits(connections_per_address_max=1, connections_per_address_per_s=1))
    for at in range(100):
        assert count.enter(f"10.0.0.{at}", float(at)) is None
        count.leave(f"10.0.0.{at}")
    count.forget(99.5)
    assert list(count._even_at) == ["10.0.0.99"]


@story
async def test_a_heartbeat_fills_silences_only(stage):
    gate = asyncio.Event()

    async def handler(exchange):
        await exchange.start(200, [])
        exchange.heartbeat(10.0)
        await exchange.write(b"data: 1\n\n")
        await gate.wait()
        await exchange.write(b"data: 2\n\n")
        await exchange.finish()

    scene = await stage.serve(handler)
    async with await scene.connect() as raw:
        await raw.send(GET[:-2] + b"Connection: close\r\n\r\n")
        await raw.read_until(b"data: 1\n\n\r\n")
        for _ in range(2):
            stage.clock.move(10.1)
            await raw.read_until(b": keep-alive\n\n\r\n")
        gate.set()
        assert await raw.read_all() == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


@story
async def test_a_drain_lets_the_answer_at_hand_end_and_closes_the_idle_at_once(stage):
    gate, begun = asyncio.Event(), asyncio.Event()

    async def handler(exchange):
        if exchange.request.path == "/slow":
            await exchange.start(200, [])
            begun.set()
            await gate.wait()
            await exchange.write(b"done")
            await exchange.finish()
        else:
            begun.set()
            await gate.wait()
            await exchange.respond(200, [], b"done")

    scene = await stage.serve(handler)
    async with await scene.connect() as idle, await scene.connect() as stream, await scene.connect() as plain:
        await stream.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.wait()
        begun.clear()
        await plain.send(GET)
        await begun.wait()
        drain = asyncio.ensure_future(scene.server.drain(10.0))
        assert await idle.read_all() == b""
        with pytest.raises(OSError):
            await scene.connect()
        assert scene.server.statistics().is_draining
        gate.set()
        assert (await stream.read_all()).endswith(b"4\r\ndone\r\n0\r\n\r\n")
        [answer] = read_answers(await plain.read_all(), ["GET"])
        assert (answer.body, answer.headers[b"connection"]) == (b"done", b"close")
        await drain


@story
async def test_a_drain_cancels_what_outlasts_its_grace(stage):
    handler = Watched("in_stream")
    scene = await stage.serve(handler)
    async with await scene.connect() as raw:
        await raw.send(GET)
        await handler.is_waiting.wait()
        await scene.server.drain(0.05)
        assert handler.ended_by == "CancelledError"
        assert scene.server.statistics().handlers_running == 0


@story
async def test_a_unix_socket_is_private_replaces_a_dead_one_and_goes_with_the_server(stage, tmp_path):
    path = tmp_path / "edge.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    peers = []

    async def handler(exchange):
        peers.append(exchange.request.peer)
        await exchange.respond(200, [], b"ok")

    server = Server(handler, WireLimits(), mint=lambda: "req_1", clock=SystemClock())
    await server.listen_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(GET)
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert peers == [None]
    await server.drain(1.0)
    assert await reader.read() == b""
    writer.close()
    assert not path.exists()


@story
async def test_the_process_keeps_what_is_not_a_socket(stage, tmp_path):
    path = tmp_path / "precious"
    path.write_text("kept")
    server = Server(echo, WireLimits(), mint=lambda: "req_1", clock=SystemClock())
    with pytest.raises(OSError):
        await server.listen_unix(path)
    assert path.read_text() == "kept"


@story
async def test_two_thousand_slow_clients_and_header_bombs_leave_the_good_ones_unharmed(stage):
    scene = await stage.serve(echo, connections_per_address_max=3_000)
    slow = []
    try:
        for _ in range(2_000 if raised_file_limit() else 300):
            sock = socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", scene.port))
            sock.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            slow.append(sock)
        bombs = [
            asyncio.ensure_future(scene.ask(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"b" * 400) * 2_000))
            for _ in range(20)
        ]
        async with await scene.connect() as good:
            for _ in range(200):
                await good.send(post(b"good"))
                assert (await good.answer()).endswith(b"good")
        for [answer] in await asyncio.gather(*bombs):
            assert answer.code == "headers_too_large"
        await until(lambda: scene.server.statistics().connections == len(slow))
        stage.clock.move(10.5)
        await until(lambda: scene.server.statistics().connections == 0 or not_yet(slow))
        assert len([each for each in scene.refusals if each.refusal.code == "request_timeout"]) == len(slow)
    finally:
        for sock in slow:
            sock.close()


def raised_file_limit() -> bool:
    """Two thousand connections have four thousand ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 6_000 <= hard or hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (6_000, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 6_000


def not_yet(slow: list[socket.socket]) -> bool:
    """Read what the refused clients got, so that their connections can end."""
    for sock in slow:
        with contextlib.suppress(BlockingIOError, OSError):
            sock.recv(4_096)
            sock.close()
    return False


@story
async def test_known_heads_are_bounded_and_a_head_is_known_from_its_second_time_on(stage):
    heads = []

    async def handler(exchange):
        heads.append(exchange.request.headers)
        await exchange.respond(200)

    scene = await stage.serve(handler, known_heads_max=1)
    raws = [b"GET /%d HTTP/1.1\r\n%b\r\n" % (number, HOST) for number in (1, 1, 1, 2, 2, 1)]
    for each in raws:
        async with await scene.connect() as raw:
            await raw.send(each)
            await raw.answer()
    # The first is kept at its second time, then the second in its place.
    assert scene.server.statistics().heads_known == 1
    assert heads[0] is not heads[1]
    assert heads[1] is heads[2]
    assert heads[5] is not heads[1]
