"""The one listening TCP socket of a machine, and whether what is behind it answers.

Does not accept: every edge process does, on the descriptor it inherits.
"""

import asyncio
import errno
import socket
from contextlib import closing

from interlock.foundation.errors import BrokenWorldError


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """Return a listening socket. Raises `BrokenWorldError` `port_in_use` or `address_refused`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=backlog)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BrokenWorldError(
                "port_in_use",
                f"port {port} on {host} is taken by another program",
                "stop that program or choose another --port",
            ) from error
        raise BrokenWorldError(
            "address_refused", f"cannot listen on {host} port {port}: {error}", "choose another --host or --port"
        ) from error


def url_of(listener: socket.socket) -> str:
    """Return the base URL by which this machine reaches its own socket."""
    host, port = listener.getsockname()[:2]
    if listener.family == socket.AF_INET6:
        return f"http://[{'::1' if host == '::' else host}]:{port}"
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - compared, not bound


async def status_of(listener: socket.socket, path: str) -> int | None:
    """Return the status of a GET over the socket's own address, or None when nothing answers."""
    host, port = listener.getsockname()[:2]
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(reach, port)
            with closing(writer):
                writer.write(f"GET {path} HTTP/1.1\r\nhost: {reach}:{port}\r\nconnection: close\r\n\r\n".encode())
                line = await reader.readline()
    except (OSError, TimeoutError):
        return None
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
