"""A usual request goes the way of one before it without a task, and all it comes to is what the rules make of it."""

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager

import msgspec
import pytest

from interlock.foundation import native
from interlock.foundation.flags import bump
from interlock.gateway.domain.betas import Beta
from interlock.gateway.domain.directory import Dimension, Directory, LimitScope, Timeouts
from tests.gateway.test_attempts import add_upstream, lead
from tests.gateway.test_door import lift, throw
from tests.gateway.worlds import IDS, make_tenant_key, patient, world
from tests.support.store import lasting_store

pytestmark = pytest.mark.skipif(not native.is_whole(), reason="not every kernel is here")

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: up_1\r\n"
USAGE = {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Here."}, "finish_reason": "stop"}
COMPLETION = json.dumps({"object": "chat.completion", "choices": [CHOICE], "usage": USAGE}).encode()
EVENT = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Here."}}]}\n\n'
FINISH = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
HUNG = Timeouts(connect=600_000, ttft=600_000, idle=600_000, total=600_000)


def framed(content, head=JSON_HEAD):
    return head + b"content-length: %d\r\n\r\n%b" % (len(content), content)


def chunked(*pieces, head=JSON_HEAD):
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


STREAM_HEAD = JSON_HEAD.replace(b"application/json", b"text/event-stream")
STREAM = chunked(EVENT, FINISH, b"data: [DONE]\n\n", head=STREAM_HEAD)
WHOLE = framed(COMPLETION)
CLOSE = None
# What a model server sends for one question, read by read; `CLOSE` closes the connection, an event is waited for.
ANSWERS = {
    "whole": [WHOLE],
    "in chunks": [chunked(COMPLETION[:20], COMPLETION[20:])],
    "in one chunk": [chunked(COMPLETION)],
    "in two reads": [WHOLE[:-9], WHOLE[-9:]],
    "its head alone at first": [WHOLE[: -len(COMPLETION)], COMPLETION],
    "with a charset": [framed(COMPLETION, JSON_HEAD.replace(b"json", b"json; charset=utf-8"))],
    "as another type": [framed(COMPLETION, JSON_HEAD.replace(b"json", b"xml"))],
    "a stream that nobody asked for": [STREAM],
    "no completion": [framed(b'{"choices":')],
    "without usage": [framed(b'{"object":"chat.completion","choices":[]}')],
    "its fault": [framed(b'{"error":{"message":"no"}}', JSON_HEAD.replace(b"200 OK", b"500 No"))],
    "the caller's fault": [framed(b'{"error":{"message":"no"}}', JSON_HEAD.replace(b"200 OK", b"400 No"))],
    "its limit": [framed(b"{}", JSON_HEAD.replace(b"200 OK", b"429 No"))],
    "with its last": [framed(COMPLETION, JSON_HEAD + b"connection: close\r\n"), CLOSE],
    "no HTTP": [b"what?\r\n\r\n"],
    "nothing": [CLOSE],
    "half a head": [WHOLE[:20], CLOSE],
    "half a body": [WHOLE[:-9], CLOSE],
    "until it closes": [JSON_HEAD + b"\r\n" + COMPLETION, CLOSE],
    "too long": [framed(b" " * 200_000 + COMPLETION)],
}  # fmt: skip
STREAMS = {
    "at once": [STREAM],
    "event by event": [STREAM[: STREAM.index(EVENT) + len(EVENT) + 2], STREAM[STREAM.index(EVENT) + len(EVENT) + 2 :]],
    "its head alone at first": [STREAM[: len(STREAM_HEAD) + 30], STREAM[len(STREAM_HEAD) + 30 :]],
    "whole, though a stream was asked for": [WHOLE],
    "its fault": ANSWERS["its fault"],
    "nothing": [CLOSE],
    "half of it": [STREAM[: STREAM.index(FINISH)], CLOSE],
}


class Upstream:
    """A model server of a few bytes: each question is answered by the next of `answers`, the last of them for ever."""

    def __init__(self):
        self.answers = [[WHOLE]]
        self.asked = self.left = 0
        self.hangs = False

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
                self.asked += 1
                if self.hangs:
                    await reader.read(1)
                    self.left += 1
                    return
                for each in self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]:
                    if each is CLOSE:
                        return
                    if isinstance(each, asyncio.Event):
                        await each.wait()
                        continue
                    writer.write(each)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()


@pytest.fixture(scope="module")
def store_urls():
    """A store of their own: with a switch or a beta of another test in force, no request is usual."""
    with lasting_store() as urls:
        yield urls


class Bench:
    """An edge before that model server, and one connection that says the same head each time."""

    def __init__(self, edge, upstream):
        self.edge, self.upstream = edge, upstream
        self.more = {}

    @property
    def errands(self):
        return self.edge.process.ways._errands

    async def ask(self, **fields):
        # One length of a body: a head that was seen twice is known by then, whatever its length says.
        return await self.edge.chat(model="shop", headers=self.more, **fields)

    async def learn(self, **fields):
        """Ask until the way is known, and goes."""
        for _ in range(6):
            before = self.errands.taken
            reply = await self.ask(**fields)
            assert reply.status == 200
            if self.errands.taken > before:
                return reply
        raise AssertionError("the way was never learned")

    async def by_both(self, answers, **fields):
        """Ask the same by the way and by the rules; return what both came to."""
        found = []
        for is_known in (True, False):
            self.upstream.answers = list(answers)
            before = self.errands.taken
            # What was learned of tokens by the one would be the estimate of the other.
            self.edge.process.edge._chat._estimator._ratios.clear()
            with by_the_rules(self.edge, is_known=is_known):
                reply = await self.ask(**fields)
            assert (self.errands.taken > before) is is_known
            found.append((told(await self.edge.story(reply.request_id)), heard(reply)))
            await self.at_rest()
        return found

    async def at_rest(self):
        """Nothing is held any more."""
        process = self.edge.process
        await self.edge.until(lambda: not process.edge._passages)
        assert process.entrance.taken == 0
        assert process.edge._chat.body_bytes == 0
        assert [each.inflight for each in process.targets.statistics()] == [0]
        assert process.server.statistics().handlers_running == 0


@asynccontextmanager
async def benched(store, scope, *, prices=(None,) * 4, **options):
    """Yield an edge whose alias `shop` leads to a model server that a test scripts."""
    upstream = Upstream()
    sock = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(upstream.serve, sock=sock)
    async with world(store, scope, config=patient(attempts_max=2, **options), with_engine=False) as edge:
        await add_upstream(edge, "u0", f"http://127.0.0.1:{sock.getsockname()[1]}/v1", prices=prices)
        await lead(edge, targets=("u0",), timeouts_ms=HUNG)
        yield Bench(edge, upstream)
    server.close()


class by_the_rules:  # noqa: N801 - it reads as words
    """Nothing is taken on for a while, unless it is known."""

    def __init__(self, edge, *, is_known=False):
        self.server, self.is_known = edge.process.server, is_known

    def __enter__(self):
        self.take = self.server._take
        if not self.is_known:
            self.server._take = None

    def __exit__(self, *_):
        self.server._take = self.take


def told(story):
    """A story without its moments, its own id, and what is drawn by chance."""
    decisions = [
        (each.step, each.rule, each.verdict, re.sub(r"after \d+ ms|[\d.]+ s\b", "", each.detail))
        for each in story.decisions
    ]
    attempts = [(each.n, each.deployment, each.status, each.error, each.upstream_request_id) for each in story.attempts]
    plain = (
        "outcome", "status", "error_code", "rule", "alias", "route_version", "deployment", "arm", "degraded", "stream",
        "dialect", "endpoint", "usage", "cost", "tags", "trace_id", "client_request_id", "key_id", "workspace_id",
    )  # fmt: skip
    timed = [name for name in ("auth_ms", "queue_ms", "ttft_ms", "total_ms") if getattr(story.timing, name) is not None]
    return decisions, attempts, [getattr(story, name) for name in plain], timed


def heard(reply):
    """An answer without its id and its times."""
    own = reply.headers["x-request-id"]
    headers = {
        name: value for name, value in reply.headers.items() if name not in ("date", "x-request-id", "request-id")
    }
    headers["server-timing"] = re.sub(r"[\d.]+", "", headers.get("server-timing", ""))
    return reply.status, headers, reply.content.replace(own.encode(), b"")


@pytest.mark.parametrize("answer", ANSWERS)
async def test_whatever_a_model_server_answers_comes_to_the_same(store, scope, answer):
    async with benched(store, scope) as bench:
        await bench.learn()
        by_way, by_rules = await bench.by_both([ANSWERS[answer]])
        assert by_way == by_rules


@pytest.mark.parametrize("answer", STREAMS)
async def test_whatever_a_model_server_streams_comes_to_the_same(store, scope, answer):
    async with benched(store, scope) as bench:
        bench.upstream.answers = [[STREAM]]
        await bench.learn(stream=True)
        by_way, by_rules = await bench.by_both([STREAMS[answer]], stream=True)
        assert by_way == by_rules


async def test_only_what_is_not_usual_needs_a_task(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        before = bench.errands.handed_over
        for _ in range(3):
            await bench.ask()
        assert bench.errands.handed_over == before
        bench.upstream.answers = [ANSWERS["its fault"], [WHOLE]]
        assert (await bench.ask()).headers["x-interlock-attempts"] == "2", "the second call is made in a task"
        assert bench.errands.handed_over == before + 1
        await bench.at_rest()


async def test_facts_of_a_head_are_those_of_its_way(store, scope):
    async with benched(store, scope) as bench:
        bench.more = {
            "x_client_request_id": "mine-1", "x_interlock_tags": "team=search",
            "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "x_interlock_deadline_ms": "60000",
        }  # fmt: skip
        await bench.learn()
        by_way, by_rules = await bench.by_both([[WHOLE]])
        assert by_way == by_rules
        assert by_way[1][1]["x-client-request-id"] == "mine-1"


@pytest.mark.parametrize("prices", [(2_000_000, 8_000_000, None, None), (2_000_000, 8_000_000, 500_000, "a-list")])
async def test_an_answer_costs_the_same(store, scope, prices):
    async with benched(store, scope, prices=prices) as bench:
        await bench.learn()
        by_way, by_rules = await bench.by_both([[WHOLE]])
        assert by_way == by_rules
        cost = next(each for each in by_way[0][2] if hasattr(each, "price_version"))
        assert (cost.usd, cost.price_version) == ("0.000070", prices[3] or "shop@1")


async def test_limits_are_kept_on_a_way_as_by_the_rules(store, scope):
    async with benched(store, scope) as bench:
        for dimension in (Dimension.REQUESTS, Dimension.TOKENS, Dimension.CONCURRENCY):
            await bench.edge.limit(100_000_000, dimension, scope=LimitScope.KEY)
        await bench.learn()
        limiter, found = bench.edge.process.limiter, []
        for is_known in (True, False):
            with by_the_rules(bench.edge, is_known=is_known):
                # What a worker leases grows with what it is asked for; a directory that is read again has new ways.
                while True:
                    leased, taken = limiter.statistics().leased_total, bench.errands.taken
                    reply = await bench.ask()
                    is_leased = limiter.statistics().leased_total > leased
                    if is_leased and (bench.errands.taken > taken) is is_known:
                        break
            story = await bench.edge.story(reply.request_id)
            found.append(([each.step for each in story.decisions], sorted(reply.headers)))
        assert found[0] == found[1]
        assert {"limits", "settle"} < set(found[0][0])
        await bench.at_rest()
        assert limiter.statistics().slots_held == 0


async def left(bench, request_id):
    story = await bench.edge.story(request_id)
    return story.outcome, story.status, story.rule, [each.step for each in story.decisions][-2:]


async def hang(bench, **fields):
    """Ask what is never answered; return the call, once the model server was asked, and the id of the request."""
    bench.upstream.hangs = True
    asked, before = bench.upstream.asked, bench.errands.taken
    call = asyncio.create_task(bench.ask(**fields))
    await bench.edge.until(lambda: bench.upstream.asked > asked)
    assert bench.errands.taken == before + 1
    [passage] = bench.edge.process.edge._passages
    return call, passage.exchange.request_id


async def test_who_leaves_while_its_answer_is_awaited_leaves_nothing_behind(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        call, request_id = await hang(bench)
        call.cancel()
        await bench.edge.until(lambda: bench.upstream.left == 1)
        await bench.at_rest()
        assert await left(bench, request_id) == ("client_gone", 499, "client.disconnected", ["cancel", "finished"])


async def test_a_switch_ends_what_goes_a_way(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        call, request_id = await hang(bench)
        throw(bench.edge, "route", "shop", mode="abort")
        reply = await call
        assert (reply.status, reply.body["error"]["code"]) == (503, "killed")
        await bench.at_rest()
        assert (await left(bench, request_id))[:2] == ("killed", 503)
        lift(bench.edge)
        bench.upstream.hangs = False
        before = bench.errands.taken
        throw(bench.edge, "route", "shop")
        assert (await bench.ask()).status == 503, "nothing is taken on that a switch stops"
        assert bench.errands.taken == before
        lift(bench.edge)
        assert (await bench.ask()).status == 200


@pytest.mark.parametrize(("stops", "target"), [("route", "other"), ("provider", "nobody"), ("beta", "fast")])
async def test_a_switch_on_something_else_leaves_a_way_alone(store, scope, stops, target):
    async with benched(store, scope) as bench:
        await bench.learn()
        throw(bench.edge, stops, target)
        by_way, by_rules = await bench.by_both([[WHOLE]])
        assert by_way == by_rules
        lift(bench.edge)


async def test_betas_that_a_request_does_not_ask_for_leave_it_its_way_but_not_those_of_its_body(store, scope):
    async with benched(store, scope) as bench:
        process = bench.edge.process
        rows = process.memory.directory.rows
        tenant, others = scope.organization_id, IDS.new()
        of_others = (
            Beta(tenant, "fast", "header", "x-interlock-beta"),
            Beta(tenant, "answers", "endpoint", "/v1/responses"),
            Beta(others, "thoughts", "parameter", "thinking"),
        )
        of_bodies = (Beta(tenant, "thoughts", "parameter", "thinking"),)
        for betas, is_known in ((of_others, True), (of_bodies, False)):
            process._new_directory(Directory(msgspec.structs.replace(rows, betas=betas)), {})
            before = bench.errands.taken
            for _ in range(6):
                assert (await bench.ask()).status == 200
            assert (bench.errands.taken > before) is is_known


async def test_a_deadline_ends_what_goes_a_way(store, scope):
    async with benched(store, scope) as bench:
        bench.more = {"x_interlock_deadline_ms": "5000"}
        await bench.learn()
        call, request_id = await hang(bench)
        reply = await call
        assert (reply.status, reply.body["error"]["code"]) == (504, "deadline_exceeded")
        await bench.at_rest()
        assert (await left(bench, request_id))[0] == "deadline_exceeded"


async def test_a_drain_ends_what_goes_a_way(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        call, request_id = await hang(bench)
        await bench.edge.process.server.drain(0.1)
        await asyncio.gather(call, return_exceptions=True)
        await bench.at_rest()
        assert (await left(bench, request_id))[0] == "client_gone"


async def test_a_fault_of_ours_is_told_and_gives_everything_back(store, scope, monkeypatch):
    async with benched(store, scope) as bench:
        await bench.learn()
        # One before the question, one between the answer and its sending.
        for name in ("encode_for_upstream", "read_reply"):
            with monkeypatch.context() as patch:
                patch.setattr(f"interlock.gateway.service._native_errand.{name}", None)
                reply = await bench.ask()
            assert (reply.status, reply.body["error"]["code"]) == (500, "internal_error"), name
            assert (await bench.edge.story(reply.request_id)).rule == "edge.fault"
            await bench.at_rest()
        assert (await bench.ask()).status == 200


async def test_a_way_ends_with_what_made_it(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        key = bench.edge.key
        async with store.transaction(scope) as tx:
            await tx._connection.execute("UPDATE identity_api_keys SET revoked_us = 1 WHERE lookup = $1", key[8:16])
            await bump(tx, "keys")
        keys = bench.edge.process._parts.keys
        await bench.edge.until(lambda: keys.find(key[8:16]) is None or keys.find(key[8:16]).record.revoked_us)
        assert (await bench.ask()).status == 401
        bench.edge.key = await make_tenant_key(store, scope)
        await bench.learn()
        before = bench.errands.taken
        await lead(bench.edge, "other", targets=("u0",))
        assert (await bench.ask()).status == 200, "another directory has other ways"
        assert bench.errands.taken == before
        await bench.learn()


async def test_a_full_edge_lets_nobody_in_by_a_way(store, scope):
    async with benched(store, scope, inflight_max=1, queue_s_max=60.0) as bench:
        await bench.learn()
        call, _ = await hang(bench)
        bench.upstream.hangs = False
        second = asyncio.create_task(bench.ask())
        await bench.edge.until(lambda: bench.edge.process.entrance.statistics().waiting == 1)
        call.cancel()
        assert (await second).status == 200
        await bench.at_rest()
