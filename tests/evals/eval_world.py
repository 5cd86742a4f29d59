"""Evals over a real store, real keys and real HTTP, with targets that the test scripts and workers it runs by hand."""

import asyncio
from dataclasses import dataclass, field, replace

import httpx2
from prometheus_client import CollectorRegistry

from interlock.contracts.inference import ChatAnswer, Credential, ModelRefused
from interlock.contracts.rollouts import RouteVersion
from interlock.evals.config import EvalsConfig
from interlock.evals.metrics import EvalMetrics
from interlock.evals.routes.gates import GateHandlers, gate_routes, incident_routes
from interlock.evals.routes.runs import RunHandlers, run_routes
from interlock.evals.service.deciding import EVALUATION_LEASES, Decider, RequiredGate
from interlock.evals.service.gates import Gates
from interlock.evals.service.incidents import Incidents
from interlock.evals.service.proving import Controls
from interlock.evals.service.renewing import Prover
from interlock.evals.service.running import RUN_LEASES, Runner, RunnerParts
from interlock.evals.service.runs import Runs
from interlock.evals.service.signing import PublishedKeys, SigningKeys
from interlock.evals.service.suites import Suites
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.leases import LeaseTable
from interlock.foundation.redaction import Redactor
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretService
from interlock.foundation.telemetry import EventLog, Metrics
from tests.evals.rollout_world import MovedClock
from tests.support.store import scope_of

DICE = SystemDice()
REDACTOR = Redactor()


class Routes:
    """The versions that the front door knows: `shop` in versions 1 (stable), 2 and 3, and `weak` in version 3."""

    async def resolve(self, _scope, route, version=None):
        number = version or 1
        if number not in {"shop": {1, 2, 3}, "weak": {3}}.get(route, ()):
            return None
        digest = f"sha256:{number}" if route == "shop" else "sha256:weak"
        return RouteVersion(route, number, digest, "stable" if number == 1 else "draft", 1)


@dataclass
class Models:
    """A model that answers by a function of the last message, the version and the try."""

    answer: object = None
    asked: list = field(default_factory=list)
    lent: int = 0
    in_flight: int = 0
    in_flight_max: int = 0

    async def lend(self, _scope, *, link, ttl_s, scopes=("inference",), bounds=None):
        self.lent += 1
        return Credential(IdFactory(MovedClock(), DICE).new(), "il_task_x", 10**18, link)

    async def extend(self, _scope, credential, ttl_s):
        return credential

    async def revoke(self, _scope, credential):
        self.lent -= 1

    async def chat(self, _credential, call):
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        try:
            await asyncio.sleep(0)
            text = call.messages[-1]["content"]
            tries = sum(each == (text, call.route_version) for each in self.asked)
            self.asked.append((text, call.route_version))
            found = self.answer(text, call.route_version, tries)
            if not isinstance(found, str):
                return found
            return ChatAnswer("req_1", found, (), "stop", 10, 5, 100, 20.0)
        finally:
            self.in_flight -= 1


def refused(code="overloaded", status=503, wait_s=0.001):
    return ModelRefused(code, status, wait_s, "no")


def parts_of(store, folder, models=None, clock=None, config=None):
    """The use cases and the two workers, as the wiring builds them."""
    clock, config = clock or MovedClock(), config or EvalsConfig(evaluation_poll_s=0.05)
    ids, audit = IdFactory(clock, DICE), AuditLog(clock, REDACTOR)
    events, artifacts = EventLog(store, clock, REDACTOR), ArtifactStore(folder / "artifacts")
    file = MasterKeyFile(folder / "master.key")
    file.ensure(DICE)
    secrets = SecretService(SecretBox(DICE, file.read_public, file.read), audit, ids, REDACTOR)
    signing = SigningKeys(secrets, audit, clock, ids, config)
    suites = Suites(audit, clock, ids, REDACTOR)
    runs = Runs(
        store, actuator=Routes(), events=events, audit=audit, redactor=REDACTOR, clock=clock, ids=ids, config=config
    )
    controls = Controls(REDACTOR, clock)
    gates = Gates(store, actuator=Routes(), runs=runs, controls=controls, audit=audit, clock=clock, ids=ids)
    incidents = Incidents(
        store, suites=suites, runs=runs, controls=controls, actuator=Routes(), audit=audit, redactor=REDACTOR,
        clock=clock, ids=ids,
    )  # fmt: skip
    metrics = EvalMetrics(Metrics(CollectorRegistry()))
    runner = Runner(
        RunnerParts(
            store=store, models=models or Models(), artifacts=artifacts, signing=signing, events=events, audit=audit,
            redactor=REDACTOR, clock=clock, dice=DICE, config=config, metrics=metrics,
        )
    )  # fmt: skip
    decider = Decider(
        store, gates=gates, signing=signing, audit=audit, clock=clock, ids=ids, config=config, metrics=metrics
    )
    return {
        "clock": clock, "events": events, "artifacts": artifacts, "suites": suites, "runs": runs, "gates": gates,
        "incidents": incidents, "runner": runner, "decider": decider, "signing": signing,
        "prover": Prover(store, gates, clock, metrics),
        "required": RequiredGate(store, gates, signing, clock), "keys": PublishedKeys(store),
    }  # fmt: skip


class Lab:
    """Control with the routes of evals, and a worker that works when it is told to."""

    def __init__(self, world, store, folder):
        self.world = world
        self.store = store
        self.models = Models()
        parts = parts_of(store, folder, self.models)
        self.clock, self.required, self.keys = parts["clock"], parts["required"], parts["keys"]
        self.prover = parts["prover"]
        self.gates, self.runs, self.incidents = parts["gates"], parts["runs"], parts["incidents"]
        self.work = {RUN_LEASES: parts["runner"].work, EVALUATION_LEASES: parts["decider"].work}
        runs = RunHandlers(parts["suites"], parts["runs"], parts["events"], parts["artifacts"], self.clock)
        gates = GateHandlers(parts["gates"], parts["incidents"], self.clock)
        app = world.app(*run_routes(runs), *gate_routes(gates), *incident_routes(gates))
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://control")

    @property
    def scope(self):
        return scope_of(self.world.owner.organization_id, self.world.owner.workspace_id)

    async def call(self, method, path, body=None, *, key=None, **headers):
        named = {"authorization": f"Bearer {key or self.world.owner_key}", **headers}
        return await self.http.request(method, path, json=body, headers=named)

    async def ok(self, method, path, body=None, status=None, **options):
        reply = await self.call(method, path, body, **options)
        assert reply.status_code == status or (status is None and reply.status_code < 300), reply.text
        return reply.json()

    async def refused(self, method, path, body=None, **options):
        reply = await self.call(method, path, body, **options)
        assert reply.status_code >= 400, reply.text
        error = reply.json()["error"]
        return reply.status_code, error["code"], error["detail"]

    async def push(self, name="policy", count=60, kind="quality", **oracle):
        cases = [case(number, **oracle) for number in range(count)]
        return await self.ok("POST", "/v1/evals/suites", {"name": name, "kind": kind, "cases": cases})

    async def drain(self, rounds=20):
        """Let a worker do all there is, claimed and finished as the lease worker does it."""
        for _ in range(rounds):
            done = 0
            for spec, work in self.work.items():
                table = LeaseTable(patient(spec), self.store)
                for lease in await table.claim("test", 20):
                    if lease.organization_id != self.world.owner.organization_id:
                        await table.finish(lease.fence, None)
                        continue
                    await table.finish(lease.fence, await work(lease))
                    done += 1
            if not done:
                await asyncio.sleep(0.06)
                if not await self._due():
                    return

    async def _due(self):
        async with self.store.ops("what is due in a test") as tx:
            return await tx._connection.fetchval(
                "SELECT (SELECT count(*) FROM evals_runs WHERE organization_id = $1"
                " AND state IN ('queued', 'running', 'canceling'))"
                " + (SELECT count(*) FROM evals_evaluations WHERE organization_id = $1 AND state = 'pending')",
                self.world.owner.organization_id,
            )

    async def run(self, **body):
        started = await self.ok("POST", "/v1/evals/runs", {"suite": "policy", **body}, 202)
        await self.drain()
        return await self.ok("GET", f"/v1/evals/runs/{started['id']}")

    async def armed_gate(self, checks, outputs, route="shop", mode="required", **fields):
        body = {"name": f"gate of {route}", "route": route, "risk_tier": "low", "checks": checks, **fields}
        gate = await self.ok("POST", "/v1/gates", body, 201)
        await self.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": recorded("base", outputs)}, 202)
        return await self.ok("PUT", f"/v1/gates/{gate['id']}", {**body, "mode": mode})

    async def verdict(self, gate_id, candidate, status=200, **more):
        asked = await self.ok("POST", f"/v1/gates/{gate_id}/evaluate", {"candidate": candidate, **more})
        await self.drain()
        return await self.ok("GET", f"/v1/gates/verdicts/{asked['id']}", status=status)


def patient(spec):
    """Leases that no slow machine lets end: nobody renews them in a test."""
    return replace(spec, ttl_s=6_000.0)


def case(number, **more):
    body = {"key": f"c{number}", "input": {"messages": [{"role": "user", "content": f"q{number}"}]}}
    return {**body, "oracle": [{"type": "contains_all", "value": [f"answer {number}."]}], **more}


def answers(count=60, wrong=(), epochs=1):
    return {f"c{n}": [f"answer {n}." if n not in wrong else "no idea"] * epochs for n in range(count)}


def recorded(digest, outputs):
    return {"kind": "recorded", "artifact_digest": digest, "outputs": outputs}


CHECK = {"name": "quality", "suite": "policy", "rule": "non_inferior", "accept_recorded": True}
