"""A real store for tests: one embedded PostgreSQL a session, scopes of fresh tenants, everything ended after."""

import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.foundation.store import Launcher, Store, StoreConfig, migrate
from interlock.foundation.store.cluster import Cluster

IDS = IdFactory(SystemClock(), SystemDice())
# Of a store on a machine that others use too: what is slow there is not away.
PATIENT = StoreConfig(
    connect_timeout_ms=60_000, pulse_timeout_ms=60_000, pool_wait_ms=60_000, start_timeout_s=240, stop_timeout_s=240,
    shared_memory_retry_s=240, statement_timeout_app_s=300, idle_transaction_s=600, lock_timeout_s=60,
)  # fmt: skip


DISK, MEMORY = Path("/tmp"), Path("/dev/shm")
MEMORY_BYTES_MIN = 4 << 30


def room():
    """Where the data of tests lies: in memory where there is enough that may hold programs; a disk makes syncs wait."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return DISK
    is_fit = found.f_bavail * found.f_frsize >= MEMORY_BYTES_MIN and not found.f_flag & os.ST_NOEXEC
    return MEMORY if is_fit and os.access(MEMORY, os.W_OK | os.X_OK) else DISK


def patient(**given):
    """The bounds of a patient store but for those which a test is about."""
    return replace(PATIENT, **given)


def short_directory(prefix="interlock-test-"):
    """A data directory whose sockets fit, and through which the store's own user may pass when we are root."""
    path = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=room()))
    path.chmod(0o711)
    return path


def sweep():
    """End the stores of test runs that were killed: a store outlives its supervisor, and so its test as well."""
    for folder in (each for place in (DISK, MEMORY) for each in place.glob("interlock-test-*-*")):
        maker = folder.name.split("-")[2]
        if not maker.isdigit() or Path(f"/proc/{maker}").exists():
            continue
        # Another run may be sweeping the same folder away.
        with suppress(FileNotFoundError):
            if folder.stat().st_uid == os.geteuid():
                end_stores(folder)
                shutil.rmtree(folder, ignore_errors=True)


def end_stores(folder):
    """Kill every store that runs below a folder."""
    for pid_file in folder.rglob("pg/data/postmaster.pid"):
        cluster = Cluster(pid_file.parents[2])
        with suppress(FileNotFoundError, ProcessLookupError):
            found = cluster.postmaster()
            if found and cluster.runs(found.pid):
                os.kill(found.pid, signal.SIGKILL)


def furnish(folder):
    """Lay a store that is migrated and stopped into a data directory that has none: initdb is the slow part of a start.

    A test of what a first start does goes without.
    """
    subprocess.run(["cp", "-a", _template(), folder / "pg"], check=True)


@cache
def _template():
    """The store of which all others of this process are copies."""
    folder = short_directory()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    async def once():
        launcher = Launcher(folder, SystemClock(), config=PATIENT, env={})
        try:
            await migrate(await launcher.start(), clock=SystemClock())
        finally:
            await launcher.stop()

    # Whoever asks may be in a loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(once())).result()
    return folder / "pg"


def kill_store(launcher):
    """End a store at once, whatever state it is in."""
    if launcher.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(launcher.pid, signal.SIGQUIT)


@asynccontextmanager
async def running_store(path=None, **options):
    """Yield `(launcher, urls)` of a migrated store; ends it and removes its folder."""
    folder = path or short_directory()
    if path is None:
        await asyncio.to_thread(furnish, folder)
    launcher = Launcher(folder, SystemClock(), config=PATIENT, env={}, **options)
    try:
        urls = await launcher.start()
        await migrate(urls, clock=SystemClock())
        yield launcher, urls
    finally:
        await launcher.stop()
        if path is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def lasting_store():
    """Yield the URLs of a migrated store that lasts for many tests, each with a loop of its own."""
    folder = short_directory()
    furnish(folder)
    launcher = Launcher(folder, SystemClock(), config=PATIENT, env={})

    async def start():
        urls = await launcher.start()
        await migrate(urls, clock=SystemClock())
        return urls

    try:
        yield asyncio.run(start())
    finally:
        asyncio.run(launcher.stop())
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def opened(urls, **options):
    """Yield an open `Store`, patient unless the test says otherwise."""
    usual = {"application_name": "test", "connections_max": 4, "clock": SystemClock(), "config": PATIENT}
    options = {**usual, **options}
    store = await Store.open(urls, **options)
    try:
        yield store
    finally:
        await store.close()


def scope_of(organization_id, workspace_id=ALL_WORKSPACES, **options):
    """A scope as policy would build it for a principal of that tenant."""
    principal = Principal(IDS.new(), PrincipalKind.USER, organization_id)
    return Scope(organization_id, workspace_id, principal, IDS.new(), **options)


async def make_tenant(store):
    """Insert an organization and a workspace as far as the tables exist; return `(organization_id, workspace_id)`."""
    organization_id, workspace_id = IDS.new(), IDS.new()
    name = organization_id.hex
    async with store.ops("test tenant") as tx:
        connection = tx._connection
        if await connection.fetchval("SELECT to_regclass('identity_workspaces') IS NOT NULL"):
            await _insert(connection, "identity_organizations", {"id": organization_id, "name": f"o-{name}"})
            await _insert(
                connection,
                "identity_workspaces",
                {"id": workspace_id, "organization_id": organization_id, "name": f"w-{name}"},
            )
    return organization_id, workspace_id


async def make_system(store):
    """Insert the organizations of a first start, as far as they are missing: half of a first start never exists."""
    async with store.ops("test first start") as tx:
        for organization_id, name in ((SYSTEM_ORGANIZATION_ID, "system"), (IDS.new(), "default")):
            await tx._connection.execute(
                "INSERT INTO identity_organizations (id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                organization_id,
                name,
            )


async def _insert(connection, table, values):
    columns = {
        row[0]
        for row in await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0", table
        )
    }
    if "organization_id" in columns and "organization_id" not in values:
        values = {**values, "organization_id": values["id"]}
    names = ", ".join(values)
    marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *values.values())
