"""Strangers, hostile bytes, switches, control: what is decided before a request may consume anything."""

import asyncio
import json
import math
import socket

import pytest

from interlock.foundation.control import ControlStory, StoryDecision, StoryLink
from interlock.foundation.flags import Kill, seal_local
from interlock.foundation.identity.domain.keys import lookup_of
from interlock.foundation.ids import format_id
from interlock.foundation.supervisor import PlatformState, Reason
from interlock.foundation.wire import ClientGone, Server, WireLimits
from interlock.scheduler import Script
from tests.gateway.worlds import (
    CLOCK,
    IDS,
    MESSAGES,
    SECRET,
    edge_alone,
    make_tenant_key,
    patient,
    take_away,
    unknown_key,
    world,
)
from tests.support.clocks import HandClock
from tests.support.store import opened


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope) as each:
        yield each


def garbage(key):
    return key[:-1] + ("a" if key[-1] != "a" else "b")


# Strangers.


@pytest.mark.parametrize("key", ["", "foo", "il_live_" + "0" * 46])
async def test_what_is_no_key_is_refused_without_reading_the_body(edge, key):
    reply = await edge.chat(key=key)
    assert (reply.status, reply.body["error"]["code"]) == (401, "invalid_key")
    assert reply.body["error"]["type"] == "authentication_error"
    assert "x-should-retry" not in reply.headers
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.rule, story.organization_id) == ("unauthenticated", "key.invalid_key", None)


async def test_a_strangers_body_is_never_awaited(edge):
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
    line = await asyncio.wait_for(reader.readline(), 240)
    assert line.startswith(b"HTTP/1.1 401")
    writer.close()


async def test_a_key_that_is_revoked_while_its_body_comes_is_refused(edge, store, scope):
    """Whoever opens a request before the revocation must not have hours in which to send its body."""
    key = await make_tenant_key(store, scope)
    body = json.dumps({"model": "default", "messages": MESSAGES}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:-1])
    await edge.until(lambda: edge.process.entrance.taken == 1)
    async with store.transaction(scope) as tx:
        await tx._connection.execute(
            "UPDATE identity_api_keys SET revoked_us = $2, version = version + 1 WHERE lookup = $1",
            lookup_of(key),
            CLOCK.now_us(),
        )
    await edge.process._parts.keys.reload()
    writer.write(body[-1:])
    assert (await asyncio.wait_for(reader.readline(), 240)).startswith(b"HTTP/1.1 401")
    writer.close()
    assert (await edge.latest()).error_code == "key_revoked"
    assert edge.engine.statistics().requests == 0


async def test_a_wrong_character_is_garbage_before_any_look_up(edge, store):
    ops = store.ops
    asked = []

    def counted(reason):
        asked.append(reason)
        return ops(reason)

    store.ops = counted
    reply = await edge.chat(key=garbage(edge.key))
    store.ops = ops
    assert reply.status == 401
    assert "a key that is not in memory" not in asked


async def test_a_key_made_a_moment_ago_is_found_in_the_store(edge, store, scope):
    key = await make_tenant_key(store, scope)
    assert (await edge.chat(key=key)).status == 200


@pytest.mark.parametrize(
    ("fields", "code", "status"),
    [
        ({"revoked_us": 1}, "key_revoked", 401),
        ({"expires_us": 1}, "key_expired", 401),
        ({"cidrs": ["10.0.0.0/8"]}, "ip_denied", 403),
        ({"scopes": ["requests:read"]}, "scope_denied", 403),
    ],
)
async def test_a_key_that_may_not_is_told_why(edge, store, scope, fields, code, status):
    key = await make_tenant_key(store, scope, **fields)
    reply = await edge.chat(key=key)
    assert (reply.status, reply.body["error"]["code"]) == (status, code)
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.error_code) == (code, code)


async def test_two_different_keys_are_a_bad_request(edge):
    reply = await edge.call("POST", "/v1/chat/completions", b"{}", x_api_key="other")
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_request")
    same = await edge.chat(headers={"x_api_key": edge.key})
    assert same.status == 200


async def test_two_keys_in_headers_of_one_name_are_a_bad_request(edge):
    one, other = (f"authorization: Bearer {each}\r\n".encode() for each in (edge.key, "il_live_other"))
    with socket.create_connection(("127.0.0.1", edge.port)) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + one + other + b"\r\n")
        assert (await asyncio.to_thread(read_to_end, raw)).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", edge.port)) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + one + one + b"\r\n")
        assert (await asyncio.to_thread(read_to_end, raw)).startswith(b"HTTP/1.1 200")


async def test_a_key_may_stand_in_either_header(edge):
    body = json.dumps({"model": "default", "messages": MESSAGES}).encode()
    assert (await edge.call("POST", "/v1/chat/completions", body, key="", x_api_key=edge.key)).status == 200


async def test_guessing_is_answered_with_429_and_a_good_key_still_served(store, scope):
    # No minute passes: however slow the machine, nothing is refilled.
    clock = HandClock()
    clock.stop()
    async with world(store, scope, config=patient(failed_keys_per_minute=5), clock=clock) as edge:
        statuses = [(await edge.chat(key="foo")).status for _ in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        refused = await edge.chat(key="foo")
        assert refused.body["interlock"]["scope"] == "address"
        assert int(refused.headers["retry-after-ms"]) > 0
        assert (await edge.chat()).status == 200


async def test_stories_of_strangers_are_bounded_and_say_so(store, scope):
    clock = HandClock()
    clock.stop()
    async with world(store, scope, config=patient(stranger_stories_per_s=3), clock=clock) as edge:
        replies = [await edge.chat(key="foo") for _ in range(8)]
        sampled = [each for each in replies if each.headers.get("x-interlock-story") == "sampled-out"]
        assert len(sampled) == 5
        told = next(each for each in replies if "x-interlock-story" not in each.headers)
        assert (await edge.story(told.request_id)).status == 401
        assert (await edge.chat()).status == 200


async def test_behind_a_trusted_proxy_the_address_is_the_one_it_names(store, scope):
    config = patient(trusted_proxies=("127.0.0.0/8", "10.1.0.0/16"))
    async with world(store, scope, config=config) as edge:
        key = await make_tenant_key(store, scope, cidrs=["203.0.113.0/24"])
        forwarded = {"x_forwarded_for": "198.51.100.1, 203.0.113.7, 10.1.2.3"}
        assert (await edge.chat(key=key, headers=forwarded)).status == 200
        assert (await edge.chat(key=key, headers={"x_forwarded_for": "203.0.113.7, 198.51.100.1"})).status == 403
    async with world(store, scope) as edge:
        key = await make_tenant_key(store, scope, cidrs=["203.0.113.0/24"])
        assert (await edge.chat(key=key, headers=forwarded)).status == 403


# Bytes.


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b'{"model":"default","model":"x"}', "invalid_json"),
        (b'{"model":"default","messages":' + b"[" * 70 + b"]" * 70 + b"}", "invalid_json"),
        (b'{"model":"default","stream":1}', "invalid_request"),
    ],
)
async def test_a_hostile_body_is_refused_before_the_model_server_hears_of_it(edge, body, code):
    reply = await edge.call("POST", "/v1/chat/completions", body)
    assert (reply.status, reply.body["error"]["code"]) == (400, code)
    assert reply.body["error"]["type"] == "invalid_request_error"
    assert edge.engine.statistics().requests == 0
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.organization_id) == ("bad_request", edge.scope.organization_id)


async def test_a_body_that_is_too_large_is_refused_without_reading_on(store, scope):
    async with world(store, scope, config=patient(body_bytes_max=2_000)) as edge:
        reply = await edge.chat(messages=[{"role": "user", "content": "x" * 3_000}])
        assert (reply.status, reply.body["error"]["code"]) == (413, "body_too_large")
        story = await edge.story(reply.request_id)
        assert (story.outcome, story.rule) == ("too_large", "http.body_too_large")


async def test_a_smuggled_request_has_a_story(edge):
    with socket.create_connection(("127.0.0.1", edge.port)) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        answer = await asyncio.to_thread(read_to_end, raw)
    assert answer.startswith(b"HTTP/1.1 400")
    request_id = answer.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    story = await edge.story(request_id)
    assert (story.outcome, story.rule, story.error_code) == ("bad_request", "http.bad_http", "bad_http")
    assert samples_of(edge)["interlock_wire_refused_total", "bad_http"] == 1


def samples_of(edge):
    """What the edge counts, by name and its one label."""
    families = edge.process.edge._metrics.collect()
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def read_to_end(raw):
    raw.settimeout(240)
    found = b""
    while chunk := raw.recv(65_536):
        found += chunk
    return found


@pytest.mark.parametrize("value", ["x" * 129, "a\x01b"])
async def test_the_callers_own_id_is_checked(edge, value):
    reply = await edge.chat(headers={"x_client_request_id": value})
    assert reply.status == 400


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("x-interlock-class", "urgent", ["interactive", "standard", "batch"]),
        ("x-interlock-class", "", ["interactive", "standard", "batch"]),
        ("x-interlock-degrade", "yes", ["allow", "never"]),
        ("x-interlock-degrade", "n\xe9ver", ["allow", "never"]),
    ],
)
async def test_a_word_that_means_nothing_is_refused_with_those_that_do(edge, name, value, allowed):
    refused = await edge.chat(headers={name.replace("-", "_"): value})
    assert (refused.status, refused.body["error"]["code"]) == (400, "invalid_request")
    assert refused.body["error"]["param"] == name
    assert refused.body["interlock"]["allowed"] == allowed
    assert all(f"`{each}`" in refused.body["error"]["message"] for each in allowed)
    story = await edge.story(refused.request_id)
    assert (story.outcome, story.rule) == ("bad_request", f"header.{name}")
    for word in allowed:
        assert (await edge.chat(headers={name.replace("-", "_"): word.title()})).status == 200


@pytest.mark.parametrize("value", ["5s", "0", "-1", "nan", "inf", "1e999", "1_000", ""])
async def test_a_deadline_that_is_none_is_refused_and_not_passed_over(edge, value):
    refused = await edge.chat(headers={"x_interlock_deadline_ms": value})
    assert (refused.status, refused.body["error"]["param"]) == (400, "x-interlock-deadline-ms")
    story = await edge.story(refused.request_id)
    assert (story.outcome, story.rule) == ("bad_request", "header.x-interlock-deadline-ms")
    # What clients of a vendor send by themselves is not the caller's word.
    assert (await edge.chat(headers={"x_stainless_read_timeout": "NOT_GIVEN"})).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/completions", 404),
        ("POST", "/internal/grants", 404),
        ("GET", "/internal", 404),
    ],
)
async def test_paths_that_are_not_served_have_a_story(edge, method, path, status):
    reply = await edge.call(method, path, b"")
    assert reply.status == status
    if status == 405:
        assert reply.headers["allow"]
    story = await edge.story(reply.request_id)
    assert (story.status, story.outcome) == (status, "bad_request")
    assert story.rule == ("http.method_not_allowed" if status == 405 else "http.not_found")


# Switches.


@pytest.mark.parametrize(
    "scope_name", ["gateway", "organization", "workspace", "key", "route", "deployment", "provider"]
)
async def test_a_switch_stops_what_it_names(edge, scope_name, tmp_path):
    record = edge.process.edge._admission._authenticator.check(edge.key, "127.0.0.1", CLOCK.now_us()).key
    targets = {
        "gateway": "*",
        "organization": str(edge.scope.organization_id),
        "workspace": str(edge.scope.workspace_id),
        "key": str(record.id),
        "route": "default",
        "deployment": "fake",
        "provider": "engine",
    }
    throw(edge, scope_name, targets[scope_name])
    reply = await edge.chat()
    assert (reply.status, reply.body["error"]["code"]) == (503, "killed")
    assert reply.headers["x-should-retry"] == "false"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.rule) == ("killed", f"kill.{scope_name}.{targets[scope_name]}")
    assert (await edge.call("GET", "/healthz")).status == 200
    lift(edge)
    assert (await edge.chat()).status == 200


async def test_a_switch_of_mode_abort_ends_what_streams(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.02)
    task = asyncio.create_task(edge.chat(stream=True))
    await edge.until(lambda: edge.engine.statistics().tokens > 3)
    throw(edge, "route", "default", mode="abort")
    reply = await asyncio.wait_for(task, 240)
    assert json.loads(reply.events[-1])["error"]["code"] == "killed"
    await edge.until(lambda: edge.engine.statistics().running == 0)
    assert (await edge.story(reply.request_id)).outcome == "killed"


async def test_a_switch_of_mode_abort_ends_what_waits_for_its_first_token(edge):
    edge.engine.script = Script(first_token_s=600)
    task = asyncio.create_task(edge.chat(stream=True))
    await edge.until(lambda: edge.engine.statistics().running == 1)
    throw(edge, "gateway", "*", mode="abort")
    reply = await asyncio.wait_for(task, 240)
    assert (reply.status, reply.body["error"]["code"]) == (503, "killed")
    await edge.until(lambda: edge.engine.statistics().running == 0)


async def test_a_switch_of_mode_reject_lets_what_runs_finish(edge):
    edge.engine.script = Script(tokens=3, first_token_s=2.0)
    task = asyncio.create_task(edge.chat(stream=True))
    await edge.until(lambda: edge.engine.statistics().running == 1)
    throw(edge, "gateway", "*", mode="reject")
    assert (await task).events[-1] == "[DONE]"
    assert (await edge.chat()).status == 503


def throw(edge, scope_name, target, mode="reject"):
    """A local switch: the way that needs neither store nor control."""
    kill = Kill(
        id=format_id("kill", IDS.new()),
        organization_id=edge.scope.organization_id,
        scope=scope_name,
        target=target,
        mode=mode,
        reason="test",
        actor="test",
        created_us=CLOCK.now_us(),
        is_local=True,
    )
    (edge.folder / "one.kill").write_bytes(seal_local(kill, SECRET))
    edge.switches.look_at_folder()


def lift(edge):
    (edge.folder / "one.kill").unlink()
    edge.switches.look_at_folder()


# Control.


@pytest.fixture
async def control(edge):
    """A stand-in for the control process: it echoes what reached it, and streams where asked."""
    seen = []

    async def handler(exchange):
        request = exchange.request
        seen.append((request, await request.body(1 << 20)))
        if request.path == "/stream":
            await exchange.start(200, [(b"content-type", b"text/event-stream")])
            try:
                for at in range(100):
                    await exchange.write(b"data: %d\n\n" % at)
                    await CLOCK.sleep(0.05)
            except ClientGone:
                return
            await exchange.finish()
            return
        story = ControlStory(
            organization_id=edge.scope.organization_id,
            workspace_id=edge.scope.workspace_id,
            outcome_code="ok" if request.path == "/ok" else "role_denied",
            rule="admin:write",
            decisions=[StoryDecision("policy", "admin:write", "allow", "owner")],
            links=[StoryLink("key", "key_1")],
        )
        headers = [(b"x-interlock-story", story.to_header().encode()), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        await exchange.respond(200 if request.path == "/ok" else 403, headers, b"body")

    server = Server(handler, WireLimits(), mint=lambda: "req_control", clock=CLOCK)
    await server.listen_unix(edge.folder / "control.sock")
    yield seen
    await server.drain(0.1)


async def test_other_paths_go_to_control_with_the_edges_own_id_and_address(edge, control):
    reply = await edge.call(
        "POST", "/ok?a=1&b=%20", b"content", x_request_id="mine", x_interlock_address="6.6.6.6", cookie="s=1"
    )
    assert (reply.status, reply.content) == (200, b"body")
    assert "x-interlock-story" not in reply.headers
    request, body = control[0]
    assert (request.method, request.target, body) == ("POST", b"/ok?a=1&b=%20", b"content")
    assert request.headers.getall(b"x-request-id") == [reply.request_id.encode()]
    assert request.headers.getall(b"x-interlock-address") == [b"127.0.0.1"]
    assert request.headers.get(b"cookie") == b"s=1"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.status, story.rule) == ("ok", 200, "admin:write")
    assert story.organization_id == edge.scope.organization_id
    assert [each.step for each in story.decisions] == ["received", "policy", "finished"]
    assert (story.links[0].kind, story.links[0].id) == ("key", "key_1")


async def test_a_refusal_of_control_has_the_class_of_its_code(edge, control):
    reply = await edge.call("DELETE", "/no")
    assert reply.status == 403
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.error_code) == ("scope_denied", "role_denied")
    assert len(control) == 1


async def test_control_streams_through_and_is_left_with_the_client(edge, control):
    async with edge.client.request("GET", edge.url + "/stream", edge.headers()) as answer:
        async for piece in answer.chunks():
            assert piece.startswith(b"data: 0")
            break
    await CLOCK.sleep(0.2)
    assert len(control) == 1
    await edge.until(lambda: not edge.process.edge._passages)


async def test_without_control_the_rest_is_502_and_inference_goes_on(edge):
    reply = await edge.call("GET", "/console")
    assert (reply.status, reply.body["error"]["code"]) == (502, "control_unavailable")
    assert (await edge.story(reply.request_id)).rule == "control.away"
    assert (await edge.chat()).status == 200


# The edge's own word.


async def test_ready_is_what_the_supervisor_last_said(edge):
    assert (await edge.call("GET", "/readyz", key="")).body == {"ready": True, "degraded": []}
    edge.state[0] = PlatformState(ready=True, degraded=("store",))
    assert (await edge.call("GET", "/readyz", key="")).body["degraded"] == ["store"]
    edge.state[0] = PlatformState(reasons=(Reason("engine", "is starting"),))
    reply = await edge.call("GET", "/readyz", key="")
    assert (reply.status, reply.body) == (
        503, {"ready": False, "reasons": [{"check": "engine", "detail": "is starting"}]},
    )  # fmt: skip
    assert (await edge.call("GET", "/metrics", key="")).status == 200


async def test_metrics_are_for_this_machine_or_a_key_that_may_read_them(store, scope):
    async with world(store, scope, config=patient(trusted_proxies=("127.0.0.0/8",))) as edge:
        assert (await edge.call("GET", "/metrics", key="")).status == 200
        from_outside = {"x_forwarded_for": "198.51.100.1"}
        assert (await edge.call("GET", "/metrics", key="", **from_outside)).status == 401
        assert (await edge.call("GET", "/metrics", **from_outside)).status == 403


async def test_too_many_new_connections_of_one_address_are_told_and_counted(edge):
    edge.process.server._count._even_at["127.0.0.1"] = math.inf
    with socket.create_connection(("127.0.0.1", edge.port)) as raw:
        answer = await asyncio.to_thread(read_to_end, raw)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b'"requests_limit"' in answer
    request_id = answer.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    story = await edge.story(request_id)
    assert (story.outcome, story.rule) == ("limited_requests", "http.requests_limit")
    samples = samples_of(edge)
    assert samples["interlock_gateway_connections_refused_total", "too_fast"] == 1
    assert samples["interlock_gateway_connections_refused_total", "too_many"] == 0


async def test_an_edge_that_starts_without_the_store_serves_what_it_knew(store_urls, scope, monkeypatch):
    async with opened(store_urls) as own, world(own, scope) as edge:
        assert (await edge.chat()).status == 200
        edge.process.memory.save()
        kept = (edge.folder / "edge.snap").read_bytes()
        assert edge.key.encode() not in kept
        take_away(monkeypatch, own)
        await CLOCK.sleep(1.1)
        async with edge_alone(own, scope, "edge-1", start_from=kept) as second:
            second.key = edge.key
            reply = await second.chat()
            assert reply.status == 200
            assert 0 <= int(reply.headers["x-interlock-stale-config"]) < 3_600
            stranger = await second.chat(key=unknown_key())
            assert (stranger.status, stranger.body["error"]["code"]) == (503, "identity_unavailable")
            assert (await second.chat(key="foo")).status == 401


async def test_an_edge_says_that_the_store_is_away_and_after_long_that_nothing_was_confirmed(
    store_urls, scope, monkeypatch
):
    clock = HandClock()
    async with opened(store_urls) as own, world(own, scope, clock=clock) as edge:
        memory = edge.process.memory
        await edge.followed()
        assert memory.degraded() == ()
        with monkeypatch.context() as patch:
            take_away(patch, own)
            clock.forward += 2
            assert memory.degraded() == ("store",)
            clock.forward += 60
            assert memory.degraded() == ("config", "store")
        await edge.until(lambda: memory.degraded() == ())
