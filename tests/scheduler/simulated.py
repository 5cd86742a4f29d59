"""One simulated pool: edges that cancel, crash and settle, engines that die and come back, under virtual time."""

import asyncio
from dataclasses import replace
from uuid import UUID

from interlock.contracts.scheduling import Granted, GrantProgress, Refused, Settled, Settlement, SettleOutcome
from interlock.foundation.ids import IdFactory, OrganizationId, WorkspaceId
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.canary import Canary
from interlock.scheduler.domain.classes import EMBEDDED_OBJECTIVES
from interlock.scheduler.domain.plan import PROVISIONAL
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.share import Shares
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.service import EngineSpec, FrontService, PoolSpec
from tests.scheduler.calls import grant_request

REQUESTS = 40
CONFIG = SchedulerConfig(queue_seats_max=16, tenant_seat_share=1.0)
POOL = PoolSpec(
    "embedded",
    EMBEDDED_OBJECTIVES,
    (EngineSpec("unix:/a", "m", slots=2, context_tokens=2_048), EngineSpec("unix:/b", "m", 1, 2_048)),
)


class LeakyPolicy(Policy):
    """The planted bug: a request that is canceled while it runs keeps its slot."""

    def settle(self, now_us, request_id, settlement):
        if settlement.outcome is SettleOutcome.CLIENT_GONE and request_id in self.running:
            return self.books.settle(self.running[request_id], settlement, 0.0)
        return super().settle(now_us, request_id, settlement)


class WatchedShares(Shares):
    """Whoever becomes active begins no further back than the least served of those who are."""

    __slots__ = ()
    lift = Shares.enter

    def enter(self, path):
        coming = [node for _, node in self._chain(path) if not node.held]
        self.lift(path)
        for parent, node in self._chain(path):
            others = [each.counter for each in self._levels[parent].values() if each.held and each is not node]
            assert node not in coming or node.counter >= min(others, default=node.counter), "credit was saved"


class UnliftedShares(WatchedShares):
    """The planted bug: a tenant that comes back keeps the credit of its idle time."""

    __slots__ = ()

    def lift(self, path):
        for _, node in self._chain(path):
            node.held += 1


class DisplacingOrder(PromiseOrder):
    """The planted bug: who was promised gives way like everybody else."""

    def _enter_plan(self, waiting):
        super()._enter_plan(waiting)
        self._plan.rows[PROVISIONAL] = True


class World:
    """A front, what became of each request, and the log that two equal runs share."""

    def __init__(self, dice, clock):
        self.dice = dice
        self.clock = clock
        self.front = FrontService([POOL], clock=clock, ids=IdFactory(clock, dice), config=CONFIG)
        self.policy = self.front._pools["embedded"].policy
        self.outcomes: dict[str, str] = {}
        self.log: list[str] = []
        self.waits_ms: list[int] = []

    def end(self, name, outcome):
        assert name not in self.outcomes, f"{name} ended twice: {self.outcomes[name]} and {outcome}"
        self.outcomes[name] = outcome
        self.log.append(f"{self.clock.monotonic():.6f} {name} {outcome}")

    async def request(self, number):
        """One request of an edge that may lose patience, crash or be left by its client."""
        name = f"req_{number}"
        await self.clock.sleep(self.dice.random() * 30)
        tenant = OrganizationId(UUID(int=self.dice.pick(1, 1, 1, 2, 3)))
        wanted = grant_request(
            name,
            organization=tenant,
            ttft_ms=self.dice.pick(None, 1_000, 4_000),
            input_tokens=self.dice.pick(10, 400, 1_600),
        )
        wanted = replace(wanted, workspace_id=WorkspaceId(UUID(int=number % 16)))
        call = asyncio.ensure_future(self.front.acquire(wanted))
        patience_s = self.dice.pick(0.0, 0.5, 3.0, 1_000.0)
        began_s = self.clock.monotonic()
        done, _ = await asyncio.wait([call], timeout=patience_s)
        if not done:
            call.cancel()
            await asyncio.wait([call])
            self.end(name, "canceled")
            return
        self.waits_ms.append(round((self.clock.monotonic() - began_s) * 1_000))
        answer = call.result()
        if isinstance(answer, Refused):
            promises = {step["promise"] for step in answer.decision if step["step"] == "queued"}
            assert answer.code != "displaced" or promises == {"provisional"}, f"{name} was promised and displaced"
            self.end(name, answer.code)
        else:
            await self.use(name, answer)

    async def use(self, name, grant: Granted):
        for tokens in range(1, self.dice.randrange(6) + 2):
            await self.clock.sleep(self.dice.random() * 2)
            if self.dice.chance(0.05):
                # The edge dies without a word: only the end of the lease gives the slot back.
                self.end(name, "edge_crashed")
                return
            reply = await self.front.progress([GrantProgress(grant.grant_id, tokens, 100)])
            if reply.unknown:
                self.end(name, "lost")
                return
            if reply.revoked:
                break
        outcome = self.dice.pick(SettleOutcome.OK, SettleOutcome.CLIENT_GONE, SettleOutcome.UPSTREAM_ERROR)
        settlement = Settlement(outcome, 10, 0, 5, 100, 900)
        settled = await self.front.settle(grant.grant_id, settlement)
        assert isinstance(settled, Settled)
        assert await self.front.settle(grant.grant_id, settlement) == settled
        self.end(name, outcome.value)

    async def engines(self):
        """Bring the engines up, and take one down now and then."""
        while True:
            for engine in self.front.engines("embedded"):
                is_up = self.dice.chance(0.8) or engine.url == "unix:/a"
                condition = EngineCondition.READY if is_up else EngineCondition.DOWN
                self.front.engine_changed("embedded", replace(engine, condition=condition))
            await self.clock.sleep(1 + self.dice.random() * 5)

    async def watch(self):
        """Slots are never negative and never given twice."""
        while True:
            statistics = self.front.statistics("embedded")
            for each in statistics.engines:
                assert 0 <= each.granted <= each.state.slots
            assert statistics.queued <= CONFIG.queue_seats_max
            await self.clock.sleep(0.1)


async def scenario(dice, clock, *, policy=Policy, order=PromiseOrder, shares=WatchedShares, candidate=None):
    """Run to the end and return the log of outcomes; the classes are where bugs are planted.

    A `candidate` policy decides for half of the workspaces.
    """
    world = World(dice, clock)
    if candidate is None:
        world.policy.__class__ = policy
        world.policy.order.__class__ = order
        world.policy.order.shares.__class__ = shares
    else:
        rules = replace(world.policy.rules, policy=candidate)
        pool = world.front._pools["embedded"]
        pool.policy = Canary(world.policy, rules, share_bp=5_000, salt="embedded:1", now_us=0)
    async with asyncio.TaskGroup() as group:
        endless = [group.create_task(loop) for loop in (world.front.run(), world.engines(), world.watch())]
        requests = [group.create_task(world.request(number)) for number in range(REQUESTS)]
        await asyncio.wait(requests)
        # Whatever crashed edges held comes back with the lease.
        await clock.sleep(CONFIG.lease_s + 2 * CONFIG.tick_s)
        for task in endless:
            task.cancel()
    statistics = world.front.statistics("embedded")
    assert (statistics.queued, statistics.granted) == (0, 0), "a seat or a slot was leaked"
    if candidate is not None:
        both = world.front._pools["embedded"].policy
        assert both.failure is None
        assert all(not each.granted for core in (both.live, both.core) for each in core.fleet.sorted())
        assert not any(side.queued[each] for side in both._sides.values() for each in side.queued)
    assert len(world.outcomes) == REQUESTS
    slowest_ms = 3 * EMBEDDED_OBJECTIVES[grant_request().service_class].ttft_ms + CONFIG.tick_s * 1_000
    assert max(world.waits_ms) <= slowest_ms
    return world.log
