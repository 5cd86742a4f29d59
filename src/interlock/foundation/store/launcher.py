"""Starts, adopts and stops the embedded store. `DATABASE_URL` comes first: then there is nothing to start.

Watches nothing; a supervisor waits for `pid` to end and calls `start` again.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

import asyncpg

from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.store.binaries import Binaries, find_binaries
from interlock.foundation.store.cluster import Cluster, environment, is_zombie
from interlock.foundation.store.config import StoreConfig
from interlock.foundation.store.failures import is_away, translated
from interlock.foundation.store.roles import (
    ADD_VECTOR,
    ALL,
    APP,
    DATABASE,
    HAS_VECTOR,
    OPS,
    OWNER,
    READ,
    SUPERUSER,
    external_urls,
    login_statements,
    role_statements,
    vector_missing,
)
from interlock.foundation.store.runas import RunAs, choose
from interlock.foundation.store.urls import StoreUrls, socket_url

_POLL_S: Final = 0.02
_RETRY_S: Final = 0.25
_QUIT_S: Final = 10.0
# For an operator with psql while the platform uses all of its own.
_SPARE_CONNECTIONS: Final = 20
_LOG_BYTES_MAX: Final = 16 << 20
_LOG_TAIL_BYTES: Final = 4_000
# The server's own words for "the processes of a killed postmaster are still ending".
_STILL_ENDING: Final = ("pre-existing shared memory block", "lock file", "is still in use")


class Kind(StrEnum):
    """Whose server it is."""

    NONE = "none"
    EXTERNAL = "external"
    LAUNCHED = "launched"
    ADOPTED = "adopted"


class Launcher:
    """The store of one data directory. `start` is idempotent; it may be called again after the server's death."""

    def __init__(
        self,
        data_dir: Path,
        clock: Clock,
        *,
        config: StoreConfig | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = Kind.NONE
        self._clock = clock
        self._config = config or StoreConfig()
        self._database_url = (os.environ if env is None else env).get("DATABASE_URL") or None
        self._cluster = Cluster(data_dir.absolute())
        self._pid: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._chosen: tuple[RunAs, Binaries] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster; None for an external store or before `start`."""
        return self._pid

    def is_alive(self) -> bool:
        """Tell whether the postmaster lives; an external store is taken to."""
        if self.kind is Kind.EXTERNAL:
            return True
        if self._child is not None and self._child.poll() is not None:
            return False
        return self._pid is not None and self._cluster.runs(self._pid)

    async def wait_dead(self) -> None:
        """Return when the postmaster has ended; never for an external store."""
        while self.is_alive():
            await self._clock.sleep(_POLL_S)

    async def start(self) -> StoreUrls:
        """Adopt, start or create the store and return its URLs once it takes connections.

        Raises `BrokenWorldError`: `store_not_found`, `store_root_refused`, `store_init_failed`,
        `store_start_failed`, `unsafe_data_directory`, `store_upgrade_needed`, `store_roles_missing`, `vector_missing`.
        """
        if self._database_url:
            self.kind = Kind.EXTERNAL
            with translated():
                return await external_urls(self._database_url)
        who, binaries = await asyncio.to_thread(self._prepare)
        sockets = self._cluster.socket_folder(who)
        deadline_s = self._clock.monotonic() + self._config.start_timeout_s
        while True:
            if not await self._adopt():
                await self._launch(who, binaries, sockets)
            found = self._cluster.postmaster()
            urls = self._urls(found.sockets if found else sockets)
            try:
                await self._require_roles(urls)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                # A postmaster that was just killed can look alive for a moment: adopt nothing that does not answer.
                if not is_away(error) or self._clock.monotonic() > deadline_s:
                    raise
                await self._clock.sleep(_POLL_S)
            else:
                return urls

    async def stop(self) -> None:
        """Stop fast (open transactions roll back, a checkpoint is written), at once after the time limit."""
        pid, self._pid, self.kind = self._pid, None, Kind.NONE
        if pid is None:
            return
        for sign, limit_s in ((signal.SIGINT, self._config.stop_timeout_s), (signal.SIGQUIT, _QUIT_S)):
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
            if await self._ended(pid, limit_s):
                await self._let_go()
                self._cluster.remove_short_socket_folder()
                return
        raise BrokenWorldError("store_stop_failed", f"the store's process {pid} does not end", "end it by hand")

    def _prepare(self) -> tuple[RunAs, Binaries]:
        self._cluster.root.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        if self._chosen is None:
            binaries = find_binaries(self._cluster.major)
            self._chosen = choose(self._cluster.pg, binaries)
        who, binaries = self._chosen
        self._cluster.prepare(who)
        self._cluster.passwords()
        if self._cluster.major is None:
            self._cluster.create(binaries, who)
        return who, binaries

    async def _adopt(self) -> bool:
        found = self._cluster.postmaster()
        if found is None or not self._cluster.runs(found.pid):
            return False
        if found.pid != self._pid:
            await self._let_go()
            self._pid, self.kind = found.pid, Kind.ADOPTED
        deadline_s = self._clock.monotonic() + self._config.start_timeout_s
        while self._clock.monotonic() < deadline_s:
            found = self._cluster.postmaster()
            if found is None or not self._cluster.runs(found.pid):
                return False
            if found.is_ready:
                return True
            await self._clock.sleep(_POLL_S)
        raise _start_failed(f"process {self._pid} does not become ready")

    async def _launch(self, who: RunAs, binaries: Binaries, sockets: Path) -> None:
        began_s = self._clock.monotonic()
        while True:
            at = self._log_size()
            await self._let_go()
            self._rotate_log()
            child = await asyncio.to_thread(self._spawn, who, binaries, sockets)
            self._child, self._pid, self.kind = child, child.pid, Kind.LAUNCHED
            if await self._ready(child):
                return
            said = self._log_since(at)
            waited_s = self._clock.monotonic() - began_s
            if not any(words in said for words in _STILL_ENDING) or waited_s > self._config.shared_memory_retry_s:
                self._pid, self.kind = None, Kind.NONE
                raise _start_failed(said.strip()[-600:])
            await self._clock.sleep(_RETRY_S)

    def _spawn(self, who: RunAs, binaries: Binaries, sockets: Path) -> subprocess.Popen[bytes]:
        command = [*who.prefix, str(binaries.postgres), "-D", str(self._cluster.data)]
        for name, value in self._settings(sockets).items():
            command += ["-c", f"{name}={value}"]
        with self._cluster.log.open("ab") as log:
            self._cluster.log.chmod(0o600)
            return subprocess.Popen(  # noqa: S603 - our own binaries
                command,
                cwd="/",
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **who.options(),
            )

    def _settings(self, sockets: Path) -> dict[str, str]:
        doubled = str(sockets).replace('"', '""')
        # A start after a crash syncs some 1,500 files before anything else; where it can, in one call instead of one a
        # file, each of which waits for every other writer of the disk.
        sync = {"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}
        return {
            **sync,
            "unix_socket_directories": f'"{doubled}"',
            "unix_socket_permissions": "0700",
            "listen_addresses": "",
            "port": "5432",
            "max_connections": str(self._config.connections_max + _SPARE_CONNECTIONS),
            "shared_buffers": f"{self._config.shared_buffers_mib}MB",
            "max_wal_size": f"{self._config.wal_bytes_max_mib}MB",
            "jit": "off",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "idle_in_transaction_session_timeout": f"{self._config.idle_transaction_s}s",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%a ",
            "logging_collector": "off",
        }

    async def _ready(self, child: subprocess.Popen[bytes]) -> bool:
        deadline_s = self._clock.monotonic() + self._config.start_timeout_s
        while self._clock.monotonic() < deadline_s:
            if child.poll() is not None:
                return False
            found = self._cluster.postmaster()
            if found is not None and found.pid == child.pid and found.is_ready:
                return True
            await self._clock.sleep(_POLL_S)
        child.kill()
        raise _start_failed(f"not ready after {self._config.start_timeout_s} s")

    def _urls(self, sockets: Path) -> StoreUrls:
        passwords = self._cluster.passwords()
        made = {role: socket_url(str(sockets), role, passwords[role], DATABASE) for role in ALL}
        superuser = socket_url(str(sockets), SUPERUSER, passwords[SUPERUSER], DATABASE)
        return StoreUrls(owner=made[OWNER], app=made[APP], ops=made[OPS], read=made[READ], superuser=superuser)

    async def _require_roles(self, urls: StoreUrls) -> None:
        """Make database and roles where a first start was cut short after initdb."""
        try:
            connection = await asyncpg.connect(urls.owner)
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError):
            await self._make_roles(urls)
            return
        try:
            has_vector = await connection.fetchval(HAS_VECTOR)
        finally:
            await connection.close()
        if not has_vector:
            await self._add_vector(urls.superuser or "")

    async def _add_vector(self, superuser: str) -> None:
        """Only a superuser may: the extension is not marked as trusted."""
        admin = await asyncpg.connect(superuser)
        try:
            await admin.execute(ADD_VECTOR)
        except asyncpg.FeatureNotSupportedError as error:
            raise vector_missing() from error
        finally:
            await admin.close()

    async def _make_roles(self, urls: StoreUrls) -> None:
        superuser = urls.superuser or ""
        admin = await asyncpg.connect(superuser, database="postgres")
        try:
            if not await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", DATABASE):
                await admin.execute(f"CREATE DATABASE {DATABASE} STRATEGY wal_log")
            await admin.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        finally:
            await admin.close()
        admin = await asyncpg.connect(superuser)
        try:
            async with admin.transaction():
                for statement in (*role_statements(), *login_statements(self._cluster.passwords())):
                    await admin.execute(statement)
                await admin.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {DATABASE} TO {', '.join(ALL)}")
                await admin.execute(f"GRANT CREATE ON DATABASE {DATABASE} TO {OWNER}")
        finally:
            await admin.close()
        await self._add_vector(superuser)

    async def _ended(self, pid: int, limit_s: float) -> bool:
        deadline_s = self._clock.monotonic() + limit_s
        while self._clock.monotonic() < deadline_s:
            if self._child is not None and self._child.pid == pid:
                self._child.poll()
            if not self._cluster.runs(pid) or is_zombie(pid):
                return True
            await self._clock.sleep(_POLL_S)
        return False

    async def _let_go(self) -> None:
        """Read the end of a child that is dead or dying, so that no zombie stays."""
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(child.wait, _QUIT_S)

    def _rotate_log(self) -> None:
        if self._log_size() > _LOG_BYTES_MAX:
            self._cluster.log.replace(self._cluster.log.with_suffix(".log.1"))

    def _log_size(self) -> int:
        try:
            return self._cluster.log.stat().st_size
        except FileNotFoundError:
            return 0

    def _log_since(self, at: int) -> str:
        try:
            with self._cluster.log.open("rb") as log:
                log.seek(max(at if at <= self._log_size() else 0, self._log_size() - _LOG_TAIL_BYTES))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""


def _start_failed(finding: str) -> BrokenWorldError:
    return BrokenWorldError("store_start_failed", finding, "see pg/postgres.log in the data directory")
