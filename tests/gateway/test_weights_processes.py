"""Two edges in processes of their own, and a weight that nobody renews: it falls to nothing, store or no store."""

import asyncio
import dataclasses
import json

from interlock.contracts.rollouts import WeightInForce
from interlock.foundation.audit import AuditLog
from interlock.foundation.identity import IdentityService
from interlock.foundation.redaction import Redactor
from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway import Actuator, RouteService, Weights
from interlock.gateway.domain.directory import RouteSpec, Target
from interlock.gateway.service.route_versions import RouteWanted
from interlock.gateway.service.weights import WeightWanted
from interlock.scheduler import FakeEngine, Script
from tests.gateway.test_limits_processes import start_edge
from tests.gateway.test_weights import make_upstream
from tests.gateway.verdicts import Signer
from tests.gateway.worlds import CALL, CLOCK, IDS, PEPPER, make_tenant_key
from tests.support.store import kill_store, make_tenant, opened, running_store, scope_of

LEASE_S = 6.0


class Edges:
    """Both edges, asked as one session that belongs to the canary."""

    def __init__(self, client, ports, key):
        self.client = client
        self.ports = ports
        self.key = key

    async def arms(self):
        return [await self._arm(port) for port in self.ports]

    async def _arm(self, port):
        body = json.dumps({"model": "shop", "messages": [{"role": "user", "content": "?"}]}).encode()
        headers = [(b"authorization", f"Bearer {self.key}".encode()), (b"x-interlock-session", b"one")]
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with self.client.request("POST", url, headers, body, timeouts=CALL) as answer:
            await answer.read(1 << 20)
            return answer.status, (answer.headers.get(b"x-interlock-arm") or b"").decode()


async def test_a_weight_that_nobody_renews_falls_to_nothing_at_every_edge_by_its_own_clock():
    engines = {name: FakeEngine(Script(tokens=1), clock=CLOCK, ids=IDS) for name in ("old", "new")}
    client = Client(ClientLimits(), CLOCK)
    async with running_store() as (launcher, urls), opened(urls) as store:
        scope = scope_of(*await make_tenant(store))
        signer = Signer(scope.organization_id)
        for name, engine in engines.items():
            await make_upstream(store, scope, name, engine)
        actuator, version = await _route(store, scope, signer)
        given = {
            "urls": dataclasses.asdict(urls),
            "organization_id": str(scope.organization_id),
            "workspace_id": str(scope.workspace_id),
            "verdict_key": signer.public_key.hex(),
        }
        key = await make_tenant_key(store, scope)
        processes = [await asyncio.to_thread(start_edge, {**given, "worker": f"edge-{at}"}) for at in (1, 2)]
        edges = Edges(client, [port for _, port in processes], key)
        try:
            assert await edges.arms() == [(200, "stable")] * 2
            put = await _raised(store, scope, actuator, edges, signer, version)
            kill_store(launcher)
            found = await edges.arms()
            # On a machine that stood still meanwhile the lease may be over.
            if CLOCK.now_us() < put.expires_at_us:
                assert found == [(200, "canary")] * 2, "the weight is frozen while its lease lives"
            while CLOCK.now_us() < put.expires_at_us:
                await CLOCK.sleep(0.05)
            assert await edges.arms() == [(200, "stable")] * 2
        finally:
            for process, _ in processes:
                await asyncio.to_thread(process.communicate, timeout=240)
            await client.close()
            for engine in engines.values():
                await engine.close()


async def _route(store, scope, signer):
    audit = AuditLog(CLOCK, Redactor([]))
    identity = IdentityService(store, audit, CLOCK, IDS, PEPPER)
    weights = Weights(identity, signer.verifier, signer, audit, CLOCK)
    versions = RouteService(identity, weights, audit, CLOCK, IDS)
    for deployment in ("old", "new"):
        async with store.transaction(scope) as tx:
            await versions.add(tx, RouteWanted("shop", RouteSpec(targets=(Target(deployment),))))
    actuator = Actuator(weights, identity)
    return weights, await actuator.resolve(scope, "shop", 2)


async def _raise(store, scope, weights, token):
    wanted = WeightWanted(2, 99.99, "canary", token, LEASE_S)
    async with store.transaction(scope) as tx:
        found = await weights.set(tx, "shop", wanted)
    assert isinstance(found, WeightInForce)
    return found


async def _raised(store, scope, weights, edges, signer, version):
    """Set the weight, again where its lease ended before both edges had learned of it."""
    until = CLOCK.monotonic() + 240.0
    put = await _raise(store, scope, weights, signer.token("shop", version.digest))
    while await edges.arms() != [(200, "canary")] * 2:
        assert CLOCK.monotonic() < until, "the edges did not learn of the weight"
        if CLOCK.now_us() > put.expires_at_us:
            put = await _raise(store, scope, weights, signer.token("shop", version.digest))
        await CLOCK.sleep(0.05)
    return put
