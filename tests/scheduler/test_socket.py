"""The internal calls as an edge makes them, over the real socket."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from interlock.foundation.errors import InterlockError
from interlock.scheduler import (
    EMBEDDED_OBJECTIVES,
    EngineSpec,
    FrontService,
    PoolSpec,
    SchedulerConfig,
    SchedulerServer,
)
from interlock.scheduler.adapters.pool_client import PoolClient
from interlock.scheduler.domain.types import EngineCondition
from tests.scheduler.calls import AUTHORIZED, TOKEN
from tests.support.clocks import HandClock

SLOTS = 2
BODY = {
    "pool": "embedded",
    "organization_id": "00000000-0000-0000-0000-000000000001",
    "workspace_id": "00000000-0000-0000-0000-000000000002",
    "key_id": None,
    "class": "interactive",
    "input_tokens": 10,
    "max_tokens": 20,
}
FIGURES = {
    "outcome": "ok",
    "input_tokens": 10,
    "cached_input_tokens": 0,
    "output_tokens": 5,
    "ttft_ms": 90,
    "total_ms": 400,
}


class Edge:
    """A worker of the gateway, by hand."""

    def __init__(self, client, url, front, clock):
        self.client = client
        self.url = url
        self.front = front
        self.clock = clock

    async def call(self, path, body=None, headers=AUTHORIZED):
        content = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        method = "GET" if body is None else "POST"
        async with self.client.request(method, self.url + path, headers, content) as answer:
            return answer.status, msgspec.json.decode(await answer.read(1_000_000)), answer.headers

    async def acquire(self, name, **changes):
        status, answer, _ = await self.call("/internal/grants", {**BODY, "request_id": name, **changes})
        return status, answer

    async def pool(self):
        return (await self.call("/internal/pools/embedded"))[1]

    async def settle(self, grant_id, **changes):
        status, answer, _ = await self.call(f"/internal/grants/{grant_id}/settle", {**FIGURES, **changes})
        return status, answer

    async def until(self, keeping=None, passing_s=0.0, **wanted):
        """Wait until the pool shows these figures; `keeping` is a grant whose lease is renewed meanwhile.

        Leases stand still but for the seconds that are let pass at each look.
        """
        report = {"grants": [{"grant_id": keeping, "output_tokens": 1}] if keeping else []}
        async with asyncio.timeout(240):
            while not wanted.items() <= scalars(await self.pool()).items():
                await self.call("/internal/progress", report)
                self.clock.forward += passing_s
                await self.clock.sleep(0.01)


def scalars(view):
    return {name: value for name, value in view.items() if isinstance(value, int)}


@pytest.fixture
async def edge(short_path, ids, client):
    # However slow the machine, no lease ends before the test lets its time pass.
    clock = HandClock()
    clock.stop()
    config = SchedulerConfig(lease_s=1.0, tick_s=0.05)
    spec = PoolSpec("embedded", EMBEDDED_OBJECTIVES, (EngineSpec("unix:/engine.sock", "m", SLOTS, 2_048),))
    front = FrontService([spec], clock=clock, ids=ids, config=config)
    [engine] = front.engines("embedded")
    front.engine_changed("embedded", replace(engine, condition=EngineCondition.READY))
    server = SchedulerServer(front, token=TOKEN, leader="scheduler-0", clock=clock, ids=ids, config=config)
    path = short_path / "scheduler.sock"
    await server.listen(path)
    running = asyncio.create_task(front.run())
    yield Edge(client, f"unix:{path}:", front, clock)
    running.cancel()
    await server.drain(0.5)


async def test_a_grant_carries_the_place_and_the_steps_that_led_to_it(edge):
    status, grant = await edge.acquire("req_a", prefix=["0123456789abcdef"], ttft_ms=500, route="default")
    assert status == 200
    assert grant["grant_id"].startswith("gnt_")
    assert grant["engine_id"].startswith("eng_")
    assert (grant["engine_url"], grant["engine_model"]) == ("unix:/engine.sock", "m")
    assert (grant["expires_in_ms"], grant["promise"]) == (1_000, "final")
    assert set(grant["predicted"]) == {"ttft_ms", "tpot_ms", "output_tokens", "cached_input_tokens"}
    assert grant["predicted"]["output_tokens"] == 10
    assert [step["step"] for step in grant["decision"]] == ["arrived", "predicted", "queued", "granted"]
    arrived, _, queued, granted = grant["decision"]
    assert {"position": 1, "class": "interactive", "over_share": False, "input_tokens": 10}.items() <= arrived.items()
    assert (queued["tier"], queued["promise"]) == (0, "final")
    assert (granted["engine"], granted["reason"]) == (grant["engine_id"], "least_backlog")


async def test_a_held_call_is_answered_when_a_slot_is_free(edge):
    grants = [(await edge.acquire(name))[1]["grant_id"] for name in ("req_a", "req_b")]
    held = asyncio.create_task(edge.acquire("req_c"))
    await edge.until(queued=1, granted=2, queued_tokens=10)
    await edge.settle(grants[0])
    status, grant = await held
    assert (status, grant["grant_id"] not in grants) == (200, True)


async def test_closing_a_held_call_gives_the_seat_back(edge):
    await edge.acquire("req_a")
    await edge.acquire("req_b")
    held = [asyncio.create_task(edge.acquire(f"req_held_{n}")) for n in range(3)]
    await edge.until(queued=3)
    held[1].cancel()
    await edge.until(queued=2)
    for call in held:
        call.cancel()
    await edge.until(queued=0, granted=2)
    assert (await edge.pool())["statistics"]["canceled"] == 3


async def test_a_grant_that_comes_while_the_caller_goes_is_not_leaked(edge):
    """An answer that was on its way when its reader left is given back by its lease at the latest."""
    keeper = (await edge.acquire("req_keeper"))[1]["grant_id"]
    for number in range(4):
        _, grant = await edge.acquire(f"req_{number}")
        held = asyncio.create_task(edge.acquire(f"req_held_{number}"))
        await edge.until(queued=1)
        settling = asyncio.create_task(edge.settle(grant["grant_id"]))
        for _ in range(number):
            await asyncio.sleep(0)
        held.cancel()
        await asyncio.wait([held])
        assert (await settling)[0] == 200
        await edge.until(queued=0, granted=1, keeping=keeper, passing_s=0.1)


async def test_settling_twice_is_one_settlement(edge):
    _, grant = await edge.acquire("req_a")
    first = await edge.settle(grant["grant_id"])
    assert first == (
        200,
        {"in_slo": True, "charged_tokens": 20, "refunded_tokens": 30, "cost_usd": "0", "wasted_tokens": 0},
    )
    assert await edge.settle(grant["grant_id"]) == first
    status, other = await edge.settle(grant["grant_id"], output_tokens=6)
    assert (status, other["error"]["code"]) == (409, "grant_settled")
    status, unknown = await edge.settle("gnt_0000000000000000000000000a")
    assert (status, unknown["error"]["code"]) == (404, "grant_unknown")


async def test_time_before_the_grant_is_not_charged_to_the_engine(edge):
    """The edge's total begins at its own door; ten slow seconds there are not slow output tokens."""
    _, grant = await edge.acquire("req_a")
    _, settled = await edge.settle(grant["grant_id"], total_ms=10_000)
    assert settled["in_slo"]


async def test_a_second_call_for_a_live_request_is_refused(edge):
    await edge.acquire("req_a")
    status, answer = await edge.acquire("req_a")
    assert (status, answer["error"]["code"]) == (409, "grant_exists")


async def test_progress_renews_and_a_silent_edge_loses_its_grant(edge):
    _, kept = await edge.acquire("req_kept")
    _, silent = await edge.acquire("req_silent")
    for tokens in range(30):
        report = {"grants": [{"grant_id": kept["grant_id"], "output_tokens": tokens}]}
        _, reply, _ = await edge.call("/internal/progress", report)
        assert reply == {"unknown": [], "revoked": [], "drained": []}
        edge.clock.forward += 0.05
    await edge.until(keeping=kept["grant_id"], granted=1)
    _, reply, _ = await edge.call(
        "/internal/progress", {"grants": [{"grant_id": silent["grant_id"], "output_tokens": 1}]}
    )
    assert reply == {"unknown": [silent["grant_id"]], "revoked": [], "drained": []}
    status, answer = await edge.settle(silent["grant_id"])
    assert (status, answer["error"]["code"]) == (409, "grant_settled")


async def test_grants_of_a_former_leader_are_adopted(edge):
    [engine] = edge.front.engines("embedded")
    grant = {
        **BODY,
        "request_id": "req_old",
        "grant_id": "gnt_0000000000000000000000000a",
        "engine_id": engine.engine_id,
        "age_ms": 900,
        "output_tokens": 4,
    }
    gone = {**grant, "request_id": "req_x", "grant_id": "gnt_0000000000000000000000000b", "engine_id": "eng_gone"}
    _, reply, _ = await edge.call("/internal/adopt", {"worker": "edge-0", "grants": [grant, gone]})
    assert reply == {"adopted": 1, "rejected": [gone["grant_id"]]}
    assert (await edge.pool())["granted"] == 1
    assert (await edge.settle(grant["grant_id"]))[0] == 200


async def test_an_edge_that_was_only_slow_gets_its_grant_back(edge):
    _, grant = await edge.acquire("req_slow")
    await edge.until(passing_s=0.5, granted=0)
    body = {**BODY, "request_id": "req_slow", "grant_id": grant["grant_id"], "engine_id": grant["engine_id"]}
    _, reply, _ = await edge.call(
        "/internal/adopt", {"worker": "edge-0", "grants": [{**body, "age_ms": 1_500, "output_tokens": 9}]}
    )
    assert reply == {"adopted": 1, "rejected": []}
    assert (await edge.settle(grant["grant_id"]))[0] == 200
    assert (await edge.pool())["granted"] == 0


async def test_a_refusal_says_when_to_come_back(edge):
    [engine] = edge.front.engines("embedded")
    body = {**BODY, "request_id": "req_a", "input_tokens": 5_000}
    status, answer, headers = await edge.call("/internal/grants", body)
    assert (status, answer["error"]["code"]) == (413, "request_exceeds_engine")
    assert headers.get(b"x-should-retry") == b"false"
    assert headers.get(b"retry-after") is None
    edge.front.engine_changed("embedded", replace(engine, condition=EngineCondition.DOWN))
    status, answer, headers = await edge.call("/internal/grants", {**BODY, "request_id": "req_b"})
    assert (status, headers.get(b"retry-after"), headers.get(b"retry-after-ms")) == (503, b"5", b"5000")
    assert headers.get(b"x-should-retry") == b"true"
    detail = answer["error"]["detail"]
    assert (detail["rule"], detail["pool"], detail["class"]) == ("no_capacity", "embedded", "interactive")
    assert detail["retry_at"].endswith("Z")
    *_, last = answer["decision"]
    assert (last["step"], last["code"], last["retry_at"]) == ("refused", "no_capacity", detail["retry_at"])


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"input_tokens": 0}, "invalid_request", "input_tokens"),
        ({"input_tokens": 1.5}, "invalid_request", "input_tokens"),
        ({"max_tokens": 10_000_001}, "invalid_request", "max_tokens"),
        ({"max_tokens": None}, "invalid_request", "max_tokens"),
        ({"prefix": ["00"]}, "invalid_request", "prefix"),
        ({"prefix": ["0123456789abcdef"] * 65}, "invalid_request", "prefix"),
        ({"organization_id": "org_x"}, "invalid_request", "organization_id"),
        ({"request_id": ""}, "invalid_request", "request_id"),
        ({"deadline_ms": 0}, "invalid_request", "deadline_ms"),
        ({"request_id": "req\x00a"}, "invalid_request", "request_id"),
        ({"model": "a\nb"}, "invalid_request", "model"),
        ({"surprise": 1}, "invalid_request", "surprise"),
        ({"class": "royal"}, "class_unknown", None),
        ({"pool": "nowhere"}, "pool_unknown", None),
    ],
)
async def test_a_bad_call_is_refused_naming_the_field(edge, change, code, field):
    status, answer = await edge.acquire("req_a", **change)
    assert (status, answer["error"]["code"]) == (404 if code == "pool_unknown" else 400, code)
    assert answer["error"]["detail"].get("field") == field
    assert (await edge.pool())["statistics"]["arrived"] == 0


async def test_a_field_that_is_missing_is_named_where_it_should_stand(edge):
    _, answer, _ = await edge.call("/internal/grants", {"request_id": "req_a", "pool": "embedded"})
    assert answer["error"]["detail"]["field"] == "organization_id"
    _, answer, _ = await edge.call("/internal/progress", {"grants": [{"output_tokens": 1}]})
    assert answer["error"]["detail"]["field"] == "grants[0].grant_id"


async def test_hex_digits_are_taken_in_either_case(edge):
    status, _ = await edge.acquire("req_a", prefix=["0123456789ABCDEF"])
    assert status == 200


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"grants":', b"\xff", b"[" * 60_000])
async def test_garbage_is_an_invalid_request(edge, content):
    status, answer, _ = await edge.call("/internal/grants", content)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


async def test_a_large_body_is_refused(edge):
    status, answer, _ = await edge.call("/internal/progress", b"[" + b" " * 65_536 + b"]")
    assert (status, answer["error"]["code"]) == (413, "body_too_large")


async def test_the_calls_are_for_the_platform_alone(edge):
    for headers in ([], [(b"authorization", b"Bearer x")], [(b"authorization", TOKEN.encode())]):
        status, answer, _ = await edge.call("/internal/pools/embedded", headers=headers)
        assert (status, answer["error"]["code"]) == (401, "internal_only")


async def test_other_addresses_are_not_found(edge):
    assert (await edge.call("/internal/pools/other"))[0] == 404
    assert (await edge.call("/internal/other", {}))[0] == 404
    assert (await edge.call("/v1/models"))[0] == 404
    assert (await edge.call("/internal/grants"))[0] == 405


def reader(edge, token=TOKEN, sockets=()):
    own = Path(edge.url.removeprefix("unix:").removesuffix(":"))
    return PoolClient(edge.client, [*sockets, own], token, 60.0)


async def test_control_reads_a_pool_and_takes_no_refusal_for_it(edge, tmp_path):
    assert (await reader(edge).view("embedded"))["slots"] == SLOTS
    # The first scheduler of the machine is away; the next one answers.
    assert (await reader(edge, sockets=[tmp_path / "away.sock"]).view("embedded", "candidate"))["number"] is None
    for asked, code in (("nowhere", "pool_unknown"), ("embedded/nothing", "no_capacity")):
        with pytest.raises(InterlockError) as caught:
            await reader(edge).view(asked)
        assert caught.value.code == code
    with pytest.raises(InterlockError) as caught:
        await reader(edge, token="another").view("embedded")
    assert caught.value.code == "no_capacity"
    # A scheduler that fails says so in JSON, too.
    edge.front.statistics = lambda _name: 1 / 0
    with pytest.raises(InterlockError) as caught:
        await reader(edge).view("embedded")
    assert caught.value.code == "no_capacity"
