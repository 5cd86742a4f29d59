"""`Idempotency-Key` on inference: the first call answers and is kept, whoever repeats it gets the same bytes.

Makes no answer itself; what goes to the client is gathered on its way.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import OrganizationId, WorkspaceId
from interlock.foundation.scope import Scope
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.dialect import HeaderList
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.replies import Capture, Claim, Reply, ReplyName, Taken, fingerprint_of, key_of
from interlock.gateway.service.passage import Passage
from interlock.gateway.store.replies import StoredReplies

log = structlog.get_logger("interlock.gateway")
HEADER: Final = b"idempotency-key"
Answer = Callable[[], Awaitable[Refusal | None]]
_ORIGINAL: Final = b"x-interlock-original-request-id"


@dataclass(frozen=True, slots=True)
class ReplayStatistics:
    """Claims that running requests hold, and claims that wait to be released."""

    held: int
    releasing: int


class Replays:
    """Claims of this edge. A claim ends when its answer is kept, or when its request is over without one."""

    def __init__(self, replies: StoredReplies, config: EdgeConfig, clock: Clock) -> None:
        self._replies = replies
        self._config = config
        self._clock = clock
        self._held: set[Claim] = set()
        self._over: list[Claim] = []
        self._has_over = asyncio.Event()

    def statistics(self) -> ReplayStatistics:
        """Return how many claims there are."""
        return ReplayStatistics(len(self._held), len(self._over))

    async def claim(self, passage: Passage, body: bytes) -> Capture | Reply | Refusal:
        """Return what gathers the answer of a first call, the kept one of a repeated one, or why neither."""
        name = _name(passage)
        if isinstance(name, Refusal):
            return name
        fingerprint, owner = fingerprint_of(body), passage.exchange.request_id
        passage.open()
        try:
            async with asyncio.timeout(self._config.idempotency_wait_s):
                found = await self._replies.claim(name, owner, fingerprint, self._config.idempotency_lease_s)
        except asyncio.CancelledError:
            self._let_go(Claim(name, owner, fingerprint, None))
            raise
        except (InterlockError, OSError) as error:
            # The store may have given it all the same; whoever repeats the call must not wait for the end of its lease.
            self._let_go(Claim(name, owner, fingerprint, None))
            note = error.code if isinstance(error, InterlockError) else type(error).__name__
            return Refusal("idempotency_unavailable", "idempotency.store_away", step="idempotency", note=note)
        if isinstance(found, Claim):
            self._held.add(found)
            passage.decide("idempotency", "idempotency.claim", "claimed", name.key)
            return Capture(found, self._config.replay_bytes_max)
        return _taken(passage, found)

    async def answer(self, passage: Passage, capture: Capture, make: Answer) -> Refusal | None:
        """Make the answer of a first call; without one the name is free again."""
        passage.capture = capture
        claim = capture.claim
        try:
            refusal = await make()
            await self.release(passage)
            return refusal
        finally:
            self._held.discard(claim)
            if not claim.is_ended:
                self._let_go(claim)

    async def keep(self, passage: Passage) -> None:
        """Keep the answer that was gathered, before its last byte goes out: whoever has it may repeat the call."""
        capture, principal = passage.capture, passage.principal
        if capture is None or principal is None or capture.claim.is_ended:
            return
        name = capture.claim.name
        scope = Scope(OrganizationId(name.organization_id), WorkspaceId(name.workspace_id), principal)
        try:
            async with asyncio.timeout(self._config.idempotency_wait_s):
                is_kept = await self._replies.keep(scope, capture.claim, capture.reply, self._config.idempotency_kept_s)
        except (InterlockError, OSError) as error:
            log.warning("answer_not_kept", request_id=passage.exchange.request_id, error=str(error))
            return
        capture.claim.is_ended = True
        passage.decide("idempotency", "idempotency.keep", "kept" if is_kept else "lost", "")

    async def run(self) -> None:
        """Hold the claims of running requests, and release those that ended, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.idempotency_lease_s / 3):
                    await self._has_over.wait()
            await self.run_once()

    async def run_once(self) -> None:
        """Release and renew once; what the store does not take now ends with its lease."""
        self._has_over.clear()
        over, self._over = self._over, []
        try:
            for claim in over:
                await self._replies.release(claim)
            if self._held:
                await self._replies.renew(list(self._held), self._config.idempotency_lease_s)
        except (InterlockError, OSError) as error:
            log.warning("claims_wait", error=str(error), held=len(self._held), released=len(over))

    def _let_go(self, claim: Claim) -> None:
        self._over.append(claim)
        self._has_over.set()

    async def release(self, passage: Passage) -> None:
        """Free the name of a call that made no answer, before its caller hears of it and repeats it."""
        if passage.capture is None or passage.capture.claim.is_ended:
            return
        claim = passage.capture.claim
        with suppress(InterlockError, OSError, TimeoutError):
            async with asyncio.timeout(self._config.idempotency_wait_s):
                await self._replies.release(claim)
                claim.is_ended = True


def replayed_headers(reply: Reply) -> HeaderList:
    """Return the headers of an answer that is given again."""
    return [*reply.headers, (b"x-interlock-replayed", b"true"), (_ORIGINAL, reply.request_id.encode())]


def _name(passage: Passage) -> ReplyName | Refusal:
    given = set(passage.exchange.request.headers.getall(HEADER))
    # Of two keys neither is the one by which the caller will ask again.
    key = key_of(given.pop()) if len(given) == 1 else None
    if key is None:
        return Refusal(
            "invalid_request",
            "header.idempotency-key",
            message="`Idempotency-Key` is one key of 1 to 255 printable ASCII characters.",
            param="Idempotency-Key",
            step="idempotency",
        )
    workspace_id = passage.workspace_id
    if not isinstance(workspace_id, UUID):
        return Refusal("scope_denied", "key.workspace", message="Inference needs the key of a workspace.")
    return ReplyName(passage.tenant, workspace_id, passage.endpoint, key)


def _taken(passage: Passage, taken: Taken) -> Reply | Refusal:
    if not taken.is_same:
        return Refusal("idempotency_mismatch", "idempotency.body", step="idempotency")
    if not taken.is_done:
        return Refusal("idempotency_in_progress", "idempotency.running", step="idempotency", note=taken.owner)
    if taken.reply is None:
        return Refusal(
            "idempotency_mismatch",
            "idempotency.too_large",
            message="The answer of the first call was too large to be kept.",
            status=409,
            detail={"original_request_id": taken.owner},
            headers=((_ORIGINAL, taken.owner.encode()),),
            step="idempotency",
        )
    passage.decide("idempotency", "idempotency.kept", "replayed", taken.owner)
    return taken.reply
