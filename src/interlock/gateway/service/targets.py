"""The deployments that this edge calls: which are healthy, who is next, and what each call said about them.

Sends nothing; `attempts.py` does.
"""

import asyncio
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from interlock.foundation import native
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.flags import KillSwitches
from interlock.gateway.domain.balance import Candidate, Load, Turns, choose, score
from interlock.gateway.domain.breaker import BreakerState, RetryBudget
from interlock.gateway.domain.directory import Placement, ProviderKind
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.needs import lacking
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.troubles import is_failure
from interlock.gateway.service.admit import killed, placement_targets
from interlock.gateway.service.passage import Passage

_CONNECT: Final = "upstream.connect"
_LOADS_MAX: Final = 10_000
# The step of a refusal that a call which ends may lift.
FULL: Final = "queue"
Group = tuple[tuple[Placement, float], ...]
Place = tuple[int, str]
_compiled: Final = native.load("interlock.gateway.domain._native_rules")


@dataclass(frozen=True, slots=True)
class TargetStatistics:
    """One deployment as this edge sees it."""

    organization_id: UUID
    deployment: str
    inflight: int
    peak_ms: float
    breaker: BreakerState


class _Call:
    """One call of a deployment; ended once."""

    __slots__ = ("_began", "_is_open", "_is_pooled", "_is_probe", "_load", "_place", "_targets")

    def __init__(self, targets: "Targets", place: Place, load: Load, now: float, is_pooled: bool) -> None:  # noqa: FBT001 - made at one place
        self._targets = targets
        self._place = place
        self._load = load
        self._began = now
        self._is_open, self._is_pooled = True, is_pooled
        self._is_probe = load.breaker.begin()
        load.inflight += 1

    def succeeded(self, first_ms: float) -> None:
        """The deployment answered; `first_ms` is the time to its first output."""
        if self._closed():
            now = self._targets.clock.monotonic()
            self._load.observe(first_ms, now)
            self._load.breaker.succeed(now, is_probe=self._is_probe)

    def abandoned(self) -> None:
        """The call ended without a word about the deployment."""
        if self._closed():
            self._load.breaker.abandon(is_probe=self._is_probe)

    def _closed(self) -> bool:
        is_mine, self._is_open = self._is_open, False
        if is_mine:
            self._load.inflight -= 1
            self._targets.freed(self._place)
        return is_mine


if not TYPE_CHECKING and _compiled is not None:
    _Call = _compiled.Call


class Call(_Call):
    """One call of a deployment; ended once, by what it said.

    What an engine of a pool does wrong is judged by its scheduler, who has others: it breaks no deployment.
    """

    __slots__ = ()

    def refused(self, refusal: Refusal) -> None:
        """The deployment did not answer, or said that the request is wrong, which is no fault of its own."""
        if not self._closed():
            return
        now = self._targets.clock.monotonic()
        if self._is_pooled:
            self._load.breaker.abandon(is_probe=self._is_probe)
            return
        if not is_failure(refusal):
            self._load.breaker.succeed(now, is_probe=self._is_probe)
            return
        self._load.observe((now - self._began) * 1_000, now)
        self._load.breaker.fail(
            now,
            self._targets.dice.random(),
            is_probe=self._is_probe,
            is_connect=refusal.rule == _CONNECT,
            wait_s=refusal.retry_after_s,
        )


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request for which one of some full deployments would do."""

    places: frozenset[Place]
    woken: asyncio.Event


class Targets:
    """Loads and breakers by deployment, turns by version, and the budget of retries."""

    def __init__(self, switches: KillSwitches, clock: Clock, dice: Dice, *, queue_max: int) -> None:
        self._switches = switches
        self._queue_max = queue_max
        self.clock = clock
        self.dice = dice
        self.budget = RetryBudget()
        self.loads: dict[Place, Load] = {}
        self._turns: dict[tuple[int, str, int], Turns] = {}
        self._waiting: dict[_Waiter, None] = {}

    def choose(self, passage: Passage, group: Group, ask: Ask, avoided: AbstractSet[str]) -> Placement | Refusal:
        """Return who is asked next, in the story with its reason, or why nobody can be. Avoided ones come last."""
        if not group:
            return Refusal("model_not_found", "model.alias", step="route")
        if len(group) == 1:
            return self._only(passage, group[0][0], ask)
        now = self.clock.monotonic()
        healthy, reasons, refusals = [], [], []
        for placement, weight in group:
            load = self._load(placement)
            refusal = self._excluded(passage, placement, load, ask, now)
            if refusal is None:
                healthy.append(Candidate(placement, weight, load))
            else:
                reasons.append(f"{placement.deployment.name} out: {refusal.note or refusal.rule}")
                refusals.append(refusal)
        route = group[0][0].route
        if not healthy:
            passage.decide("route", f"route.{route.alias}", "none", "; ".join(reasons))
            return min(refusals, key=_hope)
        strategy = route.spec.strategy
        fresh = [each for each in healthy if each.placement.deployment.name not in avoided] or healthy
        found = fresh[0] if len(fresh) == 1 else choose(strategy, fresh, self._turn(fresh[0]), now, self.dice.randrange)
        scores = [f"{each.placement.deployment.name} {score(strategy, each, now)}" for each in healthy]
        reasons = [f"{strategy}: {found.placement.label}", *scores, *reasons]
        passage.decide("route", f"route.{route.alias}.{strategy}", "chosen", "; ".join(reasons))
        return found.placement

    def _only(self, passage: Passage, placement: Placement, ask: Ask) -> Placement | Refusal:
        rule = placement.rule
        refusal = self._excluded(passage, placement, self._load(placement), ask, self.clock.monotonic())
        if refusal is None:
            passage.decide("route", rule, "chosen", placement.label)
            return placement
        note = f"{placement.deployment.name} out: {refusal.note or refusal.rule}"
        passage.decide("route", rule, "none", note)
        return refusal

    def begin(self, placement: Placement) -> Call:
        """Note that a deployment is called."""
        is_pooled = placement.provider.kind is ProviderKind.POOL
        return Call(self, placement.place, self._load(placement), self.clock.monotonic(), is_pooled)

    def has_spare(self, placement: Placement) -> bool:
        """Tell whether a call that no caller waits for may be made: nothing is wrong, and half the places are free."""
        load, most = self._load(placement), placement.deployment.max_concurrent
        is_sound = load.breaker.admits(self.clock.monotonic()) and load.breaker.state is BreakerState.CLOSED
        return is_sound and (most is None or 2 * load.inflight < most)

    async def room(self, passage: Passage, group: Group, wait_s: float) -> bool:
        """Wait until a call of one of the deployments has ended; False where the line is full or the wait too long."""
        if len(self._waiting) >= self._queue_max:
            return False
        waiter = _Waiter(frozenset(placement.place for placement, _ in group), asyncio.Event())
        self._waiting[waiter] = None
        try:
            with passage.waiting():
                async with asyncio.timeout(wait_s):
                    await waiter.woken.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(waiter, None)
        return True

    def freed(self, place: Place) -> None:
        """A call of a deployment has ended: whoever has waited longest for it is next."""
        if not self._waiting:
            return
        waiter = next((each for each in self._waiting if place in each.places), None)
        if waiter is not None:
            del self._waiting[waiter]
            waiter.woken.set()

    def statistics(self) -> Iterator[TargetStatistics]:
        """Yield what this edge knows of each deployment that it called."""
        now = self.clock.monotonic()
        for (number, name), load in self.loads.items():
            load.breaker.admits(now)
            yield TargetStatistics(UUID(int=number), name, load.inflight, load.peak_ms(now), load.breaker.state)

    def _excluded(self, passage: Passage, placement: Placement, load: Load, ask: Ask, now: float) -> Refusal | None:
        deployment = placement.deployment
        if self._switches.kills:
            kill = self._switches.check(placement_targets(passage, placement), passage.organization_id)
            if kill is not None:
                return killed(kill, passage)
        if not load.breaker.admits(now):
            wait_s = max(0.1, load.breaker.until - now)
            note = f"breaker {load.breaker.state}, {wait_s:.1f} s"
            rule = f"deployment.{deployment.name}.breaker"
            return Refusal("route_unavailable", rule, step="route", note=note, retry_after_s=wait_s)
        if deployment.max_concurrent is not None and load.inflight >= deployment.max_concurrent:
            rule, note = f"deployment.{deployment.name}.max_concurrent", f"full with {load.inflight}"
            return Refusal("overloaded", rule, step=FULL, note=note, retry_after_s=1.0)
        if passage.envelope is None or placement.can_all:
            return None
        return lacking(deployment, passage.envelope, ask)

    def _load(self, placement: Placement) -> Load:
        place = placement.place
        load = self.loads.get(place)
        if load is None:
            if len(self.loads) >= _LOADS_MAX:
                self._forget_idle()
            load = self.loads[place] = Load()
        return load

    def _forget_idle(self) -> None:
        """Make room by those that nobody calls; what runs is counted until it ends."""
        for place in [place for place, load in self.loads.items() if load.inflight == 0][: _LOADS_MAX // 10]:
            del self.loads[place]

    def _turn(self, candidate: Candidate) -> Turns:
        route = candidate.placement.route
        place = (route.organization_id.int, route.alias, route.version)
        turns = self._turns.get(place)
        if turns is None:
            if len(self._turns) >= _LOADS_MAX:
                self._turns.clear()
            turns = self._turns[place] = Turns()
        return turns


def _hope(refusal: Refusal) -> tuple[int, float]:
    """Order reasons by what helps the caller most: what passes soonest, then what cannot be waited for."""
    ranks = {"overloaded": 0, "route_unavailable": 1, "killed": 2}
    return ranks.get(refusal.code, 3), refusal.retry_after_s or 0.0
