"""A real edge process in the test's own loop: real store, real keys, real spool, a scripted model server behind it."""

import asyncio
import json
import shutil
import socket
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.flags import ChangeFeed, FlagsConfig, KillSwitches, Snapshot, bump
from interlock.foundation.identity import Authenticator, KeyDirectory, LastUsed
from interlock.foundation.identity.domain.keys import hash_key, make_key
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, parse_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.foundation.store import Queries, Store
from interlock.foundation.store.failures import store_unavailable
from interlock.foundation.supervisor import PlatformState
from interlock.foundation.telemetry import Metrics, Shipper, Spool, StoryStore, TelemetryConfig, decode_story
from interlock.foundation.wire import Client, ClientLimits, Timeouts
from interlock.gateway import (
    EdgeConfig,
    EdgeParts,
    EdgeProcess,
    LimitsConfig,
    Readiness,
    list_models,
    register_engine,
    roll_up,
)
from interlock.gateway import store as rows
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode, LimitScope
from interlock.scheduler import FakeEngine, Script

CLOCK = SystemClock()
DICE = SystemDice()
IDS = IdFactory(CLOCK, DICE)
PEPPER = b"pepper of the tests"
SECRET = b"signing key of the tests"
TOKEN = "internal token of the tests"
SQL = Queries("interlock.gateway")
# A busy machine is not a store that is away.
PATIENT = LimitsConfig(wait_s=240.0, away_s=240.0, lease_s=10.0)
PATIENCE = {
    "connect_s": 240.0, "ttft_s": 600.0, "whole_s": 600.0, "idle_s": 600.0, "total_s": 1_800.0, "queue_s_max": 60.0,
    "scheduler_call_s": 240.0, "idempotency_wait_s": 30.0, "idempotency_lease_s": 600.0, "keep_alive_s": 600.0,
    "control_s": 600.0, "failed_keys_per_minute": 100_000, "objective_ttft_ms": 600_000,
}  # fmt: skip
# Of the test's own calls of the edge.
CALL = Timeouts(connect_s=240.0, first_byte_s=600.0, idle_s=600.0, total_s=1_800.0)
MESSAGES = [{"role": "user", "content": "Where is my order?"}]
SYSTEM = Scope(
    SYSTEM_ORGANIZATION_ID, ALL_WORKSPACES, Principal(IDS.new(), PrincipalKind.SYSTEM, SYSTEM_ORGANIZATION_ID)
)


def patient(**given):
    """The bounds of an edge on a busy machine but for those which a test is about."""
    return EdgeConfig(**{**PATIENCE, **given})


@dataclass
class Reply:
    """An answer that was read to its end."""

    status: int
    headers: dict
    content: bytes

    @property
    def body(self):
        return json.loads(self.content)

    @property
    def request_id(self):
        return self.headers["x-request-id"]

    @property
    def events(self):
        return [each.removeprefix("data: ") for each in self.content.decode().split("\n\n") if each]


@dataclass
class World:
    """One edge and all that is around it."""

    process: EdgeProcess
    port: int
    store: object
    scope: Scope
    client: Client
    spool: Spool
    shipper: Shipper
    switches: KillSwitches
    folder: Path
    key: str = ""
    engine: FakeEngine | None = None
    engine_url: str = ""
    clock: SystemClock = CLOCK
    state: list = field(default_factory=lambda: [PlatformState(ready=True)])

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def headers(self, key=None, **more):
        presented = self.key if key is None else key
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
        return [*([(b"authorization", f"Bearer {presented}".encode())] if presented else []), *named]

    async def call(self, method, path, body=b"", *, key=None, **headers):
        async with self.client.request(
            method, self.url + path, self.headers(key, **headers), body, timeouts=CALL
        ) as answer:
            found = {name.decode(): value.decode() for name, value in answer.headers.items}
            return Reply(answer.status, found, await answer.read(1 << 24))

    async def chat(self, *, key=None, headers=None, **fields):
        body = json.dumps({"model": "default", "messages": MESSAGES, **fields}).encode()
        return await self.call("POST", "/v1/chat/completions", body, key=key, **(headers or {}))

    def streaming(self, **fields):
        """A stream that the test reads, or leaves, itself."""
        body = json.dumps({"model": "default", "messages": MESSAGES, "stream": True, **fields}).encode()
        return self.client.request("POST", self.url + "/v1/chat/completions", self.headers(), body, timeouts=CALL)

    async def story(self, request_id, within_s=240.0):
        """The complete story of a request, which is there soon."""
        identity = parse_id("req", request_id)
        until = CLOCK.monotonic() + within_s
        while True:
            await self.shipper.run_once()
            for scope in (self.scope, SYSTEM):
                record = await StoryStore(self.store).get(scope, identity)
                if record is not None and record.complete:
                    return record
            assert CLOCK.monotonic() < until, f"no story of {request_id}"
            await CLOCK.sleep(0.02)

    async def latest(self):
        """The newest story of the tenant."""
        await self.shipper.run_once()
        async with self.store.ops("newest story of a test") as tx:
            row = await tx._connection.fetchrow(
                "SELECT story FROM telemetry_requests WHERE organization_id = $1 ORDER BY id DESC LIMIT 1",
                self.scope.organization_id,
            )
        return decode_story(row["story"])

    async def limit(self, limit, dimension=Dimension.REQUESTS, *, scope=LimitScope.WORKSPACE, **fields):
        targets = {
            LimitScope.ORGANIZATION: self.scope.organization_id,
            LimitScope.WORKSPACE: self.scope.workspace_id,
            LimitScope.KEY: await key_id(self.store, self.key),
        }
        given = {"model": "*", "burst": limit, "mode": LimitMode.ENFORCE, **fields}
        async with self.store.transaction(self.scope) as tx:
            made = await rows.put_limit(
                self.scope,
                tx,
                Limit(
                    id=IDS.new(),
                    organization_id=self.scope.organization_id,
                    scope=scope,
                    target=str(targets[scope]),
                    dimension=dimension,
                    limit=limit,
                    version=1,
                    **given,
                ),
            )
            await bump(tx, "limits")
        await self.process.memory.reload()
        return made

    async def level(self, limit):
        """What is left of a limit's bucket now, in whole units."""
        async with self.store.transaction(self.scope) as tx:
            found = await rows.fills(self.scope, tx, [limit.id])
        return found[limit.id][0] / 1_000_000 if limit.id in found else limit.burst

    async def settled(self):
        """Wait until nothing is held any more."""
        async with asyncio.timeout(240):
            while self.is_settling():
                await CLOCK.sleep(0.01)

    async def followed(self):
        """Wait until the edge has taken every change there is, and no reading of one is under way."""
        feed = self.process._parts.feed
        async with self.store.ops("epochs of a test") as tx:
            epochs = {row["topic"]: row["epoch"] for row in await tx._connection.fetch("SELECT * FROM flags_epochs")}
        await self.until(lambda: all(feed._seen.get(topic) == epochs.get(topic, 0) for topic in feed._reloads))

    def is_settling(self):
        broker = self.process.limits.broker
        return (
            self.process.limiter.statistics().settling
            or self.process.grants.statistics().settling
            or (broker is not None and broker.statistics().settling)
        )

    async def until(self, condition, within_s=240.0):
        until = CLOCK.monotonic() + within_s
        while not condition():
            assert CLOCK.monotonic() < until, "the condition did not come true"
            await CLOCK.sleep(0.005)


async def make_tenant_key(store, scope, **fields):
    """Insert a key of the scope's workspace and return its text."""
    new = make_key("live", DICE)
    owner = IDS.new()
    values = {
        "organization_id": scope.organization_id, "workspace_id": scope.workspace_id, "id": IDS.new(),
        "lookup": new.lookup, "kind": new.kind, "hmac": hash_key(new.text, PEPPER), "last4": new.last4,
        "name": new.lookup, "owner_id": owner, "owner_kind": "service_account", "scopes": ["inference"],
        "models": ["*"], "cidrs": [], "created_us": CLOCK.now_us(), **fields,
    }  # fmt: skip
    names = ", ".join(values)
    places = ", ".join(f"${at}" for at in range(1, len(values) + 1))
    async with store.transaction(scope) as tx:
        await tx._connection.execute(f"INSERT INTO identity_api_keys ({names}) VALUES ({places})", *values.values())
        await tx._connection.execute(
            "INSERT INTO identity_memberships (organization_id, id, workspace_id, principal_id, principal_kind, role)"
            " VALUES ($1, $2, $3, $4, 'sa', 'developer')",
            *(scope.organization_id, IDS.new(), scope.workspace_id, owner),
        )
        await bump(tx, "keys")
    return new.text


async def key_id(store, text):
    async with store.ops("key of a test") as tx:
        return await tx._connection.fetchval("SELECT id FROM identity_api_keys WHERE lookup = $1", text[8:16])


@asynccontextmanager
async def world(store, scope, *, config=None, limits=None, script=None, with_engine=True, verdicts=None, clock=CLOCK):
    """Yield a `World` with one key, and the engine's model behind the aliases `default` and `fake`."""
    engine = FakeEngine(script or Script(tokens=5), clock=CLOCK, ids=IDS)
    client = Client(ClientLimits(), CLOCK)
    try:
        engine_url = await engine.listen()
        if with_engine:
            choice = await list_models(client, engine_url)
            await register_engine(store, scope, choice, clock=CLOCK, ids=IDS)
        key = await make_tenant_key(store, scope)
        async with edge_alone(
            store, scope, "edge-0", config=config, limits=limits, client=client, verdicts=verdicts, clock=clock
        ) as made:
            made.engine, made.engine_url, made.key = engine, engine_url, key
            yield made
    finally:
        await client.close()
        await engine.close()


@asynccontextmanager
async def standing_still(urls):
    """Hold the clock by which the store refills limits and ends what is lent of them."""
    given = "CREATE OR REPLACE FUNCTION gateway_now_us() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT {} $$"
    real = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    connection = await asyncpg.connect(urls.superuser)
    try:
        await connection.execute(given.format(f"{CLOCK.now_us()}::bigint"))
        # Machines of tests before would never be old.
        await connection.execute("DELETE FROM gateway_limit_machines")
        yield
    finally:
        await connection.execute(given.format(real))
        await connection.close()


def take_away(monkeypatch, store):
    """Make a store answer as one that is away does."""

    def away():
        raise store_unavailable("away")

    monkeypatch.setattr(store, "_require_up", away)
    monkeypatch.setattr(Store, "is_up", property(lambda _: False))


def unknown_key():
    """A well-formed key that nobody ever made."""
    return make_key("live", DICE).text


@asynccontextmanager
async def edge_alone(
    store, scope, worker, *, config=None, limits=None, client=None, start_from=None, verdicts=None, limits_socket=None,
    clock=CLOCK,
):  # fmt: skip
    """Yield a `World` without engine and key: an edge that serves what others registered."""
    folder = Path(tempfile.mkdtemp(prefix="il-gw-"))
    own_client = client or Client(ClientLimits(), CLOCK)
    spool = Spool(folder / "edge.ring", CLOCK, TelemetryConfig(ring_bytes=1 << 20))
    if start_from is not None:
        (folder / "edge.snap").write_bytes(start_from)
    process, switches, shipper, state = _process(
        store, own_client, spool, folder, worker=worker, config=config or patient(), limits=limits or PATIENT,
        limits_socket=limits_socket or folder / "limits.sock", verdicts=verdicts, clock=clock,
    )  # fmt: skip
    sock = socket.create_server(("127.0.0.1", 0))
    await process.start()
    await process.listen(sock)
    running = asyncio.create_task(process.run())
    try:
        yield World(
            process, sock.getsockname()[1], store, scope, own_client, spool, shipper, switches, folder, state=state,
            clock=clock,
        )  # fmt: skip
    finally:
        await process.drain(1.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        spool.close()
        shutil.rmtree(folder)
        if client is None:
            await own_client.close()


def _process(store, client, spool, folder, *, worker, config, limits, limits_socket, verdicts, clock):
    keys = KeyDirectory(store)
    switches = KillSwitches(store, clock, folder, SECRET, FlagsConfig())
    shipper = Shipper(spool, store, CLOCK, roll_ups=(roll_up,))
    state = [PlatformState(ready=True)]

    async def metrics():
        return "# EOF\n"

    redactor = Redactor([])
    authenticator = Authenticator(keys, [PEPPER], clock)
    process = EdgeProcess(
        EdgeParts(
            worker=worker,
            store=store,
            authenticator=authenticator,
            used=LastUsed(store, authenticator, AuditLog(clock, redactor), clock),
            keys=keys,
            switches=switches,
            feed=ChangeFeed(store, clock),
            snapshot=Snapshot(folder / "edge.snap", SECRET),
            spool=spool,
            shipper=shipper,
            metrics=Metrics(),
            redactor=redactor,
            client=client,
            control_socket=folder / "control.sock",
            scheduler_sockets=(folder / "scheduler.sock",),
            internal_token=TOKEN,
            reply_key=b"r" * 32,
            readiness=Readiness(lambda: state[0], metrics),
            clock=clock,
            ids=IDS,
            config=config,
            limits=limits,
            limits_socket=limits_socket,
            **({} if verdicts is None else {"verifier": verdicts.verifier, "verifying": verdicts}),
        )
    )
    return process, switches, shipper, state
