"""HTTP/1.1 for every process: a server, a client and Server-Sent Events, strict and bounded.

Knows no route, no key and no tenant, and speaks no HTTP/2; a balancer does that.
"""

from interlock.foundation.wire.client import AddressPolicy, Asker, Client, parse_url
from interlock.foundation.wire.config import ClientLimits, WireLimits
from interlock.foundation.wire.dialling import ForwardProxy
from interlock.foundation.wire.exchange import Exchange
from interlock.foundation.wire.forms import equip
from interlock.foundation.wire.limits import ClientGone, WireRefusal, envelope
from interlock.foundation.wire.message import Headers, Request
from interlock.foundation.wire.server import Server, ServerStatistics, Taker
from interlock.foundation.wire.sse import HEARTBEAT, SseEvent, SseParser, SseReplay, SseTooLongError, encode_event
from interlock.foundation.wire.upstream import (
    AddressRefused,
    Answer,
    Timeouts,
    UpstreamBroken,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeout,
)

__all__ = [
    "HEARTBEAT", "AddressPolicy", "AddressRefused", "Answer", "Asker", "Client", "ClientGone", "ClientLimits",
    "Exchange", "ForwardProxy", "Headers", "Request", "Server", "ServerStatistics", "SseEvent", "SseParser",
    "SseReplay",
    "SseTooLongError", "Taker", "Timeouts", "UpstreamBroken", "UpstreamConnectError", "UpstreamError",
    "UpstreamTimeout", "WireLimits", "WireRefusal", "encode_event", "envelope", "parse_url",
]  # fmt: skip

equip()
