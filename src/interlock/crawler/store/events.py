"""The events of a crawl: appended by the loop and the API, numbered, read again by whoever follows.

One row of the log holds the events of one ack, so a page costs no statement of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from interlock.crawler.domain.frontier import CrawlRef, PageAck
from interlock.crawler.domain.states import UrlState
from interlock.foundation.control.stream import Numbered
from interlock.foundation.ids import OrganizationId, WorkspaceId, format_id
from interlock.foundation.leases import Lease, LeaseSpec
from interlock.foundation.scope import Scope
from interlock.foundation.store import Transaction
from interlock.foundation.telemetry import EventLog

# A row's number times this, plus the place within the row, is the id that a reader resumes from.
PER_ROW: Final = 1_000
LAST_EVENT: Final = "crawl.finished"
_OUTBOX: Final = LeaseSpec("crawler_outbox_items", "leases_shares")


def topic_of(crawl: CrawlRef) -> str:
    """Return the topic of a crawl's events."""
    return format_id("crawl", crawl.crawl_id)


def scope_of(crawl: CrawlRef) -> Scope:
    """Return the scope of the tenant of a crawl, acting as the platform itself."""
    held = Lease(OrganizationId(crawl.organization_id), WorkspaceId(crawl.workspace_id), crawl.crawl_id, 0, 0)
    return _OUTBOX.scope_of(held)


async def append_events(tx: Transaction, log: EventLog, crawl: CrawlRef, events: Sequence[dict[str, Any]]) -> None:
    """Append events in their order; each has `event` and its content."""
    under = tx.under(scope_of(crawl))
    for start in range(0, len(events), PER_ROW):
        await log.append(under, topic_of(crawl), {"events": list(events[start : start + PER_ROW])})


async def events_after(log: EventLog, scope: Scope, topic: str, after: int) -> list[Numbered]:
    """Return what came after an id, oldest first."""
    row, place = divmod(after, PER_ROW)
    found: list[Numbered] = []
    for each in await log.after(scope, [topic], row - 1 if after else 0):
        for index, event in enumerate(each.payload.get("events", [])):
            if (each.seq, index) <= (row, place) and after:
                continue
            name = event["event"]
            content = {key: value for key, value in event.items() if key != "event"}
            found.append(Numbered(each.seq * PER_ROW + index, name, content))
    if found and found[-1].event == LAST_EVENT:
        # A crawl that was finished and then visited again goes on behind its first end.
        found[-1] = replace(found[-1], is_last=True)
    return found


def url_event(page: PageAck) -> dict[str, Any]:
    """Return the event of a URL that came to rest."""
    names = {UrlState.REFUSED: "url.refused", UrlState.DEAD: "url.dead"}
    return {
        "event": names.get(page.state, "url.done"),
        "url": page.url.url,
        "state": page.state,
        "reason": page.reason,
        "http_status": None if page.fetched is None else page.fetched.status,
    }
