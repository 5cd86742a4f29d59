"""A site that sends exactly the octets a test writes, and remembers who knocked."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


class RawSite:
    """Answers every request with the reply of its path; `heads` are the requests as they came."""

    def __init__(self, replies: dict[str, Reply]) -> None:
        self.replies = replies
        self.heads: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                reply = self.replies[head.split()[1].decode()]
                if callable(reply):
                    await reply(writer)
                    break
                writer.write(reply)
                await writer.drain()
                if b"connection: close" in reply.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError, KeyError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def raw_site(replies: dict[str, Reply], *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
    site = RawSite(replies)
    server = await asyncio.start_server(site.serve, host, 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


def ok(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
