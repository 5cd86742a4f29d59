"""What an audit row costs: changes with it and without, 16 writers on one organization, in one run.

Does not measure many organizations; their chains are apart, so one is the worst case. The change of the goal is a
control call as a user makes it, `POST /admin/v1/workspaces` with an Idempotency-Key; the bare transaction below it is
one insert, of which an event is a large part.
"""

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.support.store import IDS, make_tenant, running_store, scope_of

from benchmarks.record import record
from interlock.foundation.audit import AuditEntry, AuditLog, AuditReader, CheckpointFile, CheckpointKeys
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control import ControlConfig, Level, Reply, Route
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import Authenticated, IdentityService, authorize
from interlock.foundation.identity.views import NamedBody, workspace
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role, Scope
from interlock.foundation.store import Store

WRITERS = 16
ROUNDS = 16
CHANGES = 320
CLOCK = SystemClock()


class NoAudit(AuditLog):
    """The change alone."""

    async def append(self, tx: Any, entry: AuditEntry, scope: Scope | None = None) -> None:
        pass


class OneKey:
    """The key directory of one caller, in memory as the real one."""

    def __init__(self, principal: Principal) -> None:
        self.found = Authenticated(principal, None)  # type: ignore[arg-type] # nobody here asks for the record

    def check(self, *_: Any) -> Authenticated:
        return self.found

    async def check_store(self, *_: Any) -> Authenticated:
        return self.found


class Bench:
    def __init__(self, store: Store, scope: Scope, audit: AuditLog) -> None:
        self.store = store
        self.scope = scope
        self.identity = IdentityService(store, audit, CLOCK, IDS, b"t" * 32)
        gate = Gate(OneKey(scope.principal), None, authorize)
        config = ControlConfig(mutations_per_s=100_000)
        kit = Kit(store=store, audit=audit, gate=gate, ids=IDS, clock=CLOCK, dice=SystemDice(), key=b"k", config=config)
        route = Route(
            "POST", "/w", Level.ORGANIZATION, self.create, "Create.", action="admin:write", body=NamedBody,
            status=201, is_mutation=True,
        )  # fmt: skip
        self.app = build_app([route], kit)

    async def create(self, call: Any) -> Reply:
        return Reply(201, workspace(await self.identity.create_workspace(call.tx, call.body.name)))

    async def transaction(self) -> None:
        name = str(IDS.new())
        await self.store.run(self.scope, lambda tx: self.identity.create_workspace(tx, name))

    async def call(self) -> None:
        key = str(IDS.new()).encode()
        statuses = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b'{"name": "%s"}' % key, "more_body": False}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        headers = [(b"authorization", b"Bearer k"), (b"content-type", b"application/json"), (b"idempotency-key", key)]
        await self.app({"type": "http", "method": "POST", "path": "/w", "headers": headers}, receive, send)
        assert statuses[0] == 201


async def seconds(work: Callable[[], Awaitable[None]]) -> float:
    left = iter(range(CHANGES))

    async def writer() -> None:
        for _ in left:
            await work()

    began = perf_counter()
    await asyncio.gather(*(writer() for _ in range(WRITERS)))
    return perf_counter() - began


async def compare(alone: Callable[[], Awaitable[None]], audited: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    took: dict[str, list[float]] = {"alone": [], "audited": []}
    for number in range(-2, ROUNDS):
        # The order changes each round, so that neither side always pays for the other's leftovers.
        pair = [("alone", alone), ("audited", audited)]
        for name, work in pair if number % 2 else reversed(pair):
            spent = await seconds(work)
            if number >= 0:
                took[name].append(spent)
    return CHANGES / statistics.median(took["alone"]), CHANGES / statistics.median(took["audited"])


async def main() -> int:
    async with running_store() as (_, urls):
        store = await Store.open(urls, application_name="bench", connections_max=WRITERS, clock=CLOCK)
        organization_id, _ = await make_tenant(store)
        owner = Principal(
            IDS.new(), PrincipalKind.USER, organization_id, memberships=(Membership(Role.OWNER, None),),
            scopes=frozenset({"admin:write"}),
        )  # fmt: skip
        scope = Scope(organization_id, scope_of(organization_id).workspace_id, owner, IDS.new())
        redactor = Redactor([b"a-known-secret"])
        alone, audited = (Bench(store, scope, kind(CLOCK, redactor)) for kind in (NoAudit, AuditLog))
        bare = await compare(alone.transaction, audited.transaction)
        calls = await compare(alone.call, audited.call)
        reader = AuditReader(store, CheckpointKeys([]), CheckpointFile(Path("no-checkpoints.jsonl")))
        verdict = await reader.verify(organization_id)
        await store.close()
    print(f"{'change':<22}{'alone, /s':>12}{'audited, /s':>14}{'ratio':>8}   {WRITERS} writers, one organization")
    print(f"{'control call':<22}{calls[0]:>12.0f}{calls[1]:>14.0f}{calls[0] / calls[1]:>8.2f}   goal <= 2.0")
    print(f"{'bare insert':<22}{bare[0]:>12.0f}{bare[1]:>14.0f}{bare[0] / bare[1]:>8.2f}")
    print(f"chain: {'ok' if verdict.finding is None else verdict.finding}, {verdict.events} events")
    met = record("audit_append call", calls[0] / calls[1], "ratio", "lower", 2.0)
    record("audit_append bare insert", bare[0] / bare[1], "ratio", "lower")
    return 0 if met and verdict.finding is None else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
