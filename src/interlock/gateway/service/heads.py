"""What the rules of a head decided, kept for whoever sends the very same head again while nothing has changed.

States no rule: it gives back what `admit.py` wrote down. Never keeps a refusal, nor anything that a date decides but
the end of a key.
"""

from dataclasses import dataclass
from typing import Final

from interlock.foundation.clock import Clock
from interlock.foundation.flags import KillSwitches
from interlock.foundation.identity import Authenticated, Authenticator
from interlock.foundation.telemetry import Link, ToldDecision
from interlock.foundation.wire import Headers, Request
from interlock.gateway.domain.directory import Directory
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import asked_s

# `received`, then `authenticated`: with more in between a version or a beta decided, and those have dates.
_PLAIN_DECISIONS: Final = 2
# A longer head is no object that another request shares, so nobody would ever come back for it.
_HEAD_BYTES_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was written down of one head, and what must still be so for it to hold."""

    found: Authenticated
    directory: Directory
    endpoint: str
    decision: ToldDecision
    models: frozenset[str]
    trace_id: str | None
    tags: str
    client_id: bytes | None
    links: tuple[Link, ...]
    asked_s: float | None


class Heads:
    """Heads that were let in. Equal heads are one object, by which they are known together with who sends them."""

    def __init__(self, authenticator: Authenticator, switches: KillSwitches, clock: Clock, heads_max: int) -> None:
        self._authenticator = authenticator
        self._switches = switches
        self._clock = clock
        self._heads_max = heads_max
        self._kept: dict[tuple[Headers, str | None], _Kept] = {}

    def recall(self, passage: Passage, directory: Directory) -> bool:
        """Write down again what was decided of this head; False where it has to be decided anew."""
        kept = self._of(passage, directory)
        if kept is None or self._switches.kills or not self._authenticator.renew(kept.found, self._clock.now_us()):
            return False
        _tell(passage, kept)
        return True

    def name(self, passage: Passage, directory: Directory) -> bool:
        """Write down who was let in by this head before, for a request that is not let in any more."""
        kept = self._of(passage, directory)
        if kept is not None:
            _tell(passage, kept)
        return kept is not None

    def found(self, request: Request, directory: Directory) -> Authenticated | None:
        """Return the key of a head that was let in; None where it would have to be decided anew."""
        kept = self._kept.get((request.headers, request.peer))
        return None if kept is None or kept.directory is not directory else kept.found

    def remember(self, passage: Passage, found: Authenticated, directory: Directory) -> None:
        """Keep what was decided of a head that was let in."""
        if len(passage.decisions) != _PLAIN_DECISIONS or passage.betas:
            return
        if sum(len(name) + len(value) for name, value in passage.exchange.request.headers.items) > _HEAD_BYTES_MAX:
            return
        if len(self._kept) >= self._heads_max:
            self._kept.clear()
        request = passage.exchange.request
        self._kept[request.headers, request.peer] = _Kept(
            found=found,
            directory=directory,
            endpoint=passage.endpoint,
            decision=passage.decisions[-1],
            models=passage.key_models,
            trace_id=passage.trace_id,
            tags=passage.tags,
            client_id=request.headers.get(b"x-client-request-id"),
            links=tuple(passage.links),
            asked_s=asked_s(request.headers),
        )

    def forget(self) -> None:
        """Forget all heads: each holds the directory by which it was let in."""
        self._kept.clear()

    def statistics(self) -> dict[str, int]:
        """Return how many heads are kept and how many may be."""
        return {"heads": len(self._kept), "heads_max": self._heads_max}

    def _of(self, passage: Passage, directory: Directory) -> _Kept | None:
        request = passage.exchange.request
        kept = self._kept.get((request.headers, request.peer))
        is_same = kept is not None and kept.directory is directory and kept.endpoint == passage.endpoint
        return kept if is_same else None


def _tell(passage: Passage, kept: _Kept) -> None:
    found = kept.found
    passage.identify(found.principal)
    passage.key_models, passage.class_max, passage.key_kind = kept.models, found.key.class_max, found.key.kind
    passage.trace_id, passage.tags = kept.trace_id, kept.tags
    if kept.client_id is not None:
        passage.name(kept.client_id)
    passage.links += kept.links
    passage.asked_s = kept.asked_s
    _, _, rule, verdict, detail = kept.decision
    passage.decide("authenticated", rule, verdict, detail)
    passage.auth_ms = passage.elapsed_ms()
