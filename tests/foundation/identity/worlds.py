"""Identity over a real store behind the real control application: an operator, tenants, and clients of their keys."""

from dataclasses import dataclass, replace

from interlock.foundation.audit import AuditFilter, AuditLog, AuditReader, CheckpointFile, CheckpointKeys
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.flags import ChangeFeed, FlagService, KillService, KillSwitches
from interlock.foundation.flags.routes import routes as flag_routes
from interlock.foundation.identity import (
    ALL_SCOPES,
    Authenticator,
    IdentityService,
    KeyDirectory,
    KeyService,
    KeyWanted,
    Sessions,
    authorize,
    bootstrap,
    routes,
)
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id, parse_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Role
from interlock.foundation.store import Query
from tests.foundation.control.conftest import Client
from tests.support.clocks import HandClock
from tests.support.store import IDS, make_tenant, scope_of

PEPPER = b"p" * 32
OLD_PEPPER = b"o" * 32
NEW_OWNER = Query(
    "new_owner",
    "an operator is an owner of the platform's own organization",
    "INSERT INTO identity_memberships (organization_id, id, principal_id, principal_kind, role)"
    " VALUES ($1, $2, $3, 'user', 'owner')",
)


@dataclass(frozen=True)
class Tenant:
    """An organization with one workspace, and the client of its owner's key."""

    scope: object
    owner: Client
    owner_key: str

    @property
    def organization_id(self):
        return format_id("org", self.scope.organization_id)

    @property
    def workspace_id(self):
        return format_id("ws", self.scope.workspace_id)


class World:
    """Everything that identity is made of, in one process."""

    def __init__(self, store, folder):
        self.store = store
        self.clock = HandClock()
        self.audit = AuditLog(self.clock, Redactor())
        self.directory = KeyDirectory(store)
        self.authenticator = Authenticator(self.directory, [PEPPER, OLD_PEPPER], self.clock)
        self.identity = IdentityService(store, self.audit, self.clock, IDS, b"t" * 32)
        self.keys = KeyService(self.identity, self.audit, self.clock, SystemDice(), IDS, PEPPER)
        self.sessions = Sessions(
            store=store,
            directory=self.directory,
            authenticator=self.authenticator,
            audit=self.audit,
            clock=self.clock,
            dice=SystemDice(),
            ids=IDS,
        )
        self.kills = KillService(store, self.audit, self.clock, IDS)
        self.flags = FlagService(store, self.audit, self.clock, IDS)
        self.switches = KillSwitches(store, self.clock, folder, PEPPER)
        self.feed = ChangeFeed(store, self.clock)
        for topic in ("keys", "identity"):
            self.feed.subscribe(topic, self.directory.reload)
        self.feed.subscribe("kills", self.switches.reload)
        self.reader = AuditReader(store, CheckpointKeys([]), CheckpointFile(folder / "none"))
        self.registry = [*routes(self.identity, self.keys), *flag_routes(self.kills, self.flags)]
        self.app = build_app(self.registry, self.kit())

    def kit(self):
        return Kit(
            store=self.store,
            audit=self.audit,
            gate=Gate(self.authenticator, self.sessions, authorize),
            ids=IDS,
            clock=self.clock,
            dice=SystemDice(),
            key=b"k" * 32,
        )

    def client(self, key=None):
        return Client(self.app, {"authorization": f"Bearer {key}"} if key else {})

    async def tenant(self):
        """Return a fresh organization whose owner has a key with all scopes."""
        scope = scope_of(*await make_tenant(self.store))
        key = await self.person(scope, Role.OWNER)
        return Tenant(scope, self.client(key), key)

    async def person(self, scope, role, scopes=None, where=None, *, is_operator=False):
        """Return the key of a new person with a role: in the whole organization, or in the workspace `where`."""
        chief = replace(scope.principal, is_platform_operator=True)
        inside = replace(scope, workspace_id=ALL_WORKSPACES, principal=chief)
        async with self.store.transaction(inside) as tx:
            user = await self.identity.create_user(tx, f"{IDS.new().hex}@localhost", "somebody")
            if role is not None:
                named = f"user:{format_id('usr', user['id'])}"
                await self.identity.create_membership(tx, named, role, where)
            wanted = KeyWanted("", "person", tuple(sorted(scopes or ALL_SCOPES)))
            _, text = await self.keys.insert_for(tx, (user["id"], "user"), scope.workspace_id, wanted)
        if is_operator:
            async with self.store.transaction(scope_of(SYSTEM_ORGANIZATION_ID)) as tx:
                await tx.execute(NEW_OWNER, SYSTEM_ORGANIZATION_ID, IDS.new(), user["id"])
        await self.directory.reload()
        return text

    async def operator(self):
        """Return the client of a platform operator, whose own organization is a fresh one."""
        await bootstrap(self.store, self.keys, self.clock, IDS, lambda _content: None)
        scope = scope_of(*await make_tenant(self.store))
        return self.client(await self.person(scope, Role.OWNER, is_operator=True))

    def check(self, key, address=None):
        return self.authenticator.check(key, address, self.clock.now_us())

    async def audited(self, scope, action):
        """Return the events of one action, oldest first."""
        found = await self.reader.events(replace(scope, workspace_id=ALL_WORKSPACES), AuditFilter(action=action), 200)
        return list(reversed(found))


def uuid_of(text):
    """Return the uuid of an id of any kind."""
    return parse_id(text.partition("_")[0], text)
