"""What waits between a fetched page and the index: bodies for extraction, documents, withdrawals.

Talks to no sink and runs no extractor; a row ends in the transaction that says what became of it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.types import Extracted
from interlock.crawler.store import SQL
from interlock.crawler.store.acks import as_json, count_row
from interlock.crawler.store.events import append_events
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry import EventLog

LEASE_S: Final = 120.0
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """One row in work."""

    crawl: CrawlRef
    outbox_id: UUID
    host_hash: int
    url_key: UUID
    bytes: int
    observed_at_us: int
    spool: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    version: int = 0
    artifact: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    attempts: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """The key of its URL."""
        return {**self.crawl._asdict(), "host_hash": self.host_hash, "url_key": self.url_key}


@dataclass(frozen=True, slots=True)
class ExtractedItem:
    """A page's text. `artifact` is where the text waits; `signals` travel with the document."""

    item: OutboxItem
    extracted: Extracted
    artifact: str
    signals: Mapping[str, Any]
    snippet_chars_max: int | None


@dataclass(frozen=True, slots=True)
class WaitingSource:
    """A crawl whose documents wait."""

    crawl: CrawlRef
    source_id: UUID | None
    audience: Mapping[str, Any]


class Outbox:
    """The outbox of all crawls, for the loops of one worker."""

    def __init__(self, store: Store, ids: IdFactory, events: EventLog) -> None:
        self._store = store
        self._ids = ids
        self._events = events

    async def claim(
        self, owner: str, stage: str, kind: str, count: int, *, without: Sequence[UUID] = ()
    ) -> list[OutboxItem]:
        """Hold up to `count` due rows, those of crawls in `without` left out."""
        rows = await self._store.ops_single(SQL.claim_outbox, owner, stage, kind, count, LEASE_S, list(without) or None)
        return [_item_of(row) for row in rows]

    async def sources(self) -> list[WaitingSource]:
        """Return the crawls whose documents or withdrawals wait."""
        rows = await self._store.ops_single(SQL.outbox_sources)
        return [
            WaitingSource(
                CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"]),
                row["source_id"],
                _decode(row["audience"]),
            )
            for row in rows
        ]

    async def url_of(self, item: OutboxItem) -> tuple[str, dict[str, Any]]:
        """Return the URL and the signals that an item belongs to."""
        async with self._store.ops("crawl body resumed") as tx:
            row = await tx.fetchrow(SQL.url_of_item, *item.crawl, item.host_hash, item.url_key)
        return ("", {}) if row is None else (row["url"], _decode(row["signals"]) if row["signals"] else {})

    async def set_source(self, crawl: CrawlRef, source_id: UUID) -> None:
        """Remember the source of a crawl."""
        async with self._store.ops("crawl source") as tx:
            await tx.execute(SQL.set_source, crawl.crawl_id, source_id)

    async def free(self, owner_prefix: str, owner: str) -> int:
        """Give back what the process held that this one replaces."""
        async with self._store.ops("crawl outbox restart") as tx:
            return await tx.execute(SQL.free_outbox, owner_prefix, owner)

    async def postpone(self, owner: str, outbox_ids: Sequence[UUID], due_in_s: float) -> None:
        """Give rows back until later."""
        async with self._store.ops("crawl outbox waits") as tx:
            await tx.execute(SQL.postpone_outbox, owner, list(outbox_ids), due_in_s)

    async def extend(self, owner: str, outbox_ids: Sequence[UUID]) -> None:
        """Keep rows that are still in work."""
        async with self._store.ops("crawl outbox heartbeat") as tx:
            await tx.execute(SQL.extend_outbox, owner, list(outbox_ids), LEASE_S)

    async def refetch(self, owner: str, items: Sequence[OutboxItem]) -> None:
        """Queue the URLs of bodies that are lost; their rows end."""
        async with self._store.ops("crawl bodies lost") as tx:
            await _lock(tx, items)
            rows = await tx.fetch(SQL.refetch, as_json(each.identity for each in items))
            await _requeued(tx, rows)
            counts: defaultdict[CrawlRef, Counter[str]] = defaultdict(Counter)
            for row in rows:
                counts[CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])]["done"] -= 1
            await tx.execute(SQL.change_counts, as_json(count_row(crawl, each) for crawl, each in counts.items()))
            await tx.fetch(SQL.drop_outbox, owner, [each.outbox_id for each in items])

    async def extracted(self, owner: str, done: Sequence[ExtractedItem]) -> int:
        """Write what pages turned out to be: new documents, unchanged ones, or the text of another URL.

        Returns how many have the text of another URL.
        """
        async with self._store.ops("crawl extracted") as tx:
            await _lock(tx, [each.item for each in done])
            rows = await tx.fetch(SQL.extracted_urls, as_json(each.item.identity for each in done))
            urls = {(row["crawl_id"], row["url_key"]): row for row in rows}
            live = [each for each in done if _is_live(urls.get((each.item.crawl.crawl_id, each.item.url_key)))]
            owners = await self._claim_texts(tx, live, urls)
            plan = _Plan()
            for each in live:
                _judge(each, urls[each.item.crawl.crawl_id, each.item.url_key], owners, plan)
            plan.ended += [each.item.outbox_id for each in done if each not in live]
            await self._write(tx, owner, plan)
        return len(plan.decisions)

    async def _claim_texts(
        self, tx: Transaction, live: Sequence[ExtractedItem], urls: Mapping[tuple[UUID, UUID], Any]
    ) -> dict[tuple[UUID, str], UUID]:
        changed = [
            each.item.identity
            for each in live
            if (was := urls[each.item.crawl.crawl_id, each.item.url_key]["text_digest"]) is not None
            and was.hex() != each.extracted.text_digest
        ]
        if changed:
            await tx.execute(SQL.drop_digests, as_json(changed))
            await _requeued(tx, await tx.fetch(SQL.promote_duplicates, as_json(changed)), promoted=True)
        first = {(each.item.crawl.crawl_id, each.extracted.text_digest): each for each in reversed(live)}
        rows = await tx.fetch(
            SQL.claim_digests,
            as_json({**each.item.identity, "text_digest": each.extracted.text_digest} for each in first.values()),
        )
        return {(row["crawl_id"], row["text_digest"]): row["url_key"] for row in rows}

    async def _write(self, tx: Transaction, owner: str, plan: "_Plan") -> None:
        if plan.urls:
            await tx.execute(SQL.write_extracted, as_json(plan.urls))
        for row in plan.templates:
            await tx.execute(SQL.judge_template, *row)
        if plan.offers:
            await tx.execute(SQL.offer, owner, as_json(plan.offers))
        if plan.withdrawals:
            rows = [{**each, "outbox_id": self._ids.new()} for each in plan.withdrawals]
            await tx.execute(SQL.withdraw, as_json(rows))
        if plan.ended:
            await tx.fetch(SQL.drop_outbox, owner, plan.ended)
        if plan.decisions:
            await tx.execute(SQL.add_decisions, as_json(plan.decisions))
        if plan.counts:
            await tx.execute(SQL.change_counts, as_json(count_row(crawl, each) for crawl, each in plan.counts.items()))

    async def delivered(self, owner: str, items: Sequence[OutboxItem]) -> None:
        """The index has these documents."""
        await self._settle(owner, items, withdrawn=False)

    async def withdrawn(self, owner: str, items: Sequence[OutboxItem]) -> None:
        """The index has heard of these withdrawals."""
        await self._settle(owner, items, withdrawn=True)

    async def refused(self, owner: str, item: OutboxItem, code: str) -> None:
        """The index will not have this document: its URL is refused under the index's own code."""
        async with self._store.ops("crawl document refused") as tx:
            await _lock(tx, [item])
            row = await tx.fetchrow(SQL.refuse_delivered, *item.crawl, item.host_hash, item.url_key, code)
            if row is not None:
                counts = count_row(item.crawl, {"done": -1, "refused": 1})
                await tx.execute(SQL.change_counts, as_json([counts]))
                event = {"event": "url.refused", "url": row["url"], "state": "refused", "reason": code}
                await append_events(tx, self._events, item.crawl, [event])
            await tx.fetch(SQL.drop_outbox, owner, [item.outbox_id])

    async def _settle(self, owner: str, items: Sequence[OutboxItem], *, withdrawn: bool) -> None:
        if not items:
            return
        async with self._store.ops("crawl delivered") as tx:
            await _lock(tx, items)
            ended = {row["outbox_id"] for row in await tx.fetch(SQL.drop_outbox, owner, [i.outbox_id for i in items])}
            keys = as_json(each.identity for each in items if each.outbox_id in ended)
            rows = await tx.fetch(SQL.mark_withdrawn if withdrawn else SQL.mark_delivered, keys)
            counts: defaultdict[CrawlRef, Counter[str]] = defaultdict(Counter)
            events: defaultdict[CrawlRef, list[dict[str, Any]]] = defaultdict(list)
            for row in rows:
                crawl = CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])
                if row["was_delivered"] == withdrawn:
                    counts[crawl]["documents"] += -1 if withdrawn else 1
                if withdrawn:
                    events[crawl].append({"event": "document.tombstone", "url": row["url"]})
            if counts:
                await tx.execute(SQL.change_counts, as_json(count_row(crawl, each) for crawl, each in counts.items()))
            for crawl, each in events.items():
                await append_events(tx, self._events, crawl, each)


@dataclass(slots=True)
class _Plan:
    """The rows that a batch of extracted pages becomes."""

    urls: list[dict[str, Any]] = field(default_factory=list)
    offers: list[dict[str, Any]] = field(default_factory=list)
    withdrawals: list[dict[str, Any]] = field(default_factory=list)
    ended: list[UUID] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    templates: list[tuple[Any, ...]] = field(default_factory=list)
    counts: defaultdict[CrawlRef, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def _is_live(row: Any) -> bool:
    """Tell whether a URL may still have a document: not one that is gone or was refused since its visit."""
    return row is not None and row["state"] in {UrlState.DONE, UrlState.QUEUED, UrlState.LEASED}


def _judge(done: ExtractedItem, row: Any, owners: Mapping[tuple[UUID, str], UUID], plan: _Plan) -> None:
    item, extracted = done.item, done.extracted
    first = owners[item.crawl.crawl_id, extracted.text_digest]
    was = None if row["text_digest"] is None else row["text_digest"].hex()
    is_same = was == extracted.text_digest
    url = {
        **item.identity,
        "text_digest": extracted.text_digest,
        "title": extracted.title[:300],
        "language": extracted.language,
        "is_changed": was is not None and not is_same,
        "version": row["document_version"],
        "has_document": row["has_document"],
    }
    if row["template"]:
        plan.templates.append((*item.crawl, item.host_hash, row["template"], int(first == item.url_key)))
    if first != item.url_key:
        _duplicate(done, row, first, url, plan)
    elif is_same and row["has_document"]:
        plan.ended.append(item.outbox_id)
    else:
        url |= {"version": row["document_version"] + 1, "has_document": True}
        plan.offers.append(_offer_row(done, row["document_version"] + 1, row["url"]))
    plan.urls.append(url)


def _duplicate(done: ExtractedItem, row: Any, first: UUID, url: dict[str, Any], plan: _Plan) -> None:
    item = done.item
    plan.ended.append(item.outbox_id)
    if row["has_document"]:
        plan.withdrawals.append({**item.identity, "reason": "moved", "at_us": item.observed_at_us})
        plan.counts[item.crawl]["tombstones"] += 1
    if row["state"] == UrlState.DONE:
        url |= {"state": UrlState.DUPLICATE, "reason": "exact", "duplicate_of": first, "has_document": False}
        plan.counts[item.crawl]["done"] -= 1
        plan.counts[item.crawl]["duplicate"] += 1
    plan.decisions.append({
        **item.identity, "seq": 20, "at_us": item.observed_at_us, "step": "dedupe", "verdict": "duplicate",
        "rule": "duplicate_exact", "detail": {"first": str(first), "text_digest": done.extracted.text_digest},
    })  # fmt: skip


def _offer_row(done: ExtractedItem, version: int, url: str) -> dict[str, Any]:
    extracted = done.extracted
    document = {
        "uri": url,
        "title": extracted.title[:300],
        "text_digest": extracted.text_digest,
        "language": extracted.language,
        "modified_at_us": extracted.modified_at_us,
        "signals": done.signals,
        "snippet_chars_max": done.snippet_chars_max,
        "media_type": "text/plain" if extracted.is_plain else "text/markdown",
    }
    return {
        "outbox_id": done.item.outbox_id,
        "version": version,
        "bytes": len(extracted.markdown.encode()),
        "artifact": done.artifact,
        "document": document,
    }


async def _lock(tx: Transaction, items: Iterable[OutboxItem]) -> None:
    """Take the crawls' rows before any URL's, as an ack does, so that neither waits for the other in a circle."""
    await tx.fetch(SQL.lock_crawls, sorted({each.crawl.crawl_id for each in items}))


async def _requeued(tx: Transaction, rows: Sequence[Any], *, promoted: bool = False) -> None:
    counts = Counter((row["crawl_id"], row["host_hash"]) for row in rows)
    if not counts:
        return
    queues = [{"crawl_id": crawl_id, "host_hash": host, "urls": urls} for (crawl_id, host), urls in counts.items()]
    await tx.execute(SQL.requeue_pending, as_json(queues))
    if promoted:
        crawls: Counter[CrawlRef] = Counter(
            CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"]) for row in rows
        )
        moved = [count_row(crawl, {"duplicate": -urls}) for crawl, urls in crawls.items()]
        await tx.execute(SQL.change_counts, as_json(moved))


def _item_of(row: Any) -> OutboxItem:
    return OutboxItem(
        crawl=CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"]),
        outbox_id=row["outbox_id"],
        host_hash=row["host_hash"],
        url_key=row["url_key"],
        bytes=row["bytes"],
        observed_at_us=round(row["observed_at"].timestamp() * 1_000_000),
        spool=row["spool"],
        headers=tuple((name, value) for name, value in _decode(row["headers"])) if row["headers"] else (),
        version=row["version"],
        artifact=row["artifact"],
        document=_decode(row["document"]) if row["document"] else {},
        reason=row["reason"],
        attempts=row["attempts"],
    )
