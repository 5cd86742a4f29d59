"""A control process without a socket: the application, two callers, and a client that speaks ASGI."""

import asyncio
import json
from dataclasses import dataclass, field

import msgspec
import pytest

from interlock.foundation.audit import AuditEntry, AuditFilter, AuditLog, AuditReader, CheckpointFile, CheckpointKeys
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control import Level, Reply, Route
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.config import ControlConfig
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.errors import InterlockError
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from tests.support.store import IDS


@dataclass
class Known:
    principal: Principal


@dataclass
class Unknown:
    code: str
    detail: dict = field(default_factory=dict)
    is_miss: bool = False


@dataclass
class Denied:
    action: str
    roles: tuple


class Keys:
    """Keys by their text, as the directory in memory holds them."""

    def __init__(self):
        self.known = {}
        self.only_in_store = {}

    def check(self, presented, address, now_us):
        if presented in self.known:
            return Known(self.known[presented])
        return Unknown("invalid_key", is_miss=presented in self.only_in_store)

    async def check_store(self, presented, address):
        return Known(self.only_in_store[presented])


class Sessions:
    def __init__(self):
        self.known = {}

    async def check(self, token, address):
        if token not in self.known:
            raise InterlockError("session_expired")
        return self.known[token]


def authorize(principal, action, level, workspace_id=None, request_id=None):
    if action not in principal.scopes:
        return Denied(action, ("owner", "admin"))
    return Scope(principal.organization_id, ALL_WORKSPACES, principal, request_id)


@dataclass
class Answer:
    status: int
    headers: dict
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def code(self):
        return self.json["error"]["code"]


@dataclass
class Client:
    """Calls the application as the edge's proxy does."""

    app: object
    headers: dict = field(default_factory=dict)

    async def __call__(self, method, target, body=None, **headers):
        path, _, query = target.partition("?")
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            named.setdefault("content-type", "application/json")
        merged = {"content-length": str(len(raw)), **self.headers, **named}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in merged.items() if v is not None],
            "asgi": {"spec_version": "2.4"},
        }
        pieces = [{"type": "http.request", "body": raw, "more_body": False}]
        sent = []

        async def receive():
            return pieces.pop(0) if pieces else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        answered = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], answered, b"".join(each.get("body", b"") for each in sent[1:]))


class NoteBody(msgspec.Struct):
    name: str
    count: int = 0
    tags: list[str] = []
    inner: dict[str, int] = {}


class World:
    """The routes of the tests, and what they did."""

    def __init__(self, store, scope, tmp_path):
        self.store = store
        self.scope = scope
        self.audit = AuditLog(SystemClock(), Redactor())
        self.reader = AuditReader(store, CheckpointKeys([]), CheckpointFile(tmp_path / "none"))
        self.keys = Keys()
        self.sessions = Sessions()
        self.work = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def principal(self, *scopes, organization_id=None):
        owner = organization_id or self.scope.organization_id
        return Principal(IDS.new(), PrincipalKind.USER, owner, scopes=frozenset(scopes))

    def kit(self, *, clock=None, **options):
        # A twin is waited for as long as a slow machine needs.
        options.setdefault("config", ControlConfig(idempotency_wait_ms=240_000))
        return Kit(
            store=self.store,
            audit=self.audit,
            gate=Gate(self.keys, self.sessions, authorize),
            ids=IDS,
            clock=clock or SystemClock(),
            dice=SystemDice(),
            key=b"k" * 32,
            **options,
        )

    async def create(self, call):
        self.work += 1
        number = self.work
        await self.audit.append(call.tx, AuditEntry("note.create", "note", f"note_{number}"))
        await self.gate.wait()
        return Reply(201, {"id": number, "name": call.body.name}, headers={"Location": f"/admin/v1/notes/{number}"})

    async def listing(self, call):
        page = call.page
        start = page.after[0] if page.after else 0
        kept, after = page.cut(list(range(start + 1, 8))[: page.limit_plus_one], lambda number: (number,))
        return call.listed(kept, after)

    async def fail(self, call):
        await self.audit.append(call.tx, AuditEntry("note.fail", "note", "note_x"))
        raise InterlockError("name_taken", detail={"name": "x"})

    async def broken(self, call):
        raise RuntimeError("a defect with sk-secret in its words")

    async def page(self, call):
        return Reply(content=f"<p>{call.csrf_token}</p>".encode(), media_type="text/html; charset=utf-8")

    async def posted(self, call):
        return Reply(content=call.form.get("name", "").encode(), media_type="text/html; charset=utf-8")

    async def stream(self, call):
        async def pieces():
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"

        return Reply(stream=pieces(), media_type="text/event-stream")

    def routes(self):
        organization, write = Level.ORGANIZATION, "admin:write"
        return [
            Route("POST", "/admin/v1/notes", organization, self.create, "Create.", action=write, body=NoteBody,
                  status=201, is_mutation=True, codes=("name_taken",)),
            Route("GET", "/admin/v1/notes", organization, self.listing, "List.", action="admin:read",
                  answer=list[int], query=("name",)),
            Route("GET", "/admin/v1/notes/{id}", organization, self.listing, "One.", action="admin:read"),
            Route("DELETE", "/admin/v1/notes/{id}", organization, self.fail, "Fail.", action=write, is_mutation=True),
            Route("GET", "/admin/v1/broken", organization, self.broken, "Break.", action="admin:read"),
            Route("GET", "/v1/stream", Level.WORKSPACE, self.stream, "Stream.", action="admin:read",
                  media_type="text/event-stream"),
            Route("GET", "/console/note", Level.SESSION, self.page, "Page.", action="console", is_html=True),
            Route("POST", "/console/note", Level.SESSION, self.posted, "Post.", action="console", is_html=True,
                  is_mutation=True),
            Route("POST", "/console/login", Level.PUBLIC, self.posted, "Login.", is_html=True, is_mutation=True),
        ]  # fmt: skip

    async def audited(self, action):
        return await self.reader.events(self.scope, AuditFilter(action=action), 200)


@pytest.fixture
async def world(store, scope, tmp_path):
    world = World(store, scope, tmp_path)
    world.keys.known["il_admin"] = world.principal("admin:read", "admin:write", "console")
    world.keys.known["il_viewer"] = world.principal("admin:read")
    world.sessions.known["cookie-token"] = world.principal("console", "admin:read", "admin:write")
    return world


@pytest.fixture
def app(world):
    return build_app(world.routes(), world.kit())


@pytest.fixture
def anyone(app):
    return Client(app)


@pytest.fixture
def admin(app):
    return Client(app, {"authorization": "Bearer il_admin"})


@pytest.fixture
def viewer(app):
    return Client(app, {"x-api-key": "il_viewer"})


@pytest.fixture
def browser(app):
    return Client(app, {"cookie": "interlock_session=cookie-token", "host": "localhost:8080"})
