"""A call that is given up while it connects leaves nothing behind, on both loops."""

import asyncio
import socket
from contextlib import suppress

import pytest
import uvloop

from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits, Server, WireLimits


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_a_call_given_up_while_connecting_is_forgotten(run):
    async def main():
        clock = SystemClock()

        async def handler(exchange):
            await exchange.respond(200)

        server = Server(handler, WireLimits(), mint=lambda: "req_test", clock=clock)
        sock = socket.create_server(("127.0.0.1", 0))
        await server.listen(sock)
        client = Client(ClientLimits(), clock)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"

        async def call():
            async with client.request("GET", url) as answer:
                await answer.read(100)

        for wait_s in (0.0, 0.0001, 0.0002, 0.0005, 0.001):
            for _ in range(20):
                task = asyncio.create_task(call())
                await clock.sleep(wait_s)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        async with asyncio.timeout(240):
            while client.statistics().connections_busy:
                await clock.sleep(0.01)
            await client.close()
        await server.drain(0.1)

    run(main())
