"""`Store`: transactions of one tenant, transactions of the loops, and what both do when the store goes away.

Retries nothing by itself but `run`; whether a repeat is safe is the caller's knowledge.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

import asyncpg

from interlock import __version__
from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError, InterlockError
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store.config import StoreConfig
from interlock.foundation.store.failures import RETRYABLE, store_unavailable, translated
from interlock.foundation.store.listener import Listener
from interlock.foundation.store.pool import Connection, Pool, PoolStatistics
from interlock.foundation.store.pulse import Pulse
from interlock.foundation.store.queries import Queries, Query
from interlock.foundation.store.urls import StoreUrls

SQL = Queries(__package__)
_PLAIN: Final = re.compile(r"[a-z0-9_.*-]+")
ResultT = TypeVar("ResultT")
Record = Any


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """`outcomes` counts transactions, single statements included, by `committed`, `rolled_back` and `unavailable`."""

    is_up: bool
    app: PoolStatistics
    ops: PoolStatistics
    outcomes: dict[str, int]
    beats: int
    beats_missed: int


class Transaction:
    """One open transaction. jsonb goes in and comes out as text, timestamptz as an aware datetime.

    Every method raises `InterlockError` `store_unavailable` when the store goes away, and the driver's own
    error (`UniqueViolation`, ...) when the statement is refused; after either nothing of it is kept.
    """

    __slots__ = ("_connection", "_scope")

    def __init__(self, connection: Connection, scope: Scope | None) -> None:
        self._connection = connection
        self._scope = scope

    @property
    def scope(self) -> Scope:
        """The tenant of this transaction; a transaction of the loops has none and raises `LookupError`."""
        if self._scope is None:
            raise LookupError("a transaction of interlock_ops has no scope")
        return self._scope

    def under(self, scope: Scope) -> "Transaction":
        """Return the same transaction as another scope sees it; who calls this has changed the settings to match."""
        return Transaction(self._connection, scope)

    async def fetch(self, query: Query, *args: Any) -> list[Record]:
        """Return all rows."""
        with translated():
            return await self._connection.fetch(query.sql, *args)  # type: ignore[no-any-return] # untyped driver

    async def fetchrow(self, query: Query, *args: Any) -> Record | None:
        """Return the first row, or None."""
        with translated():
            return await self._connection.fetchrow(query.sql, *args)

    async def fetchval(self, query: Query, *args: Any) -> Any:
        """Return the first column of the first row, or None."""
        with translated():
            return await self._connection.fetchval(query.sql, *args)

    async def execute(self, query: Query, *args: Any) -> int:
        """Run a statement and return how many rows it changed (or selected)."""
        with translated():
            status = await self._connection.execute(query.sql, *args)
        return affected(status)

    async def executemany(self, query: Query, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for many rows in one batch."""
        with translated():
            await self._connection.executemany(query.sql, rows)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Run statements whose refusal the caller wants to catch and go on from."""
        with translated():
            await self._connection.execute("SAVEPOINT interlock")
        try:
            yield
        except Exception:
            # On a dead connection there is nothing to go back to; the transaction's own end reports it.
            if not self._connection.is_closed():
                await self._connection.execute("ROLLBACK TO interlock; RELEASE interlock")
            raise
        with translated():
            await self._connection.execute("RELEASE interlock")

    async def notify(self, channel: str, payload: str) -> None:
        """Send at commit; a listener takes it as a hint, never as the truth."""
        with translated():
            await self._connection.execute("SELECT pg_notify($1, $2)", channel, payload)


class Store:
    """Two small pools, of `interlock_app` and of `interlock_ops`. Survives restarts of the database by itself."""

    def __init__(
        self, urls: StoreUrls, application_name: str, connections_max: int, clock: Clock, config: StoreConfig
    ) -> None:
        self._config = config
        self._clock = clock
        self._application_name = f"interlock/{__version__}/{application_name}"
        self._vetted: set[str] = set()
        self._outcomes = {"committed": 0, "rolled_back": 0, "unavailable": 0}
        self._app = Pool(lambda: self._connect(urls.app, "app"), connections_max, config, clock)
        self._ops = Pool(lambda: self._connect(urls.ops, "ops"), connections_max, config, clock)
        self._pulse = Pulse(
            lambda: self._connect(urls.app, "app"), config, is_busy=self._is_busy, on_away=self._drop_all
        )
        self._listener = Listener(lambda: self._connect(urls.app, "app"), clock)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        urls: StoreUrls,
        *,
        application_name: str,
        connections_max: int = 2,
        clock: Clock,
        config: StoreConfig | None = None,
    ) -> "Store":
        """Open; a store that is away now is waited for later, so a process may start without it.

        Raises `BrokenWorldError` `unsafe_role` when a role may see past the policies.
        """
        store = cls(urls, application_name, connections_max, clock, config or StoreConfig())
        try:
            store._app.give(await store._app.take())
        except InterlockError:
            store._pulse.is_up = False
        except BaseException:
            await store.close()
            raise
        store._tasks.append(asyncio.get_running_loop().create_task(store._pulse.run()))
        return store

    @property
    def is_up(self) -> bool:
        """Whether the store answered its last question in time."""
        return self._pulse.is_up

    @asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[Transaction]:
        """Open a transaction that sees the rows of `scope` only; commit at the end, roll back on any exception."""
        async with self._transaction(self._app, begin_with(scope), scope) as tx:
            yield tx

    @asynccontextmanager
    async def snapshot(
        self, scope: Scope, settings: Mapping[str, str] | None = None, *, is_read_only: bool = True
    ) -> AsyncIterator[Transaction]:
        """Open a transaction whose statements all see one moment; `settings` of the database last as long as it."""
        isolation = "ISOLATION LEVEL REPEATABLE READ" + (" READ ONLY" if is_read_only else "")
        async with self._transaction(self._app, begin_with(scope, isolation, settings), scope) as tx:
            yield tx

    @asynccontextmanager
    async def ops(self, reason: str) -> AsyncIterator[Transaction]:
        """Open a transaction over all tenants. `reason` is for the reader and the log of the database.

        Raises `store_unavailable` also for who loses a deadlock.
        """
        with _passing():
            async with self._transaction(self._ops, f"BEGIN /* {comment_safe(reason)} */", None) as tx:
                yield tx

    async def single(self, query: Query, *args: Any) -> list[Record]:
        """Run one statement as `interlock_app` in one round trip, with no scope set: the SQL sets its own."""
        return await self._single(self._app, query, args)

    async def ops_single(self, query: Query, *args: Any) -> list[Record]:
        """Run one statement over all tenants in one round trip; what it writes is committed when it returns."""
        with _passing():
            return await self._single(self._ops, query, args)

    async def _single(self, pool: Pool, query: Query, args: Sequence[Any]) -> list[Record]:
        self._require_up()
        connection = await self._take(pool)
        try:
            with translated():
                rows = await connection.fetch(query.sql, *args)
        except Exception:
            self._outcomes["rolled_back"] += 1
            pool.give(connection)
            self._pulse.alarm()
            raise
        except BaseException:
            self._outcomes["rolled_back"] += 1
            pool.clean_later(connection)
            raise
        self._outcomes["committed"] += 1
        pool.give(connection)
        self._pulse.heard()
        return rows  # type: ignore[no-any-return] # untyped driver

    async def run(self, scope: Scope, work: Callable[[Transaction], Awaitable[ResultT]]) -> ResultT:
        """Run `work` in a transaction, again after a serialization failure or deadlock."""
        tries = self._config.retries_max
        while True:
            try:
                async with self.transaction(scope) as tx:
                    return await work(tx)
            except RETRYABLE:
                if not tries:
                    raise
                tries -= 1

    async def listen(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call back with each payload; after a reconnection once with an empty one, as some may have been missed."""
        if not self._listener.channels:
            self._tasks.append(asyncio.get_running_loop().create_task(self._listener.run()))
        await self._listener.add(channel, callback)

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            is_up=self.is_up,
            app=self._app.statistics(),
            ops=self._ops.statistics(),
            outcomes=dict(self._outcomes),
            beats=self._pulse.beats,
            beats_missed=self._pulse.misses,
        )

    async def close(self) -> None:
        """End the loops and all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._app.close()
        await self._ops.close()

    @asynccontextmanager
    async def _transaction(self, pool: Pool, begin: str, scope: Scope | None) -> AsyncIterator[Transaction]:
        self._require_up()
        connection = await self._take(pool)
        try:
            with translated():
                await connection.execute(begin)
            yield Transaction(connection, scope)
            await _commit(connection)
        except Exception as error:
            self._outcomes["rolled_back"] += 1
            if connection.is_closed():
                self._pulse.alarm()
                pool.discard(connection)
                if isinstance(error, asyncpg.InterfaceError):
                    raise store_unavailable(type(error).__name__) from error
            else:
                await pool.roll_back(connection)
            raise
        except BaseException:
            self._outcomes["rolled_back"] += 1
            pool.clean_later(connection)
            raise
        self._outcomes["committed"] += 1
        pool.give(connection)
        self._pulse.heard()

    def _require_up(self) -> None:
        if not self._pulse.is_up:
            self._outcomes["unavailable"] += 1
            raise store_unavailable("away")

    async def _take(self, pool: Pool) -> Connection:
        self._pulse.nudge()
        try:
            return await pool.take()
        except InterlockError:
            self._outcomes["unavailable"] += 1
            raise

    def _is_busy(self) -> bool:
        return bool(self._app.in_use or self._ops.in_use)

    def _drop_all(self) -> None:
        self._app.drop_all()
        self._ops.drop_all()
        self._listener.drop()

    async def _connect(self, url: str, role: str) -> Connection:
        timeout_s = self._config.statement_timeout_ops_s if role == "ops" else self._config.statement_timeout_app_s
        connection = await asyncpg.connect(
            url,
            timeout=self._config.connect_timeout_ms / 1e3,
            server_settings={
                "application_name": self._application_name,
                "statement_timeout": f"{timeout_s}s",
                "idle_in_transaction_session_timeout": f"{self._config.idle_transaction_s}s",
                "jit": "off",
            },
        )
        if role not in self._vetted:
            try:
                await _vet(connection)
            except BaseException:
                connection.terminate()
                raise
            self._vetted.add(role)
        return connection


async def _commit(connection: Connection) -> None:
    with translated():
        status = await connection.execute("COMMIT")
    if status != "COMMIT":
        # PostgreSQL answers COMMIT with ROLLBACK when a statement failed before; silence would lose the work.
        raise RuntimeError("a statement of this transaction failed and its error was caught; use tx.savepoint()")


async def _vet(connection: Connection) -> None:
    finding = await connection.fetchval(SQL.unsafe_role.sql)
    if finding is not None:
        raise BrokenWorldError(
            "unsafe_role", finding, "connect as interlock_app and interlock_ops, as `interlock migrate` makes them"
        )


def begin_with(scope: Scope, isolation: str = "", settings: Mapping[str, str] | None = None) -> str:
    """Return the statements that open a scoped transaction in one round trip.

    The tenant's values are made here from uuids, so there is nothing to escape; settings may not need it.
    """
    workspace = "*" if isinstance(scope.workspace_id, AllWorkspaces) else str(scope.workspace_id)
    wanted = {
        "interlock.organization_id": str(scope.organization_id), "interlock.workspace_id": workspace, **(settings or {})
    }  # fmt: skip
    if any(not _PLAIN.fullmatch(part) for pair in wanted.items() for part in pair):
        raise ValueError("a setting of a transaction is a plain word")
    pairs = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in wanted.items())
    return f"BEGIN {isolation}; SELECT {pairs}"


@contextmanager
def _passing() -> Iterator[None]:
    """Tell a loop that lost a deadlock or a race what it is told of a store that is away: it comes again anyway."""
    try:
        yield
    except RETRYABLE as error:
        raise store_unavailable(type(error).__name__) from error


@lru_cache(maxsize=512)
def comment_safe(reason: str) -> str:
    """Return a reason that cannot end the comment it stands in."""
    return "".join(char if char.isalnum() or char in " -_.:" else "_" for char in reason)[:80]


def affected(status: str) -> int:
    """Return the row count of a command tag: `UPDATE 3`, `INSERT 0 1`; 0 where a tag has none."""
    last = status.rpartition(" ")[2]
    return int(last) if last.isdigit() else 0
