"""Every class of outcome in every dialect, streamed or not: status, code, headers, and a complete story with its rule.

One world a dialect and way; each case is found again by the client's own id, as one who left has no other.
"""

import asyncio
import json

import pytest

from interlock.foundation.errors import ERRORS
from interlock.foundation.flags import bump
from interlock.foundation.store.failures import store_unavailable
from interlock.foundation.telemetry import (
    Outcome,
    Shipper,
    Spool,
    TelemetryConfig,
    decode_story,
    story_json,
    trace_lines,
)
from interlock.gateway.domain.directory import Dimension, Fallback, LimitScope, ProviderKind, Trouble
from interlock.gateway.domain.outcomes import error_type
from interlock.gateway.service.register import PROVIDER, SQL
from interlock.scheduler import Fault, Script
from tests.gateway.test_attempts import add_upstream, fail, lead
from tests.gateway.test_door import lift, throw
from tests.gateway.test_limits import SLOW
from tests.gateway.vendors import vendor
from tests.gateway.worlds import CLOCK, IDS, MESSAGES, make_tenant_key, patient, world

pytestmark = pytest.mark.usefixtures("still")

PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}


class Bench:
    """One dialect, streamed or not, and how a case asks in it."""

    def __init__(self, edge, upstream, dialect, *, stream):
        self.edge = edge
        self.vendor = upstream
        self.engine = edge.engine
        self.dialect = dialect
        self.stream = stream

    def body(self, model="default", most=20, **fields):
        given = {"model": model, "stream": self.stream, **fields}
        if self.dialect == "responses":
            return {"input": "Where is my order?", "max_output_tokens": most, **given}
        return {"messages": MESSAGES, "max_tokens": most, **given}

    async def ask(self, name, model="default", key=None, headers=None, **fields):
        content = json.dumps(self.body(model, **fields)).encode()
        given = {"x_client_request_id": name, **(headers or {})}
        return await self.edge.call("POST", PATHS[self.dialect], content, key=key, **given)

    async def limited(self, limit, dimension, **fields):
        """A key of its own, so that no other case meets its limit."""
        edge = self.edge
        usual, edge.key = edge.key, await make_tenant_key(edge.store, edge.scope)
        await edge.limit(limit, dimension, scope=LimitScope.KEY, **fields)
        made, edge.key = edge.key, usual
        return made

    async def while_asked(self, name, act, **options):
        """Ask, do something as soon as the model server works on it, and return the reply, None for one that left."""
        before = self.engine.statistics().running
        task = asyncio.create_task(self.ask(name, **options))
        await self.edge.until(lambda: self.engine.statistics().running > before)
        result = await act(task)
        await asyncio.gather(task, return_exceptions=True)
        await self.edge.until(lambda: self.engine.statistics().running == before)
        return result


async def ok(b, name):
    return await b.ask(name)


async def fallback(b, name):
    return await b.ask(name, "spare")


async def degraded(b, name):
    return await b.ask(name, "pooled-lesser")


async def replayed(b, name):
    await b.ask("first", headers={"idempotency_key": "k1"})
    return await b.ask(name, headers={"idempotency_key": "k1"})


async def gone(b, name):
    b.engine.script = Script(tokens=3, first_token_s=120)

    async def leave(task):
        task.cancel()

    return await b.while_asked(name, leave)


async def cut(b, name):
    b.engine.script = Script(tokens=6, fault=Fault.CUT, fault_after_events=3)
    return await b.ask(name)


async def bad(b, name):
    return await b.ask(name, most=-1)


async def too_long(b, name):
    fail(b.vendor, 400, b'{"error":{"message":"long","code":"context_length_exceeded"}}')
    return await b.ask(name, "direct")


async def beta(b, name):
    return await b.ask(name, headers={"x_interlock_beta": "no-such-beta"})


async def stranger(b, name):
    return await b.ask(name, key="foo")


async def expired(b, name):
    return await b.ask(name, key=await make_tenant_key(b.edge.store, b.edge.scope, expires_us=1))


async def revoked(b, name):
    return await b.ask(name, key=await make_tenant_key(b.edge.store, b.edge.scope, revoked_us=1))


async def no_scope(b, name):
    return await b.ask(name, key=await make_tenant_key(b.edge.store, b.edge.scope, scopes=["requests:read"]))


async def elsewhere(b, name):
    return await b.ask(name, key=await make_tenant_key(b.edge.store, b.edge.scope, cidrs=["10.0.0.0/8"]))


async def other_model(b, name):
    return await b.ask(name, key=await make_tenant_key(b.edge.store, b.edge.scope, models=["x"]))


async def no_model(b, name):
    return await b.ask(name, "nothing")


async def conflict(b, name):
    await b.ask("first", headers={"idempotency_key": "k2"})
    return await b.ask(name, headers={"idempotency_key": "k2"}, most=21)


async def large(b, name):
    return await b.ask(name, user="x" * 9_000)


async def too_many(b, name):
    key = await b.limited(SLOW, Dimension.REQUESTS, burst=1)
    await b.ask("first", key=key)
    return await b.ask(name, key=key)


async def too_much(b, name):
    b.engine.script = Script(tokens=900)
    key = await b.limited(SLOW, Dimension.TOKENS, burst=600)
    await b.ask("first", key=key, most=550)
    await b.edge.settled()
    return await b.ask(name, key=key, most=100)


async def too_dear(b, name):
    b.engine.script = Script(tokens=900)
    key = await b.limited(600, Dimension.USD_DAY)
    await b.ask("first", "dear", key=key, most=550)
    await b.edge.settled()
    return await b.ask(name, "dear", key=key, most=100)


async def too_broad(b, name):
    b.engine.script = Script(tokens=3, first_token_s=120)
    key = await b.limited(1, Dimension.CONCURRENCY)

    async def another(task):
        reply = await b.ask(name, key=key)
        task.cancel()
        return reply

    return await b.while_asked("first", another, key=key)


async def upstream_limit(b, name):
    b.engine.script = Script(fault=Fault.RATE_LIMITED)
    return await b.ask(name)


async def no_room(b, name):
    return await b.ask(name, "pooled")


async def killed(b, name):
    throw(b.edge, "route", "default")
    reply = await b.ask(name)
    lift(b.edge)
    return reply


async def no_store(b, name):
    with pytest.MonkeyPatch.context() as patch:

        async def away(*_):
            raise store_unavailable("away")

        patch.setattr(b.edge.process.replays._replies, "claim", away)
        return await b.ask(name, headers={"idempotency_key": "k3"})


async def broken(b, name):
    b.engine.script = Script(fault=Fault.SERVER_ERROR)
    return await b.ask(name)


async def silent(b, name):
    fail(b.vendor, 504)
    return await b.ask(name, "direct")


async def too_late(b, name):
    b.engine.script = Script(tokens=3, first_token_s=120)
    return await b.ask(name, headers={"x_interlock_deadline_ms": "300"})


async def our_fault(b, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(b.edge.process._placer, "at_once", None)
        return await b.ask(name)


async def lost(b, name):
    """The ring as a killed process leaves it is shipped by whoever finds it, before this process tells its own end."""
    b.engine.script = Script(tokens=3, first_token_s=120)

    async def die(task):
        place = b.edge.folder / f"{name}.ring"
        place.write_bytes((b.edge.folder / "edge.ring").read_bytes())
        spool = Spool(place, CLOCK, TelemetryConfig(ring_bytes=1 << 20))
        await Shipper(spool, b.edge.store, CLOCK).run_once()
        spool.close()
        task.cancel()

    return await b.while_asked(name, die, headers={"x_interlock_tags": "team=search"})


# Class, status and code of each case.
CASES = {
    ok: ("ok", 200, None),
    fallback: ("ok_fallback", 200, None),
    degraded: ("ok_degraded", 200, None),
    replayed: ("ok_replayed", 200, None),
    gone: ("client_gone", 499, "client_gone"),
    cut: ("stream_cut", 200, "upstream_stream_cut"),
    bad: ("bad_request", 400, "invalid_request"),
    too_long: ("context_too_long", 400, "context_length_exceeded"),
    beta: ("beta_refused", 400, "beta_unknown"),
    stranger: ("unauthenticated", 401, "invalid_key"),
    expired: ("key_expired", 401, "key_expired"),
    revoked: ("key_revoked", 401, "key_revoked"),
    no_scope: ("scope_denied", 403, "scope_denied"),
    elsewhere: ("ip_denied", 403, "ip_denied"),
    other_model: ("model_denied", 403, "model_not_allowed"),
    no_model: ("model_not_found", 404, "model_not_found"),
    conflict: ("idempotency_conflict", 422, "idempotency_mismatch"),
    large: ("too_large", 413, "body_too_large"),
    too_many: ("limited_requests", 429, "requests_limit"),
    too_much: ("limited_tokens", 429, "tokens_limit"),
    too_broad: ("limited_concurrency", 429, "concurrency_limit"),
    too_dear: ("limited_budget", 429, "budget_exhausted"),
    upstream_limit: ("upstream_limited", 429, "upstream_rate_limited"),
    no_room: ("overloaded", 503, "no_capacity"),
    killed: ("killed", 503, "killed"),
    no_store: ("infra_unavailable", 503, "idempotency_unavailable"),
    broken: ("upstream_error", 502, "upstream_error"),
    silent: ("upstream_timeout", 504, "upstream_timeout"),
    too_late: ("deadline_exceeded", 504, "deadline_exceeded"),
    our_fault: ("internal_error", 500, "internal_error"),
    lost: ("worker_lost", 500, "internal_error"),
}


async def lay_routes(edge, upstream):
    """What the cases need beside the engine: a fallback, a lesser alias, a price, an upstream of their own."""
    owner = edge.scope.organization_id
    await add_upstream(edge, "direct", upstream.url + "/v1")
    await add_upstream(edge, "dead", "http://127.0.0.1:9/v1")
    async with edge.store.transaction(edge.scope) as tx:
        await tx.execute(SQL.put_provider, owner, "nobody", IDS.new(), ProviderKind.POOL, None, "nobody", None)
        await tx.execute(SQL.put_deployment, owner, "pooled", IDS.new(), "nobody", "m")
        price = 1_000_000
        values = (owner, "dear", IDS.new(), PROVIDER, "fake", price, price, price, None, None, "{}", CLOCK.now_us())
        await tx.execute(SQL.add_deployment, *values)
        await bump(tx, "routes")
    for alias in ("direct", "pooled", "dear"):
        await lead(edge, alias, targets=(alias,))
    await lead(edge, "spare", targets=("dead",), fallbacks=(Fallback("fake", (Trouble.ERROR,)),))
    await lead(edge, "pooled-lesser", targets=("pooled",), degrade_to="default")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("dialect", PATHS)
async def test_every_outcome_class_has_a_story(store, scope, dialect, stream):
    config = patient(body_bytes_max=8_000, attempts_max=1, scheduler_back_s=0)
    replies = {}
    async with vendor() as upstream, world(store, scope, config=config) as edge:
        await lay_routes(edge, upstream)
        bench = Bench(edge, upstream, dialect, stream=stream)
        # All tests share a store, and a stranger's story belongs to nobody: ids of this run alone.
        run = IDS.new().hex[-8:]
        for case in CASES:
            edge.engine.script, upstream.status, upstream.script = Script(tokens=5), 200, []
            replies[f"{run}-{case.__name__}"] = await case(bench, f"{run}-{case.__name__}")
        stories = await stories_of(edge, list(replies))
    told = CASES | ({ok: ("ok_stream", 200, None)} if stream else {cut: ("upstream_error", 502, None)})
    for (name, reply), expected in zip(replies.items(), told.values(), strict=True):
        judge(name, expected, reply, stories[name], dialect)


def judge(name, expected, reply, story, dialect):
    outcome, status, code = expected
    assert (story.outcome, story.status) == (outcome, status), name
    assert (story.endpoint, story.complete) == (PATHS[dialect], True)
    assert story.rule, name
    assert story.tags == ("team=search" if outcome == "worker_lost" else ""), name
    public, lines = story_json(story), trace_lines(story)
    assert (public["outcome"], public["status"], public["rule"], public["complete"]) == (
        *expected[:2],
        story.rule,
        True,
    )
    assert {f"outcome: {outcome}", f"status: {status}", f"rule: {story.rule}"} <= set(lines), name
    assert story.decisions[0].step == "received"
    assert (story.decisions[-1].step, story.decisions[-1].verdict) == ("finished", outcome)
    if reply is None:
        return
    assert reply.status == status, name
    assert reply.headers["request-id"] == reply.request_id
    assert reply.headers["x-client-request-id"] == name
    if status == 200:
        assert reply.headers["x-interlock-route"], name
        return
    told = reply.body["interlock"]
    assert (told["rule"], told["request_id"]) == (story.rule, reply.request_id)
    assert reply.body["error"]["type"] == (
        "insufficient_quota" if code == "budget_exhausted" and dialect != "messages" else error_type(status)
    )
    assert ("retry-after" in reply.headers) is ("retry_after_s" in told) or (status < 429 and status != 409)
    if status in (429, 503):
        assert reply.headers["x-should-retry"] in ("true", "false"), name
    if code is not None:
        assert told["code"] == story.error_code == code, name
        assert dialect == "messages" or reply.body["error"]["code"] == code


async def stories_of(edge, names):
    """The story under each client's id, once all of them have come."""
    found = {}
    until = CLOCK.monotonic() + 120
    while len(found) < len(names):
        assert CLOCK.monotonic() < until, sorted(set(names) - found.keys())
        await edge.shipper.run_once()
        async with edge.store.ops("stories of a test") as tx:
            rows = await tx._connection.fetch(
                "SELECT client_request_id AS name, story FROM telemetry_requests"
                " WHERE client_request_id = ANY($1) AND is_complete",
                names,
            )
        found = {row["name"]: decode_story(row["story"]) for row in rows}
        await CLOCK.sleep(0.02)
    return found


def test_the_matrix_leaves_no_class_out():
    covered = {outcome for outcome, _, _ in CASES.values()}
    assert covered | {"ok_stream"} == set(Outcome)
    assert {code for _, _, code in CASES.values() if code is not None} <= ERRORS.keys()
