"""The probe of revocation: what it finds, what it never darkens for, and that nobody ever sees its document."""

import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.contracts.incidents import Opened
from interlock.foundation.audit import AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import format_id, parse_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import Metrics
from interlock.retrieval.adapters.reading.inline import InlineReading
from interlock.retrieval.domain.probing import (
    BOUND_S,
    RECENT_MAX,
    Outcome,
    Probed,
    Standing,
    Watch,
    probe_reader,
    probe_text,
    quantile,
)
from interlock.retrieval.metrics import ProbeMetrics
from interlock.retrieval.service.ingest import Ingest
from interlock.retrieval.service.probing import RevokeProbe
from interlock.retrieval.service.read import DocumentReader
from interlock.retrieval.service.search import SearchService
from interlock.retrieval.store.ingest.probes import ProbeClaim
from interlock.retrieval.store.ingest.rows import SQL
from tests.retrieval.conftest import TOKEN_KEY
from tests.retrieval.world import PATIENT
from tests.retrieval.writing import ADMIN, Index, doc, lists
from tests.support.clocks import HandClock
from tests.support.store import IDS

# Nothing but what a test means to test may end a probe.
CONFIG = replace(PATIENT, probe_deadline_s=600.0)
INTERVAL_US = round(CONFIG.probe_interval_s * 1e6)


class StepClock(HandClock):
    """Stands, and a sleep puts it forward at once."""

    def __init__(self):
        super().__init__()
        self.stop()

    async def sleep(self, seconds):
        self.forward += seconds


class Behind:
    """A store whose snapshots are all of one moment: that of the first one, like a replica that follows no more."""

    def __init__(self, store):
        self._store, self._stack, self._tx = store, AsyncExitStack(), None

    def __getattr__(self, name):
        return getattr(self._store, name)

    @asynccontextmanager
    async def snapshot(self, scope, settings=None, *, is_read_only=True):
        if self._tx is None:
            self._tx = await self._stack.enter_async_context(self._store.snapshot(scope, settings))
            await self._tx.fetchval(SQL.current_epoch, scope.organization_id)
        yield self._tx

    async def close(self):
        await self._stack.aclose()


class Away:
    """A store in which every snapshot fails."""

    def __init__(self, store, code):
        self._store, self._code = store, code

    def __getattr__(self, name):
        return getattr(self._store, name)

    @asynccontextmanager
    async def snapshot(self, *_args, **_options):
        raise InterlockError(self._code)
        yield


class During(SearchService):
    """Calls `at(number of the look)` before each look."""

    def __init__(self, parts, at):
        super().__init__(parts)
        self._at, self._looks = at, 0

    async def look_for(self, *args):
        self._looks += 1
        await self._at(self._looks)
        return await super().look_for(*args)


class Sink:
    def __init__(self):
        self.reports = []

    async def report(self, scope, report):
        self.reports.append(report)
        return Opened("inc_1", "open")


class Probing:
    """The probe of one world's sources; `seen` is the store that searches look into, `read` that of documents."""

    def __init__(self, index):
        self.index, self.world = index, index.world
        self.clock, self.sink = StepClock(), Sink()

    def probe(self, *, seen=None, read=None, at=None):
        index, audit = self.index, AuditLog(self.clock, Redactor())
        parts = index.search.parts
        emitter = replace(parts.emitter, store=seen or index.store, incidents=self.sink)
        parts = replace(parts, store=seen or index.store, emitter=emitter, clock=self.clock, stops=index.stops)
        search = SearchService(parts) if at is None else During(parts, at)
        members = IdentityService(index.store, audit, self.clock, IDS, TOKEN_KEY)
        return RevokeProbe(
            store=index.store,
            search=search,
            reader=DocumentReader(read or index.store, members, audit, self.clock, index.stops),
            documents=index.documents,
            ingest=Ingest(store=index.store, audit=audit, clock=self.clock, ids=IDS, pool=InlineReading(CONFIG)),
            audit=audit,
            clock=self.clock,
            ids=IDS,
            metrics=ProbeMetrics(Metrics()),
            config=CONFIG,
            owner="test",
        )  # fmt: skip

    async def run(self, source, **options):
        """Probe a source once, whether it is due or not."""
        return await self.probe(**options).run(await self.claim(source))

    async def claim(self, source):
        source_id = parse_id("src", source)
        async with self.index.store.ops("a claim of a test") as tx:
            row = await tx._connection.fetchrow(
                "INSERT INTO retrieval_probes AS p (organization_id, source_id, lease_owner, lease_expires_at,"
                " lease_token) VALUES ($1, $2, 'test', 'infinity', 1) ON CONFLICT (organization_id, source_id)"
                " DO UPDATE SET lease_token = p.lease_token + 1, lease_expires_at = 'infinity'"
                " RETURNING lease_token, document_id, failures, recent_ms",
                self.world.organization_id, source_id,
            )  # fmt: skip
        standing = Standing(row["failures"], tuple(row["recent_ms"]))
        return ProbeClaim(self.world.organization_id, source_id, row["lease_token"], row["document_id"], standing)

    async def due(self):
        """The sources of the world that would be claimed now; nothing is claimed."""
        claimed = []
        with suppress(LookupError):
            async with self.index.store.ops("claims that are taken back") as tx:
                while row := await tx.fetchrow(
                    SQL.claim_probe, "test", self.clock.now_us(), INTERVAL_US, round(CONFIG.probe_quiet_s * 1e6), 60.0
                ):
                    claimed.append((row["organization_id"], format_id("src", row["source_id"])))
                raise LookupError
        return sorted(source for organization, source in claimed if organization == self.world.organization_id)

    async def told(self, source):
        answer = (await self.index.call("GET", f"/v1/retrieval/sources/{source}")).json
        return answer["state"], answer["state_reason"], answer["revoke_probe"]

    async def canary(self, source):
        (row,) = await self.index.sql(
            "SELECT document_id FROM retrieval_probes WHERE organization_id = $1 AND source_id = $2",
            parse_id("src", source),
        )
        return row["document_id"]


@pytest.fixture
async def index(world):
    for name in ("ann", "bob"):
        await world.user(name)
    return Index(world)


@pytest.fixture
async def probing(index):
    return Probing(index)


@pytest.fixture
async def source(index, world):
    made = await index.source()
    await index.push(made, doc("refunds", "how soon a revoke takes effect", lists(world, "ann")))
    await index.sql("UPDATE retrieval_sources SET created_us = 1 WHERE organization_id = $1")
    return made


async def test_a_probe_publishes_how_soon_a_revoke_took_effect(probing, source):
    assert (await probing.told(source))[2] == {"p50_ms": None, "p99_ms": None, "last_at": None, "ok": None}
    assert (await probing.run(source)).outcome is Outcome.CLEAN
    first = await probing.canary(source)
    assert (await probing.run(source)).outcome is Outcome.CLEAN
    assert await probing.canary(source) == first
    state, _, told = await probing.told(source)
    assert (state, told["ok"]) == ("idle", True)
    assert told["last_at"] is not None
    assert told["p50_ms"] <= told["p99_ms"] <= BOUND_S * 1e3


@pytest.mark.parametrize("leak", ["seen", "read"])
async def test_a_planted_leak_is_found_and_turns_the_source_dark(probing, source, leak):
    """Searches, or documents by id, that never hear of the revoke: both paths agree, so only the probe can tell."""
    await probing.run(source)
    behind = Behind(probing.index.store)
    try:
        if leak == "read":
            # Its one moment is that of the grant: searches follow, the text by id does not.
            async def at(look):
                if look == 1:
                    async with behind.snapshot(probing.world.scope):
                        pass

            probed = await probing.run(source, read=behind, at=at)
        else:
            probed = await probing.run(source, seen=behind)
    finally:
        await behind.close()
    assert (probed.outcome, probed.reason) == (Outcome.BREACHED, "revoked_and_seen")
    assert probed.effect_ms > BOUND_S * 1e3
    state, reason, told = await probing.told(source)
    assert (state, reason, told["ok"]) == ("dark", "revoke_probe_breach", False)
    assert [(each.detector, str(each.severity)) for each in probing.sink.reports] == [("revoke_probe", "sev1")]
    assert await probing.index.found("ann", "revoke takes effect") == []
    rows = await probing.index.sql(
        "SELECT outcome, reason FROM audit_events WHERE organization_id = $1 AND action = 'retrieval.revoke_probe'"
    )
    assert [tuple(row.values()) for row in rows] == [("failed", "revoke_probe_breach")]


async def test_only_a_person_brings_a_dark_source_back(probing, source):
    behind = Behind(probing.index.store)
    await probing.run(source, seen=behind)
    await behind.close()
    probing.clock.forward += 10 * CONFIG.probe_quiet_s
    assert await probing.due() == []
    changed = await probing.index.call("PATCH", f"/v1/retrieval/sources/{source}", {"state": "idle"})
    assert changed.status == 200
    assert await probing.due() == [source]
    assert (await probing.run(source)).outcome is Outcome.CLEAN
    state, _, told = await probing.told(source)
    assert (state, told["ok"]) == ("idle", True)


async def test_a_probe_that_fails_again_and_again_turns_the_source_dark(probing, source):
    """A grant that nobody sees means that a revoke could not be told from it either."""
    await probing.run(source)
    behind = Behind(probing.index.store)
    async with behind.snapshot(probing.world.scope):
        pass
    for number in range(1, CONFIG.probe_failures_max + 1):
        probed = await probing.run(source, seen=behind)
        assert (probed.outcome, probed.reason) == (Outcome.FAILED, "grant_unseen")
        state, reason, told = await probing.told(source)
        is_last = number == CONFIG.probe_failures_max
        assert (state, reason) == (("dark", "revoke_probe_failed") if is_last else ("idle", None))
        assert told["ok"] is False
    await behind.close()
    assert [str(each.severity) for each in probing.sink.reports] == ["sev2"]


@pytest.mark.parametrize("code", ["store_unavailable", "deadline_exceeded", "search_overloaded", "killed"])
async def test_what_proves_nothing_turns_nothing_dark(probing, source, code):
    await probing.run(source)
    before = await probing.told(source)
    for _ in range(CONFIG.probe_failures_max + 1):
        probed = await probing.run(source, seen=Away(probing.index.store, code))
        assert (probed.outcome, probed.reason) == (Outcome.UNKNOWN, code)
    assert await probing.told(source) == before
    assert probing.sink.reports == []


async def test_a_stopped_machine_turns_nothing_dark(probing, source):
    """Minutes pass inside every search: what was begun in time came late, and gave nothing of what was revoked."""

    async def stall(_look):
        probing.clock.forward += 300.0

    probed = await probing.run(source, at=stall)
    assert (probed.outcome, probed.effect_ms >= 300e3) == (Outcome.CLEAN, True)
    state, _, told = await probing.told(source)
    assert (state, told["ok"]) == ("idle", True)


async def test_a_source_that_is_closed_meanwhile_fails_no_probe(probing, source):
    await probing.run(source)

    async def darken(look):
        if look == 1:
            await probing.index.call("PATCH", f"/v1/retrieval/sources/{source}", {"state": "dark"})

    probed = await probing.run(source, at=darken)
    assert (probed.outcome, probed.reason) == (Outcome.UNKNOWN, "source_closed")
    assert probing.sink.reports == []


async def test_an_observed_source_is_probed_as_one_of_its_observers(probing, index, world):
    made = await index.source(mode="observe", observe_principals=[world.name("bob")])
    await index.push(made, doc("refunds", "refunds", lists(world, "ann")))
    assert (await probing.run(made)).outcome is Outcome.CLEAN


async def test_a_source_without_documents_holds_none_of_a_probe_either(probing, index):
    made = await index.source()
    assert await probing.run(made) is None
    assert await index.sql("SELECT 1 FROM retrieval_documents WHERE organization_id = $1") == []


async def test_one_who_lost_the_lease_changes_nothing(probing, source):
    old = await probing.claim(source)
    await probing.claim(source)
    assert await probing.probe().run(old) is None
    assert (await probing.told(source))[2]["last_at"] is None


async def test_only_what_is_read_is_probed_again(probing, source):
    assert await probing.due() == [source]
    await probing.run(source)
    probing.clock.forward += CONFIG.probe_interval_s + 1
    assert await probing.due() == []
    await probing.index.found("bob", "anything at all")
    assert await probing.due() == [source]
    await probing.run(source)
    assert await probing.due() == []
    probing.clock.forward += CONFIG.probe_quiet_s
    assert await probing.due() == [source]


async def surfaces(index, world, source, canary):
    """Everything that anybody but the probe is shown, without what differs from call to call."""
    calls = []
    words = probe_text(parse_id("src", source))
    outsider = f"ext:{source}:user:somebody"
    for who, query, mode in product(("ann", "bob", None), ("revoke effect", words), ("hybrid", "lexical", "vector")):
        body = {"query": query, "k": 50, "mode": mode, "facets": True}
        calls.append(("POST", "/v1/retrieval/search", body, who))
    delegated = [{"query": words, "principal": name} for name in ("everyone", outsider, world.name("bob"))]
    calls += [("POST", "/v1/retrieval/search", body, None) for body in delegated]
    lists_of = ("", f"?source={source}", "?state=live", "?state=quarantined", f"/{canary}")
    calls += [("GET", f"/v1/retrieval/documents{each}", None, None) for each in lists_of]
    calls.append(("GET", f"/v1/retrieval/documents/{canary}", None, "ann"))
    told = []
    for method, path, body, who in calls:
        answer = await index.call(method, path, body, who=who, may=ADMIN)
        shown = {
            key: value for key, value in answer.json.items()
            if key not in {"request_id", "timing_ms", "epoch", "consistency_token", "error"}
        }  # fmt: skip
        told.append((answer.status, json.dumps(shown, sort_keys=True)))
    source_told = (await index.call("GET", f"/v1/retrieval/sources/{source}")).json
    told.append((source_told["documents"], source_told["backlog"]["documents"]))
    return told


async def test_nobody_else_sees_the_document_of_a_probe_whatever_state_it_is_in(probing, index, world, source):
    """Before there is one, while it is granted, and after the revoke: every answer to everybody is the same."""
    canary, told = format_id("doc", IDS.new()), []
    for _ in range(2):
        told.append(await surfaces(index, world, source, canary))

        async def at(_look):
            shown = format_id("doc", await probing.canary(source))
            told.append(await surfaces(index, world, source, shown))

        assert (await probing.run(source, at=at)).outcome is Outcome.CLEAN
        await index.drained(index.embedding())
        canary = format_id("doc", await probing.canary(source))
    # The vectors of the source itself are made after the first round, so rounds are compared with themselves.
    assert told[0] == told[1] == told[2]
    assert told[3] == told[4] == told[5]
    readers = await index.sql("SELECT DISTINCT principal FROM retrieval_searches WHERE organization_id = $1")
    assert not any("probe" in each["principal"] for each in readers)


async def test_nobody_can_become_the_reader_of_a_probe(probing, index, world, source):
    await probing.run(source)
    name = probe_reader(parse_id("src", source), ()).name
    found = await index.call("POST", "/v1/retrieval/search", {"query": "revoke", "principal": name})
    assert (found.status, found.json["error"]["code"]) == (404, "principal_not_found")
    (pushed,) = await index.push(source, doc("other", "words", {"allow": [name]}))
    assert (pushed["status"], pushed["code"]) == ("rejected", "acl_principal_unknown")
    pair = {"external": "interlock_probe:reader", "principal": world.name("ann")}
    mapped = await index.call("PUT", f"/v1/retrieval/sources/{source}/identities", {"identities": [pair]})
    assert (mapped.json["mapped"], mapped.json["rejected"][0]["code"]) == (0, "invalid_acl")


async def test_probes_leave_no_history_behind(probing, source):
    """Two changes of access a minute, for years: what grows is the epoch, and nothing else."""
    counted = "SELECT (SELECT count(*) FROM {}) AS n"
    tables = ("retrieval_document_versions", "retrieval_acl_bindings", "retrieval_acls", "audit_events")

    async def sizes():
        where = "{} WHERE organization_id = $1"
        return [(await probing.index.sql(counted.format(where.format(each))))[0]["n"] for each in tables]

    await probing.run(source)
    before = await sizes()
    for _ in range(3):
        await probing.run(source)
    assert await sizes() == before


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=20))
def test_only_a_search_that_began_late_and_saw_is_a_breach(looks):
    watch = Watch(100.0)
    for after_s, is_seen in looks:
        verdict = watch.verdict(100.0 + after_s, is_seen=is_seen)
        if not is_seen:
            assert verdict is Outcome.CLEAN
        else:
            assert (verdict is Outcome.BREACHED) == (100.0 + after_s - 100.0 > BOUND_S)
            assert verdict in {None, Outcome.BREACHED}


@given(st.lists(st.tuples(st.sampled_from(Outcome), st.none() | st.floats(0, 1e6)), max_size=300), st.integers(1, 5))
def test_what_is_kept_is_bounded_and_unknown_changes_nothing(ended, failures_max):
    kept, in_a_row = Standing(), 0
    for outcome, effect_ms in ended:
        probed = Probed(outcome, None, effect_ms)
        kept = kept.after(probed)
        if outcome is not Outcome.UNKNOWN:
            in_a_row = in_a_row + 1 if outcome is Outcome.FAILED else 0
        assert kept.failures == in_a_row
        is_dark = outcome is Outcome.BREACHED or in_a_row >= failures_max
        assert (kept.darkens(probed, failures_max) is not None) == is_dark
        assert len(kept.recent_ms) <= RECENT_MAX
    if kept.recent_ms:
        assert min(kept.recent_ms) <= quantile(kept.recent_ms, 0.5) <= quantile(kept.recent_ms, 0.99)
        assert quantile(kept.recent_ms, 0.99) <= max(kept.recent_ms)
