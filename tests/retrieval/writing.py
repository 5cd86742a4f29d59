"""The services that write the index over a test's store, and HTTP over both halves."""

import asyncio
from dataclasses import replace

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.flags import KillSwitches
from interlock.foundation.identity import IdentityService, authorize
from interlock.foundation.leases import LeaseTable, LeaseWorker
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role
from interlock.retrieval.adapters.reading.pool import ReadingPool
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.routes.documents import document_routes
from interlock.retrieval.routes.search import search_routes
from interlock.retrieval.routes.sources import source_routes
from interlock.retrieval.service.backlog import Room
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.embed import IndexWork
from interlock.retrieval.service.ingest import Ingest
from interlock.retrieval.service.read import DocumentReader
from interlock.retrieval.service.sink import Sink
from interlock.retrieval.service.sources import SourceService
from interlock.retrieval.service.stops import Stops
from interlock.retrieval.service.sync import SyncWork
from interlock.retrieval.service.tokens import TokenIssuer
from interlock.retrieval.store.ingest.work import jobs_spec, syncs_spec
from tests.foundation.control.conftest import Client, Keys
from tests.retrieval.conftest import TOKEN_KEY, searching
from tests.retrieval.world import WordEmbedder
from tests.support.store import IDS

ADMIN = ("retrieval:read", "retrieval:write", "retrieval:admin", "retrieval:delegate")
POOL = ReadingPool(RetrievalConfig())


class Index:
    """Everything that writes, for one organization; `await index.call(...)` is HTTP as its administrator."""

    def __init__(self, world, *, roots=(), config=None, pool=POOL):
        self.world, self.store = world, world.store
        clock, audit = SystemClock(), AuditLog(SystemClock(), Redactor())
        # No machine is so slow that work is taken from who still does it.
        self.config = replace(config or RetrievalConfig(), lease_ttl_s=6_000.0, receive_ttl_s=6_000.0)
        self.clock = clock
        self.switches = KillSwitches(self.store, clock, None, b"k")
        self.room = Room(self.store, clock, IDS, self.config)
        self.stops = Stops(self.switches)
        self.ingest = Ingest(store=self.store, audit=audit, clock=clock, ids=IDS, pool=pool)
        self.documents = DocumentService(
            store=self.store, audit=audit, clock=clock, ingest=self.ingest, room=self.room, stops=self.stops,
            config=self.config,
        )  # fmt: skip
        self.sources = SourceService(
            store=self.store, audit=audit, clock=clock, ids=IDS, room=self.room, roots=roots, config=self.config
        )
        self.sink = Sink(self.store, self.sources, self.documents, self.room)
        self.search = searching(self.store)
        self._serve(clock, audit)

    def _serve(self, clock, audit):
        self.keys = Keys()
        kit = Kit(
            store=self.store, audit=audit, gate=Gate(self.keys, None, authorize), ids=IDS, clock=clock,
            dice=SystemDice(), key=b"k",
        )  # fmt: skip
        issuer, members = TokenIssuer(TOKEN_KEY), IdentityService(self.store, audit, clock, IDS, TOKEN_KEY)
        reader = DocumentReader(self.store, members, audit, clock, self.stops)
        routes = [
            *source_routes(self.sources, issuer, clock, self.config),
            *document_routes(self.documents, reader, issuer, self.config),
            *search_routes(self.search, clock),
        ]
        self.app = build_app(routes, kit)

    async def call(self, method, path, body=None, *, who=None, may=ADMIN, workspace=None, role=Role.OWNER, **headers):
        """One HTTP call as somebody of the world, the administrator by default."""
        identity = self.world.people[who] if who else self.world.scope.principal.id
        name = f"{identity}:{workspace}:{role}:{','.join(sorted(may))}"
        self.keys.known[name] = Principal(
            identity, PrincipalKind.USER, self.world.organization_id, workspace,
            memberships=(Membership(role, workspace),), scopes=frozenset(may),
        )  # fmt: skip
        return await Client(self.app, {"authorization": f"Bearer {name}"})(method, path, body, **headers)

    async def source(self, name="shop", **fields):
        made = await self.call("POST", "/v1/retrieval/sources", {"name": name, "kind": "push", **fields})
        assert made.status == 201, made.json
        return made.json["id"]

    async def push(self, source, *items, **fields):
        body = {"source": source, "documents": [dict(each) for each in items]}
        pushed = await self.call("POST", "/v1/retrieval/documents", body, **fields)
        assert pushed.status == 200, pushed.json
        return pushed.json["results"]

    async def found(self, who, query, **fields):
        """The external titles that somebody finds."""
        answer = await self.call("POST", "/v1/retrieval/search", {"query": query, "k": 50, **fields}, who=who)
        assert answer.status == 200, answer.json
        return sorted(hit["title"] for hit in answer.json["hits"])

    async def as_outsider(self, name, query):
        body = {"query": query, "k": 100, "principal": name}
        answer = await self.call("POST", "/v1/retrieval/search", body)
        assert answer.status == 200, answer.json
        return sorted(hit["uri"] for hit in answer.json["hits"])

    def embedding(self, owner="test", embedder=None, **options):
        spec = jobs_spec(self.config.lease_ttl_s)
        work = IndexWork(
            store=self.store, spec=spec, documents=self.documents, embedder=embedder or WordEmbedder(),
            clock=self.clock, config=self.config,
        )  # fmt: skip
        return LeaseWorker(spec, LeaseTable(spec, self.store), work.run, self.clock, owner, **options)

    def syncing(self, owner="test", **options):
        spec = syncs_spec(self.config.lease_ttl_s)
        work = SyncWork(
            store=self.store, spec=spec, sources=self.sources, documents=self.documents, room=self.room,
            stops=self.stops, clock=self.clock, config=self.config,
        )  # fmt: skip
        return LeaseWorker(spec, LeaseTable(spec, self.store), work.run, self.clock, owner, **options)

    async def drained(self, worker, table="retrieval_index_jobs"):
        """Run a worker until no work of the organization is left to do."""
        task = asyncio.create_task(worker.run())
        is_open = "kind <> 'receive'" if table == "retrieval_index_jobs" else "state IN ('queued', 'running')"
        try:
            # Long enough for a second try, whose turn comes with a delay.
            for _ in range(12_000):
                if not await self.sql(
                    f"SELECT 1 FROM {table} WHERE organization_id = $1 AND {is_open}"
                    " AND (due_at < 'infinity' OR lease_owner IS NOT NULL)"
                ):
                    return
                await asyncio.sleep(0.02)
            raise AssertionError("the work is not done")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def sql(self, sql, *args):
        return [dict(row) for row in await self.world.sql(sql, self.world.organization_id, *args)]

    async def counts(self):
        """What the counts say and what the rows say, by slot: the two must be equal."""
        told = await self.sql(
            "SELECT acl_id, live_documents AS d, live_chunks AS c, live_tokens AS t, pending_vectors AS p"
            " FROM retrieval_acl_counts WHERE organization_id = $1 AND"
            " (live_documents, live_chunks, live_tokens, pending_vectors) <> (0, 0, 0, 0) ORDER BY 1"
        )
        real = await self.sql(
            "SELECT d.acl_id, count(DISTINCT d.id) AS d, count(k.chunk_id) AS c, coalesce(sum(k.tokens), 0) AS t,"
            " count(*) FILTER (WHERE k.chunk_id IS NOT NULL AND o.code IS NULL) AS p FROM retrieval_documents d"
            " LEFT JOIN retrieval_chunks k ON k.organization_id = $1 AND k.document_id = d.id"
            " LEFT JOIN retrieval_chunk_codes o"
            "   ON o.organization_id = $1 AND o.chunk_id = k.chunk_id AND o.acl_id = d.acl_id"
            " WHERE d.organization_id = $1 AND d.state IN ('live', 'quarantined') GROUP BY 1 ORDER BY 1"
        )
        return told, real


def doc(external_id, text="", acl=None, **fields):
    """A document of a push."""
    title = fields.pop("title", external_id)
    return {"external_id": external_id, "title": title, "text": text, "acl": acl, **fields}


def lists(world, *allow, deny=(), inherit=False):
    """A list of a body by the short names of the world."""

    def name(each):
        return [world.name(one) for one in each] if isinstance(each, tuple) else world.name(each)

    return {"allow": [name(each) for each in allow], "deny": [world.name(each) for each in deny], "inherit": inherit}
