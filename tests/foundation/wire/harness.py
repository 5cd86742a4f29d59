"""A server on loopback with a clock that the test moves, and one connection without any socket."""

import asyncio
import contextlib
import gc
import inspect
import itertools
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

import h11
import pytest
import uvloop

from interlock.foundation.wire import Exchange, Server, WireLimits, WireRefusal
from interlock.foundation.wire.connection import Connection


class HandClock:
    """Time stands until the test moves it."""

    def __init__(self) -> None:
        self.moved_s = 1_000.0

    def now_us(self) -> int:
        return 1_790_000_000_000_000 + round(self.moved_s * 1e6)

    def monotonic(self) -> float:
        return self.moved_s

    async def sleep(self, seconds: float) -> None:
        self.moved_s += seconds
        await asyncio.sleep(0)

    def move(self, seconds: float) -> None:
        self.moved_s += seconds


@dataclass
class Parsed:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]


def read_answers(raw: bytes, methods: list[str], *, is_closed: bool = True) -> list[Parsed]:
    """Read the server's bytes with h11, which is strict; anything it does not like fails the test."""
    client = h11.Connection(h11.CLIENT)
    answers: list[Parsed] = []
    client.receive_data(raw)
    if is_closed:
        client.receive_data(b"")
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
        client.send(h11.EndOfMessage())
        head, body = None, b""
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.InformationalResponse):
                continue
            else:
                pytest.fail(f"no complete answer: {event!r} in {raw[:400]!r}")
        assert head is not None
        names = [name for name, _ in head.headers]
        assert len(names) == len(set(names)), names
        answers.append(Parsed(head.status_code, dict(head.headers), body))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
        else:
            break
    trailing = client.trailing_data[0]
    assert not trailing, trailing
    return answers


@dataclass
class Recorded:
    refusal: WireRefusal
    peer: str | None
    request_id: str
    method: str | None
    target: bytes | None


@dataclass
class Seen:
    """What reached the handler."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes | None


@dataclass
class Scene:
    """A running server and what it did."""

    server: Server
    clock: HandClock
    port: int
    refusals: list[Recorded] = field(default_factory=list)
    metrics: list[tuple[str, int, float]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> "Raw":
        return Raw(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, raw: bytes, *methods: str) -> list[Parsed]:
        """Send bytes on a new connection and read until the server closes."""
        async with await self.connect() as raw_client:
            await raw_client.send(raw)
            return read_answers(await raw_client.read_all(), list(methods or ("GET",)))


class Raw:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def send(self, piece: bytes) -> None:
        self.writer.write(piece)
        await self.writer.drain()

    async def read_all(self) -> bytes:
        async with asyncio.timeout(240):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b"(reset)"

    async def read_until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(240):
            return await self.reader.readuntil(mark)

    async def answer(self) -> bytes:
        """Read one answer with a content-length."""
        head = await self.read_until(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        async with asyncio.timeout(240):
            return head + await self.reader.readexactly(length)

    def reset(self) -> None:
        """Die the way a killed process with unread bytes does: with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def start_scene(handler, clock: HandClock, is_proxy=None, **bounds) -> Scene:
    """Serve `handler` on a free port of loopback."""
    numbers = itertools.count()
    scene: Scene

    def on_refusal(*told):
        scene.refusals.append(Recorded(*told))

    server = Server(
        handler,
        WireLimits(**{"tick_s": 0.01, **bounds}),
        mint=lambda: f"req_{next(numbers)}",
        clock=clock,
        on_refusal=on_refusal,
        on_metrics=lambda *told: scene.metrics.append(told),
    )
    server.is_proxy = is_proxy
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    scene = Scene(server, clock, sock.getsockname()[1])
    await server.listen(sock)
    return scene


async def until(is_true, *, seconds: float = 240.0) -> None:
    """Wait for a fact."""
    async with asyncio.timeout(seconds):
        while not is_true():
            await asyncio.sleep(0.002)


class MemoryTransport:
    """Takes the place of a socket: keeps what is written, remembers how it was closed."""

    def __init__(self) -> None:
        self.written = b""
        self.is_shut = False

    def get_extra_info(self, name):
        return self if name == "socket" else None

    def fileno(self) -> int:
        return self._fd

    def set_write_buffer_limits(self, high: int) -> None:
        self._fd = -1

    def write(self, piece: bytes) -> None:
        assert isinstance(piece, bytes)
        if not self.is_shut:
            self.written += piece

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_shut = True

    def is_closing(self) -> bool:
        return self.is_shut

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def close(self) -> None:
        self.is_shut = True

    abort = close


class NoHangups:
    def add(self, connection, fd) -> None:
        pass

    def discard(self, connection) -> None:
        pass

    def close(self) -> None:
        pass


Driven = tuple[bytes, list[Seen], list[Recorded], bool]


def drive(pieces: list[bytes], **bounds) -> Driven:
    """Feed one connection without a socket; its handler reads the body and echoes what it saw."""
    return drive_each([pieces], **bounds)[0]


def drive_each(connections: list[list[bytes]], **bounds) -> list[Driven]:
    """Feed connections of one server, one after another."""
    seen: list[Seen] = []
    told: list[Recorded] = []

    async def handler(exchange: Exchange) -> None:
        request = exchange.request
        each = Seen(request.method, request.target, request.headers.items, None)
        seen.append(each)
        each.body = await request.body(1_000_000)
        await exchange.respond(200, [(b"content-type", b"text/plain")], each.body)

    async def play(server: Server, pieces: list[bytes]) -> Driven:
        transport = MemoryTransport()
        connection = Connection(server)
        connection.connection_made(transport)
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(60):
            await asyncio.sleep(0)
        is_shut = transport.is_shut
        connection.connection_lost(None)
        await asyncio.sleep(0)
        driven = transport.written, seen[:], told[:], is_shut
        seen.clear()
        told.clear()
        return driven

    async def play_each() -> list[Driven]:
        server = Server(
            handler,
            WireLimits(**bounds),
            mint=lambda: "req_1",
            clock=HandClock(),
            on_refusal=lambda *each: told.append(Recorded(*each)),
        )
        server.hangups = NoHangups()
        return [await play(server, pieces) for pieces in connections]

    with asyncio.Runner() as runner:
        return runner.run(play_each())


class Stage:
    """Starts servers for one story; at its end nothing is left listening, connected or running."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self._scenes: list[Scene] = []

    async def serve(self, handler, **bounds) -> Scene:
        scene = await start_scene(handler, self.clock, **bounds)
        self._scenes.append(scene)
        return scene

    async def strike(self) -> None:
        for scene in self._scenes:
            await scene.server.drain(0.0)
            # A closed transport tells its protocol in the next turn of the loop.
            await until(lambda server=scene.server: not server.statistics().connections)
            assert scene.server.statistics().handlers_running == 0
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", scene.port)
        await asyncio.sleep(0.01)
        gc.collect()


def story(test):
    """Run an async test, which takes a stage first, on plain asyncio and on uvloop."""

    async def play(*args, **kwargs) -> None:
        stage = Stage()
        try:
            await test(stage, *args, **kwargs)
        finally:
            await stage.strike()

    @pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(loop_factory, **kwargs):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(play(**kwargs))

    given = list(inspect.signature(test).parameters.values())[1:]
    own = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*given, own])
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    marks = getattr(test, "pytestmark", [])
    run.pytestmark = [*run.pytestmark, *marks]
    return run
