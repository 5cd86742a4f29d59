"""What `interlock doctor` asks the store: whether it answers, what schema it has, whether `vector` is there.

Starts no store: one that does not run is judged by its binaries.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg

from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError, InterlockError
from interlock.foundation.paths import DataDirectory, read_pid
from interlock.foundation.store import Launcher, Queries, StoreUrls, migrate
from interlock.foundation.store.binaries import Binaries, find_binaries
from interlock.foundation.supervisor.doctor import Finding, Verdict

SQL = Queries(__package__)
_CONNECT_S: Final = 30
_PG_CONFIG_S: Final = 60
_VECTOR_REMEDY: Final = (
    "install pgvector for this PostgreSQL (Debian: postgresql-NN-pgvector), "
    "or unset DATABASE_URL to use the embedded store"
)


async def store_findings(directory: DataDirectory, clock: Clock, env: Mapping[str, str]) -> list[Finding]:
    """Return the findings of `DATABASE_URL`, of the running embedded store, or of its binaries."""
    database_url = env.get("DATABASE_URL")
    if database_url:
        return await _of_server(database_url, "DATABASE_URL answers")
    if _runs(directory):
        try:
            urls = await Launcher(directory.root, clock).start()
        except (BrokenWorldError, InterlockError, OSError, asyncpg.PostgresError) as error:
            return [Finding(Verdict.FAIL, "store", str(error), "see pg/postgres.log in the data directory")]
        findings = await _of_server(urls.app, f"the embedded store answers, pid {read_pid(_postmaster(directory))}")
        return [*findings, await _schema(urls, clock)]
    try:
        binaries = find_binaries()
    except BrokenWorldError as error:
        return [Finding(Verdict.FAIL, "store", error.finding, error.remedy)]
    found = Finding(Verdict.OK, "store", f"not running; PostgreSQL {binaries.version} from {binaries.origin}")
    return [found, _vector_of_files(binaries)]


async def store_status(urls: StoreUrls, clock: Clock) -> dict[str, Any]:
    """Return version, size, connections, extensions and schema of a running store."""
    connection = await asyncpg.connect(urls.ops, timeout=_CONNECT_S)
    try:
        row = await connection.fetchrow(SQL.store_status.sql)
    finally:
        await connection.close()
    plan = await migrate(urls, dry_run=True, clock=clock)
    return {**dict(row), "schema": plan.version, "due": list(plan.applied)}


async def _of_server(url: str, what: str) -> list[Finding]:
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        finding = f"no answer: {type(error).__name__} {error}".strip()
        return [Finding(Verdict.FAIL, "store", finding, "start the database or mend DATABASE_URL")]
    try:
        version = connection.get_settings().server_version
        has_vector = await connection.fetchval(SQL.vector_available.sql)
    finally:
        await connection.close()
    vector = (
        Finding(Verdict.OK, "pgvector", "available")
        if has_vector
        else Finding(Verdict.FAIL, "pgvector", "the server has no extension vector", _VECTOR_REMEDY)
    )
    return [Finding(Verdict.OK, "store", f"{what}, PostgreSQL {version}"), vector]


async def _schema(urls: StoreUrls, clock: Clock) -> Finding:
    try:
        plan = await migrate(urls, dry_run=True, clock=clock)
    except (BrokenWorldError, InterlockError) as error:
        return Finding(Verdict.FAIL, "schema", str(error), "start the release that this store belongs to")
    if plan.applied:
        return Finding(Verdict.WARN, "schema", f"{len(plan.applied)} migrations are due", "run `interlock migrate`")
    return Finding(Verdict.OK, "schema", f"at {plan.version:04d}")


def _vector_of_files(binaries: Binaries) -> Finding:
    shared = _shared_folder(binaries)
    if shared is not None and (shared / "extension" / "vector.control").is_file():
        return Finding(Verdict.OK, "pgvector", "part of the binaries")
    return Finding(Verdict.FAIL, "pgvector", f"{binaries.origin} has no extension vector", _VECTOR_REMEDY)


def _shared_folder(binaries: Binaries) -> Path | None:
    try:
        said = subprocess.run(  # noqa: S603 - beside the binaries that were just found
            [binaries.folder / "pg_config", "--sharedir"],
            capture_output=True,
            text=True,
            timeout=_PG_CONFIG_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return next((found.parents[1] for found in binaries.folder.parent.rglob("extension/plpgsql.control")), None)
    return Path(said.strip())


def _postmaster(directory: DataDirectory) -> Path:
    return directory.pg / "data" / "postmaster.pid"


def _runs(directory: DataDirectory) -> bool:
    pid = read_pid(_postmaster(directory))
    return pid is not None and Path(f"/proc/{pid}").exists()
