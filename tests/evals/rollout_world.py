"""A rollout over a real store and real weights, by a clock that the test moves, with counts that the test writes."""

from dataclasses import replace
from uuid import UUID

from prometheus_client import CollectorRegistry

from interlock.contracts.arms import ArmSecond, BadCounts
from interlock.contracts.incidents import Opened
from interlock.evals.config import RolloutConfig
from interlock.evals.domain.rollout_gate import Blocked, LiveVerdict
from interlock.evals.metrics import RolloutMetrics
from interlock.evals.service.rollout_monitor import ROLLOUT_LEASES, MonitorParts, RolloutMonitor
from interlock.evals.service.rollouts import Rollouts, RolloutWanted
from interlock.foundation.audit import AuditLog
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import format_id
from interlock.foundation.leases import LeaseTable
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import EventLog, Metrics
from interlock.gateway import Actuator, RouteService, Weights
from interlock.gateway.domain.directory import RouteSpec, Target
from interlock.gateway.service.route_versions import RouteWanted
from tests.gateway.verdicts import Signer
from tests.gateway.worlds import CLOCK, IDS, PEPPER, SQL

SECOND_US = 1_000_000


class MovedClock:
    """The time, and as much of it as the test has let pass."""

    def __init__(self):
        self.ahead_s = 0.0

    def now_us(self):
        return CLOCK.now_us() + round(self.ahead_s * SECOND_US)

    def monotonic(self):
        return CLOCK.monotonic() + self.ahead_s

    async def sleep(self, seconds):
        await CLOCK.sleep(seconds)


class StandingClock(MovedClock):
    """A moment, and as much after it as the test has let pass: no lease ends because a machine is slow."""

    def __init__(self):
        super().__init__()
        self.began_us, self.began_s = CLOCK.now_us(), CLOCK.monotonic()

    def now_us(self):
        return self.began_us + round(self.ahead_s * SECOND_US)

    def monotonic(self):
        return self.began_s + self.ahead_s


class OneGate:
    """A gate whose one verdict is live until the test says otherwise; its tokens are really signed."""

    def __init__(self, signer, clock, tier="low"):
        self.signer = signer
        self.clock = clock
        self.is_live = True
        self.lives_s = 3_600
        self.tier = tier
        self.minted = []

    async def live(self, scope, _route, _digest):
        if not self.is_live or scope.organization_id != self.signer.organization_id:
            return Blocked(({"code": "verdict_expired", "text": "No live verdict admits this artifact."},))
        weight = 5.0 if self.tier == "low" else 1.0
        return LiveVerdict(
            UUID(int=1), UUID(int=2), "PASS", self.clock.now_us() + self.lives_s * SECOND_US, weight, self.tier
        )

    async def token(self, _scope, route, verdict, max_weight):
        self.minted.append(max_weight)
        now_us = self.clock.now_us()
        times = {"issued_at_us": now_us, "expires_at_us": now_us + self.lives_s * SECOND_US}
        return self.signer.token(route, self.digest, max_weight, **times)


class Reports:
    """Incidents of an organization as they were filed; a worker looks at what other tests left in the store as well."""

    def __init__(self, organization_id):
        self.organization_id = organization_id
        self.filed = []

    async def report(self, scope, report):
        if scope.organization_id == self.organization_id:
            self.filed.append(report)
        return Opened(format_id("inc", IDS.new()), "open")


class WrittenCounts:
    """Counts of arms, second by second, as the test wrote them."""

    def __init__(self):
        self.seconds = []

    async def read(self, _scope, route, *, since_second, until_second):
        return [each for each in self.seconds if each.route == route and since_second <= each.second < until_second]


class Lab:
    """A route `shop` with two versions, and everything that rolls the second one out."""

    def __init__(self, store, scope):
        self.store = store
        self.scope = scope
        self.clock = StandingClock()
        self.signer = Signer(scope.organization_id)
        self.signer.keys = {
            "vk_1": type(self.signer.key)(
                "vk_1", scope.organization_id, self.signer.public_key, CLOCK.now_us() + 10**15, is_revoked=False
            )
        }
        self.gate = OneGate(self.signer, self.clock)
        self.reports = Reports(scope.organization_id)
        self.counts = WrittenCounts()
        self.units = 0
        audit, redactor = AuditLog(self.clock, Redactor([])), Redactor([])
        self.identity = identity = IdentityService(store, audit, self.clock, IDS, PEPPER)
        self.weights = Weights(identity, self.signer.verifier, self.signer, audit, self.clock)
        self.versions = RouteService(identity, self.weights, audit, self.clock, IDS)
        self.actuator = Actuator(self.weights, identity)
        self.events = EventLog(store, self.clock, redactor)
        self.config = RolloutConfig()
        self.rollouts = Rollouts(
            store, actuator=self.actuator, gate=self.gate, incidents=self.reports, events=self.events, audit=audit,
            clock=self.clock, ids=IDS, config=self.config,
        )  # fmt: skip
        self.monitor = RolloutMonitor(
            MonitorParts(
                store,
                self.actuator,
                self.counts,
                self.gate,
                self.reports,
                self.events,
                audit,
                self.clock,
                self.config,
                RolloutMetrics(Metrics(CollectorRegistry())),
            )
        )
        self.table = LeaseTable(replace(ROLLOUT_LEASES, ttl_s=6_000.0), store)

    async def make_route(self):
        async with self.store.transaction(self.scope) as tx:
            organization_id = self.scope.organization_id
            await tx.execute(
                SQL.put_provider, organization_id, "p", IDS.new(), "openai", "https://models.example/v1", None, None
            )
            for name in ("old", "new"):
                await tx.execute(SQL.put_deployment, organization_id, name, IDS.new(), "p", name)
        for name in ("old", "new"):
            async with self.store.transaction(self.scope) as tx:
                made = await self.versions.add(tx, RouteWanted("shop", RouteSpec(targets=(Target(name),))))
        self.gate.digest = made["digest"]

    async def create(self, **fields):
        given = {"route": "shop", "version": 2, "stages": (5.0, 50.0, 100.0), "dwell_s": 10.0, "metrics": {}, **fields}
        async with self.store.transaction(self.scope) as tx:
            return await self.rollouts.create(tx, RolloutWanted(**given))

    async def act(self, act, rollout_id, reason="because", scope=None):
        async with self.store.transaction(scope or self.scope) as tx:
            return await getattr(self.rollouts, act)(tx, rollout_id, reason)

    async def get(self, rollout_id):
        return await self.rollouts.get(self.scope, rollout_id)

    async def started(self, **fields):
        made = await self.create(**fields)
        return await self.act("start", made["id"])

    def answer(self, rollout, units=400, bad=0, control_bad=0, seconds=1, **fields):
        """Let so many new units come to the canary, and the control's share to the control."""
        share = rollout["weight"] / 100
        now = self.clock.now_us() // SECOND_US
        arms = {
            "canary": (rollout["to_version"], share, units, bad),
            "stable": (rollout["from_version"], 1 - share, round(units * (1 - share) / share), control_bad),
        }
        for arm, (version, weight, count, wrong) in arms.items():
            if arm in fields.get("without", ()):
                continue
            hashes = frozenset(self._hash() for _ in range(wrong))
            metrics = {"errors": BadCounts(wrong, hashes), "slow": BadCounts(0, frozenset())}
            self.counts.seconds.append(ArmSecond("shop", version, arm, now, weight, count, count, metrics))
        self.clock.ahead_s += seconds

    def copied(self, rollout, made, failed):
        """Let so many copies of a version in the shadow come to their end."""
        metrics = {"errors": BadCounts(failed, frozenset()), "slow": BadCounts(0, frozenset())}
        second, share = self.clock.now_us() // SECOND_US, rollout["weight"] / 100
        self.counts.seconds.append(ArmSecond("shop", rollout["to_version"], "shadow", second, share, 0, made, metrics))

    def _hash(self):
        self.units += 1
        return self.units.to_bytes(8, "big")

    async def look(self, wait_s=5.0):
        """Let the monitor look once, as a worker does: claimed, looked, finished; return whether there was anything."""
        self.clock.ahead_s += wait_s
        async with self.store.ops("the rollouts of a test are due") as tx:
            await tx._connection.execute(
                "UPDATE evals_rollouts SET due_at = now() WHERE organization_id = $1 AND due_at < 'infinity'",
                self.scope.organization_id,
            )
        looked = False
        for lease in await self.table.claim("test", 50):
            if lease.organization_id != self.scope.organization_id:
                await self.table.finish(lease.fence, None)
                continue
            looked = True
            await self.table.finish(lease.fence, await self.monitor.look(lease))
        return looked

    async def weight(self):
        """What the front door gives to the canary now."""
        async with self.store.transaction(self.scope) as tx:
            found = await tx._connection.fetchrow(
                "SELECT candidate_version, weight_bp, expires_us, stable_version FROM gateway_route_weights"
                " WHERE organization_id = $1 AND alias = 'shop'",
                self.scope.organization_id,
            )
        if found["candidate_version"] is None or found["expires_us"] <= self.clock.now_us():
            return found["stable_version"], 0.0
        return found["stable_version"], found["weight_bp"] / 100

    async def mode(self):
        """How the front door lets the candidate take part."""
        async with self.store.transaction(self.scope) as tx:
            return await tx._connection.fetchval(
                "SELECT mode FROM gateway_route_weights WHERE organization_id = $1 AND alias = 'shop'",
                self.scope.organization_id,
            )

    async def candidate(self):
        """Which version is tried on callers, as the front door has it."""
        async with self.store.transaction(self.scope) as tx:
            return await tx._connection.fetchval(
                "SELECT candidate_version FROM gateway_route_weights WHERE organization_id = $1 AND alias = 'shop'",
                self.scope.organization_id,
            )

    async def audited(self):
        async with self.store.ops("audit of a test") as tx:
            rows = await tx._connection.fetch(
                "SELECT action, reason FROM audit_events WHERE organization_id = $1 ORDER BY seq",
                self.scope.organization_id,
            )
        return [tuple(row.values()) for row in rows]
