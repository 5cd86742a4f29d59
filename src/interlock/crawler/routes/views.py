"""Objects of the crawler's answers, and how rows become them.

Titles and URLs are cut and their control characters escaped here, once for HTTP, CLI and console.
"""

import unicodedata
from typing import Any, Final

import msgspec

from interlock.crawler.service.hosts import HostView
from interlock.crawler.service.reading import HostRow
from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id

CHARS_MAX: Final = 300
_CLOSED: Final = frozenset({"finished", "canceled", "deleting"})


def crawl_view(row: Any) -> dict[str, Any]:
    """Return the Crawl of a row."""
    resting = sum(row[name] for name in ("done", "duplicate", "refused", "dead", "gone"))
    pressure = msgspec.json.decode(row["backpressure"] or "{}")
    counts = {
        "discovered": row["discovered"],
        "queued": max(0, row["discovered"] - resting - row["leased"]),
        **{
            name: row[name]
            for name in (
                "leased", "done", "duplicate", "refused", "dead", "gone", "documents", "tombstones", "bytes_wire",
                "bytes_body",
            )
        },
    }  # fmt: skip
    return {
        "id": format_id("crawl", row["crawl_id"]),
        "workspace_id": format_id("ws", row["workspace_id"]),
        "name": safe(row["name"]),
        "state": row["state"],
        "reason": row["reason"],
        "config_version": row["config_version"],
        "created_at": time_of(row["created_at"]),
        "finished_at": time_of(row["finished_at"]),
        "request_id": None if row["request_id"] is None else format_id("req", row["request_id"]),
        "source_id": None if row["source_id"] is None else format_id("src", row["source_id"]),
        "counts": counts,
        "backpressure": {
            "state": pressure.get("state", "open"),
            "share": pressure.get("share", 1.0),
            "used_bytes": pressure.get("used_bytes", 0),
            "limit_bytes": pressure.get("limit_bytes", 0),
            "lag_s": pressure.get("lag_s", 0.0),
            "source": pressure.get("source"),
        },
        "next_due_at": None if row["state"] in _CLOSED else time_of(row["next_due_at"]),
        "config": msgspec.json.decode(row["spec"]),
    }


def url_view(row: Any) -> dict[str, Any]:
    """Return the Url of a row."""
    return {
        "url": safe(row["url"], 2_048),
        "key": str(row["url_key"]),
        "state": row["state"],
        "reason": row["reason"],
        "depth": row["depth"],
        "priority": row["priority"],
        "attempts": row["attempt"],
        "http_status": row["http_status"],
        "not_before": time_of(row["not_before"]) if row["state"] == "queued" else None,
        "fetched_at": time_of(row["fetched_at"]),
        "next_visit_at": None,
        "digest": None if row["text_digest"] is None else row["text_digest"].hex(),
        "duplicate_of": None if row["duplicate_of"] is None else str(row["duplicate_of"]),
        "signals": msgspec.json.decode(row["signals"]) if row["signals"] else {},
    }


def document_view(row: Any) -> dict[str, Any]:
    """Return the document of a row."""
    return {
        "url": safe(row["url"], 2_048),
        "key": str(row["url_key"]),
        "version": row["document_version"],
        "title": safe(row["title"] or ""),
        "language": row["language"],
        "text_digest": None if row["text_digest"] is None else row["text_digest"].hex(),
        "duplicate_of": None if row["duplicate_of"] is None else str(row["duplicate_of"]),
        "signals": msgspec.json.decode(row["signals"]) if row["signals"] else {},
        "fetched_at": time_of(row["fetched_at"]),
        "warc": None,
    }


def crawl_host_view(row: HostRow) -> dict[str, Any]:
    """Return a host of a crawl; its counts are this crawl's only."""
    shared = row.shared
    state = "due" if shared is None else shared.state
    return {
        "host": row.authority,
        "state": state,
        "reason": None if shared is None else shared.reason,
        "until": None if shared is None else time_of(shared.until),
        "delay_ms": 1000 if shared is None else shared.delay_ms,
        "delay_source": "floor" if shared is None else shared.delay_source,
        "queued": row.queued,
        "leased": row.leased,
        "done": row.done,
        "dead": row.dead,
        "ewma_latency_ms": 0.0 if shared is None else round(shared.ewma_latency_ms, 1),
        "robots": robots_of(shared),
    }


def host_view(host: HostView) -> dict[str, Any]:
    """Return a host as its operator sees it: no URLs and no tenants."""
    return {
        "host": host.host,
        "authority": host.authority,
        "state": host.state,
        "reason": host.reason,
        "until": time_of(host.until),
        "delay_ms": host.delay_ms,
        "delay_source": host.delay_source,
        "concurrency": host.cap,
        "ewma_latency_ms": round(host.ewma_latency_ms, 1),
        "circuit": host.circuit,
        "fail_streak": host.fail_streak,
        "blocked": host.is_blocked,
        "robots": robots_of(host),
    }


def rule_view(host: str, row: Any) -> dict[str, Any]:
    """Return an operator's rule for a name; without one, what holds for every host."""
    return {
        "host": host,
        "delay_s": None if row is None or row["delay_ms"] is None else row["delay_ms"] / 1000,
        "concurrency": None if row is None else row["concurrency"],
        "blocked": False if row is None else row["is_blocked"],
        "reason": None if row is None else row["reason"],
        "updated_at": None if row is None else time_of(row["updated_at"]),
    }


def robots_of(host: HostView | None) -> dict[str, Any] | None:
    """Return what is known of a host's robots.txt."""
    if host is None or host.robots is None:
        return None
    robots = host.robots
    return {
        "status": robots["status"],
        "fetched_at": time_of(robots["fetched_at"]),
        "expires_at": time_of(robots["expires_at"]),
        "sha256": robots["sha256"],
    }


def safe(text: str, chars_max: int = CHARS_MAX) -> str:
    """Return a stranger's text, cut, with control and direction characters written as escapes."""
    cut = text if len(text) <= chars_max else text[: chars_max - 1] + "…"
    return "".join(
        char if unicodedata.category(char)[0] != "C" else char.encode("unicode_escape").decode() for char in cut
    )


def time_of(moment: Any) -> str | None:
    """Return an RFC 3339 time."""
    return None if moment is None else rfc3339(round(moment.timestamp() * 1_000_000))
