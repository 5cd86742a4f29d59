"""The whole way of a version, with nothing in between that is not real: edges count, the monitor looks, weights move.

Only the gate's verdict is the test's own, and it is really signed.
"""

import asyncio
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from interlock.evals.config import RolloutConfig
from interlock.evals.metrics import RolloutMetrics
from interlock.evals.service.rollout_monitor import ROLLOUT_LEASES, MonitorParts, RolloutMonitor
from interlock.evals.service.rollouts import Rollouts, RolloutWanted
from interlock.foundation.audit import AuditLog
from interlock.foundation.leases import LeaseTable, LeaseWorker
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import EventLog, Metrics
from interlock.scheduler import FakeEngine, Fault, Script
from tests.evals.rollout_world import MovedClock, OneGate, Reports
from tests.gateway.test_weights import Rollout as Weighted
from tests.gateway.test_weights import make_upstream
from tests.gateway.verdicts import Signer
from tests.gateway.worlds import CLOCK, IDS, world

CALLERS = 24
METRICS = RolloutMetrics(Metrics(CollectorRegistry()))


class Loop:
    """An edge with a route of two versions, a rollout of the second one, and callers with a session each."""

    def __init__(self, edge, scope, signer, engines, weight_lease_s=4.0):
        self.weighted = Weighted(edge, scope, signer, engines)
        self.edge = edge
        self.scope = scope
        self.engines = engines
        self.gate = OneGate(signer, MovedClock())
        self.reports = Reports(scope.organization_id)
        audit = AuditLog(CLOCK, Redactor([]))
        events = EventLog(edge.store, CLOCK, Redactor([]))
        config = RolloutConfig(look_s=1.0, weight_lease_s=weight_lease_s)
        moves = self.weighted.actuator
        self.rollouts = Rollouts(
            edge.store, actuator=moves, gate=self.gate, incidents=self.reports, events=events, audit=audit, clock=CLOCK,
            ids=IDS, config=config,
        )  # fmt: skip
        parts = MonitorParts(edge.store, moves, moves, self.gate, self.reports, events, audit, CLOCK, config, METRICS)
        monitor, table = RolloutMonitor(parts), LeaseTable(ROLLOUT_LEASES, edge.store)
        self.worker = LeaseWorker(ROLLOUT_LEASES, table, monitor.look, CLOCK, "test", poll_s=0.2)
        self.sent = 0

    async def start(self, dwell_s=10.0):
        await self.weighted.add("old")
        made = await self.weighted.add("new")
        self.gate.digest = made["digest"]
        async with self.edge.store.transaction(self.scope) as tx:
            rollout = await self.rollouts.create(tx, RolloutWanted("shop", 2, (5.0, 50.0, 100.0), dwell_s, {}))
        async with self.edge.store.transaction(self.scope) as tx:
            started = await self.rollouts.start(tx, rollout["id"], None)
        self.id = started["id"]

    async def get(self):
        return await self.rollouts.get(self.scope, self.id)

    async def ask(self):
        self.sent += 1
        return await self.weighted.ask(f"session-{self.sent}")

    async def until_arm(self, arm, within_s=240.0):
        until = CLOCK.monotonic() + within_s
        place = (self.scope.organization_id, "shop")
        while (place in self.edge.process.arms.live()) is not (arm == "canary"):
            assert CLOCK.monotonic() < until
            await CLOCK.sleep(0.05)

    async def traffic(self, until, within_s):
        """Let callers come, each in a session of its own, until the rollout is in one of these states."""
        ends = CLOCK.monotonic() + within_s
        done = asyncio.Event()

        async def caller():
            while not done.is_set():
                await self.ask()

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
            while True:
                await CLOCK.sleep(0.3)
                found = await self.get()
                if found["state"] in until or CLOCK.monotonic() > ends:
                    done.set()
                    return found


@asynccontextmanager
async def running(worker):
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def loop(store, scope):
    signer = Signer(scope.organization_id)
    engines = {name: FakeEngine(Script(tokens=1), clock=CLOCK, ids=IDS) for name in ("old", "new")}
    try:
        async with world(store, scope, with_engine=False, verdicts=signer) as edge:
            for name, engine in engines.items():
                await make_upstream(store, scope, name, engine)
            yield Loop(edge, scope, signer, engines)
    finally:
        for engine in engines.values():
            await engine.close()


async def test_a_version_that_turns_bad_at_five_percent_is_rolled_back(loop):
    await loop.start(dwell_s=60.0)
    async with running(loop.worker):
        await loop.until_arm("canary")
        while loop.sent < 400:
            await asyncio.gather(*(loop.ask() for _ in range(20)))
        loop.engines["new"].script = Script(fault=Fault.SERVER_ERROR)
        found = await loop.traffic({"promoted", "rolled_back"}, within_s=600)
    assert (found["state"], found["weight"]) == ("rolled_back", 0.0), found
    assert found["reasons"][0]["code"] in {"worse_than_control", "hard_floor"}
    assert found["monitor"]["errors"]["bad"] >= 3
    (report,) = loop.reports.filed
    assert report.route == "shop"
    await loop.until_arm("stable")
    assert {(await loop.ask()).status for _ in range(40)} == {200}


async def test_with_the_monitor_stopped_the_weight_drains_by_its_lease(loop):
    await loop.start()
    first = (await loop.get())["lease_until"]
    async with running(loop.worker):
        # The monitor renews what it holds, for longer than the first lease goes.
        await until(lambda: renewed(loop, first))
    await until(lambda: drained(loop))
    assert {(await loop.ask()).headers["x-interlock-arm"] for _ in range(40)} == {"stable"}


async def renewed(loop, first):
    return (await loop.get())["lease_until"] > first and in_force(loop) == 500


async def drained(loop):
    return in_force(loop) == 0


def in_force(loop):
    weight = loop.edge.process.memory.directory.alias(loop.scope.organization_id, "shop").weight
    return loop.edge.process.arms.in_force_bp(weight)


async def until(holds, within_s=400.0):
    ends = CLOCK.monotonic() + within_s
    while not await holds():
        assert CLOCK.monotonic() < ends
        await CLOCK.sleep(0.05)
