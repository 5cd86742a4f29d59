"""Applies the numbered files of `interlock/migrations`, forward only, each once, and says when store and code disagree.

Does not make roles (`roles.py`) and never undoes a file.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import asyncpg

from interlock import __version__
from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.store.config import StoreConfig
from interlock.foundation.store.failures import translated
from interlock.foundation.store.partitions import make_partitions
from interlock.foundation.store.pool import Connection
from interlock.foundation.store.queries import Queries
from interlock.foundation.store.urls import StoreUrls

SQL = Queries(__package__)
_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_PHASE: Final = re.compile(r"-- phase: (expand|migrate|contract)")
_TABLE: Final = """
CREATE TABLE store_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    phase text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    ms integer NOT NULL,
    app_version text NOT NULL
);
ALTER TABLE store_migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE store_migrations FORCE ROW LEVEL SECURITY;
CREATE POLICY store_migrations_owner ON store_migrations TO interlock_owner USING (true);
CREATE POLICY store_migrations_ops ON store_migrations FOR SELECT TO interlock_ops USING (true);
GRANT SELECT ON store_migrations TO interlock_ops;
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `is_transactional` is false where its third line is `-- no-transaction`."""

    version: int
    name: str
    phase: str
    why: str
    sql: str
    is_transactional: bool

    @property
    def sha256(self) -> bytes:
        """The checksum that the store remembers."""
        return hashlib.sha256(self.sql.encode()).digest()


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a run did, or with `dry_run` would do; `version` is where the store stands after it."""

    version: int
    applied: tuple[str, ...]
    partitions: tuple[str, ...] = ()


def read_folder(folder: Path | None = None) -> list[Migration]:
    """Return the files in order. Raises `BrokenWorldError` `migration_malformed` or `migration_gap`."""
    root = folder or Path(str(files("interlock"))) / "migrations"
    found = [_read(path) for path in sorted(root.glob("*.sql"))]
    for number, each in enumerate(found, start=1):
        if each.version != number:
            raise BrokenWorldError(
                "migration_gap", f"before {each.name} a file is missing or doubled", "install the whole release"
            )
    return found


async def migrate(
    urls: StoreUrls,
    to: int | None = None,
    *,
    dry_run: bool = False,
    clock: Clock,
    config: StoreConfig | None = None,
    folder: Path | None = None,
) -> Migrated:
    """Bring the store to version `to`, the newest by default, and make the partitions of the coming days.

    Raises `BrokenWorldError` with `migration_changed`, `migration_gap`, `schema_newer`, `migration_failed` or
    `migration_blocked`; a file that failed has left nothing behind.
    """
    bounds = config or StoreConfig()
    known = read_folder(folder)
    with translated():
        connection = await asyncpg.connect(urls.owner, server_settings={"application_name": _name()})
        try:
            await connection.execute(SQL.migration_lock.sql)
            try:
                return await _migrate(connection, known, to, _Runner(connection, clock, bounds, is_dry=dry_run))
            finally:
                await connection.execute(SQL.migration_unlock.sql)
        finally:
            await connection.close()


async def _migrate(connection: Connection, known: list[Migration], to: int | None, runner: "_Runner") -> Migrated:
    exists = await connection.fetchval(SQL.migrations_exist.sql)
    applied = [dict(row) for row in await connection.fetch(SQL.migrations_applied.sql)] if exists else []
    compare(known, applied)
    stands = applied[-1]["version"] if applied else 0
    target = known[-1].version if to is None else to
    due = [each for each in known if stands < each.version <= target]
    names = tuple(each.name for each in due)
    if runner.is_dry:
        return Migrated(stands, names)
    if not exists:
        async with connection.transaction():
            await connection.execute(_TABLE)
    for each in due:
        await runner.apply(each)
    partitions = await make_partitions(connection, runner.config)
    return Migrated(max(stands, due[-1].version if due else 0), names, tuple(partitions))


def compare(known: list[Migration], applied: list[dict[str, Any]]) -> None:
    """Refuse a store that this code was not written for."""
    by_version = {each.version: each for each in known}
    done = {row["version"] for row in applied}
    newest = max((row["version"] for row in applied), default=0)
    for each in known:
        if each.version < newest and each.version not in done:
            raise BrokenWorldError(
                "migration_gap", f"the store lacks {each.name} below what it has", "restore the store from a backup"
            )
    for row in applied:
        file = by_version.get(row["version"])
        if file is None and row["phase"] != "expand":
            raise BrokenWorldError(
                "schema_newer", f"the store has {row['name']}, which this release does not know", "start the newer one"
            )
        if file is not None and row["sha256"] != file.sha256:
            raise BrokenWorldError(
                "migration_changed",
                f"{file.name} was edited after it was applied",
                "restore the file and write a new migration",
            )


class _Runner:
    """Applies one file under a limited wait for locks."""

    def __init__(self, connection: Connection, clock: Clock, config: StoreConfig, *, is_dry: bool) -> None:
        self.config = config
        self.is_dry = is_dry
        self._connection = connection
        self._clock = clock

    async def apply(self, migration: Migration) -> None:
        if migration.phase == "contract":
            await self._require_no_older_process(migration)
        for left in range(self.config.lock_tries - 1, -1, -1):
            try:
                await self._run(migration)
            except asyncpg.LockNotAvailableError as error:
                if not left:
                    raise _failed(migration, error) from error
                await self._clock.sleep(1)
            except asyncpg.PostgresError as error:
                raise _failed(migration, error) from error
            else:
                return

    async def _run(self, migration: Migration) -> None:
        began_s = self._clock.monotonic()
        await self._connection.execute(f"SET lock_timeout = '{self.config.lock_timeout_s}s'")
        if not migration.is_transactional:
            # CREATE INDEX CONCURRENTLY and its like: one statement at a time, re-runnable by the author's promise.
            for statement in split_statements(migration.sql):
                await self._connection.execute(statement)
            await self._record(migration, began_s)
            return
        async with self._connection.transaction():
            await self._connection.execute(migration.sql)
            await self._record(migration, began_s)

    async def _record(self, migration: Migration, began_s: float) -> None:
        took_ms = round((self._clock.monotonic() - began_s) * 1e3)
        await self._connection.execute(
            SQL.record_migration.sql,
            migration.version,
            migration.name,
            migration.phase,
            migration.sha256,
            took_ms,
            __version__,
        )

    async def _require_no_older_process(self, migration: Migration) -> None:
        older = await self._connection.fetchval(SQL.older_sessions.sql, __version__)
        if older:
            raise BrokenWorldError(
                "migration_blocked",
                f"{migration.name} removes what {older} connections of another release may still use",
                "stop the processes of the older release first",
            )


def split_statements(sql: str) -> list[str]:
    """Return the statements of a `-- no-transaction` file, which end at a `;` at the end of a line."""
    bare = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return [part.strip() for part in re.split(r";\s*$", bare, flags=re.MULTILINE) if part.strip()]


def _failed(migration: Migration, error: Exception) -> BrokenWorldError:
    return BrokenWorldError(
        "migration_failed", f"{migration.name}: {error}", "nothing of it was kept; repair the cause and run it again"
    )


def _read(path: Path) -> Migration:
    text = path.read_text(encoding="utf-8")
    lines = [*text.splitlines(), "", "", ""]
    name, phase = _NAME.fullmatch(path.name), _PHASE.fullmatch(lines[1])
    if not name or not phase or not lines[0].startswith("-- why: "):
        raise BrokenWorldError(
            "migration_malformed",
            f"{path.name} lacks its number, its why or its phase",
            "begin it with `-- why: ...` and `-- phase: expand`",
        )
    return Migration(
        version=int(name[1]),
        name=path.stem,
        phase=phase[1],
        why=lines[0].removeprefix("-- why: "),
        sql=text,
        is_transactional=lines[2].strip() != "-- no-transaction",
    )


def _name() -> str:
    return f"interlock/{__version__}/migrate"
