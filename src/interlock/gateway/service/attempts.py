"""Calls of model servers for one request: targets in turn, retries within a budget, fallbacks, then a lesser alias.

Chooses no target itself and relays nothing; it decides what comes after a call that failed.
"""

from dataclasses import dataclass
from typing import Final

from interlock.foundation.clock import Clock, Dice
from interlock.foundation.telemetry import Outcome
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.directory import Placement, Plan
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.outcomes import outcome_of
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.troubles import may_degrade, trouble_of
from interlock.gateway.service.admit import DRAIN, Admission
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import Place, Placer
from interlock.gateway.service.relay import Relay, Sent
from interlock.gateway.service.settle import Settler
from interlock.gateway.service.targets import FULL, Call, Group, Targets

_BACKOFF_S: Final = 0.05
_BACKOFF_S_MAX: Final = 1.0
_NEVER: Final = b"never"
_DEGRADE: Final = b"x-interlock-degrade"
_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Failed:
    """A call that gave the client nothing. `is_final` ends the request: nothing else is asked for it."""

    refusal: Refusal
    may_repeat: bool = False
    is_final: bool = False


@dataclass(slots=True)
class Begun:
    """A call of a model server, as its target is counted and as it is sent; `plan` is what may be asked after it.

    Without a plan it is what the route says now.
    """

    call: Call
    sent: Sent
    plan: Plan | None = None


class Attempts:
    """Answers an admitted request, whatever it takes and is allowed."""

    def __init__(  # noqa: PLR0913 - one argument a step
        self,
        *,
        admission: Admission,
        targets: Targets,
        placer: Placer,
        relay: Relay,
        settler: Settler,
        config: EdgeConfig,
        clock: Clock,
        dice: Dice,
    ) -> None:
        self._admission = admission
        self._targets = targets
        self._placer = placer
        self._relay = relay
        self._settler = settler
        self._config = config
        self._clock = clock
        self._dice = dice

    async def run(self, passage: Passage, ask: Ask, begun: Begun | None = None) -> Refusal | None:
        """Answer by the route, where its first call was begun by that; return why nothing was sent to the client."""
        if passage.placement is None:
            return Refusal("model_not_found", "model.alias", step="route")
        # What was begun goes on as it began, whatever has become of its route since.
        began = None if begun is None else begun.plan
        plan = began or self._admission.directory.plan(passage.placement.route)
        if begun is None:
            self._targets.budget.note(self._clock.monotonic())
            chosen = self._targets.choose(passage, plan.targets, ask, _NOBODY)
            if isinstance(chosen, Refusal):
                failed = await self._among(passage, plan.targets, ask, chosen)
                return None if failed is None else await self._fall_back(passage, plan, ask, failed)
            passage.placement = chosen
            failed = await self._once(passage, ask)
        else:
            failed = await self._heard(passage, begun)
        if failed is None:
            return None
        failed = await self._among(passage, plan.targets, ask, failed)
        return None if failed is None else await self._fall_back(passage, plan, ask, failed)

    def degrade(self, passage: Passage, refusal: Refusal) -> bool:
        """Lead a request that found no room to the lesser alias of its route, once; tell whether there is one."""
        placement = passage.placement
        alias = placement.route.spec.degrade_to if placement is not None else None
        if alias is None or passage.degraded is not None or not may_degrade(refusal):
            return False
        wish = passage.exchange.request.headers.get(_DEGRADE)
        if wish is not None and wish.strip().lower() == _NEVER:
            passage.decide("degrade", "header.x-interlock-degrade", "never", alias)
            return False
        found = self._admission.lesser(passage, alias)
        if isinstance(found, Refusal):
            passage.decide("degrade", found.rule, "refused", alias)
            return False
        self._settler.release_grant(passage, Outcome.OVERLOADED)
        passage.degraded = f"model={alias}; reason={refusal.code}"
        # What another alias answers tells nothing of the version that was meant.
        passage.counted = None
        passage.placement = found
        passage.decide("degrade", refusal.rule, "degraded", passage.degraded)
        return True

    async def _fall_back(self, passage: Passage, plan: Plan, ask: Ask, failed: _Failed) -> Refusal | None:
        for placement, on in plan.fallbacks:
            trouble = trouble_of(failed.refusal)
            if failed.is_final or trouble not in on or passage.left_s() <= 0:
                continue
            name = placement.deployment.name
            passage.decide("fallback", failed.refusal.rule, "next", f"{name} on {trouble}")
            self._give_back(passage, failed.refusal)
            passage.is_fallback = True
            again = await self._among(passage, ((placement, 1.0),), ask, is_repeated=False)
            if again is None:
                return None
            failed = again
        passage.is_fallback = False
        return failed.refusal

    async def _among(
        self,
        passage: Passage,
        group: Group,
        ask: Ask,
        begun: Refusal | _Failed | None = None,
        *,
        is_repeated: bool = True,
    ) -> _Failed | None:
        """Ask targets of a group until one answers or nothing more may be asked.

        `begun` is what came of it so far: why nobody could be chosen, or how the first call failed.
        """
        tried: set[str] = set()
        chosen: Placement | Refusal | None = begun if isinstance(begun, Refusal) else None
        failed = begun if isinstance(begun, _Failed) else None
        while True:
            if failed is not None:
                if passage.placement is None or not (failed.may_repeat and is_repeated):
                    return failed
                tried.add(passage.placement.deployment.name)
                if not self._may_repeat(passage, failed.refusal):
                    return failed
            chosen = chosen or self._targets.choose(passage, group, ask, tried)
            if isinstance(chosen, Refusal) and chosen.step == FULL:
                chosen = await self._wait(passage, group, ask, tried, chosen)
            if isinstance(chosen, Refusal):
                return failed or _Failed(chosen)
            passage.placement = chosen
            if failed is not None:
                stopped = await self._pause(passage, failed.refusal, is_same=chosen.deployment.name in tried)
                if stopped is not None:
                    return stopped
            failed, chosen = await self._once(passage, ask), None
            if failed is None:
                return None

    async def _wait(
        self, passage: Passage, group: Group, ask: Ask, tried: set[str], full: Refusal
    ) -> Placement | Refusal:
        """Return who is asked next where all were only full: wait for one, in line and for a bounded time."""
        began = self._clock.monotonic()
        until = began + min(self._config.queue_s_max, passage.left_s())
        while True:
            wait_s = until - self._clock.monotonic()
            if wait_s <= 0 or not await self._targets.room(passage, group, wait_s):
                return full
            passage.queue_ms = (passage.queue_ms or 0.0) + (self._clock.monotonic() - began) * 1_000
            chosen = self._targets.choose(passage, group, ask, tried)
            if not isinstance(chosen, Refusal) or chosen.step != FULL:
                return chosen
            full = chosen

    async def _once(self, passage: Passage, ask: Ask) -> _Failed | None:
        placement = passage.placement
        if placement is None:
            return _Failed(Refusal("internal_error", "edge.no_placement", step="route"), is_final=True)
        place = self._placer.at_once(passage) or await self._placer.place(passage, ask)
        if isinstance(place, Refusal):
            return _Failed(place)
        # A switch may have come on while the request waited.
        stopped = self._admission.stopped(passage, DRAIN)
        if stopped is not None:
            # One that stops this target leaves the others.
            return _Failed(stopped, may_repeat=True, is_final=trouble_of(stopped) is None)
        begun = self.begin(passage, placement, place)
        return _Failed(begun) if isinstance(begun, Refusal) else await self._heard(passage, begun)

    def begin(self, passage: Passage, placement: Placement, place: Place) -> Begun | Refusal:
        """Put the request to a target, which counts as called until what is returned was heard."""
        sent = self._relay.put(passage, place, self._placer.timeouts(passage))
        return sent if isinstance(sent, Refusal) else Begun(self._targets.begin(placement), sent)

    async def _heard(self, passage: Passage, begun: Begun) -> _Failed | None:
        call, sent = begun.call, begun.sent
        try:
            answered = await self._relay.hear(passage, sent)
            if answered is not None:
                call.refused(answered[0])
                return _Failed(*answered)
            if passage.outcome is Outcome.STREAM_CUT:
                call.refused(Refusal("upstream_error", passage.rule))
            elif passage.outcome is not Outcome.KILLED:
                call.succeeded((passage.ttft_ms or passage.elapsed_ms()) - sent.began)
            return None
        finally:
            call.abandoned()

    def _give_back(self, passage: Passage, refusal: Refusal) -> None:
        self._settler.release_grant(passage, outcome_of(refusal.code, refusal.http_status))

    def _may_repeat(self, passage: Passage, refusal: Refusal) -> bool:
        """Tell whether another call may be made: by the route's number, the deadline and the budget, in this order."""
        route = passage.placement.route if passage.placement is not None else None
        most = route.spec.attempts_max if route is not None else None
        if len(passage.attempts) >= (most or self._config.attempts_max) or passage.left_s() <= 0:
            return False
        if not self._targets.budget.take(self._clock.monotonic()):
            passage.decide("retry", "edge.retry_budget", "refused", refusal.note)
            return False
        return True

    async def _pause(self, passage: Passage, refusal: Refusal, *, is_same: bool) -> _Failed | None:
        """Wait before the next call: full jitter, and for the same target what it asked for; None to go on."""
        backoff_s = min(_BACKOFF_S_MAX, _BACKOFF_S * 2 ** (len(passage.attempts) - 1))
        wait_s = self._dice.random() * backoff_s
        if is_same and refusal.retry_after_s is not None:
            wait_s = max(wait_s, refusal.retry_after_s)
            if wait_s >= min(passage.left_s(), self._config.retry_after_s_max):
                passage.decide("retry", refusal.rule, "too_late", f"asked for {refusal.retry_after_s:g} s")
                return _Failed(refusal)
        passage.decide("retry", refusal.rule, "again", f"after {wait_s * 1_000:.0f} ms: {refusal.note}")
        self._give_back(passage, refusal)
        with passage.waiting():
            await self._clock.sleep(wait_s)
        stopped = self._admission.stopped(passage, DRAIN)
        return None if stopped is None else _Failed(stopped, is_final=True)
