"""The supervisor's side: which processes there are, what happens before they start, what is handed to them.

Runs no role.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from interlock import __version__
from interlock.foundation.clock import SystemClock
from interlock.foundation.config import Config
from interlock.foundation.errors import BrokenWorldError, InterlockError
from interlock.foundation.identity import IdentityService, KeyService, Sessions, bootstrap
from interlock.foundation.paths import write_private
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretsConfig, SecretService
from interlock.foundation.store import Launcher, Store, StoreConfig, StoreUrls, migrate
from interlock.foundation.supervisor import (
    LogStream,
    Platform,
    RotatingFile,
    Supervisor,
    SupervisorConfig,
    UpOptions,
    WarmProcess,
)
from interlock.foundation.supervisor.children import Commands
from interlock.foundation.telemetry import OtlpConfig, collector
from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway import PoolEngine, UrlEngine, list_models, register_engine
from interlock.scheduler import EngineConfig, find_model
from interlock.wiring.first_pools import POOL, register_embedded_pool, register_pool_of
from interlock.wiring.ground import URLS, Ground, forward_proxy, urls_to
from interlock.wiring.processes import role_specs

ENGINE_ENVELOPE = "engine"
PREPARED_WITHIN_S = 60.0
_AGAIN_S = 0.5
_OWNERS_STORE = frozenset({"worker"})


def build_supervisor(
    options: UpOptions, config: Config, warm: WarmProcess | None = None, *, is_quiet: bool = False
) -> Supervisor:
    """Return the supervisor of one machine; it starts no role before `run`. A quiet one logs to its file only."""
    directory = options.directory
    clock = SystemClock()
    settings = config.section(SupervisorConfig)
    ground = Ground("supervisor", 0, directory, options, config)
    preparation = Preparation(ground)
    platform = Platform(
        specs=role_specs(options, config),
        store=Launcher(directory.root, clock, config=config.section(StoreConfig)),
        prepare=preparation.prepare,
        host=options.host,
        port=options.port if "edge" in options.roles else None,
        options=options,
        greet=preparation.greet,
        spawner=warm or Commands(),
    )
    file = RotatingFile(directory.logs / "interlock.log", settings.log_file_bytes_max, settings.log_files_max)
    stream = Path(os.devnull).open("w", encoding="utf-8") if is_quiet else sys.stderr  # noqa: SIM115 - open for life
    log = LogStream(stream, file, clock)
    return Supervisor(platform, directory, settings, clock, log)


class Preparation:
    """What has to be true before the first role starts."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._urls: StoreUrls | None = None

    async def prepare(self, urls: StoreUrls) -> Mapping[str, Mapping[str, bytes]]:
        """Migrate, make the first owner, register the engine; return what each role is handed.

        Each of it may be done twice, so a busy machine on which the store did not answer in time gets another try.
        """
        forward_proxy()
        settings = self._ground.config.section(OtlpConfig)
        if settings.endpoint:
            collector(settings, self._ground.name, __version__)
        clock = self._ground.clock
        until_s = clock.monotonic() + PREPARED_WITHIN_S
        while True:
            try:
                return await self._prepare(urls)
            except InterlockError as error:
                if error.code != "store_unavailable" or clock.monotonic() >= until_s:
                    raise
                await clock.sleep(_AGAIN_S)

    async def _prepare(self, urls: StoreUrls) -> Mapping[str, Mapping[str, bytes]]:
        ground = self._ground
        self._urls = urls
        await migrate(urls, clock=ground.clock, config=ground.config.section(StoreConfig))
        MasterKeyFile(ground.directory.master_key).ensure(ground.dice)
        store = await self._store()
        try:
            await bootstrap(store, self._keys(store), ground.clock, ground.ids, self._save_owner_key)
            await self._register(store)
            await register_embedded_pool(self._ground, store)
            from interlock.wiring.agents import register_models  # noqa: PLC0415 - only a first statement needs it

            await register_models(ground, store)
        finally:
            await store.close()
        roles = ground.options.roles
        return {role: {URLS: urls_to(urls, is_owner_needed=role in _OWNERS_STORE)} for role in roles}

    async def greet(self, url: str, key: str | None) -> Sequence[str]:
        """Return the console's link, which signs in the owner of a key once, for a demo; without a key the operator."""
        if not self._ground.options.is_demo or "control" not in self._ground.options.roles:
            return ()
        store = await self._store()
        try:
            directory, authenticator = self._ground.keys(store)
            await directory.reload()
            ground = self._ground
            sessions = Sessions(
                store=store,
                directory=directory,
                authenticator=authenticator,
                audit=ground.audit(),
                clock=ground.clock,
                dice=ground.dice,
                ids=ground.ids,
            )
            token = await sessions.make_login_token(key or ground.directory.owner_key.read_text().strip())
        finally:
            await store.close()
        return (f"console {url}/console/login?once={token}",)

    async def _store(self) -> Store:
        if self._urls is None:
            raise BrokenWorldError("store_not_found", "the store was not started", "start it first")
        ground = self._ground
        return await Store.open(
            self._urls, application_name="supervisor", connections_max=2, clock=ground.clock,
            config=ground.config.section(StoreConfig),
        )  # fmt: skip

    def _keys(self, store: Store) -> KeyService:
        ground, audit = self._ground, self._ground.audit()
        identity = IdentityService(store, audit, ground.clock, ground.ids, ground.pepper)
        return KeyService(identity, audit, ground.clock, ground.dice, ground.ids, ground.pepper)

    def _save_owner_key(self, content: bytes) -> None:
        write_private(self._ground.directory.owner_key, content)

    async def _register(self, store: Store) -> None:
        ground, engine = self._ground, self._ground.options.engine
        if engine == "none":
            return
        settings = ground.config.section(EngineConfig)
        choice: PoolEngine | UrlEngine
        if engine == "embedded":
            choice = PoolEngine(POOL, find_model(settings.model_path).name)
        else:
            choice = await self._external(engine, settings.api_key, store)
            pool = ground.options.pool
            if pool is not None:
                await register_pool_of(ground, store, pool, engine, choice.models[0])
                choice = PoolEngine(pool, choice.models[0])
        await register_engine(store, ground.platform_scope(), choice, clock=ground.clock, ids=ground.ids)

    async def _external(self, url: str, api_key: str | None, store: Store) -> UrlEngine:
        """Ask a server for its models, and seal the key it wants; only an edge opens it again."""
        ground = self._ground
        if api_key and ground.options.pool is not None:
            remedy = "leave out --pool, or serve the engine without a key on a private address"
            raise BrokenWorldError("engine_key_in_pool", "an engine behind a pool is called without a key", remedy)
        client = Client(ground.config.section(ClientLimits), ground.clock)
        try:
            found = await list_models(client, url, api_key)
        except InterlockError as error:
            remedy = "start the engine, change --engine, or set INTERLOCK_ENGINE__API_KEY"
            raise BrokenWorldError("engine_unreachable", error.message, remedy) from error
        finally:
            await client.close()
        if not api_key:
            return found
        box = SecretBox(ground.dice, MasterKeyFile(ground.directory.master_key).read_public)
        config = ground.config.section(SecretsConfig)
        service = SecretService(box, ground.audit(), ground.ids, ground.redactor, config)
        async with store.transaction(ground.platform_scope()) as tx:
            await service.set(tx, ENGINE_ENVELOPE, api_key)
        return replace(found, secret=ENGINE_ENVELOPE)
