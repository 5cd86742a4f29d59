"""Which addresses a provider of an organization's own may live at: public ones, judged at the moment of the dial.

Resolves nothing; the client asks with what it resolved and is about to reach.
"""

import ipaddress
from typing import Final

# Networks whose last four bytes are an IPv4 address: NAT64, and the form that was to be compatible.
_ENDING_IN_V4: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))


class PublicAddresses:
    """Permits global addresses only."""

    def permits(self, _host: str, address: str, _port: int) -> bool:
        """Return whether this address is reachable from everywhere; a socket never is."""
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address):
            inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
            if any(parsed in each for each in _ENDING_IN_V4):
                inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
            if inner is not None and not inner.is_global:
                return False
        return parsed.is_global and not parsed.is_multicast
