"""Control put together: every route of the administrative API and the console, over the common ground.

Holds the public half of the master key only: it can store a secret, not read it.
"""

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette

from interlock.console import Console, ConsoleConfig
from interlock.console import routes as console_routes
from interlock.foundation.audit import AuditConfig, Checkpointer
from interlock.foundation.control import ControlConfig
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.control.route import Route
from interlock.foundation.flags import ChangeFeed, FlagsConfig, FlagService, KillService, KillSwitches
from interlock.foundation.identity import (
    Authenticator,
    IdentityConfig,
    IdentityService,
    KeyDirectory,
    KeyService,
    LastUsed,
    Sessions,
    authorize,
)
from interlock.foundation.identity import routes as identity_routes
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretsConfig, SecretService
from interlock.foundation.secrets.routes import routes as secret_routes
from interlock.foundation.store import Store
from interlock.foundation.supervisor import RoleLink
from interlock.foundation.telemetry import StoryStore
from interlock.gateway import Stories, described, kill_targets
from interlock.wiring.gateway import front_routes
from interlock.wiring.ground import Ground
from interlock.wiring.metrics import watch_kills
from interlock.wiring.pooling import flag_guards
from interlock.wiring.proof import audit_of, flags_of, platform_of
from interlock.wiring.systems import Loop, Shared, control_loops, served_reading, system_routes

_GRACE_S: Final = 5
# Longer than an edge keeps a connection that rests: a server that closes one meets the request that is on its way.
_KEEP_ALIVE_S: Final = 3_600
_STARTED_POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class ControlParts:
    """What control serves, and what runs beside it."""

    app: Starlette
    feed: ChangeFeed
    checkpointer: Checkpointer
    loops: tuple[Loop, ...]


def checkpointer_of(ground: Ground, store: Store) -> Checkpointer:
    """Return what signs the ends of audit chains."""
    config = ground.config.section(AuditConfig)
    return Checkpointer(store, ground.clock, ground.checkpoint_key, ground.checkpoint_file, config)


def sessions_of(ground: Ground, store: Store, directory: KeyDirectory, authenticator: Authenticator) -> Sessions:
    """Return the console's sessions."""
    return Sessions(
        store=store,
        directory=directory,
        authenticator=authenticator,
        audit=ground.audit(),
        clock=ground.clock,
        dice=ground.dice,
        ids=ground.ids,
        config=ground.config.section(IdentityConfig),
    )


def control_parts(ground: Ground, link: RoleLink, store: Store) -> ControlParts:
    """Return the application and its loops."""
    directory, authenticator = ground.keys(store)
    feed, switches = ground.feed(store), ground.switches(store)
    for topic, reload in (("keys", directory.reload), ("identity", directory.reload), ("kills", switches.reload)):
        feed.subscribe(topic, reload)
    sessions = sessions_of(ground, store, directory, authenticator)
    checkpointer = checkpointer_of(ground, store)
    used = LastUsed(store, authenticator, ground.audit(), ground.clock)
    page = _console(ground, link, store, (sessions, switches))
    kit = Kit(
        store=store,
        audit=ground.audit(),
        gate=Gate(authenticator, sessions, authorize),
        ids=ground.ids,
        clock=ground.clock,
        dice=ground.dice,
        key=hashlib.sha256(b"interlock-control\x00" + ground.pepper).digest(),
        config=ground.config.section(ControlConfig),
        error_page=page.error_page,
    )
    shared = Shared.of(ground, store, switches)
    reading = served_reading(shared)
    routes = [*_routes(shared, link, checkpointer, page), *system_routes(shared, reading, page)]
    app = build_app(routes, kit, described())

    use_interval_s = ground.config.section(IdentityConfig).use_interval_s

    async def mark_used() -> None:
        await used.run(use_interval_s)

    return ControlParts(app, feed, checkpointer, (feed.run, switches.run, mark_used, *control_loops(ground, reading)))


def _console(ground: Ground, link: RoleLink, store: Store, made: tuple[Sessions, KillSwitches]) -> Console:
    audit, clock, ids = ground.audit(), ground.clock, ground.ids
    people = IdentityService(store, audit, clock, ids, ground.pepper, ground.config.section(IdentityConfig))
    return Console(
        stories=StoryStore(store),
        lookup=Stories(store, audit),
        identity=people,
        keys=KeyService(people, audit, clock, ground.dice, ids, ground.pepper),
        sessions=made[0],
        kills=made[1],
        clock=clock,
        audit=audit,
        config=ground.config.section(ConsoleConfig),
        degraded=lambda: link.state.degraded,
    )


def _routes(shared: Shared, link: RoleLink, checkpointer: Checkpointer, page: Console) -> list[Route]:
    ground, store = shared.ground, shared.store
    audit, clock, ids = ground.audit(), ground.clock, ground.ids
    flags = ground.config.section(FlagsConfig)
    box = SecretBox(ground.dice, MasterKeyFile(ground.directory.master_key).read_public)
    secrets = SecretService(box, audit, ids, ground.redactor, ground.config.section(SecretsConfig))
    told, guards = watch_kills(ground.metrics), flag_guards(ground, store, shared.events)
    kills = KillService(store, audit, clock, ids, flags, on_propagation=told, finders=kill_targets())
    return [
        *identity_routes(page.identity, page.keys),
        *flags_of(ground, kills, FlagService(store, audit, clock, ids, guards=guards), page),
        *audit_of(ground, store, checkpointer, page),
        *platform_of(ground, link, secrets, page),
        *secret_routes(secrets),
        *front_routes(ground, store, page, secrets, kills),
        *console_routes(page),
    ]


async def serve_app(app: Starlette, path: Path, link: RoleLink, loops: tuple[Loop, ...]) -> None:
    """Serve on a unix socket of mode 0600 until the role has to end."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, date_header=False, lifespan="off",
        timeout_graceful_shutdown=_GRACE_S, timeout_keep_alive=_KEEP_ALIVE_S,
    )  # fmt: skip
    server = _Server(config, link.closed)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop()) for loop in loops]
        serving = group.create_task(server.serve(sockets=[_listener(path)]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn says only by a flag that it started
            await asyncio.sleep(_STARTED_POLL_S)  # noqa: TID251 - see above
        link.ready()
        await link.closed.wait()
        await serving
        for task in tasks:
            task.cancel()


def _listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener


class _Server(uvicorn.Server):
    """Signals belong to the role's link, not to the server, which serves until that is closed."""

    def __init__(self, config: uvicorn.Config, closed: asyncio.Event) -> None:
        super().__init__(config)
        self._closed = closed

    async def main_loop(self) -> None:
        # The library looks ten times a second whether to end, which is most of what an idle process would do.
        await self.on_tick(0)
        await self._closed.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
