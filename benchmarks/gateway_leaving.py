"""gateway_leaving: from a client that closes its connection to the moment at which the model server sees its own one
closed, in each phase that has one, in three dialects; and the slots of the key afterwards, in all six phases.

Goal: <= 250 ms each time, 0 slots left. Run: `make bench B=gateway_leaving`; ROUNDS sets how often (20).
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.record import record
from benchmarks.worlds.gateway import MODELS, Front, front, share

ROUNDS = int(os.environ.get("ROUNDS", "20"))
GOAL_MS = 250.0
PATIENCE_S = 30.0
# Calls of one busy server after which its breaker is closed still, and a pace that the budget of retries allows.
BEFORE_THE_BREAKER, RETRY_EVERY_S = 10, 0.4
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"w"},"finish_reason":null}]}\n\n'
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BUSY = (
    b"HTTP/1.1 429 Busy\r\nretry-after: 60\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: 2\r\n\r\n{}"
)
# Alias, whether the caller streams, and whether the model server has a connection that must end.
PHASES = {
    "connecting": ("handshake", True, True),
    "waiting": ("silent", True, True),
    "whole": ("silent", False, True),
    "streaming": ("talking", True, True),
    "queued": ("full", True, False),
    "backoff": ("busy", True, False),
}


@dataclass
class Server:
    """A model server in a thread of its own that never comes to an end; tells when it was called and left."""

    port: int = 0
    called: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    left_at: float = 0.0

    def reset(self) -> None:
        self.called.clear()
        self.left.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request; answer by the model that it names, or not at all."""
        try:
            head = await reader.read(65_536)
            if head.startswith(b"GET "):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(MODELS), MODELS))
                return
            if b'"busy' in head:
                writer.write(BUSY)
            elif b'"talking"' in head:
                writer.write(STREAM_HEAD + b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK))
            self.called.set()
            while await reader.read(65_536):
                pass
        except ConnectionError:
            pass
        finally:
            if self.called.is_set():
                self.left_at = time.monotonic()
                self.left.set()
            writer.close()


@contextmanager
def endless() -> Iterator[Server]:
    """Yield such a server."""
    made, loop, ready = Server(), asyncio.new_event_loop(), threading.Event()

    async def listen() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        made.port = sock.getsockname()[1]
        server = await asyncio.start_server(made.serve, sock=sock)
        ready.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    task = loop.create_task(listen())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(PATIENCE_S)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE_S)


def make_routes(made: Front, port: int) -> None:
    """Lead an alias to each way in which the server does not end; the connect time is longer than this benchmark."""
    patient = dict.fromkeys(("connect", "ttft", "idle", "total"), 600_000)
    backing_off = {alias_of(dialect, "backoff", at) for dialect in PATHS for at in range(ROUNDS)}
    for name in sorted({alias for alias, _, _ in PHASES.values()} | backing_off):
        scheme = "https" if name == "handshake" else "http"
        provider = {"name": name, "kind": "openai", "base_url": f"{scheme}://127.0.0.1:{port}/v1", "platform": True}
        deployment = {"name": name, "provider": name, "upstream_model": name}
        if name == "full":
            deployment["max_concurrent"] = 1
        for path, body in (
            ("providers", {**provider, "allow_http": True}),
            ("deployments", deployment),
            ("routes", {"alias": name, "targets": [{"deployment": name}], "timeouts_ms": patient}),
        ):
            answer = made.owner.call("POST", f"/admin/v1/{path}", body)
            if answer.status != 201:
                raise SystemExit(f"no {path}: {answer}")


def ask(port: int, key: str, dialect: str, alias: str, *, stream: bool) -> socket.socket:
    """Send a request and return its connection."""
    asked = {"input": "hello"} if dialect == "responses" else {"messages": [{"role": "user", "content": "hello"}]}
    limit = "max_output_tokens" if dialect == "responses" else "max_tokens"
    body = json.dumps({"model": alias, "stream": stream, limit: 100, **asked}).encode()
    sock = socket.create_connection(("127.0.0.1", port))
    head = f"POST {PATHS[dialect]} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
    sock.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    return sock


def await_event(sock: socket.socket) -> None:
    """Read until an event has come, with the head or after it."""
    sock.settimeout(PATIENCE_S)
    told = b""
    while b"data: " not in told:
        piece = sock.recv(65_536)
        if not piece:
            raise SystemExit("streaming: no event came")
        told += piece


def alias_of(dialect: str, phase: str, at: int) -> str:
    """Return the alias to ask; of one that is always busy a new one in time, before its breaker opens."""
    alias = PHASES[phase][0]
    return f"{alias}-{dialect}-{at // BEFORE_THE_BREAKER}" if phase == "backoff" else alias


def leave(made: Front, server: Server, key: str, dialect: str, place: tuple[str, int]) -> float | None:
    """Ask, leave in this phase, and return the milliseconds until the model server was left, if it was asked."""
    phase, at = place
    _, stream, has_server = PHASES[phase]
    server.reset()
    if phase == "backoff":
        time.sleep(RETRY_EVERY_S)
    with ask(made.port, key, dialect, alias_of(dialect, phase, at), stream=stream) as sock:
        if phase == "queued":
            # Whoever holds the only place was there before; this one stands behind.
            time.sleep(0.05)
        elif not server.called.wait(PATIENCE_S):
            raise SystemExit(f"{phase}: the model server was not asked")
        if phase == "streaming":
            await_event(sock)
        time.sleep(0.02)
        left_at = time.monotonic()
    if not has_server:
        return None
    if not server.left.wait(PATIENCE_S):
        raise SystemExit(f"{phase}: the model server was never left")
    return (server.left_at - left_at) * 1_000


def slots(made: Front, key_id: str) -> int:
    """Return how many slots of the key are in use, once the edge has told what it gave back."""
    until, used = time.monotonic() + PATIENCE_S, -1
    while used != 0 and time.monotonic() < until:
        found = made.owner.call("GET", f"/admin/v1/limits/explain?key={key_id}&model=silent").body["data"]
        used = next(each["used"] for each in found if each["dimension"] == "concurrent_requests")
        time.sleep(0.1)
    return int(used)


def measure(made: Front, server: Server) -> tuple[dict[str, list[float]], int]:
    make_routes(made, server.port)
    key = made.key("leaving")
    limit = {"scope": "key", "target": key["id"], "dimension": "concurrent_requests", "model": "*", "limit": 50}
    if made.owner.call("POST", "/admin/v1/limits", limit).status != 201:
        raise SystemExit("no limit")
    time.sleep(2.0)
    found: dict[str, list[float]] = {}
    left_over = 0
    for phase in PHASES:
        holder = None
        if phase == "queued":
            server.reset()
            holder = ask(made.port, key["key"], "chat", "full", stream=True)
            server.called.wait(PATIENCE_S)
        for dialect in PATHS:
            took = [leave(made, server, key["key"], dialect, (phase, at)) for at in range(ROUNDS)]
            found[f"{phase} {dialect}"] = [each for each in took if each is not None]
        if holder is not None:
            holder.close()
        left_over += slots(made, key["id"])
    return found, left_over


def main() -> int:
    bounds = {"edge__retry_after_s_max": 120, "edge__queue_s_max": 30}
    with endless() as server, front(server.port, **bounds) as made:
        found, left_over = measure(made, server)
    for name, took in found.items():
        if took:
            print(f"  {name:<22} p50 {share(took, 0.5):6.1f} ms, max {max(took):6.1f} ms of {len(took)}")
        else:
            print(f"  {name:<22} the model server has no connection then")
    worst = max(each for took in found.values() for each in took)
    met = record("gateway_leaving worst", worst, "ms", "lower", GOAL_MS)
    met = record("gateway_leaving slots left", left_over, "slots", "lower", 0) and met
    total = sum(map(len, found.values()))
    told = f"model server left within {worst:.1f} ms, {total} times (goal <= {GOAL_MS:g})"
    print(f"gateway_leaving: {told}; {left_over} slots left")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
