"""One whole edge in this process without sockets: only the transports are ours, and a store that takes everything.

Measures nothing; `gateway_request` does.
"""

# ruff: noqa: SLF001 - parts are taken out of the middle of an edge

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.flags import ChangeFeed, FlagsConfig, KillSwitches, Snapshot
from interlock.foundation.identity import Authenticator, KeyDirectory
from interlock.foundation.identity.directory import KeyRecord
from interlock.foundation.identity.domain.keys import hash_key, make_key
from interlock.foundation.ids import IdFactory
from interlock.foundation.redaction import Redactor
from interlock.foundation.supervisor import PlatformState
from interlock.foundation.telemetry import Metrics, Shipper, Spool, TelemetryConfig
from interlock.foundation.wire import Client, ClientLimits
from interlock.foundation.wire import client as wire_client
from interlock.foundation.wire.client import parse_url
from interlock.foundation.wire.upstream import UpstreamConnection
from interlock.gateway import EdgeConfig, EdgeParts, EdgeProcess, LimitsConfig, Readiness, roll_up
from interlock.gateway.domain.directory import (
    Deployment,
    Dimension,
    Directory,
    DirectoryRows,
    Limit,
    LimitMode,
    LimitScope,
    Provider,
    ProviderKind,
    Route,
    RouteSpec,
    Target,
)
from interlock.gateway.domain.leasing import Taken, Verdict

CLOCK, DICE = SystemClock(), SystemDice()
IDS = IdFactory(CLOCK, DICE)
CONNECTIONS = 16
EACH = 8
IS_STREAM = os.environ.get("WHAT") == "stream"
PEPPER = b"pepper"
# What a client makes; an older tree has one form alone.
MADE = wire_client._FORM.connection if hasattr(wire_client, "_FORM") else UpstreamConnection
TENANT, WORKSPACE = UUID(int=1 << 100), UUID(int=2 << 100)
UPSTREAM = "http://192.0.2.9:8000/v1"
REPLY = msgspec.json.encode(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 600, "completion_tokens": 60, "total_tokens": 660},
    }
)
_STREAMED: dict[str, bool] = {"stream": True} if IS_STREAM else {}
BODY = msgspec.json.encode(
    {
        "model": "default",
        "messages": [{"role": "user", "content": "word " * 460}],
        "max_tokens": 100,
        **_STREAMED,
    }
)
LAST = b"0\r\n\r\n"
CHUNK = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[%b]%b}\n\n'


def answer_pieces() -> list[bytes]:
    """Return what a model server sends, as it arrives."""
    date = b"date: Mon, 01 Jan 2026 00:00:00 GMT\r\nx-request-id: req_upstream\r\n"
    if not IS_STREAM:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n" % (len(REPLY), date)
        return [head + REPLY]
    delta = b'{"index":0,"delta":{"content":"word%d "},"finish_reason":null}'
    events = [CHUNK % (delta % at, b"") for at in range(30)]
    events.append(CHUNK % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b""))
    events.append(CHUNK % (b"", b',"usage":{"prompt_tokens":600,"completion_tokens":30,"total_tokens":630}'))
    events.append(b"data: [DONE]\n\n")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n%b\r\n" % date
    return [head, *(b"%x\r\n%b\r\n" % (len(each), each) for each in events), b"0\r\n\r\n"]


class Transport:
    """What both sides' protocols need of a transport; `write` is the peer's."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write
        self.sock, self._other = socket.socketpair()

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 4_711) if name == "peername" else self.sock

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, **_: int) -> None:
        """Never full."""

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    pause_reading = resume_reading = write_eof = close = abort = lambda _: None


class Caller:
    """A client that asks again as soon as it has its answer."""

    def __init__(self, lab: "Lab", process: EdgeProcess) -> None:
        self._lab = lab
        self._connection = process.server._connect()
        self._connection.connection_made(Transport(self._take))
        self.left = 0
        self.seen = b""

    def ask(self) -> None:
        self.left -= 1
        self.seen = b""
        self._connection.data_received(self._lab.request)

    def _take(self, piece: bytes) -> None:
        if not self.seen:
            self.seen = piece
        if IS_STREAM and piece != LAST and not piece.endswith(b"\r\n" + LAST):
            return
        if not self.seen.startswith(b"HTTP/1.1 200 OK"):
            raise SystemExit(f"not the answer that was asked for: {self.seen[:600]!r}")
        if self.left:
            self._lab.loop.call_soon(self.ask)
        else:
            self._lab.ended()


class Server:
    """A model server behind one kept connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: Client) -> None:
        self._loop = loop
        self._pieces = answer_pieces()
        self.connection = MADE(client, parse_url(UPSTREAM)[0])
        self.connection.connection_made(Transport(self._asked))
        client.release(self.connection)

    def _asked(self, _: bytes) -> None:
        self._loop.call_soon(self._send, 0)

    def _send(self, at: int) -> None:
        self.connection.data_received(self._pieces[at])
        if at + 1 < len(self._pieces):
            self._loop.call_soon(self._send, at + 1)


class Store:
    """A store that confirms everything."""

    is_up = True


class Broker:
    """Leases more than anybody spends."""

    async def take(self, _worker: UUID, take: Any) -> Taken:
        count = len(take.buckets)
        return Taken(Verdict.OK, levels=[10**14] * count, shorts=[False] * count, leased=[10**14] * count)

    def give(self, _worker: UUID, _gives: Any) -> None:
        """Note nothing."""


class Lab:
    """An edge with its callers and its model server."""

    def __init__(self, folder: Path, *, is_limited: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.key = make_key("live", DICE)
        self.key_id = IDS.new()
        self.client = Client(ClientLimits(), CLOCK)
        self.spool = Spool(folder / "edge.ring", CLOCK, TelemetryConfig())
        self.process = self._process(folder)
        self.process._new_directory(Directory(self._rows(is_limited=is_limited)), {})
        self.process.limiter._broker = Broker()
        self.servers = [Server(self.loop, self.client) for _ in range(CONNECTIONS)]
        self.callers = [Caller(self, self.process) for _ in range(CONNECTIONS)]
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n"
        head += f"authorization: Bearer {self.key.text}\r\ncontent-type: application/json\r\n"
        self.request = f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
        self._running = 0
        self._done = self.loop.create_future()

    def ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._done.set_result(None)

    async def batch(self, each: int = EACH) -> float:
        """Answer some requests of every caller; return microseconds of this thread a request."""
        self._running, self._done = CONNECTIONS, self.loop.create_future()
        began = time.thread_time_ns()
        for caller in self.callers:
            caller.left = each
            self.loop.call_soon(caller.ask)
        await self._done
        # What comes after an answer is a part of its request.
        await asyncio.sleep(0)
        took = time.thread_time_ns() - began
        while (batch := self.spool.take(1_000)) is not None:
            self.spool.shipped(batch)
        return took / 1_000 / (CONNECTIONS * each)

    def _process(self, folder: Path) -> EdgeProcess:
        store: Any = Store()
        keys = KeyDirectory(store)
        keys.load(msgspec.msgpack.encode([self._record()]))
        state = PlatformState(ready=True)

        async def metrics() -> str:
            return ""

        used: Any = None
        return EdgeProcess(
            EdgeParts(
                worker="edge-0",
                store=store,
                authenticator=Authenticator(keys, [PEPPER], CLOCK),
                keys=keys,
                switches=KillSwitches(store, CLOCK, None, b"s", FlagsConfig()),
                feed=ChangeFeed(store, CLOCK),
                snapshot=Snapshot(folder / "edge.snap", b"s"),
                spool=self.spool,
                shipper=Shipper(self.spool, store, CLOCK, roll_ups=(roll_up,)),
                metrics=Metrics(),
                redactor=Redactor([]),
                client=self.client,
                control_socket=folder / "control.sock",
                scheduler_sockets=(),
                internal_token="t",
                reply_key=b"r" * 32,
                readiness=Readiness(lambda: state, metrics),
                used=used,
                clock=CLOCK,
                ids=IDS,
                limits_socket=folder / "limits.sock",
                config=EdgeConfig(),
                limits=LimitsConfig(),
            )
        )

    def _record(self) -> KeyRecord:
        return KeyRecord(
            organization_id=TENANT,
            workspace_id=WORKSPACE,
            id=self.key_id,
            lookup=self.key.lookup,
            kind=self.key.kind,
            hmac=hash_key(self.key.text, PEPPER),
            last4=self.key.last4,
            name="bench",
            owner_id=IDS.new(),
            owner_kind="service_account",
            scopes=["inference"],
            models=["*"],
            cidrs=[],
            memberships=[("developer", None)],
        )

    def _rows(self, *, is_limited: bool) -> DirectoryRows:
        spec = RouteSpec(targets=(Target("bench"),))
        given = (TENANT, LimitScope.KEY, str(self.key_id))
        return DirectoryRows(
            providers=(Provider(TENANT, "bench", ProviderKind.OPENAI, UPSTREAM),),
            deployments=(Deployment(TENANT, "bench", "bench", "bench"),),
            routes=(Route(TENANT, "default", 1, 0, spec),),
            limits=tuple(
                Limit(IDS.new(), *given, dimension, "*", 10**9, 10**9, LimitMode.ENFORCE, 1)
                for dimension in (Dimension.REQUESTS, Dimension.TOKENS)
                if is_limited
            ),
        )
