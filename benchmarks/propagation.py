"""How long until four processes know of a kill, a revoked key and a changed group, with and without NOTIFY.

Each process is what an edge knows: a feed, a key directory, kill switches. Times are those of the machine's one
monotonic clock, from the start of the changing call to the moment at which the process would act on it.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

from tests.foundation.identity.worlds import PEPPER, World
from tests.support.store import opened, running_store, scope_of

from benchmarks.record import record
from interlock.foundation.clock import SystemClock
from interlock.foundation.flags import ChangeFeed, FlagsConfig, Kill, KillSwitches
from interlock.foundation.identity import KeyDirectory
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Principal, Role, Scope
from interlock.foundation.store import StoreUrls

PROCESSES = 4
ROUNDS = int(os.environ.get("ROUNDS", "50"))
GOAL_S = 1.0
WAIT_S = 10.0
KINDS = ("kill", "revoke", "group")


class Watcher:
    """One process: prints what it knows, with the moment, whenever that changed."""

    def __init__(self, urls: StoreUrls, name: str, *, is_hinted: bool) -> None:
        self._urls = urls
        self._name = name
        self._is_hinted = is_hinted

    async def run(self) -> None:
        clock, config = SystemClock(), FlagsConfig()
        async with opened(self._urls) as store:
            self.keys, self.switches = KeyDirectory(store), KillSwitches(store, clock, None, PEPPER)
            feed = ChangeFeed(store, clock, config, process=self._name)
            for topic, reload in (
                ("keys", self.keys.reload), ("identity", self.keys.reload), ("kills", self.switches.reload),
                ("keys", self._say), ("identity", self._say), ("kills", self._say),
            ):  # fmt: skip
                feed.subscribe(topic, reload)
            if self._is_hinted:
                await feed.run()
            while True:
                await feed.run_once()
                await clock.sleep(config.poll_s)

    async def _say(self) -> None:
        at = monotonic()
        known = {
            "at": at,
            "kill": [each.id for each in self.switches.kills],
            "revoke": [known.record.lookup for known in self.keys._keys.values() if known.record.revoked_us],  # noqa: SLF001
            "group": [str(group) for known in self.keys._keys.values() for group in known.principal.groups],  # noqa: SLF001
        }
        print(json.dumps(known), flush=True)


class Fleet:
    """The processes as the parent sees them: when each first said that it knows of something."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], dict[int, float]] = {}
        self._changed = asyncio.Event()
        self._processes: list[asyncio.subprocess.Process] = []
        self._ready: set[int] = set()

    async def start(self, urls: StoreUrls, group: asyncio.TaskGroup, *, is_hinted: bool) -> None:
        text = json.dumps(asdict(urls))
        for number in range(PROCESSES):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.propagation", text, f"edge-{number}", str(int(is_hinted)),
                stdout=asyncio.subprocess.PIPE, limit=1 << 24,
            )  # fmt: skip
            self._processes.append(process)
            group.create_task(self._read(number, process))
        async with asyncio.timeout(30):
            while len(self._ready) < PROCESSES:
                await self._next()

    async def known_by_all(self, kind: str, what: str) -> list[float]:
        """Return when each process knew of something."""
        async with asyncio.timeout(WAIT_S):
            while len(self.seen.get((kind, what), {})) < PROCESSES:
                await self._next()
        return list(self.seen[kind, what].values())

    async def stop(self) -> None:
        for process in self._processes:
            process.terminate()
            await process.wait()

    async def _next(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _read(self, number: int, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if not line.startswith(b"{"):
                continue
            known = json.loads(line)
            for kind in KINDS:
                for what in known[kind]:
                    self.seen.setdefault((kind, what), {}).setdefault(number, known["at"])
            self._ready.add(number)
            self._changed.set()


class Changes:
    """The changes that are made, each returning what a process then knows."""

    def __init__(self, world: World, scope: Scope, user: Principal) -> None:
        self._world = world
        self._scope = scope
        self._user = user

    async def kill(self, number: int) -> str:
        wanted = Kill(
            id="", organization_id=self._scope.organization_id, scope="route", target=f"route-{number}", mode="reject",
            reason="measured", actor="", created_us=0,
        )  # fmt: skip
        made, _ = await self._world.kills.turn_on(self._scope, wanted)
        return made.id

    async def revoke(self, number: int) -> str:
        row = self.rows[number]
        async with self._world.store.transaction(self._scope) as tx:
            await self._world.keys.revoke(tx, format_id("key", row["id"]))
        return str(row["lookup"])

    async def group(self, number: int) -> str:
        group = self.groups[number]
        async with self._world.store.transaction(self._scope) as tx:
            member = f"user:{format_id('usr', self._user.id)}"
            await self._world.identity.set_member(tx, format_id("grp", group["id"]), member, is_member=True)
        return str(group["id"])

    async def prepare(self) -> None:
        """Make what is changed later."""
        async with self._world.store.transaction(self._scope) as tx:
            self.groups = [await self._world.identity.create_group(tx, f"g{number}") for number in range(ROUNDS)]
        for _ in range(ROUNDS):
            await self._world.person(self._scope_of_workspace, Role.DEVELOPER)
        self.rows: list[Any] = [
            row
            for row in await self._world.keys.listed(self._scope, UUID(int=0), 500)
            if row["owner_id"] != self._user.id
        ]

    @property
    def _scope_of_workspace(self) -> Scope:
        assert self._user.workspace_id is not None
        return scope_of(self._scope.organization_id, self._user.workspace_id)


async def measure(urls: StoreUrls, folder: Path, *, is_hinted: bool) -> dict[str, list[float]]:
    """Return the seconds of each kind, one a process and round."""
    fleet, took = Fleet(), {kind: list[float]() for kind in KINDS}
    async with opened(urls) as store:
        world = World(store, folder)
        tenant = await world.tenant()
        user = world.check(tenant.owner_key).principal
        scope = replace(scope_of(tenant.scope.organization_id), principal=user)
        changes = Changes(world, scope, user)
        await changes.prepare()
        async with asyncio.TaskGroup() as group:
            await fleet.start(urls, group, is_hinted=is_hinted)
            calls: dict[str, Callable[[int], Awaitable[str]]] = {
                "kill": changes.kill, "revoke": changes.revoke, "group": changes.group,
            }  # fmt: skip
            for number in range(ROUNDS):
                for kind, call in calls.items():
                    began = monotonic()
                    what = await call(number)
                    took[kind] += [at - began for at in await fleet.known_by_all(kind, what)]
            await fleet.stop()
    return took


async def main() -> int:
    met = []
    with tempfile.TemporaryDirectory() as folder:
        async with running_store() as (_launcher, urls):
            for is_hinted in (True, False):
                how = "told" if is_hinted else "polling"
                for kind, samples in (await measure(urls, Path(folder), is_hinted=is_hinted)).items():
                    ordered = sorted(samples)
                    p50, p99 = statistics.median(ordered), ordered[round(0.99 * len(ordered)) - 1]
                    print(f"{kind:7} {how:8} p50 {p50 * 1e3:6.1f} ms  p99 {p99 * 1e3:6.1f} ms  of {len(ordered)}")
                    met.append(record(f"propagation {kind} {how} p99", p99, "s", "lower", GOAL_S))
    print(f"{PROCESSES} processes, {ROUNDS} rounds   goal p99 <= {GOAL_S} s")
    return 0 if all(met) else 1


if __name__ == "__main__":
    if len(sys.argv) == 4:
        watcher = Watcher(StoreUrls(**json.loads(sys.argv[1])), sys.argv[2], is_hinted=sys.argv[3] == "1")
        asyncio.run(watcher.run())
    else:
        sys.exit(asyncio.run(main()))
