"""How an origin is reached: its addresses in the order in which they are tried, and a tunnel through a forward proxy.

Decides nothing about addresses; a client's policy does, for what lies behind the proxy as well.
"""

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Final, cast
from urllib.parse import unquote, urlsplit

_HEAD_BYTES_MAX: Final = 16_384
_OPEN: Final = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """A proxy for `https` origins; `without` are names, domains, addresses and networks that are reached past it."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    without: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "ForwardProxy | None":
        """Return the proxy of `HTTPS_PROXY` and `NO_PROXY`, in small letters as well. Raises `ValueError`."""
        url = environment.get("https_proxy") or environment.get("HTTPS_PROXY")
        if not url:
            return None
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("HTTPS_PROXY is http://[USER:PASSWORD@]HOST:PORT")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = base64.b64encode(pair.encode()).decode()
        listed = (environment.get("no_proxy") or environment.get("NO_PROXY") or "").lower().split(",")
        without = tuple(each.strip().lstrip(".") for each in listed if each.strip())
        return cls(parts.hostname, parts.port or 80, authorization, without)

    def leads_to(self, scheme: str, host: str) -> bool:
        """Return whether an origin is reached through the proxy."""
        return scheme == "https" and not any(_is_meant(each, host) for each in self.without)

    async def connect(
        self, protocol: asyncio.Protocol, place: tuple[str, int], context: ssl.SSLContext, name: str
    ) -> None:
        """Connect a protocol by TLS with `name`, in a tunnel to address or host and port. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        tunnel = _Tunnel(self._request(*place))
        transport, _ = await loop.create_connection(lambda: tunnel, self.host, self.port)
        try:
            await tunnel.opened
            secured = await loop.start_tls(transport, protocol, context, server_hostname=name)
        except BaseException:
            transport.abort()
            raise
        if secured is None:
            raise OSError("the proxy closed the connection")
        protocol.connection_made(secured)

    def _request(self, address: str, port: int) -> bytes:
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        fields = f"Proxy-Authorization: Basic {self.authorization}\r\n" if self.authorization else ""
        return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n".encode("ascii")


def _is_meant(listed: str, host: str) -> bool:
    """Tell whether an entry of `NO_PROXY` means a host: by its name, its domain, its address or its network."""
    if listed in ("*", host) or host.endswith(f".{listed}"):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(listed, strict=False)
    except ValueError:
        return False


class _Tunnel(asyncio.Protocol):
    """A connection to the proxy until it is open; `opened` is a future that ends then, or with an `OSError`."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.WriteTransport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self.opened.done():
            return
        if self._head.endswith(b"\r\n\r\n") and _OPEN.match(self._head):
            self.opened.set_result(None)
        elif b"\r\n\r\n" in self._head or len(self._head) > _HEAD_BYTES_MAX:
            # What a server says before it was asked is no TLS either.
            words = self._head.partition(b"\r\n")[0][:64].decode("latin-1")
            self.opened.set_exception(OSError(f"the proxy answered {words!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(OSError(f"the proxy closed the connection: {exc or 'no word'}"))


async def resolve_by_system(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the order of the system's resolver. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def interleaved(addresses: list[str]) -> list[str]:
    """Alternate the families, beginning with the one that the resolver put first."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    second = [each for each in addresses if each not in first]
    return [each for each in chain.from_iterable(zip_longest(first, second)) if each is not None]
