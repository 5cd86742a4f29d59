"""Two cores for one pool: a candidate decides for the workspaces that a hash gives it, the live one for all others.

Both know everything that runs: what one grants the other adopts at once, so slots, KV and credits are counted whole.
What waits is known to the core that decides it alone; the other is told how much of it is due before its newcomer.
Of the two who are first in their cores the one that is due first is granted, as if there were one queue.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, TypeVar

from interlock.contracts.scheduling import (
    AdoptedGrant,
    GrantRequest,
    Refused,
    ServiceClass,
    Settled,
    Settlement,
    SettleOutcome,
)
from interlock.scheduler.domain.arms import Arm, ArmName, arm_of
from interlock.scheduler.domain.beside import BesidePolicy
from interlock.scheduler.domain.books import Books
from interlock.scheduler.domain.decisions import RecordedPolicy
from interlock.scheduler.domain.fleet import Fleet
from interlock.scheduler.domain.policy import Waiting
from interlock.scheduler.domain.replicas import Running
from interlock.scheduler.domain.shadow import fork
from interlock.scheduler.domain.share import Path, Standing
from interlock.scheduler.domain.steptime import Residuals
from interlock.scheduler.domain.types import (
    Arrival,
    EngineState,
    Expired,
    Grant,
    Phase,
    PoolRules,
    PoolStatistics,
    Renewal,
)

# How far a look goes into a queue of a class that may wait longer.
_LOOKED_AT_MAX: Final = 256
_LEFT: Final = frozenset({SettleOutcome.UNUSED, SettleOutcome.CLIENT_GONE})
_Ended = list[tuple[str, Refused]]
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class _Side:
    """One core, what its arm came to, and what waits in it: deadline and prompt by class and request, oldest first."""

    policy: BesidePolicy
    counts: Arm = field(default_factory=Arm)
    queued: dict[ServiceClass, dict[str, tuple[int, int]]] = field(
        default_factory=lambda: {c: {} for c in ServiceClass}
    )
    tokens: dict[ServiceClass, int] = field(default_factory=lambda: dict.fromkeys(ServiceClass, 0))
    # A core that breaks in the midst of a call may have lost who waits in it.
    asked: dict[str, GrantRequest] = field(default_factory=dict)
    told: tuple[int, int] = (0, 0)

    def enter(self, waiting: Waiting) -> None:
        """Note a request that waits from now on."""
        ask = waiting.ask
        self.queued[ask.service_class][waiting.request.request_id] = (ask.deadline_us, ask.prefill)
        self.tokens[ask.service_class] += ask.prefill
        self.asked[waiting.request.request_id] = waiting.request

    def leave(self, request_id: str) -> None:
        """Note that a request waits no more."""
        self.asked.pop(request_id, None)
        for service_class, queued in self.queued.items():
            if request_id in queued:
                self.tokens[service_class] -= queued.pop(request_id)[1]

    def due_before(self, now_us: int, ttft_us: Mapping[ServiceClass, int], own: ServiceClass) -> tuple[int, int]:
        """Return the prompt tokens and the requests that are due before a newcomer of a class."""
        tokens = requests = 0
        for service_class, queued in self.queued.items():
            if ttft_us[service_class] <= ttft_us[own]:
                tokens, requests = tokens + self.tokens[service_class], requests + len(queued)
                continue
            for deadline_us, prefill in islice(queued.values(), _LOOKED_AT_MAX):
                if deadline_us > now_us + ttft_us[own]:
                    break
                tokens, requests = tokens + prefill, requests + 1
        return tokens, requests


class _Careful(Residuals):
    """What the candidate's predictions were wrong by, and never less than the live one's: it sees fewer of them."""

    def __init__(self, own: Residuals, live: Residuals) -> None:
        super().__init__()
        vars(self).update(vars(own))
        self._live = live

    @property
    def margin_us(self) -> int:
        """The larger of the two."""
        return max(super().margin_us, self._live.margin_us)


class Canary:
    """A pool that two cores decide; to its host it looks like one."""

    def __init__(self, live: RecordedPolicy, rules: PoolRules, *, share_bp: int, salt: str, now_us: int) -> None:
        self.live = live
        self.share_bp = share_bp
        self.is_closing = False
        self.failure: str | None = None
        self._candidate_rules = rules
        self._salt = salt
        core = fork(live)
        for request_id in list(core.waiting):
            core.cancel(now_us, request_id)
        core.configure(now_us, rules, live.weights)
        # An order that fills every seat at once would take the engines' credit from the other one.
        core.order.has_credits = True
        core.books = Books(rules)
        core.residuals = _Careful(core.residuals, live.residuals)
        self._sides = {ArmName.LIVE: _Side(live), ArmName.CANDIDATE: _Side(core)}
        for waiting in live.waiting.values():
            self._sides[ArmName.LIVE].enter(waiting)
        # Who decided a request that arrived during the canary; the others are the live core's.
        self._arms: dict[str, ArmName] = {}
        self._orphans: _Ended = []

    @property
    def core(self) -> BesidePolicy:
        """The candidate."""
        return self._sides[ArmName.CANDIDATE].policy

    @property
    def rules(self) -> PoolRules:
        """The rules of the pool, which are the live core's."""
        return self.live.rules

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of tenants, the same for both."""
        return self.live.weights

    @property
    def fleet(self) -> Fleet:
        """The engines with all that runs on them."""
        return self.live.fleet

    @property
    def running(self) -> Mapping[str, Running]:
        """All that runs."""
        return self.live.running

    @property
    def is_draining(self) -> bool:
        """Whether the pool grants nothing more."""
        return self.live.is_draining

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits in either core and nothing runs."""
        return self.live.is_idle and not self.core.waiting and not self._orphans

    @property
    def is_over(self) -> bool:
        """Whether the candidate decides nothing any more, so that the live core may go on alone."""
        return self.is_closing and not self.core.waiting and not self._orphans

    def close(self) -> None:
        """Give the candidate nothing new; what it has promised it still grants."""
        self.is_closing = True

    def alone(self, now_us: int) -> RecordedPolicy:
        """Return the live core, which has the pool to itself from now on."""
        self.live.ahead(now_us, 0, 0)
        return self.live

    def arms(self) -> tuple[Arm, Arm]:
        """Return what the live arm and the candidate's came to."""
        return self._sides[ArmName.LIVE].counts, self._sides[ArmName.CANDIDATE].counts

    def arm_of(self, request: GrantRequest) -> ArmName:
        """Return who decides a request that arrives now."""
        return ArmName.LIVE if self.is_closing else arm_of(self._salt, request.workspace_id, self.share_bp)

    def arrive(self, now_us: int, request: GrantRequest) -> Arrival:
        """Let the core of the request's workspace decide; the other hears of its tenant's demand."""
        arm = self.arm_of(request)
        own, other = self._sides[arm], self._sides[_OTHER[arm]]
        self._tell_ahead(now_us, own, other, request.service_class)
        if arm is ArmName.CANDIDATE:
            self._level()
            arrival = self._tried(now_us, lambda: own.policy.arrive(now_us, request))
            if arrival is None:
                return self.arrive(now_us, request)
        else:
            arrival = own.policy.arrive(now_us, request)
        own.counts.arrived += 1
        self._ended(own, arrival.displaced)
        if isinstance(arrival.outcome, Refused):
            own.counts.refused += 1
        else:
            self._arms[request.request_id] = arm
            own.enter(own.policy.waiting[request.request_id])
        if arm is ArmName.LIVE:
            self._tried(now_us, lambda: other.policy.offered(now_us, request))
        else:
            other.policy.offered(now_us, request)
        return arrival

    def next_grants(self, now_us: int) -> list[Grant]:
        """Grant one by one, each time whoever of the two first ones is due first."""
        grants: list[Grant] = []
        while (found := self._next(now_us)) is not None:
            grants.append(found)
        return grants

    def _next(self, now_us: int) -> Grant | None:
        sides = [each for each in self._sides.values() if each.policy.waiting]
        if len(sides) > 1:
            live, candidate = sides
            first = live.policy.foremost(now_us)
            self._level()
            other = self._tried(now_us, lambda: candidate.policy.foremost(now_us))
            if first is None or (other is not None and other < first):
                sides.reverse()
        return next((grant for each in sides if (grant := self._grant_one(now_us, each)) is not None), None)

    def _grant_one(self, now_us: int, side: _Side) -> Grant | None:
        if side.policy is self.live:
            found, other = self.live.grant_one(now_us), self._sides[ArmName.CANDIDATE]
        else:
            self._level()
            found = self._tried(now_us, lambda: side.policy.grant_one(now_us)) or []
            other = self._sides[ArmName.LIVE]
        if not found:
            return None
        [grant] = found
        side.leave(grant.request.request_id)
        adopted = AdoptedGrant(grant.request, "", grant.engine.engine_id, 0, 0)
        if other.policy is self.live:
            self.live.adopt(now_us, adopted)
        else:
            self._tried(now_us, lambda: other.policy.adopt(now_us, adopted))
        return grant

    def expire(self, now_us: int) -> Expired:
        """End the seats and leases whose time is over in both."""
        own = self.live.expire(now_us)
        other = self._tried(now_us, lambda: self.core.expire(now_us)) or Expired((), ())
        self._ended(self._sides[ArmName.LIVE], own.refused)
        self._ended(self._sides[ArmName.CANDIDATE], other.refused)
        for request_id in own.lost:
            arm = self._arms.pop(request_id, None)
            if arm is not None:
                self._sides[arm].counts.judged += 1
        orphans, self._orphans = self._orphans, []
        return Expired((*own.refused, *other.refused, *orphans), own.lost)

    def progress(self, now_us: int, request_id: str, output_tokens: int, ttft_ms: int | None) -> Renewal:
        """Tell both; the answer is that of the live core, which knows all that runs."""
        self._tried(now_us, lambda: self.core.progress(now_us, request_id, output_tokens, ttft_ms))
        return self.live.progress(now_us, request_id, output_tokens, ttft_ms)

    def settle(self, now_us: int, request_id: str, settlement: Settlement) -> Settled | None:
        """End a grant in both; it is judged by the core that promised it."""
        arm = self._arms.pop(request_id, None)
        thought = self._tried(now_us, lambda: self.core.settle(now_us, request_id, settlement))
        settled = self.live.settle(now_us, request_id, settlement)
        if settled is None or arm is None:
            return settled
        if arm is ArmName.CANDIDATE and thought is not None:
            # The live core adopted it at its grant and does not know how long it had waited.
            self.live.books.in_slo += thought.in_slo - settled.in_slo
            self.live.books.wasted_tokens += thought.wasted_tokens - settled.wasted_tokens
            settled = replace(settled, in_slo=thought.in_slo, wasted_tokens=thought.wasted_tokens)
        if settlement.outcome not in _LEFT:
            self._sides[arm].counts.judged += 1
            self._sides[arm].counts.kept += settled.in_slo
        return settled

    def cancel(self, now_us: int, request_id: str) -> Phase | None:
        """Give a seat back in the core that holds it."""
        for side in self._sides.values():
            if request_id in side.policy.waiting:
                side.leave(request_id)
                self._arms.pop(request_id, None)
                if side.policy is self.live:
                    break
                self._tried(now_us, lambda: self.core.cancel(now_us, request_id))
                return Phase.QUEUED
        return self.live.cancel(now_us, request_id)

    def adopt(self, now_us: int, grant: AdoptedGrant) -> bool:
        """Take over a grant of a former leader in both."""
        if grant.request.request_id in self.core.waiting or not self.live.adopt(now_us, grant):
            return False
        self._tried(now_us, lambda: self.core.adopt(now_us, grant))
        return True

    def engine_changed(self, now_us: int, state: EngineState) -> _Ended:
        """Note an engine's state in both."""
        return self._both(now_us, lambda policy: policy.engine_changed(now_us, state))

    def engine_removed(self, now_us: int, engine_id: str) -> _Ended:
        """Take an engine out of both."""
        return self._both(now_us, lambda policy: policy.engine_removed(now_us, engine_id))

    def drain(self, now_us: int, *, is_draining: bool) -> _Ended:
        """Stop or resume granting in both."""
        return self._both(now_us, lambda policy: policy.drain(now_us, is_draining=is_draining))

    def configure(self, now_us: int, rules: PoolRules, weights: Mapping[str, float]) -> _Ended:
        """Give the live core other rules, and both other weights."""
        own = self.live.configure(now_us, rules, weights)
        other = self._tried(now_us, lambda: self.core.configure(now_us, self._candidate_rules, weights)) or []
        self._ended(self._sides[ArmName.LIVE], own)
        self._ended(self._sides[ArmName.CANDIDATE], other)
        return [*own, *other]

    def engine_scraped(self, now_us: int, engine_id: str, others: int, kv_share: float) -> None:
        """Note the gauges of an engine in both."""
        self.live.engine_scraped(now_us, engine_id, others, kv_share)
        self._tried(now_us, lambda: self.core.engine_scraped(now_us, engine_id, others, kv_share))

    def engine_paced(self, now_us: int, engine_id: str, tokens: int, took_us: int) -> None:
        """Note how fast an engine read in both."""
        self.live.engine_paced(now_us, engine_id, tokens, took_us)
        self._tried(now_us, lambda: self.core.engine_paced(now_us, engine_id, tokens, took_us))

    def keep(self) -> dict[str, Any]:
        """Return the live core's checkpoint; it has learned of all that ran."""
        return self.live.keep()

    def recall(self, now_us: int, kept: Mapping[str, Any]) -> None:
        """Take what a former leader kept."""
        self.live.recall(now_us, kept)
        self._tried(now_us, lambda: self.core.recall(now_us, kept))

    def standing(self, now_us: int, path: Path) -> Standing | None:
        """Return where a tenant stands in the live core."""
        return self.live.standing(now_us, path)

    def opens_in_us(self, now_us: int) -> int | None:
        """Return after how long one of the two may grant though nothing happens until then."""
        found = [each.policy.opens_in_us(now_us) for each in self._sides.values()]
        return min((each for each in found if each is not None), default=None)

    def statistics(self, now_us: int | None = None) -> PoolStatistics:
        """Return the pool's figures: what runs is the live core's account, what waits is both."""
        whole, part = self.live.statistics(now_us), self.core.statistics(now_us)
        classes = {*whole.queued_by_class, *part.queued_by_class}
        codes = {*whole.refused, *part.refused}
        return replace(
            whole,
            queued=whole.queued + part.queued,
            queued_tokens=whole.queued_tokens + part.queued_tokens,
            queued_by_class={
                each: whole.queued_by_class.get(each, 0) + part.queued_by_class.get(each, 0) for each in classes
            },
            refused={each: whole.refused.get(each, 0) + part.refused.get(each, 0) for each in codes},
            arrived=whole.arrived + part.arrived,
            grants=whole.grants + part.grants,
            canceled=whole.canceled + part.canceled,
            displaced=whole.displaced + part.displaced,
        )

    def _both(self, now_us: int, act: Callable[[BesidePolicy], _Ended]) -> _Ended:
        own, other = act(self.live), self._tried(now_us, lambda: act(self.core)) or []
        self._ended(self._sides[ArmName.LIVE], own)
        self._ended(self._sides[ArmName.CANDIDATE], other)
        return [*own, *other]

    def _ended(self, side: _Side, ended: Iterable[tuple[str, Refused]]) -> None:
        for request_id, _ in ended:
            side.leave(request_id)
            side.counts.refused += self._arms.pop(request_id, None) is not None

    def _level(self) -> None:
        """Let both count on the same unread prompts: whose account gives credit a moment sooner would always be first.

        Only the candidate's follows, so that the log of the live core is decided alike again.
        """
        for engine_id, replica in self.core.fleet.replicas.items():
            known = self.fleet.replicas.get(engine_id)
            if known is not None:
                replica.follow(known)

    def _tell_ahead(self, now_us: int, own: _Side, other: _Side, service_class: ServiceClass) -> None:
        """Tell a core how much of the other's queue is due before its newcomer."""
        objectives = own.policy.rules.objectives
        ttft_us = {each: objectives[each].ttft_ms * 1_000 for each in ServiceClass}
        told = other.due_before(now_us, ttft_us, service_class)
        if told != own.told:
            own.told = told
            own.policy.ahead(now_us, *told)

    def _tried(self, now_us: int, act: Callable[[], ResultT]) -> ResultT | None:
        """Ask the candidate. One that raises decides nothing more; whoever waits there is decided by the live core."""
        if self.failure is not None:
            return None
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - whatever a candidate raises, no request may feel it
            self.failure = f"{type(error).__name__}: {error}"[:200]
            self._give_up(now_us)
            return None

    def _give_up(self, now_us: int) -> None:
        self.is_closing = True
        side = self._sides[ArmName.CANDIDATE]
        orphans = list(side.asked.values())
        self.core.waiting.clear()
        for request in orphans:
            side.leave(request.request_id)
            self._arms.pop(request.request_id, None)
            arrival = self.arrive(now_us, request)
            self._orphans.extend(arrival.displaced)
            if isinstance(arrival.outcome, Refused):
                self._orphans.append((request.request_id, arrival.outcome))


_OTHER: Final = {ArmName.LIVE: ArmName.CANDIDATE, ArmName.CANDIDATE: ArmName.LIVE}
