"""The compiled form of the server and the one in Python say the same of the same bytes, to the last field."""

import asyncio
import gc
import importlib
import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

import interlock.foundation
from interlock.foundation import native, wire
from interlock.foundation.wire import connection, exchange
from tests.foundation.wire.harness import HandClock, MemoryTransport, NoHangups
from tests.foundation.wire.test_smuggling import BAD_HEADS, LENGTHS, VALID, mutations

KERNEL = native.load("interlock.foundation.wire._native_server")
FIELDS = [
    (b"content-type", b"text/plain"),
    (b"Content-Length", b"3"),
    (b"CONNECTION", b"close"),
    (b"connections", b"many"),
    (b"dater", b"1"),
    (b"X-Request-Id", b"forged"),
    (b"", b"nameless"),
    (b"[x", b"\xff\x80"),
    (b"x", b""),
    (b"x", b"a\r\nb: c"),
    (b"x\n", b"a"),
    (b"x\0", b"a"),
    (b"x", bytearray(b"changeable")),
]
BODIES = [b"", b"fine", b"x" * 70_000, bytearray(b"changeable"), b"\r\n" * 9]


def in_python():
    """Return the package anew, without its kernels."""
    package = "interlock.foundation.wire"
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(package)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.PURE, "1")
        try:
            return importlib.import_module(package)
        finally:
            for name in [each for each in sys.modules if each.startswith(package)]:
                del sys.modules[name]
            sys.modules.update(kept)
            interlock.foundation.wire = kept[package]


PYTHON = in_python()


class Clogging(MemoryTransport):
    """Has no room at some writes, for a turn of the loop."""

    def __init__(self, clogged_at: set[int]) -> None:
        super().__init__()
        self.clogged_at, self.writes = clogged_at, 0
        self.connection = None

    def write(self, piece: bytes) -> None:
        super().write(piece)
        self.writes += 1
        if self.writes in self.clogged_at and not self.connection.is_clogged:
            self.connection.pause_writing()
            asyncio.get_running_loop().call_soon(self.connection.resume_writing)


async def answer(asked, way, fields, body):
    """Answer in one of the ways that handlers have."""
    if way == "whole":
        await asked.respond(200, fields, body)
    elif way == "numbered":
        await asked.respond(299, tuple(fields), body)
    elif way == "bodiless":
        await asked.respond(204, fields)
    elif way == "streamed":
        await asked.start(200, fields)
        asked.heartbeat(5.0)
        for each in (body, b"second"):
            await asked.write(each)
        await asked.finish(body)
    elif way == "pushed":
        await asked.start(200, fields)
        told = [asked.push(b"p" * each) for each in (1, 15, 16, 17, 255, 256, 4_097)]
        await asked.write(b"room: %d" % all(told))
        await asked.finish()
    elif way == "late":
        await asyncio.sleep(0)
        await asked.respond(status=200, body=body)
    elif way == "twice":
        await asked.respond(200, fields, body)
        await asked.respond(200, fields, body)
    elif way == "broken":
        raise ValueError(way)


WAYS = ["whole", "numbered", "bodiless", "streamed", "pushed", "late", "twice", "broken", "silent"]
answers = st.one_of(
    st.tuples(st.sampled_from(WAYS[:6]), st.lists(st.sampled_from(FIELDS[:9]), max_size=4), st.sampled_from(BODIES)),
    st.tuples(st.sampled_from(WAYS), st.lists(st.sampled_from(FIELDS), max_size=4), st.sampled_from(BODIES)),
)
USUAL = [*LENGTHS, *(each for each in VALID if b"HTTP/1.1" in each)]
messages = st.one_of(st.sampled_from([*VALID, *LENGTHS]), st.sampled_from(sorted(BAD_HEADS.values())), mutations())


@st.composite
def plays(draw):
    """A few connections, each with its pieces: a few requests again and again, now and then cut, joined or bad."""
    played = []
    known = st.sampled_from(draw(st.lists(st.sampled_from(USUAL), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(1, 3))):
        whole = draw(st.lists(known, min_size=3, max_size=9)) + draw(st.lists(messages, max_size=2))
        raw = b"".join(whole)
        ends = set(itertools.accumulate(map(len, whole)))
        joined = draw(st.sets(st.sampled_from(sorted(ends)), max_size=2)) if draw(st.booleans()) else set()
        cuts = sorted((ends - joined) | draw(st.sets(st.integers(0, len(raw)), max_size=1)))
        played.append([raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b])
    return played


def played(package, connections, ways, clogged_at, drains_at):
    """Return everything that a server of one form says while it is played to."""
    told = []

    async def play() -> None:
        ways_left, numbers = itertools.cycle(ways), itertools.count()

        async def handler(asked) -> None:
            request = asked.request
            told.append(plain(request) | {"headers": request.headers.items, "id": asked.request_id})
            asked.route = request.path
            try:
                told.append(await request.body(1_000_000))
                await answer(asked, *next(ways_left))
            except BaseException as error:
                told.append((type(error).__name__, str(error)))
                raise
            finally:
                told.append(plain(asked))

        server = package.Server(
            handler,
            package.WireLimits(keep_alive_requests_max=9, known_heads_max=3),
            mint=lambda: f"req_{next(numbers)}",
            clock=HandClock(),
            on_refusal=lambda refusal, *rest: told.append((refusal.code, *rest)),
            on_metrics=lambda *each: told.append(each),
        )
        server.hangups = NoHangups()
        for pieces in connections:
            transport = Clogging(clogged_at)
            transport.connection = served = package.connection.Connection(server)
            served.connection_made(transport)
            for piece in pieces:
                server.is_draining = next(numbers) == drains_at
                served.data_received(piece)
                for _ in range(3):
                    await asyncio.sleep(0)
            for _ in range(40):
                await asyncio.sleep(0)
            told.append((transport.written, transport.is_shut, plain(served), server.statistics()))
            served.connection_lost(None)
            await asyncio.sleep(0)
        told.append(str(server.statistics()))

    with capture_logs() as logs, asyncio.Runner() as runner:
        runner.run(play())
    return [str(each) for each in (*told, *logs)]


def plain(of):
    """Return the slots of an object that hold plain values."""
    slots = [name for each in type(of).__mro__ for name in getattr(each, "__slots__", ())]
    values = {name: getattr(of, name) for name in slots}
    return {name: each for name, each in values.items() if isinstance(each, bool | int | float | str | bytes | None)}


@settings(max_examples=400, deadline=None)
@given(plays(), st.lists(answers, min_size=1, max_size=5), st.sets(st.integers(1, 12), max_size=3), st.integers(0, 120))
def test_both_forms_say_the_same_whatever_comes_and_whatever_is_answered(connections, ways, clogged_at, drains_at):
    connections = [*connections, *connections]
    compiled = played(wire, connections, ways, clogged_at, drains_at)
    assert compiled == played(PYTHON, connections, ways, clogged_at, drains_at)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([200, 204, 299, 404, 999]),
    st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)) | st.sampled_from(FIELDS), max_size=70),
    st.text(max_size=30) | st.just("req_1"),
    st.binary(max_size=40),
    st.booleans(),
)
def test_both_forms_write_the_same_head(status, fields, request_id, framing, is_last):
    def written(form):
        try:
            return form.head_bytes(status, fields, request_id, framing, is_last=is_last)
        except ValueError as error:
            return type(error), str(error)

    assert written(exchange) == written(PYTHON.exchange)


def test_fields_that_a_collection_takes_away_are_not_read_any_more():
    fields, room = [], [(at,) * 8 for at in range(5_000)]

    def take_away(_phase, _info):
        fields.clear()
        # Whatever was freed is written over.
        room.extend(b"%d" % at * 20 for at in range(200))

    before = gc.get_threshold()
    gc.callbacks.append(take_away)
    try:
        for turn in range(200):
            fields[:] = given = [(b"x-%d" % at, b"%d-%d-fine" % (turn, at)) for at in range(20)]
            text = b"".join(b"%b: %b\r\n" % each for each in given)
            del given
            # No tuple is at hand any more that is not made anew, which may begin a collection.
            room.extend((at,) * 8 for at in range(3))
            gc.set_threshold(1)
            head = exchange.head_bytes(200, fields, "req_1", b"", is_last=False)
            gc.set_threshold(*before)
            assert head.startswith(
                (b"HTTP/1.1 200 OK\r\n" + text + b"x-request-id", b"HTTP/1.1 200 OK\r\nx-request-id")
            )
    finally:
        gc.callbacks.remove(take_away)
        gc.set_threshold(*before)


async def test_a_known_head_that_a_collection_forgets_is_read_to_its_end():
    seen, room = [], []

    async def handler(asked):
        seen.append((asked.request.headers.items, asked.request.path, await asked.request.body(100)))
        await asked.respond(200)

    server = wire.Server(handler, wire.WireLimits(), mint=lambda: "req_1", clock=HandClock())
    server.hangups = NoHangups()
    served = connection.Connection(server)
    served.connection_made(MemoryTransport())

    def forget(_phase, _info):
        server.heads._requests.clear()
        # Whatever was freed is written over.
        room.extend(wire.Request("GET", b"/other", None, "1.1", 0) for _ in range(3))

    before = gc.get_threshold()
    gc.callbacks.append(forget)
    try:
        for _ in range(30):
            gc.set_threshold(*before)
            for _ in range(3):
                served.data_received(LENGTHS[0])
                await asyncio.sleep(0)
            # Objects as old as that begin a collection where the next one is made.
            gc.set_threshold(1)
            served.data_received(LENGTHS[0])
            gc.set_threshold(*before)
            await asyncio.sleep(0)
    finally:
        gc.callbacks.remove(forget)
        gc.set_threshold(*before)
    served.connection_lost(None)
    assert len(seen) == 120
    assert all(each == seen[0] for each in seen)


def test_what_was_built_is_used():
    assert PYTHON.connection.Connection.data_received.__code__.co_filename.endswith("connection.py")
    if KERNEL is not None:
        assert connection.Connection.data_received is KERNEL.data_received
        assert wire.Exchange.push is KERNEL.push


def test_a_method_of_a_class_takes_no_other_object_for_one_of_it():
    for method, rest in (
        (connection.Connection.data_received, (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",)),
        (wire.Exchange.push, (b"x",)),
    ):
        for stranger in (None, 1, "text", object(), []):
            with pytest.raises(AttributeError):
                method(stranger, *rest)


async def test_what_a_connection_took_is_freed_with_it():
    async def handler(asked):
        await asked.respond(200, [], await asked.request.body(100))

    server = wire.Server(handler, wire.WireLimits(), mint=lambda: "req_1", clock=HandClock())
    server.hangups = NoHangups()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            served = connection.Connection(server)
            served.connection_made(MemoryTransport())
            for _ in range(10):
                served.data_received(LENGTHS[0])
                await asyncio.sleep(0)
            served.connection_lost(None)
        del served
        await asyncio.sleep(0)
        kinds = (connection.Connection, wire.Exchange, wire.Request)
        left = [each for each in gc.get_objects() if isinstance(each, kinds)]
    finally:
        gc.enable()
    # Of the requests one stays, of which a known head is kept.
    assert [type(each).__name__ for each in left] == ["Request"]
