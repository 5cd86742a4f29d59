"""The ack: what became of pages and hosts, what they led to, and the counts, in one transaction under the fence.

Locks host rows in the order of their hash, then crawls by id, then writes: two acks never wait in a circle.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.crawler.domain.frontier import Acked, CrawlRef, Discovery, HostAck, PageAck
from interlock.crawler.domain.states import RESTING, UrlState
from interlock.crawler.domain.templates import closes
from interlock.crawler.store import SQL
from interlock.crawler.store.crawls import CrawlBook
from interlock.crawler.store.events import append_events, url_event
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Transaction
from interlock.foundation.telemetry import EventLog

_encode = msgspec.json.Encoder().encode
EXTRACT_LEASE_S: Final = 120.0
Key = tuple[int, UUID, UUID]


def as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as the one jsonb parameter of a statement."""
    # PostgreSQL holds no NUL, and a site may send one anywhere.
    return _encode(list(rows)).decode().replace("\\u0000", "\\ufffd")


@dataclass(slots=True)
class _Tally:
    """What one ack adds up to, by crawl and by crawl and host."""

    counts: defaultdict[CrawlRef, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    queues: defaultdict[tuple[CrawlRef, int], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    authorities: dict[int, str] = field(default_factory=dict)
    adopted: dict[UUID, str] = field(default_factory=dict)
    sitemaps: set[tuple[CrawlRef, int]] = field(default_factory=set)
    events: defaultdict[CrawlRef, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


class AckWriter:
    """Writes acks; knows the crawls by `book`."""

    def __init__(self, ids: IdFactory, events: EventLog, book: CrawlBook) -> None:
        self._ids = ids
        self._events = events
        self._book = book

    async def write(self, tx: Transaction, owner: str, pages: Sequence[PageAck], hosts: Sequence[HostAck]) -> Acked:
        """Write one batch; the caller's transaction commits it."""
        found = [each for page in pages for each in page.discoveries]
        fenced = await self._lock(tx, owner, pages, hosts, found)
        live = [page for page in pages if page.host_hash not in fenced]
        budgets = await self._lock_crawls(tx, live)
        live = await self._with_documents(tx, live)
        written = await self._outcomes(tx, live)
        live = [page for page in live if _key(page) in written]
        tally = _Tally()
        for page in live:
            _count_page(page, tally)
        await self._discover(tx, [each for page in live for each in page.discoveries], budgets, tally)
        await self._trace(tx, live)
        accepted = await self._put_aside(tx, owner, live)
        await self._withdraw(tx, live, tally)
        await self._count(tx, tally)
        held = [each for each in hosts if each.host_hash not in fenced]
        if held:
            await tx.execute(SQL.write_hosts, owner, as_json(_host_row(each) for each in held))
        for crawl, events in tally.events.items():
            await append_events(tx, self._events, crawl, events)
        return Acked(frozenset(fenced), accepted)

    async def _lock(
        self,
        tx: Transaction,
        owner: str,
        pages: Sequence[PageAck],
        hosts: Sequence[HostAck],
        found: Sequence[Discovery],
    ) -> set[int]:
        own = {page.host_hash: page.fence for page in pages} | {each.host_hash: each.fence for each in hosts}
        others = {each.host.host_hash: each.host for each in found if each.host.host_hash not in own}
        if others:
            await tx.execute(SQL.add_hosts, as_json(each._asdict() for each in others.values()))
        rows = await tx.fetch(SQL.lock_hosts, sorted({*own, *others}))
        current = {row["host_hash"] for row in rows if own.get(row["host_hash"]) == row["fence"]}
        held = {row["host_hash"] for row in rows if row["lease_owner"] == owner}
        return set(own) - (current & held)

    async def _lock_crawls(self, tx: Transaction, pages: Sequence[PageAck]) -> dict[UUID, Any]:
        ids = sorted({page.url.crawl.crawl_id for page in pages})
        return {row["crawl_id"]: row for row in await tx.fetch(SQL.lock_crawls, ids)} if ids else {}

    async def _with_documents(self, tx: Transaction, pages: Sequence[PageAck]) -> list[PageAck]:
        """Leave a withdrawal only where there is a document: as the row says now, under the crawl's lock."""
        unsure = [page for page in pages if page.withdraw is not None and not page.url.has_document]
        if not unsure:
            return list(pages)
        rows = await tx.fetch(
            SQL.with_documents, as_json({**_identity(page), "host_hash": page.host_hash} for page in unsure)
        )
        held = {(row["crawl_id"], row["url_key"]) for row in rows}
        return [
            replace(page, withdraw=None)
            if page in unsure and (page.url.crawl.crawl_id, page.url.url_key) not in held
            else page
            for page in pages
        ]

    async def _outcomes(self, tx: Transaction, pages: Sequence[PageAck]) -> set[Key]:
        if not pages:
            return set()
        rows = await tx.fetch(SQL.write_outcomes, as_json(_outcome_row(page) for page in pages))
        return {(row["host_hash"], row["crawl_id"], row["url_key"]) for row in rows}

    async def _discover(
        self, tx: Transaction, found: Sequence[Discovery], budgets: Mapping[UUID, Any], tally: _Tally
    ) -> None:
        fresh = {(each.host.host_hash, each.crawl.crawl_id, each.url_key): each for each in found}
        if not fresh:
            return
        rows = await tx.fetch(SQL.add_urls, as_json(_discovery_row(each) for each in fresh.values()))
        added = [fresh[row["host_hash"], row["crawl_id"], row["url_key"]] for row in rows]
        for each in added:
            _count_added(each, tally)
        queued = [each for each in added if each.refused is None and each.kind == "page"]
        surplus = over_pages(queued, budgets)
        surplus |= await self._over_templates(tx, [each for each in queued if each not in surplus])
        await self._refuse(tx, surplus, tally)
        woken = {each.host.host_hash for each in added if each.refused is None}
        if woken:
            await tx.execute(SQL.wake_hosts, sorted(woken))

    async def _over_templates(self, tx: Transaction, queued: Sequence[Discovery]) -> dict[Discovery, str]:
        shapes: Counter[tuple[CrawlRef, int, str]] = Counter(
            (each.crawl, each.host.host_hash, each.template) for each in queued if each.template
        )
        if not shapes:
            return {}
        rows = await tx.fetch(
            SQL.count_templates,
            as_json(
                {**crawl._asdict(), "host_hash": host_hash, "template": template, "pages": count}
                for (crawl, host_hash, template), count in shapes.items()
            ),
        )
        closed = {
            (row["host_hash"], row["crawl_id"], row["template"]): rule
            for row in rows
            if (rule := closes(row["pages"], row["judged"], row["recent"]))
        }
        return {
            each: rule
            for each in queued
            if (rule := closed.get((each.host.host_hash, each.crawl.crawl_id, each.template or "")))
        }

    async def _refuse(self, tx: Transaction, surplus: Mapping[Discovery, str], tally: _Tally) -> None:
        if not surplus:
            return
        rows = [
            {**each.crawl._asdict(), "host_hash": each.host.host_hash, "url_key": each.url_key, "reason": reason}
            for each, reason in surplus.items()
        ]
        await tx.fetch(SQL.refuse_urls, as_json(rows))
        for each in surplus:
            tally.counts[each.crawl]["refused"] += 1
            tally.queues[each.crawl, each.host.host_hash]["pending"] -= 1
            tally.queues[each.crawl, each.host.host_hash]["admitted"] -= 1

    async def _trace(self, tx: Transaction, pages: Sequence[PageAck]) -> None:
        fetches = [_fetch_row(page) for page in pages if page.fetched is not None]
        if fetches:
            await tx.execute(SQL.add_fetches, as_json(fetches))
        decisions = [
            {**_identity(page), "seq": seq, "at_us": page.at_us, "step": each.step, "verdict": each.verdict,
             "rule": each.rule, "detail": each.detail}
            for page in pages
            for seq, each in enumerate(page.decisions)
        ]  # fmt: skip
        if decisions:
            await tx.execute(SQL.add_decisions, as_json(decisions))

    async def _put_aside(self, tx: Transaction, owner: str, pages: Sequence[PageAck]) -> frozenset[UUID]:
        waiting = [page for page in pages if page.spooled is not None]
        if not waiting:
            return frozenset()
        await tx.execute(SQL.drop_superseded, as_json(_identity(page) for page in waiting))
        await tx.execute(SQL.put_aside, as_json(_spool_row(page) for page in waiting), owner, EXTRACT_LEASE_S)
        return frozenset(page.spooled.outbox_id for page in waiting if page.spooled is not None)

    async def _withdraw(self, tx: Transaction, pages: Sequence[PageAck], tally: _Tally) -> None:
        gone = [page for page in pages if page.withdraw is not None]
        if not gone:
            return
        await tx.execute(SQL.drop_superseded, as_json(_identity(page) for page in gone))
        rows = [
            {**_identity(page), "host_hash": page.host_hash, "outbox_id": self._ids.new(), "reason": page.withdraw,
             "at_us": page.at_us}
            for page in gone
        ]  # fmt: skip
        await tx.execute(SQL.withdraw, as_json(rows))
        await self._promote(tx, gone, tally)
        for page in gone:
            tally.counts[page.url.crawl]["tombstones"] += 1

    async def _promote(self, tx: Transaction, gone: Sequence[PageAck], tally: _Tally) -> None:
        """Let the oldest URL of the same text take the place of the one that goes."""
        keys = as_json(_identity(page) for page in gone)
        await tx.execute(SQL.drop_digests, keys)
        for row in await tx.fetch(SQL.promote_duplicates, keys):
            crawl = CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])
            tally.counts[crawl]["duplicate"] -= 1
            tally.queues[crawl, row["host_hash"]]["pending"] += 1
            await tx.execute(SQL.wake_hosts, [row["host_hash"]])

    async def _count(self, tx: Transaction, tally: _Tally) -> None:
        if tally.queues:
            rows = await tx.fetch(
                SQL.change_queues,
                as_json(self._queue_row(tally, crawl, host, delta) for (crawl, host), delta in tally.queues.items()),
            )
            await self._over_hosts(tx, rows, tally)
        counted = {crawl: counts for crawl, counts in tally.counts.items() if any(counts.values())}
        counted |= {crawl: tally.counts[crawl] for crawl in tally.counts if crawl.crawl_id in tally.adopted}
        if counted:
            await tx.execute(
                SQL.change_counts,
                as_json(count_row(crawl, each, tally.adopted.get(crawl.crawl_id)) for crawl, each in counted.items()),
            )

    async def _over_hosts(self, tx: Transaction, rows: Sequence[Any], tally: _Tally) -> None:
        """Refuse what waits beyond a host's page budget; rare, so it looks the queue through."""
        refs = {crawl.crawl_id: crawl for crawl, _ in tally.queues}
        for row in rows:
            crawl = refs[row["crawl_id"]]
            over = row["admitted"] - self._book.pages_per_host(crawl.crawl_id)
            if over <= 0:
                continue
            ended = await tx.fetch(
                SQL.refuse_newest,
                crawl.organization_id,
                crawl.crawl_id,
                row["host_hash"],
                over,
                "budget_pages_per_host",
            )
            count = len(ended)
            if count:
                tally.counts[crawl]["refused"] += count
                delta = Counter(pending=-count, admitted=-count)
                await tx.fetch(SQL.change_queues, as_json([self._queue_row(tally, crawl, row["host_hash"], delta)]))

    def _queue_row(self, tally: _Tally, crawl: CrawlRef, host_hash: int, delta: Mapping[str, int]) -> dict[str, Any]:
        authority = tally.authorities.get(host_hash, "")
        asked = self._book.politeness(crawl.crawl_id, authority)
        return {
            **crawl._asdict(),
            "host_hash": host_hash,
            "authority": authority,
            "pending": delta.get("pending", 0),
            "admitted": delta.get("admitted", 0),
            "done": delta.get("done", 0),
            "dead": delta.get("dead", 0),
            "weight": asked.weight,
            "floor_ms": asked.floor_ms,
            "concurrency": asked.concurrency,
            "is_adopted": True,
            "has_sitemaps": (crawl, host_hash) in tally.sitemaps,
        }


def over_pages(queued: Sequence[Discovery], budgets: Mapping[UUID, Any]) -> dict[Discovery, str]:
    """Return what does not fit into the page budgets of its crawls."""
    surplus: dict[Discovery, str] = {}
    admitted = {crawl_id: row["discovered"] - row["refused"] for crawl_id, row in budgets.items()}
    for each in queued:
        crawl_id = each.crawl.crawl_id
        if crawl_id in admitted and admitted[crawl_id] >= budgets[crawl_id]["pages_max"]:
            surplus[each] = "budget_pages"
        elif crawl_id in admitted:
            admitted[crawl_id] += 1
    return surplus


def count_row(crawl: CrawlRef, counts: Mapping[str, int], authority: str | None = None) -> dict[str, Any]:
    """Return the row that moves the counts of a crawl."""
    names = (*RESTING, "discovered", "documents", "tombstones", "bytes_wire", "bytes_body")
    return {"crawl_id": crawl.crawl_id, "authority": authority, **{name: counts.get(name, 0) for name in names}}


def _key(page: PageAck) -> Key:
    return page.host_hash, page.url.crawl.crawl_id, page.url.url_key


def _identity(page: PageAck) -> dict[str, Any]:
    return {**page.url.crawl._asdict(), "url_key": page.url.url_key}


def _count_page(page: PageAck, tally: _Tally) -> None:
    crawl, queue = page.url.crawl, tally.queues[page.url.crawl, page.host_hash]
    counts = tally.counts[crawl]
    if page.state is not UrlState.QUEUED:
        queue["pending"] -= 1
        if page.url.kind == "page":
            counts[page.state] += 1
            queue["done"] += page.state in {UrlState.DONE, UrlState.DUPLICATE, UrlState.GONE}
            queue["dead"] += page.state is UrlState.DEAD
            tally.events[crawl].append(url_event(page))
    if page.fetched is not None:
        counts["bytes_wire"] += page.fetched.wire_bytes
        counts["bytes_body"] += len(page.fetched.body)
    if page.adds_authority:
        tally.adopted[crawl.crawl_id] = page.adds_authority
    if page.has_asked_sitemaps:
        tally.sitemaps.add((crawl, page.host_hash))


def _count_added(each: Discovery, tally: _Tally) -> None:
    tally.authorities[each.host.host_hash] = each.host.authority
    queue = tally.queues[each.crawl, each.host.host_hash]
    if each.kind == "page":
        tally.counts[each.crawl]["discovered"] += 1
        tally.counts[each.crawl]["refused"] += each.refused is not None
        queue["admitted"] += each.refused is None
    queue["pending"] += each.refused is None


def _outcome_row(page: PageAck) -> dict[str, Any]:
    return {
        **_identity(page),
        "host_hash": page.host_hash,
        "fence": page.fence,
        "state": page.state,
        "reason": page.reason,
        "attempt": page.attempt,
        "misses": page.misses,
        "retry_in_s": page.retry_in_s,
        "is_visit": page.is_visit,
        "http_status": None if page.fetched is None else page.fetched.status,
        "at_us": page.at_us,
        "etag": page.etag,
        "last_modified": page.last_modified,
        "body_digest": page.body_digest,
        "signals": page.signals,
        "withdraw": page.withdraw,
    }


def _discovery_row(each: Discovery) -> dict[str, Any]:
    return {
        **each.crawl._asdict(),
        "host_hash": each.host.host_hash,
        "url_key": each.url_key,
        "url": each.url,
        "kind": each.kind,
        "refused": each.refused,
        "priority": each.priority,
        "depth": each.depth,
        "hops": each.hops,
        "parent_key": each.parent_key,
        "template": each.template,
    }


def _fetch_row(page: PageAck) -> dict[str, Any]:
    fetched = page.fetched
    assert fetched is not None
    times = fetched.timings
    return {
        **_identity(page),
        "attempt": page.url.attempt + 1,
        "at_us": page.at_us,
        "ip": fetched.ip,
        "status": fetched.status,
        "error": fetched.fault,
        "dns_ms": times.dns_ms,
        "connect_ms": times.connect_ms,
        "ttfb_ms": times.ttfb_ms,
        "total_ms": times.total_ms,
        "bytes_wire": fetched.wire_bytes,
        "bytes_body": len(fetched.body),
        "robots_line": page.robots_line,
    }


def _spool_row(page: PageAck) -> dict[str, Any]:
    spooled = page.spooled
    assert spooled is not None
    return {
        **_identity(page),
        "host_hash": page.host_hash,
        "outbox_id": spooled.outbox_id,
        "bytes": spooled.bytes,
        "spool": spooled.path,
        "headers": spooled.headers,
        "at_us": page.at_us,
    }


def _host_row(each: HostAck) -> dict[str, Any]:
    pace, circuit = each.pace, each.circuit
    return {
        "host_hash": each.host_hash,
        "fence": each.fence,
        "delay_ms": pace.delay_ms,
        "delay_source": pace.source,
        "crawl_delay_ms": pace.crawl_delay_ms,
        "adaptive_ms": pace.adaptive_ms,
        "ewma_latency_ms": pace.ewma_latency_ms,
        "ewma_bytes": each.ewma_bytes,
        "cap": each.cap,
        "pushbacks": each.pushbacks,
        "robots_tries": each.robots_tries,
        "fail_streak": circuit.streak,
        "circuit": circuit.state,
        "circuit_opened": circuit.openings,
        "window_bits": circuit.bits,
        "window_size": circuit.size,
        "blocked_in_s": each.blocked_in_s,
        "blocked_reason": each.blocked_reason,
        "next_in_s": each.next_in_s,
        "is_final": each.is_final,
    }
