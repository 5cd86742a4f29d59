"""What engines say about themselves: one state for every dialect, and how far it is believed."""

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.scheduler import Dialect, EngineInspector, FakeEngine, GaugeTrust, Script, Shape, StepLoop
from interlock.scheduler.adapters.fake_dialects import FakeState, page_of
from interlock.scheduler.adapters.metrics_names import dialect_of_page, gauges_of, read_page
from interlock.scheduler.domain.engines import EngineGauges, KvLimit, OwnAccount, Readiness, Trust
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from tests.scheduler.calls import chat

PAGES = Path(__file__).parent / "pages"
FAKED = (Dialect.VLLM, Dialect.SGLANG, Dialect.TGI, Dialect.LLAMACPP)
SHAPE = {"slots": 2, "context_tokens": 4_096, "kv_tokens": 32_000}


@pytest.mark.parametrize(
    ("page", "dialect", "kv_usage", "hit_share", "also"),
    [
        ("vllm", Dialect.VLLM, 0.5, 0.25, {"preemptions": 3.0, "ttft_mean_s": 0.25, "inter_token_mean_s": 0.03}),
        ("vllm_older", Dialect.VLLM, 0.5, None, {"preemptions": 3.0, "ttft_mean_s": 0.25, "inter_token_mean_s": 0.03}),
        ("sglang", Dialect.SGLANG, 0.5, 0.25, {"aborted": 2.0}),
        ("tgi", Dialect.TGI, None, None, {"kv_reserved_tokens": 16_000.0, "queue_mean_s": 0.2}),
        ("llamacpp", Dialect.LLAMACPP, None, 0.25, {"decode_tps": 41.5}),
    ],
)
def test_metric_aliases(page, dialect, kv_usage, hit_share, also):
    """Stored pages, old names and new: the same figures; what a dialect does not tell is absent, never 0."""
    samples = read_page((PAGES / f"{page}.txt").read_text())
    assert dialect_of_page(samples) is dialect
    gauges = gauges_of(dialect, samples)
    assert (gauges.running, gauges.waiting, gauges.held) == (7, 1, 8)
    assert (gauges.kv_usage, gauges.prefix_hit_share, dict(gauges.also)) == (kv_usage, hit_share, also)
    assert gauges.kv_tokens == (32_000 if dialect in {Dialect.VLLM, Dialect.SGLANG} else None)


def test_an_engine_that_nobody_has_asked_yet_tells_the_same_in_every_dialect():
    idle = FakeState("m", 2, 4_096, 32_000, 0, 0, 0, 0, 0, 0, 0, 0)
    for dialect in FAKED:
        gauges = gauges_of(dialect, read_page(page_of(dialect, "/metrics", idle).content.decode()))
        assert (gauges.running, gauges.waiting, gauges.prefix_hit_share) == (0, 0, None)


def test_a_page_of_nonsense_tells_nothing():
    text = 'vllm:num_requests_running NaN\nvllm:num_requests_waiting{a="1\nx y z\n\x00\nvllm:kv_cache_usage_perc +Inf\n'
    assert gauges_of(Dialect.VLLM, read_page(text)) == EngineGauges()


@contextmanager
def cli_fake(dialect):
    command = [sys.executable, "-m", "interlock", "engine", "fake", "--port", "0", "--dialect", dialect.value]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().removeprefix("ready ").strip()
        finally:
            process.terminate()
        assert process.wait(240) == 0


def cli_probe(url):
    done = subprocess.run(
        [sys.executable, "-m", "interlock", "engine", "probe", url, "--timeout-s", "60", "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, json.loads(done.stdout)


def test_probe_prints_the_same_state_for_two_dialects_and_down_for_nobody():
    found = {}
    for dialect in (Dialect.TGI, Dialect.LLAMACPP):
        with cli_fake(dialect) as url:
            code, found[dialect] = cli_probe(url + ("/v1" if dialect is Dialect.TGI else ""))
            assert (code, found[dialect]["adapter"]) == (0, dialect.value)
    assert found[Dialect.TGI]["engine_state"] == found[Dialect.LLAMACPP]["engine_state"]
    assert found[Dialect.TGI]["engine_state"]["readiness"] == "ready"
    code, gone = cli_probe(url)
    assert (code, gone["engine_state"]["readiness"], gone["engine_state"]["running"]) == (1, "down", None)


@pytest.fixture
async def fakes(clock, ids):
    """One fake engine a dialect, slow enough to be seen at work."""
    engines = {}
    for dialect in FAKED:
        steps = StepLoop(A100_LLAMA3_8B, slots=2, speed=0.5, clock=clock)
        shape = Shape(dialect=dialect, **SHAPE)
        engines[dialect] = FakeEngine(Script(tokens=4_000), clock=clock, ids=ids, shape=shape, steps=steps)
    yield engines
    for engine in engines.values():
        await engine.close()


async def test_busy_engines_of_all_dialects_read_alike(fakes, client):
    inspector = EngineInspector(client, timeout_s=120.0)
    body = json.dumps({**chat("word " * 99), "stream": True}).encode()

    async def stream(url):
        async with client.request("POST", f"{url}/v1/chat/completions", [], body) as answer:
            async with aclosing(answer.chunks()) as chunks:
                async for _ in chunks:
                    pass

    async def busy(url):
        while True:
            report = await inspector.inspect(url)
            if (report.gauges.running, report.gauges.waiting) == (2, 1) and report.gauges.kv_usage:
                return report

    reports = []
    for dialect, engine in fakes.items():
        url = await engine.listen()
        calls = [asyncio.create_task(stream(url)) for _ in range(3)]
        async with asyncio.timeout(240):
            report = await busy(url)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert (report.dialect, report.readiness) == (dialect, Readiness.READY)
        assert (report.models, report.context_tokens, report.gauges.kv_tokens) == (("fake",), 4_096, 32_000)
        # Two of these streams never hold more than 8,200 of 32,000 tokens, however late the look.
        assert 0 < report.gauges.kv_usage < 0.27
        reports.append(report)
    assert len({tuple(report.state) for report in reports}) == 1


async def test_the_embedded_engine_is_told_from_vllm_by_its_list_of_models(engine, client):
    inspector = EngineInspector(client, timeout_s=120.0, token="internal-token-of-the-tests")
    report = await inspector.inspect(engine.url.removesuffix(":"))
    assert (report.dialect, report.readiness) == (Dialect.EMBEDDED, Readiness.READY)
    assert (report.gauges.running, report.gauges.waiting, report.context_tokens) == (0, 0, 2_048)


def own(in_flight, events, streaming=0):
    return OwnAccount(in_flight=in_flight, streaming=streaming, events=events)


def test_others_on_the_engine_take_seats_slowly_and_never_the_last_ones():
    trust = GaugeTrust(slots=8)
    trust.scraped(EngineGauges(running=6, waiting=0), own(2, 1))
    assert trust.others == 1
    for event in range(2, 40):
        trust.scraped(EngineGauges(running=400, waiting=event), own(2, event))
    assert trust.verdict is Trust.TRUSTED
    assert trust.others == 6


def test_frozen_gauges_are_not_used_while_work_moves():
    trust = GaugeTrust(slots=8)
    for event in range(20):
        trust.scraped(EngineGauges(running=8, waiting=3), own(2, event))
    assert (trust.verdict, trust.others) == (Trust.FROZEN, 0)
    trust.scraped(EngineGauges(running=7, waiting=3), own(2, 21))
    assert trust.verdict is Trust.TRUSTED


def test_an_idle_engine_whose_page_stands_still_is_believed():
    trust = GaugeTrust(slots=8)
    for _ in range(20):
        trust.scraped(EngineGauges(running=0, waiting=0), own(0, 5))
    assert (trust.verdict, trust.others) == (Trust.TRUSTED, 0)


def test_lying_gauges_are_left_aside_for_a_while():
    trust = GaugeTrust(slots=8)
    for event in range(3):
        trust.scraped(EngineGauges(running=0, waiting=0, kv_usage=event / 10), own(5, event, streaming=4))
    assert (trust.verdict, trust.others) == (Trust.LYING, 0)
    trust.scraped(EngineGauges(running=8, waiting=0), own(5, 9, streaming=4))
    assert trust.verdict is Trust.LYING
    trust.scraped(None, own(5, 10))
    assert (trust.verdict, trust.others) == (Trust.MISSING, 0)


@given(
    slots=st.integers(1, 64),
    scrapes=st.lists(
        st.tuples(st.none() | st.integers(-5, 10**9), st.integers(0, 64), st.integers(0, 64), st.integers(0, 9))
    ),
)
def test_no_page_gives_credit_beyond_own_accounting_or_stops_a_pool(slots, scrapes):
    trust = GaugeTrust(slots)
    for held, in_flight, streaming, events in scrapes:
        gauges = None if held is None else EngineGauges(running=held)
        trust.scraped(gauges, own(in_flight, events, min(streaming, in_flight)))
        assert 0 <= trust.others < slots


def test_preemptions_lower_the_kv_limit_and_time_raises_it():
    limit, second_us = KvLimit(), 1_000_000
    limit.scraped(0, 10)
    limit.scraped(second_us, 12)
    assert limit.share == pytest.approx(0.81)
    for number in range(20):
        limit.scraped((2 + number) * second_us, 13 + number)
    assert limit.share == 0.60
    limit.scraped(621 * second_us, 32)
    assert limit.share == pytest.approx(0.70, abs=0.01)
    limit.scraped(7_000 * second_us, 0)
    assert limit.share == 0.90
