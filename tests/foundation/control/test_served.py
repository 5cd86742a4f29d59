"""The application as the edge meets it: uvicorn on a unix socket, asked by our own client."""

import asyncio

import pytest
import uvicorn

from interlock.foundation.clock import SystemClock
from interlock.foundation.control import Level, Reply, Route
from interlock.foundation.control.app import build_app
from interlock.foundation.wire import Client, ClientLimits
from tests.support.store import short_directory

KEY = (b"authorization", b"Bearer il_admin")


class Feed:
    """An endless stream that knows whether it was closed."""

    def __init__(self):
        self.is_closed = asyncio.Event()

    async def serve(self, call):
        return Reply(stream=self.pieces(), media_type="text/event-stream")

    async def pieces(self):
        try:
            while True:
                yield b": ping\n\n"
                await asyncio.sleep(0.01)
        finally:
            self.is_closed.set()


@pytest.fixture
def feed():
    return Feed()


@pytest.fixture
async def ask(world, feed):
    path = short_directory() / "c.sock"
    routes = [*world.routes(), Route("GET", "/v1/feed", Level.WORKSPACE, feed.serve, "Feed.", action="admin:read")]
    config = uvicorn.Config(
        build_app(routes, world.kit()), uds=str(path), log_config=None, lifespan="off", access_log=False,
        timeout_keep_alive=3_600,
    )  # fmt: skip
    server = uvicorn.Server(config)
    served = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    client = Client(ClientLimits(), SystemClock())

    def request(method, target, headers=(KEY,), body=b""):
        return client.request(method, f"unix:{path}:{target}", headers, body)

    yield request
    await client.close()
    server.should_exit = True
    await served


async def test_a_call_and_its_replay_over_the_socket(ask):
    headers = (KEY, (b"content-type", b"application/json"), (b"idempotency-key", b"k1"))
    contents = []
    for _ in range(2):
        async with ask("POST", "/admin/v1/notes", headers, b'{"name": "n"}') as answer:
            assert answer.status == 201
            contents.append(await answer.read(10_000))
    assert contents[0] == contents[1]
    assert answer.headers.get(b"x-interlock-replayed") == b"true"


async def test_head_has_the_head_of_get_and_no_body(ask):
    async with ask("GET", "/admin/v1/notes") as got:
        length = len(await got.read(10_000))
    async with ask("HEAD", "/admin/v1/notes") as head:
        assert head.status == 200
        assert int(head.headers.get(b"content-length")) == length
        assert await head.read(10_000) == b""


async def test_a_reader_that_leaves_ends_its_stream(ask, feed):
    async with ask("GET", "/v1/feed") as answer:
        async for piece in answer.chunks():
            assert b": ping" in piece
            break
    async with asyncio.timeout(240):
        await feed.is_closed.wait()


async def test_a_percent_encoded_slash_and_a_nul_name_nothing(ask):
    for target in ("/admin/v1/notes/a%2Fb", "/admin/v1/notes/a%00b"):
        async with ask("GET", target) as answer:
            assert answer.status == 404
