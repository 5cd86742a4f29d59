"""A console over a real store and real identity, without an edge: the application, its owner, stories on demand."""

from dataclasses import dataclass, replace
from uuid import UUID

import msgspec

from interlock.console import Console, routes
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.flags import KillSwitches
from interlock.foundation.identity import (
    ALL_SCOPES,
    Authenticator,
    IdentityService,
    KeyDirectory,
    KeyService,
    KeyWanted,
    Sessions,
    authorize,
)
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Role
from interlock.foundation.telemetry import Shipper, Spool, StoryStore, TelemetryConfig
from interlock.gateway import Stories
from tests.support.store import IDS, make_tenant, scope_of

PEPPER = b"p" * 32


@dataclass
class World:
    """Everything that the pages stand on."""

    store: object
    directory: KeyDirectory
    authenticator: Authenticator
    keys: KeyService
    identity: IdentityService
    sessions: Sessions
    kills: KillSwitches
    clock: object
    folder: object
    owner_key: str = ""
    degraded: tuple[str, ...] = ()

    @property
    def owner(self):
        return self.authenticator.check(self.owner_key, None, self.clock.now_us()).key

    def console(self, **options):
        return Console(
            stories=StoryStore(self.store),
            lookup=Stories(self.store, AuditLog(self.clock, Redactor())),
            identity=self.identity,
            keys=self.keys,
            sessions=self.sessions,
            kills=self.kills,
            clock=self.clock,
            audit=AuditLog(self.clock, Redactor()),
            degraded=lambda: self.degraded,
            **options,
        )

    def app(self, *more, **options):
        console = self.console(**options)
        kit = Kit(
            store=self.store,
            audit=AuditLog(self.clock, Redactor()),
            gate=Gate(self.authenticator, self.sessions, authorize),
            ids=IDS,
            clock=self.clock,
            dice=SystemDice(),
            key=b"k" * 32,
            error_page=console.error_page,
        )
        return build_app([*routes(console), *more], kit)

    async def sign_up(self, name, role, scopes, scope=None):
        """Return the key of a new person with a role in the whole organization, by default in one of their own."""
        if scope is None and not self.owner_key:
            scope = scope_of(*await make_tenant(self.store))
        scope = scope or scope_of(self.owner.organization_id, self.owner.workspace_id)
        workspace_id = scope.workspace_id
        chief = replace(scope.principal, is_platform_operator=True)
        async with self.store.transaction(replace(scope, workspace_id=ALL_WORKSPACES, principal=chief)) as tx:
            user = await self.identity.create_user(tx, f"{name}-{IDS.new().hex}@localhost", name)
            await self.identity.create_membership(tx, f"user:{format_id('usr', user['id'])}", role, None)
            wanted = KeyWanted("", name, scopes)
            _, text = await self.keys.insert_for(tx, (user["id"], "user"), workspace_id, wanted)
        await self.directory.reload()
        return text

    async def ship(self, *records):
        """Store stories, as the owner's workspace had them where they name no other."""
        spool = Spool(self.folder / f"{IDS.new().hex}.ring", self.clock, TelemetryConfig(ring_bytes=1 << 22))
        shipper = Shipper(spool, self.store, self.clock, TelemetryConfig())
        for record in records:
            at = _id_at(record.started_us)
            tenant = {
                "organization_id": record.organization_id or self.owner.organization_id,
                "workspace_id": record.workspace_id or self.owner.workspace_id,
                "key_id": record.key_id or self.owner.id,
            }
            frame = spool.open(at, record.started_us, record.method, record.target)
            frame.close(msgspec.structs.replace(record, id=at, **tenant))
        while await shipper.run_once():
            pass
        spool.close()


def _id_at(at_us: int) -> UUID:
    """Return an id that was minted at a moment, as the edge mints it when a request comes in."""
    tail = IDS.new().int & ((1 << 80) - 1)
    return UUID(int=(at_us // 1_000) << 80 | tail)


async def make_world(store, folder, clock=None) -> World:
    """Return a world whose owner's key is there."""
    clock, dice = clock or SystemClock(), SystemDice()
    audit = AuditLog(clock, Redactor())
    directory = KeyDirectory(store)
    authenticator = Authenticator(directory, [PEPPER], clock)
    identity = IdentityService(store, audit, clock, IDS, b"t" * 32)
    keys = KeyService(identity, audit, clock, dice, IDS, PEPPER)
    sessions = Sessions(
        store=store, directory=directory, authenticator=authenticator, clock=clock, dice=dice, ids=IDS, audit=audit
    )
    kills = KillSwitches(store, clock, None, b"x" * 32)
    world = World(store, directory, authenticator, keys, identity, sessions, kills, clock, folder)
    world.owner_key = await world.sign_up("owner", Role.OWNER, tuple(sorted(ALL_SCOPES)))
    return world
