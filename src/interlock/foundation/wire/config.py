"""Every bound of the HTTP kit, named and with its unit.

Holds no route's own body limit; a handler passes that to `Request.body`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What a server takes from a client before it refuses, waits or closes."""

    request_line_bytes_max: int = setting(8_192, "longest request line, bytes", minimum=64)
    header_bytes_max: int = setting(32_768, "all header lines of one request together, bytes", minimum=256)
    headers_max: int = setting(100, "header lines of one request", minimum=1)
    known_heads_max: int = setting(256, "heads of requests that are not parsed again, of all connections", minimum=1)
    header_s: float = setting(10.0, "from the first byte of a head, or from the accept, to its end, seconds")
    body_idle_s: float = setting(30.0, "longest silence while a body is awaited, seconds")
    body_rate_bytes_s: int = setting(1_024, "slowest mean rate of an awaited body, bytes per second", minimum=0)
    body_rate_after_s: float = setting(5.0, "from when on the rate of a body counts, seconds")
    body_ahead_bytes: int = setting(65_536, "body taken in before the handler asks for it, bytes", minimum=1)
    blank_lines_max: int = setting(4, "empty lines before a request", minimum=1)
    chunks_at_once: int = setting(256, "chunks of one body read in a turn before others come", minimum=1)
    chunk_extension_bytes_max: int = setting(256, "extension of one chunk, bytes", minimum=0)
    trailer_bytes_max: int = setting(8_192, "trailers after a chunked body, bytes", minimum=0)
    keep_alive_s: float = setting(75.0, "idle time between two requests of a connection, seconds")
    keep_alive_requests_max: int = setting(10_000, "requests of one connection", minimum=1)
    connections_max: int = setting(10_000, "open connections of one process", minimum=1)
    connections_per_address_max: int = setting(500, "open connections of one client address", minimum=1)
    connections_per_address_per_s: int = setting(
        500, "new connections of one client address a second, after as many at once as it may hold", minimum=1
    )
    pipelined_max: int = setting(16, "requests read ahead of the answer being written", minimum=1)
    write_buffer_bytes: int = setting(131_072, "unsent answer bytes at which writers wait and reading stops", minimum=1)
    write_stall_s: float = setting(60.0, "time in which a client must take an eighth of a full write buffer, seconds")
    linger_s: float = setting(2.0, "time a refused client has to read its answer before the close, seconds")
    linger_bytes_max: int = setting(1_048_576, "bytes thrown away meanwhile", minimum=0)
    cancel_grace_s: float = setting(2.0, "time that cancelled handlers have to end at the end of a drain, seconds")
    tick_s: float = setting(0.25, "step of the one timer that watches all deadlines, seconds", minimum=0.001)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What a client takes from an upstream, and how many idle connections it keeps."""

    idle_connections_max: int = setting(100, "idle connections kept for one origin", minimum=0)
    idle_s: float = setting(60.0, "longest idle time of a kept connection, seconds")
    resolve_s: float = setting(30.0, "age at which a name is resolved anew for a connection kept to it, seconds")
    head_bytes_max: int = setting(65_536, "status line and headers of one answer, bytes", minimum=256)
    headers_max: int = setting(200, "header lines of one answer", minimum=1)
    buffer_bytes: int = setting(262_144, "unread answer bytes at which reading stops", minimum=1)
    connect_stagger_s: float = setting(0.25, "head start of each address over the next one (RFC 8305), seconds")
    tick_s: float = setting(0.25, "step of the one timer that watches all deadlines, seconds", minimum=0.001)
