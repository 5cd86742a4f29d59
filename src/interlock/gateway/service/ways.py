"""The ways of usual requests: what was decided of one is kept for those of the same head and alias, while it holds.

States no rule and serves nobody: it looks at what the rules wrote down, and the kernel takes on whoever comes again.
"""

from collections.abc import Awaitable
from typing import Any, Final, Protocol
from uuid import UUID

from interlock.foundation import native
from interlock.foundation.clock import Clock
from interlock.foundation.flags import KillSwitches
from interlock.foundation.identity import TASK, Authenticator
from interlock.foundation.telemetry import Outcome, Spool
from interlock.foundation.telemetry.names import STEP_NUMBER
from interlock.foundation.wire import Exchange, Taker
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain import dialect
from interlock.gateway.domain.directory import Placement
from interlock.gateway.domain.envelope import Dialect, plain_reader
from interlock.gateway.domain.estimate import Estimator
from interlock.gateway.domain.limits import Ask
from interlock.gateway.service.admit import Admission
from interlock.gateway.service.attempts import Begun
from interlock.gateway.service.entrance import Entrance
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import Place, Placer
from interlock.gateway.service.relay import Relay
from interlock.gateway.service.reserve import LEASED, Limiter
from interlock.gateway.service.targets import Targets

_kernel: Final[Any] = native.load("interlock.gateway.service._native_errand")
# Decisions of a request that found nothing unusual: more between them had a date, a chance or a wait.
_DECIDED: Final = tuple(STEP_NUMBER[step] for step in ("received", "authenticated", "parsed", "model"))
_ASKED: Final = tuple(STEP_NUMBER[step] for step in ("route", "attempt"))
_LIMITS: Final = STEP_NUMBER["limits"]
_ANSWERED: Final = frozenset({Outcome.OK, Outcome.OK_STREAM})
# What all requests of one way have in common.
_SAME: Final = (
    "alias", "arm", "asked_s", "class_max", "client_request_id", "common_headers", "dialect", "is_stream", "key_id",
    "key_kind", "key_models", "links", "organization_id", "placement", "principal", "tags", "total_s", "trace_id",
    "workspace_id",
)  # fmt: skip
# Of the headers of an answer those that no moment decides: type, route, arm, attempts.
_HEADERS: Final = 4
# Of one head and peer.
_ALIASES_MAX: Final = 64


class Errand(Protocol):
    """A request that was taken on without a task and needs one now: what was begun of it, or what went wrong."""

    passage: Passage
    ask: Ask
    begun: Begun | None
    fault: Exception | None


class Host(Protocol):
    """What a request is a part of while it runs: the handler of the public port."""

    def uuid_of(self, request_id: str) -> UUID: ...
    def close(self, passage: Passage) -> None: ...
    def handle(self, exchange: Exchange, errand: Errand | None = None) -> Awaitable[None]: ...


class Ways:
    """The ways of one edge. `take` takes on whatever goes one, where the kernel was built; else nothing."""

    def __init__(  # noqa: PLR0913 - what a request meets on its way
        self,
        *,
        admission: Admission,
        authenticator: Authenticator,
        switches: KillSwitches,
        estimator: Estimator,
        entrance: Entrance,
        targets: Targets,
        limiter: Limiter,
        placer: Placer,
        relay: Relay,
        spool: Spool,
        config: EdgeConfig,
        clock: Clock,
    ) -> None:
        self._admission = admission
        self._placer = placer
        self._relay = relay
        self._limiter = limiter
        self._spool = spool
        self._clock = clock
        self._heads_max = config.heads_max
        self._errands: Any = None
        self._parts: dict[str, Any] = {
            "admission": admission, "switches": switches, "renew": authenticator.renew, "estimator": estimator,
            "entrance": entrance, "targets": targets, "limiter": limiter, "relay": relay,
            "spool": spool, "clock": clock, "config": config,
        }  # fmt: skip

    def open(self, edge: Host, **parts: Any) -> Taker | None:
        """Return what takes requests on for an edge and what is its own; None where there is no kernel."""
        if _kernel is None or not native.is_whole():
            return None
        self._errands = _kernel.Errands(edge=edge, **parts, **self._parts)
        take: Taker = self._errands.take
        return take

    def learn(self, passage: Passage) -> None:
        """Keep the way of a request that was answered, if nothing about it was unusual."""
        if self._errands is None or not _is_usual(passage):
            return
        request, directory = passage.exchange.request, self._admission.directory
        envelope, placement, found = passage.envelope, passage.placement, self._admission.found(request)
        if envelope is None or placement is None or found is None or not self._is_fixed(passage, placement):
            return
        if found.principal is not passage.principal:
            # The key has changed meanwhile, and another request of this head was let in by what it is now.
            return
        place = self._placer.at_once(passage)
        if place is None or place.dialect is not envelope.dialect:
            return
        known = self._errands.known.get((request.headers, request.peer))
        if known is None or known.directory is not directory:
            if len(self._errands.known) >= self._heads_max:
                self._errands.known.clear()
            known = _kernel.Known(directory, plain_reader(envelope.dialect))
            self._errands.known[request.headers, request.peer] = known
        ways = known.streamed if envelope.is_stream else known.whole
        if len(ways) < _ALIASES_MAX:
            ways[envelope.model] = self._way(passage, found, placement, place)

    def forget(self) -> None:
        """Forget all ways: what they hold of a directory that is in force no more would live on with them."""
        if self._errands is not None:
            self._errands.known.clear()

    def _is_fixed(self, passage: Passage, placement: Placement) -> bool:
        """Tell whether the directory alone, and no moment and no chance, led the request where it went."""
        directory = self._admission.directory
        alias = directory.alias(passage.tenant, placement.route.alias)
        if alias is None or (alias.weight is not None and alias.weight.candidate_version is not None):
            return False
        targets = directory.plan(alias.stable.route).targets
        is_only = len(targets) == 1 and targets[0][0] is placement
        # A beta of its head or endpoint would stand among its decisions; of bodies, each says something else.
        return is_only and placement.can_all and not directory.betas.reads_bodies_of(passage.tenant)

    def _way(self, passage: Passage, found: object, placement: Placement, place: Place) -> Any:
        blank = Passage(passage.exchange, passage.request_id, self._spool, self._clock)
        for name in _SAME:
            setattr(blank, name, getattr(passage, name))
        story = blank.story()
        # Nothing of the request that showed the way is kept alive by it.
        blank.exchange = None  # type: ignore[assignment]
        told = {each[1]: each[1:] for each in passage.decisions}
        applicable = self._admission.limits_of(passage)
        return _kernel.Way(
            found=found,
            blank=blank,
            story=story,
            place=place,
            plan=self._admission.directory.plan(placement.route),
            applicable=applicable,
            limits=None if applicable is None else self._limiter.plan(passage.tenant, applicable),
            reserved=(_LIMITS, LEASED, "reserved"),
            told=tuple(told[number] for number in (*_DECIDED, *_ASKED)),
            headers=self._relay.answer_headers(passage, dialect.JSON)[:_HEADERS],
            ask=self._relay.asker(passage, place),
            trace=(passage.trace_id, self._relay.end_of_lines(passage)) if place.is_own else None,
            timeouts=self._placer.timeouts(passage),
            is_chat=place.dialect is Dialect.CHAT,
        )


def _is_usual(passage: Passage) -> bool:
    """Tell whether a request was let in, led, asked once and answered as it wished, and nothing else was decided."""
    steps = tuple(each[1] for each in passage.decisions)
    before, behind = len(_DECIDED), len(_DECIDED) + (steps[len(_DECIDED)] == _LIMITS)
    is_plain = steps[:before] == _DECIDED and steps[behind : behind + len(_ASKED)] == _ASKED
    is_answered = passage.outcome in _ANSWERED and len(passage.attempts) == 1
    is_told = all(name == b"x-client-request-id" for name, _ in passage.common_headers)
    return is_plain and is_answered and is_told and passage.key_kind != TASK and passage.key_id is not None
