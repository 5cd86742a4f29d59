"""Kills the store under writers, again and again, and counts what was acknowledged and is gone.

Brings the store back as the supervisor does, through the launcher. Proves the death of processes, not of power.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from time import perf_counter
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from tests.support.store import make_tenant, opened, running_store, scope_of

from benchmarks.record import record
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Launcher, Query, Store, StoreUrls
from interlock.foundation.store.binaries import find_binaries

KILLS = int(os.environ.get("KILLS", "20"))
WRITERS = 8
LOAD_S = 0.5
GOAL_S = 2.0
ADD = Query(
    "add",
    "a small row of a tenant",
    "INSERT INTO store_idempotency_keys (organization_id, workspace_id, endpoint, key, fingerprint, expires_at)"
    " VALUES ($1, $2, 'recovery', $3, ''::bytea, now() + interval '1 day')",
)
LIST = Query("list", "what is there", "SELECT key FROM store_idempotency_keys WHERE endpoint = 'recovery'")


@dataclass(slots=True)
class Load:
    """What the writers were told."""

    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0
    acknowledged_one: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False


async def write(store: Store, scope: Scope, number: int, load: Load) -> None:
    count = 0
    while not load.is_over:
        count += 1
        key = f"{number}-{count}"
        try:
            async with store.transaction(scope) as tx:
                await tx.execute(ADD, scope.organization_id, scope.workspace_id, key)
        except InterlockError as error:
            if error.code != "store_unavailable":
                raise
            load.refused += 1
            await asyncio.sleep(0.02)
        else:
            load.acknowledged.add(key)
            load.acknowledged_one.set()


async def kill_once(launcher: Launcher, load: Load) -> float:
    """Return the seconds from the kill to the first write that was acknowledged by the new server."""
    await asyncio.sleep(LOAD_S)
    pid = launcher.pid
    assert pid is not None
    killed_s = perf_counter()
    os.kill(pid, signal.SIGKILL)
    await launcher.wait_dead()
    await launcher.start()
    load.acknowledged_one.clear()
    await load.acknowledged_one.wait()
    return perf_counter() - killed_s


async def check_pages(urls: StoreUrls) -> bool:
    """Let PostgreSQL's own tool read every table and index."""
    assert urls.superuser is not None
    admin = await asyncpg.connect(urls.superuser, database="interlock")
    await admin.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
    await admin.close()
    program = find_binaries().folder / "pg_amcheck"
    if not program.is_file():
        print("pages: not checked, these binaries bring no pg_amcheck")
        return True
    address = urlsplit(urls.superuser)
    environment = {
        "PATH": "/usr/bin:/bin",
        "LD_LIBRARY_PATH": str(program.parents[1] / "lib"),
        "PGHOST": dict(parse_qsl(address.query))["host"],
        "PGUSER": address.username or "",
        "PGPASSWORD": address.password or "",
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [program, "--heapallindexed", "-d", "interlock"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    print(f"pages: pg_amcheck {'clean' if done.returncode == 0 else done.stdout + done.stderr}")
    return done.returncode == 0


async def main() -> int:
    load, took = Load(), []
    async with running_store() as (launcher, urls), opened(urls, connections_max=WRITERS) as store:
        scope = scope_of(*await make_tenant(store))
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(write(store, scope, number, load))
            for _ in range(KILLS):
                took.append(await kill_once(launcher, load))  # noqa: PERF401 - each kill waits for the one before
            load.is_over = True
        async with store.transaction(scope) as tx:
            kept = {row["key"] for row in await tx.fetch(LIST)}
        is_clean = await check_pages(urls)
    lost = len(load.acknowledged - kept)
    p50, p95 = statistics.median(took), sorted(took)[max(0, round(0.95 * len(took)) - 1)]
    print(f"kills {len(took)}, writers {WRITERS}, acknowledged {len(load.acknowledged)}, refused {load.refused}")
    print(f"acknowledged writes lost {lost}   goal 0")
    print(f"back after: p50 {p50:.2f} s, p95 {p95:.2f} s, longest {max(took):.2f} s   goal p95 <= {GOAL_S} s")
    met = [
        record("store_recovery lost", lost, "writes", "lower", 0),
        record("store_recovery p50", p50, "s", "lower"),
        record("store_recovery p95", p95, "s", "lower", GOAL_S),
    ]
    return 0 if all(met) and is_clean else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
