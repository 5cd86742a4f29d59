"""What costs a client nothing to send holds up nobody else, and who reads nothing is not waited for without end."""

import asyncio
import gc

from interlock.foundation.wire import Exchange, Server, WireLimits
from interlock.foundation.wire.connection import Connection
from tests.foundation.wire.harness import HandClock, MemoryTransport, NoHangups, drive, read_answers, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Unread(MemoryTransport):
    """Its client reads as the test says; closing waits for it, aborting does not."""

    unsent = 0
    is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.is_shut = self.is_aborted = True


def connected(handler=None):
    async def echo(exchange):
        await exchange.respond(200, [], await exchange.request.body(1_000_000))

    clock = HandClock()
    server = Server(handler or echo, WireLimits(), mint=lambda: "req_1", clock=clock)
    server.hangups = NoHangups()
    connection, transport = Connection(server), Unread()
    connection.connection_made(transport)
    return server, clock, connection, transport


def tick(server, clock, seconds):
    clock.move(seconds)
    server.ticker._turn()


def test_few_empty_lines_before_a_request_are_nothing_and_many_are_refused():
    written, seen, told, _ = drive([b"\r\n" * 4 + GET + b"\r\n" * 4 + GET])
    assert len(read_answers(written, ["GET", "GET"], is_closed=False)) == len(seen) == 2
    assert told == []
    written, seen, told, is_shut = drive([b"\r\n" * 100_000 + GET])
    [answer] = read_answers(written, ["GET"])
    assert (answer.code, answer.json["error"]["detail"]["reason"]) == (
        "bad_http",
        "too many empty lines before a request",
    )
    assert seen == []
    assert len(told) == 1
    assert is_shut


async def test_of_tiny_chunks_a_turn_takes_few_and_none_is_lost():
    server, _, connection, transport = connected()
    connection.data_received(CHUNKED + b"1\r\nx\r\n" * 5_000 + b"0\r\n\r\n" + GET)
    sizes = [connection._receiving.request.received_bytes]
    while connection._receiving is not None:
        await asyncio.sleep(0)
        sizes.append(connection._receiving.request.received_bytes if connection._receiving is not None else 5_000)
    assert all(after - before <= 256 for before, after in zip([0, *sizes], sizes, strict=False))
    await until(lambda: server.statistics().answers_total == 2)
    first, _ = read_answers(transport.written, ["POST", "GET"], is_closed=False)
    assert first.body == b"x" * 5_000
    connection.connection_lost(None)


async def test_who_left_its_answers_unread_is_cut_off_after_the_idle_time_and_not_waited_for():
    server, clock, connection, transport = connected()
    connection.data_received(GET)
    await until(lambda: server.statistics().answers_total == 1)
    transport.unsent = 50_000
    tick(server, clock, 75.5)
    assert transport.is_shut
    assert not transport.is_aborted
    tick(server, clock, 61)
    assert transport.is_aborted
    connection.connection_lost(None)


async def test_a_byte_a_minute_is_no_reading_and_a_slow_reader_is_not_cut_off():
    server, clock, connection, transport = connected()
    transport.unsent = 131_072
    connection.pause_writing()
    # A head that is never complete in its time is another matter.
    connection._idle_by = float("inf")
    transport.unsent -= 20_000
    tick(server, clock, 60.5)
    assert not transport.is_aborted
    transport.unsent -= 1
    tick(server, clock, 60.5)
    assert transport.is_aborted
    connection.connection_lost(None)


async def test_who_leaves_in_the_middle_leaves_nothing_for_the_collector():
    async def forever(_exchange):
        await asyncio.Event().wait()

    servers = []
    gc.disable()
    try:
        for _ in range(5):
            server, _, connection, _ = connected(forever)
            connection.data_received(GET)
            await asyncio.sleep(0)
            assert server.statistics().handlers_running == 1
            servers.append(server)
            connection.connection_lost(None)
            await until(lambda server=server: not server.statistics().handlers_running)
        del connection
        await asyncio.sleep(0)
        left = [each for each in gc.get_objects() if isinstance(each, Exchange) and each._wire.server in servers]
    finally:
        gc.enable()
    assert left == []
