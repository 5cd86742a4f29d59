"""`Idempotency-Key` on inference: one call of a model server, the same bytes again, in every dialect."""

import asyncio
import json

import pytest

from interlock.gateway.store.replies import StoredReplies
from interlock.scheduler import Fault, Script
from tests.gateway.worlds import CALL, MESSAGES, make_tenant_key, patient, take_away, world
from tests.support.store import opened

pytestmark = pytest.mark.usefixtures("still")

PATHS = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES}),
    "responses": ("/v1/responses", {"input": "Where is my order?"}),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 20}),
}


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope, config=patient(replay_bytes_max=16_384)) as each:
        yield each


async def ask(edge, dialect="chat", key="k-1", **fields):
    path, body = PATHS[dialect]
    content = json.dumps({"model": "default", **body, **fields}).encode()
    return await edge.call("POST", path, content, idempotency_key=key)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("dialect", PATHS)
async def test_a_repeated_call_gets_the_same_bytes_and_asks_no_model_server(edge, dialect, stream):
    limit = await edge.limit(1, burst=5)
    first = await ask(edge, dialect, stream=stream)
    again = await ask(edge, dialect, stream=stream)
    assert (first.status, again.status) == (200, 200)
    assert again.content == first.content
    assert "x-interlock-replayed" not in first.headers
    assert again.headers["x-interlock-replayed"] == "true"
    assert again.headers["x-interlock-original-request-id"] == first.request_id != again.request_id
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-interlock-route"] == first.headers["x-interlock-route"]
    assert edge.engine.statistics().requests == 1
    story = await edge.story(again.request_id)
    assert (story.outcome, story.rule, story.status) == ("ok_replayed", "idempotency.replayed", 200)
    assert story.attempts == []
    await edge.settled()
    assert 4 <= await edge.level(limit) < 5, "a replay touches no limit"


async def test_another_body_under_the_key_is_a_conflict_and_elsewhere_the_key_is_free(edge):
    assert (await ask(edge)).status == 200
    refused = await ask(edge, temperature=0.5)
    assert (refused.status, refused.body["error"]["code"]) == (422, "idempotency_mismatch")
    assert refused.body["error"]["type"] == "conflict_error"
    assert (await edge.story(refused.request_id)).outcome == "idempotency_conflict"
    assert "x-interlock-replayed" not in (await ask(edge, "responses")).headers
    assert "x-interlock-replayed" not in (await ask(edge, key="k-2")).headers


async def test_a_twin_of_a_running_call_is_told_when_to_come_again(edge):
    edge.engine.script = Script(tokens=3, first_token_s=120)
    running = asyncio.create_task(ask(edge))
    await edge.until(lambda: edge.engine.statistics().running == 1)
    twin = await ask(edge)
    assert (twin.status, twin.body["error"]["code"]) == (409, "idempotency_in_progress")
    assert (twin.headers["retry-after"], twin.headers["x-should-retry"]) == ("1", "true")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    edge.engine.script = Script(tokens=3)
    replies = [await ask(edge)]
    while replies[-1].status == 409:
        replies.append(await ask(edge))
    assert replies[-1].status == 200, "who left made no answer, and the key is free"
    assert "x-interlock-replayed" not in replies[-1].headers


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_call_that_failed_is_made_again(edge, stream):
    edge.engine.script = Script(tokens=6, fault=Fault.CUT, fault_after_events=3)
    failed = await ask(edge, stream=stream)
    assert failed.status == (200 if stream else 502)
    edge.engine.script = Script(tokens=3)
    reply = await ask(edge, stream=stream)
    assert (reply.status, reply.headers.get("x-interlock-replayed")) == (200, None)


async def test_an_answer_too_large_to_keep_is_a_conflict_that_names_the_first_call(edge):
    edge.engine.script = Script(tokens=6_000)
    first = await ask(edge)
    assert first.status == 200
    refused = await ask(edge)
    assert refused.status == 409
    assert refused.headers["x-interlock-original-request-id"] == first.request_id
    assert refused.headers["x-should-retry"] == "false"
    assert edge.engine.statistics().requests == 1


async def test_what_is_kept_is_sealed_and_of_the_workspace(edge, store, scope):
    await ask(edge)
    other = await make_tenant_key(store, scope)
    path, body = PATHS["chat"]
    content = json.dumps({"model": "default", **body}).encode()
    assert (await edge.call("POST", path, content, key=other, idempotency_key="k-1")).headers["x-interlock-replayed"]
    async with store.ops("what is kept") as tx:
        kept = await tx._connection.fetchval(
            "SELECT reply FROM store_idempotency_keys WHERE organization_id = $1", scope.organization_id
        )
    assert b"chat.completion" not in kept


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_of_the_wrong_form_is_refused(edge, key):
    refused = await ask(edge, key=key)
    assert (refused.status, refused.body["error"]["param"]) == (400, "Idempotency-Key")


async def test_two_keys_are_none(edge):
    path, body = PATHS["chat"]
    content = json.dumps({"model": "default", **body}).encode()
    for given, status in ((("a", "b"), 400), (("a", "a"), 200)):
        fields = [*edge.headers(), *((b"idempotency-key", each.encode()) for each in given)]
        async with edge.client.request("POST", edge.url + path, fields, content, timeouts=CALL) as answer:
            assert answer.status == status


async def test_a_dead_owners_key_is_free_after_its_lease_and_its_late_answer_changes_nothing(edge, scope):
    edge.engine.script = Script(tokens=3, first_token_s=120)
    running = asyncio.create_task(ask(edge))
    await edge.until(lambda: edge.process.replays.statistics().held == 1)
    async with edge.store.ops("a lease of a test ends") as tx:
        await tx._connection.execute(
            "UPDATE store_idempotency_keys SET expires_at = now() WHERE organization_id = $1", scope.organization_id
        )
    (claim,) = edge.process.replays._held
    edge.engine.script = Script(tokens=3)
    reply = await ask(edge)
    assert (reply.status, reply.headers.get("x-interlock-replayed")) == (200, None)
    assert not await edge.process.replays._replies.keep(edge.scope, claim, None, 60)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await ask(edge)).content == reply.content


class LateReplies(StoredReplies):
    """A store that gives a name, and whose word of it never comes."""

    def __init__(self, known):
        self.__dict__.update(known.__dict__)
        self.has_given, self.has_freed = asyncio.Event(), asyncio.Event()

    async def claim(self, *given):
        await super().claim(*given)
        self.has_given.set()
        await asyncio.Event().wait()

    async def release(self, claim):
        await super().release(claim)
        self.has_freed.set()


@pytest.mark.parametrize("who", ["caller", "edge"])
async def test_a_key_whose_call_was_left_before_the_store_answered_is_free_for_its_repetition(store, scope, who):
    bounds = patient(idempotency_lease_s=3_600.0, **({"idempotency_wait_s": 0.05} if who == "edge" else {}))
    async with world(store, scope, config=bounds) as edge:
        usual = edge.process.replays._replies
        late = edge.process.replays._replies = LateReplies(usual)
        call = asyncio.create_task(ask(edge))
        await late.has_given.wait()
        if who == "caller":
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        else:
            assert (await call).body["error"]["code"] == "idempotency_unavailable"
        await late.has_freed.wait()
        edge.process.replays._config = patient()
        edge.process.replays._replies = usual
        assert (await ask(edge)).status == 200


async def test_without_the_store_a_call_with_a_key_is_not_made(store_urls, scope, monkeypatch):
    async with opened(store_urls) as own, world(own, scope) as edge:
        assert (await edge.chat()).status == 200
        with monkeypatch.context() as patch:
            take_away(patch, own)
            refused = await ask(edge)
            assert (await edge.chat()).status == 200
    assert (refused.status, refused.body["error"]["code"]) == (503, "idempotency_unavailable")
    assert refused.headers["retry-after"] == "1"
