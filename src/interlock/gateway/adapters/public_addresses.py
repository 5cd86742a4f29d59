"""Which addresses a provider of an organization's own may live at: public ones, judged at the moment of the dial.

Resolves nothing; the client asks with what it resolved and is about to reach.
"""

import ipaddress


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
            if inner is not None and not inner.is_global:
                return False
        return parsed.is_global and not parsed.is_multicast
