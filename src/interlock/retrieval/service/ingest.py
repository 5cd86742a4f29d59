"""Documents into the index: compared, read, interned, written, each batch in one transaction that ends with the epoch.

Takes resolved access lists; names are `names.py`, room is `backlog.py`. A repeat of the same call changes nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from interlock.contracts.documents import AccessList
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.adapters.reading.texts import ReadDocument, ReadWanted
from interlock.retrieval.domain.access import NOBODY, acl_digest
from interlock.retrieval.domain.types import DocumentState, PutResult, PutStatus, Source
from interlock.retrieval.store.ingest import documents as rows
from interlock.retrieval.store.ingest import work
from interlock.retrieval.store.ingest.access import Interned, Slot, SlotWanted, intern_slots
from interlock.retrieval.store.ingest.documents import Content, HeldDocument, KnownDocument, Pointing, Tally
from interlock.retrieval.store.ingest.rows import Changes, current_epoch, stamp

NO_ACL: Final = "no_acl"
# Its list changed between the comparison and the lock; the same call again meets the new one.
STALE_VERSION: Final = "stale_version"
_NOBODY_SLOT: Final = SlotWanted(None, NOBODY)
_AUDITED_IDS: Final = 100


class Reads(Protocol):
    """Turns what came into text and words, or into the code of why not."""

    async def read(self, wanted: Sequence[ReadWanted]) -> list[ReadDocument | str]:
        """Read documents, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An access list that its source has and that could not be read: the document is visible to nobody."""

    code: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """One document as it came. `acl` None keeps what the document has, or takes the source's default.

    `container` None keeps the folder that it lies in.
    """

    external_id: str
    title: str | None
    media_type: str
    uri: str
    origin: str
    text: str | None = None
    content: bytes | None = None
    container: str | None = None
    acl: AccessList | Unreadable | None = None
    source_version: int | None = None
    observed_at_us: int | None = None
    language: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    signals: Mapping[str, Any] = field(default_factory=dict)
    snippet_chars_max: int | None = None
    retain_until_us: int | None = None

    @property
    def size(self) -> int:
        """How much room it takes while it waits."""
        return len(self.content or b"") + len((self.text or "").encode("utf-8", "surrogatepass"))

    def digest(self) -> bytes:
        """Return the SHA-256 of everything that a reader could see of it."""
        told = (
            self.title,
            self.media_type,
            self.uri,
            self.language,
            dict(sorted(self.labels.items())),
            dict(sorted(self.signals.items())),
            self.snippet_chars_max,
            self.retain_until_us,
        )
        digest = hashlib.sha256(msgspec.json.encode(told))
        digest.update(b"\x00" + (self.text or "").encode("utf-8", "surrogatepass"))
        digest.update(b"\x00" + (self.content or b""))
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch, in its order; `acl_changed` are documents whose access list changed."""

    results: tuple[PutResult, ...]
    epoch: int
    acl_changed: int


@dataclass(slots=True)
class _Plan:
    """A document on its way: what is known of it before anything is locked."""

    incoming: Incoming
    digest: bytes
    document_id: UUID
    found: KnownDocument | None = None
    read: ReadDocument | None = None
    wanted: SlotWanted | None = None
    is_placed: bool = False

    @property
    def kept_acl(self) -> AccessList | None:
        """The list of a live document that comes without one: it stays, and inherits from where the document lies."""
        is_live = self.found is not None and self.found.version and self.found.state is DocumentState.LIVE
        return self.found.own_acl if self.found is not None and is_live else None


class Ingest:
    """Stores batches of one source."""

    def __init__(self, *, store: Store, audit: AuditLog, clock: Clock, ids: IdFactory, pool: Reads) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._pool = pool

    async def put(
        self, scope: Scope, source: Source, batch: Sequence[Incoming], receipt: UUID | None = None
    ) -> Ingested:
        """Store a batch; each document has its own outcome, and none of them is half there.

        `receipt` is ended in the transaction that stores it.
        """
        async with self._store.transaction(scope) as tx:
            names = [each.external_id for each in batch]
            known = await rows.known_documents(tx, source.id, names)
            epoch = await current_epoch(tx)
        results: dict[int, PutResult] = {}
        plans: dict[int, _Plan] = {}
        for place, came in enumerate(batch):
            found = known.get(came.external_id)
            each = _placed(came, found)
            digest = each.digest()
            early = _early(each, digest, found, source)
            if early is not None:
                results[place] = early
                if early.status is PutStatus.STALE or not _is_later(each, found):
                    continue
            identity = found.id if found else self._ids.new()
            plans[place] = _Plan(each, digest, identity, found, is_placed=each is not came)
        await self._read(plans, known, results)
        if not plans:
            if receipt is not None:
                async with self._store.transaction(scope) as tx:
                    await work.end_receipt(tx, source.id, receipt)
            return Ingested(tuple(results[place] for place in range(len(batch))), epoch, 0)
        written = await self._write(scope, source, plans, receipt)
        results |= written.results
        return Ingested(
            tuple(results[place] for place in range(len(batch))), written.epoch or epoch, written.acl_changed
        )

    async def _read(
        self, plans: dict[int, _Plan], known: Mapping[str, KnownDocument], results: dict[int, PutResult]
    ) -> None:
        """Read what has other content than the index; what cannot be read leaves the plans with its code."""
        due = [place for place, plan in plans.items() if not _has_content(plan, known.get(plan.incoming.external_id))]
        outcomes = await self._pool.read([_wanted(plans[place].incoming) for place in due]) if due else []
        for place, outcome in zip(due, outcomes, strict=True):
            if isinstance(outcome, str):
                results[place] = PutResult(plans[place].incoming.external_id, PutStatus.REJECTED, code=outcome)
                del plans[place]
            else:
                plans[place].read = outcome

    async def _write(
        self, scope: Scope, source: Source, plans: Mapping[int, _Plan], receipt: UUID | None
    ) -> "_Written":
        wishes = {_NOBODY_SLOT}
        for plan in plans.values():
            plan.wanted = _slot_of(plan.incoming.acl or plan.kept_acl or source.default_acl, plan.incoming.container)
            wishes.add(plan.wanted)
        now_us = self._clock.now_us()

        folders = {plan.incoming.container for plan in plans.values() if plan.incoming.container}

        async def prepare(tx: Transaction) -> Interned:
            changes = Changes(cause="slots")
            made = await intern_slots(tx, source.id, wishes, changes, folders)
            if changes:
                await stamp(tx, changes, now_us)
            return made

        slots = await self._store.run(scope, prepare)
        words = {term for plan in plans.values() if plan.read for piece in plan.read.pieces for term in piece.terms}
        terms: dict[str, int] = {}
        if words:
            terms = await self._store.run(scope, lambda tx: rows.intern_terms(tx, words))
        batch = _Batch(source, dict(plans), slots, terms, now_us)
        return await self._store.run(scope, lambda tx: self._commit(tx, batch, receipt))

    async def _commit(self, tx: Transaction, batch: "_Batch", receipt: UUID | None) -> "_Written":
        source, now_us = batch.source, batch.now_us
        # Two items of one batch with one outside id: the later one is the newer.
        last = {plan.incoming.external_id: place for place, plan in batch.plans.items()}
        chosen = [batch.plans[place] for place in last.values()]
        wanted = {plan.incoming.external_id: plan.document_id for plan in chosen}
        held = await rows.hold_documents(tx, source.id, wanted, chosen[0].incoming.origin, now_us)
        decided = {each.incoming.external_id: batch.decide(each, held[each.incoming.external_id]) for each in chosen}
        moves = [(each.held, each.pointing) for each in decided.values() if each.pointing]
        writes = [(each.held, each.content) for each in decided.values() if each.content]
        changes, tally = Changes(source.id, cause="put"), Tally()
        rewritten = {each.id for each, _ in writes}
        await rows.drop_passages(tx, [each for each, _ in writes], tally)
        await rows.point_at_acl(tx, [move for move in moves if move[0].id in rewritten], tally, is_content_gone=True)
        await rows.point_at_acl(tx, [move for move in moves if move[0].id not in rewritten], tally)
        slots = {each.held.id: each.acl_id for each in decided.values()}
        await rows.write_contents(tx, writes, slots, batch.terms, tally, now_us)
        for each in decided.values():
            if each.is_seen_again:
                seen = each.plan.incoming
                await rows.touch_document(tx, each.held.id, seen.source_version, seen.observed_at_us)
        jobs = [(self._ids.new(), each.id, each.version + 1) for each, content in writes if content.pieces]
        await work.add_embed_jobs(tx, source.id, jobs)
        if receipt is not None:
            await work.end_receipt(tx, source.id, receipt)
        await tally.write(tx)
        changes.documents = {each.held.id for each in decided.values() if each.pointing or each.content}
        results = {place: decided[plan.incoming.external_id].result for place, plan in batch.plans.items()}
        acl_changed = sum(each.pointing is not None and each.held.version > 0 for each in decided.values())
        if not changes.documents:
            return _Written(results, 0, 0)
        await self._audit.append(tx, _told(source, changes.documents, acl_changed))
        return _Written(results, await stamp(tx, changes, now_us), acl_changed)


@dataclass(frozen=True, slots=True)
class _Written:
    results: dict[int, PutResult]
    epoch: int
    acl_changed: int


@dataclass(frozen=True, slots=True)
class _Decided:
    """What is done with one document whose row is ours."""

    plan: _Plan
    held: HeldDocument
    result: PutResult
    acl_id: int = 0
    pointing: Pointing | None = None
    content: Content | None = None
    is_seen_again: bool = False


@dataclass(frozen=True, slots=True)
class _Batch:
    source: Source
    plans: dict[int, _Plan]
    interned: Interned
    terms: Mapping[str, int]
    now_us: int

    def decide(self, plan: _Plan, held: HeldDocument) -> _Decided:
        """Return what a document becomes, seen against its locked row."""
        incoming = plan.incoming
        if held.version and _is_stale(incoming, held.source_version, held.observed_at_us):
            return _Decided(plan, held, PutResult(incoming.external_id, PutStatus.STALE, held.id, version=held.version))
        if self._is_overtaken(plan, held):
            return _Decided(plan, held, PutResult(incoming.external_id, PutStatus.REJECTED, held.id, STALE_VERSION))
        pointing = self._pointing(plan, held)
        content = self._content(plan, held)
        if content is None and not held.is_indexed:
            # It was withdrawn after it was compared; the withdrawal is the later word.
            return _Decided(plan, held, PutResult(incoming.external_id, PutStatus.STALE, held.id, version=held.version))
        state = pointing.state if pointing else held.state
        code = pointing.code if pointing else held.state_code
        version = held.version + 1 if content else held.version
        status = PutStatus.CREATED if not held.version else PutStatus.UPDATED
        if not pointing and not content:
            status = PutStatus.UNCHANGED
        if state is DocumentState.QUARANTINED:
            status = PutStatus.QUARANTINED
        acl_id = pointing.slot.acl_id if pointing else held.acl_id
        result = PutResult(incoming.external_id, status, held.id, code, version)
        return _Decided(plan, held, result, acl_id, pointing, content, is_seen_again=content is None)

    def _pointing(self, plan: _Plan, held: HeldDocument) -> Pointing | None:
        """Return where it shall point, None for where it points already. Content alone never changes access."""
        acl, is_back = plan.incoming.acl, held.state is DocumentState.DELETED
        slot, nobody = self._slot(plan, plan.wanted or _NOBODY_SLOT), self._slot(plan, _NOBODY_SLOT)
        if isinstance(acl, Unreadable):
            to = Pointing(nobody, None, DocumentState.QUARANTINED, acl.code)
        elif acl is not None:
            to = Pointing(slot, acl, DocumentState.LIVE)
        elif held.state is DocumentState.LIVE and held.version:
            if not self._is_moved(plan, held):
                return None
            to = Pointing(slot, held.own_acl, DocumentState.LIVE)
        elif self.source.default_acl is not None:
            to = Pointing(slot, self.source.default_acl, DocumentState.LIVE)
        else:
            to = Pointing(nobody, None, DocumentState.QUARANTINED, NO_ACL)
        if not held.version or is_back:
            return to
        digest = None if to.own_acl is None else acl_digest(to.own_acl)
        before = (held.state, held.state_code, held.acl_id, held.container_id, held.acl_digest)
        return None if before == (to.state, to.code, to.slot.acl_id, to.slot.container_id, digest) else to

    def _is_overtaken(self, plan: _Plan, held: HeldDocument) -> bool:
        """Tell whether what a slot was chosen by changed since: the list that stays, or the folder that it lies in."""
        path, found = plan.incoming.container, plan.found
        if plan.is_placed and path is not None and self.interned.containers[path] != held.container_id:
            return True
        if self._is_moved(plan, held):
            return held.acl_digest != (None if found is None else found.acl_digest)
        is_kept = plan.incoming.acl is None and plan.kept_acl is not None
        return is_kept and held.state is not DocumentState.LIVE and (held.is_indexed or plan.read is not None)

    def _is_moved(self, plan: _Plan, held: HeldDocument) -> bool:
        """Tell whether a live document that keeps its list lies in another folder now, from which that may inherit."""
        path, is_live = plan.incoming.container, held.state is DocumentState.LIVE and held.version > 0
        if plan.incoming.acl is not None or path is None or not is_live:
            return False
        return self.interned.containers[path] != held.container_id

    def _slot(self, plan: _Plan, wanted: SlotWanted) -> Slot:
        """Return a slot as this document points to it: it lies in its folder whether or not it inherits from it."""
        slot, path = self.interned.slots[wanted], plan.incoming.container
        return slot if path is None else replace(slot, container_id=self.interned.containers[path])

    @staticmethod
    def _content(plan: _Plan, held: HeldDocument) -> Content | None:
        is_kept = held.version and held.is_indexed and held.content_digest == plan.digest
        if is_kept or plan.read is None:
            return None
        incoming = plan.incoming
        return Content(
            digest=plan.digest,
            title=plan.read.title,
            uri=incoming.uri,
            media_type=incoming.media_type,
            language=incoming.language,
            origin=incoming.origin,
            labels=incoming.labels,
            signals=incoming.signals,
            snippet_chars_max=incoming.snippet_chars_max,
            source_version=incoming.source_version,
            observed_at_us=incoming.observed_at_us,
            retain_until_us=incoming.retain_until_us,
            extracted=plan.read.extracted,
            pieces=plan.read.pieces,
        )


def _slot_of(acl: AccessList | Unreadable | None, container: str | None) -> SlotWanted:
    """Return the slot of a list: through its folder where it inherits, by itself where it does not."""
    if acl is None or isinstance(acl, Unreadable):
        return _NOBODY_SLOT
    if not acl.inherit or container is None:
        return SlotWanted(None, replace(acl, inherit=False))
    has_own = bool(acl.allow or acl.deny)
    return SlotWanted(container, replace(acl, inherit=False) if has_own else None)


def _placed(incoming: Incoming, found: KnownDocument | None) -> Incoming:
    """Return a document with the folder that a new list of it inherits from where none was named: its own."""
    if incoming.acl is None or incoming.container is not None or found is None or not found.version:
        return incoming
    is_there = found.state in {DocumentState.LIVE, DocumentState.QUARANTINED}
    return replace(incoming, container=found.container) if is_there else incoming


def _early(incoming: Incoming, digest: bytes, found: KnownDocument | None, source: Source) -> PutResult | None:
    """Return the outcome of what needs no write: an older version, or what is there already, word and list."""
    if found is None or not found.version or found.state in {DocumentState.DELETED, DocumentState.PURGED}:
        return None
    if _is_stale(incoming, found.source_version, found.observed_at_us):
        return PutResult(incoming.external_id, PutStatus.STALE, found.id, version=found.version)
    if found.content_digest != digest or not _says_the_same(incoming, found, source):
        return None
    is_hidden = found.state is DocumentState.QUARANTINED
    status = PutStatus.QUARANTINED if is_hidden else PutStatus.UNCHANGED
    return PutResult(incoming.external_id, status, found.id, found.state_code, found.version)


def _says_the_same(incoming: Incoming, found: KnownDocument, source: Source) -> bool:
    """Tell whether the list and folder that came are those that are there; no list is, unless a default now waits."""
    acl, is_hidden = incoming.acl, found.state is DocumentState.QUARANTINED
    is_at_place = found.container == incoming.container
    if isinstance(acl, Unreadable):
        return is_hidden and found.state_code == acl.code
    if acl is None:
        return (is_at_place or incoming.container is None) and (not is_hidden or source.default_acl is None)
    return not is_hidden and found.acl_digest == acl_digest(acl) and is_at_place


def _is_stale(incoming: Incoming, source_version: int | None, observed_at_us: int | None) -> bool:
    """Tell whether it is older than what is there; an item with neither number is taken as newest."""
    if incoming.source_version is not None and source_version is not None:
        return incoming.source_version < source_version
    if incoming.observed_at_us is not None and observed_at_us is not None:
        return incoming.observed_at_us < observed_at_us
    return False


def _is_later(incoming: Incoming, found: KnownDocument | None) -> bool:
    """Tell whether the same content came under a later number, which has to be remembered."""
    if found is None:
        return True
    is_later_version = incoming.source_version is not None and incoming.source_version > (found.source_version or 0)
    return is_later_version or (
        incoming.source_version is None
        and incoming.observed_at_us is not None
        and incoming.observed_at_us > (found.observed_at_us or 0)
    )


def _has_content(plan: _Plan, found: KnownDocument | None) -> bool:
    if found is None or not found.version or found.state in {DocumentState.DELETED, DocumentState.PURGED}:
        return False
    return found.content_digest == plan.digest


def _wanted(incoming: Incoming) -> ReadWanted:
    return ReadWanted(incoming.media_type, incoming.title, incoming.text, incoming.content)


def _told(source: Source, documents: set[UUID], acl_changed: int) -> AuditEntry:
    ids = [format_id("doc", each) for each in sorted(documents)[:_AUDITED_IDS]]
    detail = {"documents": len(documents), "acl_changed": acl_changed, "ids": ids}
    return AuditEntry("document.put", "source", format_id("src", source.id), detail=detail)
