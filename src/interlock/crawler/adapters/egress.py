"""The egress guard: which addresses, ports and names the crawler may dial, and the allow-list that is its exception.

Does not resolve names. It stands in front of every socket, so that an address that no resolver saw cannot pass.
"""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from interlock.crawler.domain.types import EgressRefused

PORTS: Final = frozenset({80, 443, 8080, 8443})

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network
_SockAddr = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

# IANA's special-purpose registry: whatever is not plainly globally reachable, whole blocks without their exceptions.
_REFUSED_V4: Final = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3",
    )
)  # fmt: skip
_GLOBAL_V6: Final = IPv6Network("2000::/3")
# Protocol assignments (Teredo, ORCHID, benchmarks), documentation and 6to4 lie inside the global block.
_REFUSED_V6: Final = tuple(
    IPv6Network(block) for block in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_METADATA_ADDRESSES: Final = frozenset(
    map(ip_address, ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2::254"))
)
_METADATA_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_LOCAL_NAME: Final = "localhost"


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry of the allow-list: a network, and a port, or None for any."""

    network: _Network
    port: int | None

    def covers(self, address: _Address, port: int) -> bool:
        """Tell whether the entry names the address and the port."""
        return (self.port is None or self.port == port) and address in self.network


class EgressBlockedError(Exception):
    """A dial was refused. No OSError, so that nothing takes it for a failed attempt and tries another address."""

    def __init__(self, refused: EgressRefused) -> None:
        self.refused = refused
        super().__init__(f"egress_blocked: {refused.reason}")


def parse_allow(text: str) -> tuple[Allowed, ...]:
    """Read `CIDR[:PORT][,..]`; an IPv6 network with a port stands in brackets. Raises ValueError with the bad entry."""
    return tuple(_entry(part.strip()) for part in text.split(",") if part.strip())


class EgressGuard:
    """Judges hosts before a look-up, answers of look-ups, and every single socket."""

    def __init__(self, allow: Iterable[Allowed] = ()) -> None:
        self.allow = tuple(allow)

    def judge(self, host: str, port: int) -> EgressRefused | None:
        """Return the refusal that needs no resolver. `host` is that of a canonical URL; None is no yes for a name."""
        address = _literal(host)
        if address is not None:
            return self.judge_address(address, port)
        name = host.rstrip(".").lower()
        if name in _METADATA_NAMES:
            return EgressRefused("metadata")
        if port not in PORTS and not any(entry.port in {None, port} for entry in self.allow):
            return EgressRefused("port")
        if (name == _LOCAL_NAME or name.endswith(f".{_LOCAL_NAME}")) and not self._covers_loopback(port):
            return EgressRefused("address", "127.0.0.1")
        return None

    def judge_address(self, address: _Address, port: int) -> EgressRefused | None:
        """Return why this address and port may not be dialled."""
        # No entry of the allow-list opens a machine's own credentials.
        if address in _METADATA_ADDRESSES or _embedded(address) in _METADATA_ADDRESSES:
            return EgressRefused("metadata", str(address))
        if any(entry.covers(address, port) for entry in self.allow):
            return None
        if not is_global(address):
            return EgressRefused("address", str(address))
        return EgressRefused("port", str(address)) if port not in PORTS else None

    def judge_answer(self, addresses: Sequence[str], port: int) -> EgressRefused | None:
        """Return the refusal of the first address of a look-up that may not be dialled: all must pass, or none is."""
        for address in addresses:
            refused = self._judge_text(address, port)
            if refused is not None:
                return refused
        return None

    def is_allow_listed(self, host: str, port: int) -> bool:
        """Tell whether the operator's allow-list names this literal address and port."""
        address = _literal(host)
        return address is not None and any(entry.covers(address, port) for entry in self.allow)

    def open_socket(self, info: tuple[int, int, int, str, _SockAddr]) -> socket.socket:
        """Make the socket of one dial; raises EgressBlockedError. The connector calls it with the address it dials."""
        family, kind, protocol, _, place = info
        host, port = place[0], place[1]
        if family not in {socket.AF_INET, socket.AF_INET6} or not isinstance(host, str) or not isinstance(port, int):
            raise EgressBlockedError(EgressRefused("address"))
        refused = self._judge_text(host, port)
        if refused is not None:
            raise EgressBlockedError(refused)
        return socket.socket(family, kind, protocol)

    def _judge_text(self, text: str, port: int) -> EgressRefused | None:
        try:
            address = ip_address(text)
        except ValueError:
            return EgressRefused("address", text)
        return self.judge_address(address, port)

    def _covers_loopback(self, port: int) -> bool:
        return any(self.is_allow_listed(host, port) for host in ("127.0.0.1", "[::1]"))


def is_global(address: _Address) -> bool:
    """Tell whether an address is global unicast, with any IPv4 address inside it.

    Mapped, compatible, 6to4 and Teredo forms never are. NAT64 is, for a global IPv4 address: it is how a host
    without IPv4 reaches the rest.
    """
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _REFUSED_V4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_global(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_V6 and not any(address in block for block in _REFUSED_V6)


def _embedded(address: _Address) -> IPv4Address | None:
    """Return the IPv4 address inside a mapped, compatible, NAT64, 6to4 or Teredo one."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or int(address) >> 32 == 0:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _literal(host: str) -> _Address | None:
    try:
        return ip_address(host.removeprefix("[").removesuffix("]").rstrip("."))
    except ValueError:
        return None


def _entry(text: str) -> Allowed:
    network, port = text, ""
    if text.startswith("["):
        network, _, port = text[1:].partition("]")
        if port and not port.startswith(":"):
            raise ValueError(text)
        port = port[1:]
    elif text.count(":") == 1:
        network, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(text)
    try:
        return Allowed(ip_network(network), int(port) if port else None)
    except ValueError as error:
        raise ValueError(text) from error
