"""The settings of the crawler: section `crawler`.

Nothing here is a rule about sites; those are in `domain/`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class CrawlerConfig:
    """Bounds and the operator's decisions."""

    enabled: bool = setting(True, "Whether workers crawl; the API answers in any case.")
    egress_allow: tuple[str, ...] = setting(
        (), "Private networks that may be dialled, CIDR or CIDR:PORT; empty means none. Flag --crawl-allow."
    )
    contact: str = setting("", "URL or mail address in the user agent, for operators of sites. Flag --crawl-contact.")
    slots: int = setting(256, "Requests in flight a worker. Flag --crawl-slots.", minimum=1, maximum=4096)
    hosts_max: int = setting(128, "Hosts leased in one round.", minimum=1, maximum=1024)
    lease_s: float = setting(15.0, "Seconds of a host lease; renewed at a third.", minimum=9.0, maximum=300.0)
    poll_ms: int = setting(250, "Milliseconds between two looks for due hosts.", minimum=10, maximum=10_000)
    lookahead_ms: int = setting(
        250, "Milliseconds that a host may be leased before it is due.", minimum=0, maximum=5_000
    )
    idle_ms: int = setting(
        2_000, "Milliseconds between two looks while no crawl is under way; a new one is told at once.", minimum=50,
        maximum=10_000,
    )  # fmt: skip
    watch_ms: int = setting(
        400, "Milliseconds between two looks at crawls, blocks and space.", minimum=50, maximum=1_000
    )
    ack_pages_max: int = setting(100, "Pages written in one transaction.", minimum=1, maximum=1_000)
    ack_linger_ms: int = setting(100, "Milliseconds that a finished page waits for others.", minimum=0, maximum=200)
    crawls_per_workspace_max: int = setting(50, "Live crawls a workspace.", minimum=1)
    urls_per_call_max: int = setting(1_000, "URLs in one call.", minimum=1, maximum=10_000)
    wire_bytes_max: int = setting(10 * _MIB, "Bytes of a body on the wire.", minimum=1024)
    body_bytes_max: int = setting(32 * _MIB, "Bytes of a decoded body.", minimum=1024)
    pipeline_bytes_max: int = setting(256 * _MIB, "Decoded bytes between dial and outbox, all tenants.", minimum=_MIB)
    outbox_bytes_max: int = setting(1024 * _MIB, "Bytes that wait for the index, all tenants.", minimum=_MIB)
    rss_bytes_max: int = setting(
        1536 * _MIB, "Resident bytes of a worker above which it fetches no more.", minimum=_MIB
    )
    extract_processes: int = setting(2, "Processes that extract text.", minimum=1, maximum=64)
    retention_days: int = setting(30, "Days that requests, and decisions that ended well, are told.", minimum=1)
    known_urls_max: int = setting(
        500_000, "URLs remembered in memory so that known links cost no statement.", minimum=0
    )
