"""wire_overhead: CPU per request of our HTTP server against uvicorn + httptools + Starlette, same trivial JSON answer.

Both give the same answer, so both mint the same kind of request id and name the answer with it; `plain` shows
Starlette without an id, `same` equal heads, which our server does not parse twice. Each runs in a process of its own
on uvloop, in short interleaved rounds under the same load of keep-alive connections; the figure is the ratio of the
medians of process CPU time per request. Goal <= 0.5. Run: `make bench B=wire_overhead`; ROUNDS and REQUESTS set
how much.
"""

import asyncio
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.record import record
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.wire import Exchange, Server, WireLimits

ROUNDS = int(os.environ.get("ROUNDS", "7"))
REQUESTS = int(os.environ.get("REQUESTS", "6000"))
CONNECTIONS = 16
GOAL = 0.5
Serve = Callable[[socket.socket, Connection], None]
JSON = b'{"object":"list","data":[{"id":"smollm2","object":"model"}]}'
# What the official client of the API sends.
FIELDS = (
    b"Host: 127.0.0.1:8080\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n"
    b"User-Agent: OpenAI/Python 2.8.0\r\nX-Stainless-Lang: python\r\nX-Stainless-OS: Linux\r\n"
    b"Authorization: Bearer ilk_0123456789abcdefghjkmnpqrstvwxyz0123456789\r\nContent-Type: application/json\r\n"
)
NUMBER = b"00000000"
GET = b"GET /v1/models HTTP/1.1\r\n" + FIELDS + b"X-Client-Request-Id: " + NUMBER + b"\r\n\r\n"
PROMPT = b'{"model":"smollm2","messages":[{"role":"user","content":"' + b"word " * 200 + b'"}]}'
POST = (
    b"POST /v1/models HTTP/1.1\r\n"
    + FIELDS
    + b"X-Client-Request-Id: "
    + NUMBER
    + b"\r\nContent-Length: %d\r\n\r\n" % len(PROMPT)
    + PROMPT
)


def serve_ours(sock: socket.socket, pipe: Connection) -> None:
    clock = SystemClock()
    ids = IdFactory(clock, SystemDice())

    async def handler(exchange: Exchange) -> None:
        await exchange.request.body(1_048_576)
        await exchange.respond(200, [(b"content-type", b"application/json")], JSON)

    async def main() -> None:
        server = Server(handler, WireLimits(), mint=lambda: format_id("req", ids.new()), clock=clock)
        await server.listen(sock)
        await answer_for_cpu(pipe)
        await server.drain(1.0)

    uvloop.run(main())


def serve_theirs(sock: socket.socket, pipe: Connection) -> None:
    run_uvicorn(named(starlette_app()), sock, pipe)


def serve_theirs_plain(sock: socket.socket, pipe: Connection) -> None:
    run_uvicorn(starlette_app(), sock, pipe)


def starlette_app() -> Starlette:
    async def handler(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse({"object": "list", "data": [{"id": "smollm2", "object": "model"}]})

    return Starlette(routes=[Route("/v1/models", handler, methods=["GET", "POST"])])


def named(app: ASGIApp) -> ASGIApp:
    """Mint an id before the app runs and put it on the answer, as our server does."""
    ids = IdFactory(SystemClock(), SystemDice())

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        name = format_id("req", ids.new()).encode()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(b"x-request-id", name), (b"request-id", name)]
            await send(message)

        await app(scope, receive, send_named)

    return wrapped


def run_uvicorn(app: ASGIApp, sock: socket.socket, pipe: Connection) -> None:
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="error", lifespan="off", server_header=False
    )

    async def main() -> None:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await answer_for_cpu(pipe)
        server.should_exit = True
        await serving

    uvloop.run(main())


async def answer_for_cpu(pipe: Connection) -> None:
    """Tell the process time whenever asked; return when the other end closes."""
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()

    def tell() -> None:
        try:
            pipe.recv()
            pipe.send(time.process_time())
        except EOFError:
            loop.remove_reader(pipe.fileno())
            is_over.set()

    loop.add_reader(pipe.fileno(), tell)
    await is_over.wait()


class Load(asyncio.Protocol):
    """One keep-alive connection that sends the next request when the answer is complete."""

    def __init__(self, request: bytes, budget: list[int], done: asyncio.Event, *, is_same: bool) -> None:
        self.before, _, self.behind = request.partition(NUMBER)
        self.budget, self.done, self.is_same = budget, done, is_same
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        number = 0 if self.is_same else self.budget[0]
        self.transport.write(b"%b%08d%b" % (self.before, number, self.behind))

    def data_received(self, chunk: bytes) -> None:
        self.pending += chunk
        if not self.pending.endswith(b"]}"):
            return
        if not self.pending.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not the answer that was asked for: {self.pending!r}")
        self.pending = b""
        self.budget[0] -= 1
        if self.budget[0] > 0:
            self.ask()
        else:
            self.done.set()


async def load(port: int, request: bytes, requests: int, *, is_same: bool) -> None:
    budget, done = [requests], asyncio.Event()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Load(request, budget, done, is_same=is_same), "127.0.0.1", port)
        for _ in range(CONNECTIONS)
    ]
    await done.wait()
    for transport, _ in made:
        transport.abort()
    await asyncio.sleep(0.05)


class Candidate:
    """A server in its own process."""

    def __init__(self, serve: Serve) -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        self.port = sock.getsockname()[1]
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=serve, args=(sock, theirs), daemon=True)
        self.process.start()
        sock.close()
        theirs.close()

    def cpu_us(self, request: bytes, requests: int, *, is_same: bool) -> float:
        """Return CPU microseconds per request of one round."""
        before = self._cpu_s()
        uvloop.run(load(self.port, request, requests, is_same=is_same))
        return (self._cpu_s() - before) / requests * 1e6

    def _cpu_s(self) -> float:
        self.pipe.send(b"?")
        return self.pipe.recv()

    def close(self) -> None:
        self.pipe.close()
        self.process.join(10)


def measure(theirs: Serve, request: bytes, *, is_same: bool) -> tuple[float, float]:
    both = (Candidate(theirs), Candidate(serve_ours))
    try:
        for each in both:
            each.cpu_us(request, REQUESTS // 4, is_same=is_same)
        rounds = [[each.cpu_us(request, REQUESTS, is_same=is_same) for each in both] for _ in range(ROUNDS)]
    finally:
        for each in both:
            each.close()
    return statistics.median(each[0] for each in rounds), statistics.median(each[1] for each in rounds)


# name, Starlette's side, request, whether each request is the same, whether the goal applies
CASES = (
    ("get", serve_theirs, GET, False, True),
    ("post_1k", serve_theirs, POST, False, True),
    ("get_plain", serve_theirs_plain, GET, False, False),
    ("get_same", serve_theirs, GET, True, False),
)


def main() -> None:
    all_met = True
    print(
        f"{'request':12} {'starlette':>10} {'ours':>8} {'ratio':>7}   (CPU us per request, median of {ROUNDS} rounds)"
    )
    for name, serve, request, is_same, is_judged in CASES:
        theirs, ours = measure(serve, request, is_same=is_same)
        met = record(f"wire_overhead_{name}", ours / theirs, "ratio", "lower", GOAL if is_judged else None)
        record(f"wire_overhead_{name}_cpu", ours, "us/request", "lower")
        all_met = all_met and met
        verdict = f"goal <= {GOAL}: {'met' if met else 'MISSED'}" if is_judged else ""
        print(f"{name:12} {theirs:10.1f} {ours:8.1f} {ours / theirs:7.2f}   {verdict}")
    raise SystemExit(0 if all_met else 1)


if __name__ == "__main__":
    main()
