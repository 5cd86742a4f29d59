"""Alerts watch figures that exist, and each has its runbook."""

import re
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
import yaml
from prometheus_client.registry import CollectorRegistry

from interlock.foundation.clock import SystemClock
from interlock.foundation.flags import Propagation
from interlock.foundation.telemetry import Metrics, Spool, SpoolWatch, TelemetryConfig, merge
from interlock.gateway.config import LimitsConfig
from interlock.gateway.metrics import EdgeMetrics
from interlock.gateway.service.reserve import Limiter
from interlock.retrieval.metrics import IndexMetrics, ProbeMetrics, RecallMetrics, SearchMetrics
from interlock.scheduler import PoolMetrics
from interlock.scheduler.adapters.parity_metrics import ParityMetrics
from interlock.scheduler.service.measuring import Measuring
from interlock.wiring.metrics import watch_common, watch_kills

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
FILES = sorted(RUNBOOKS.glob("*.rules.yml"))
# Section 9 of the gateway's design.
GATEWAY = (
    "requests_total", "inflight", "queue_depth", "queue_wait_seconds", "overhead_seconds", "ttft_seconds",
    "event_gap_seconds", "tokens_total", "cost_usd_total", "limit_decisions_total", "lease_wait_seconds", "lease_mode",
    "breaker_state", "retries_total", "estimate_error_ratio", "arm_requests_total", "translation_skipped_total",
)  # fmt: skip
# A store of which nothing is known.
_POOL = SimpleNamespace(waits=0, wait_s_total=0.0, refused=0, size=0)
NO_STORE = SimpleNamespace(is_up=False, outcomes={}, app=_POOL, ops=_POOL)
# What a histogram and a counter are asked for by.
_SUFFIX = re.compile(r"_(bucket|sum|count|total)$")


def rules(path):
    (group,) = yaml.safe_load(path.read_text())["groups"]
    return group["rules"]


def registry(tmp_path) -> CollectorRegistry:
    """Return the registry of a process that counts all that any rule may ask for."""
    metrics = Metrics()
    for each in (IndexMetrics, ProbeMetrics, RecallMetrics, SearchMetrics):
        each(metrics)
    EdgeMetrics(metrics)
    Limiter(None, UUID(int=1), SystemClock(), LimitsConfig(), metrics)
    watch_kills(metrics)
    ring = Spool(tmp_path / "edge.ring", SystemClock(), TelemetryConfig(ring_bytes=1 << 20))
    SpoolWatch(metrics, ring)
    age = SimpleNamespace(age_s=0.0)
    watch_common(metrics, SimpleNamespace(statistics=lambda: NO_STORE), age)
    pools = PoolMetrics(metrics)
    pools.pools(tuple, Measuring(SystemClock()))
    pools.leading(dict)
    ParityMetrics(metrics, tmp_path)
    return metrics.registry


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_alert_watches_what_is_counted(path, tmp_path):
    families = {family.name: family.type for family in registry(tmp_path).collect()}
    for rule in rules(path):
        asked = re.findall(r"interlock_\w+", rule["expr"])
        assert asked
        for name in asked:
            bare = _SUFFIX.sub("", name)
            assert name in families or bare in families, rule["alert"]
            assert name.endswith("_total") == (families.get(bare) == "counter"), f"{rule['alert']}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_alert_has_its_section_and_a_section_its_alert(path):
    page = path.with_name(path.name.replace(".rules.yml", ".md"))
    sections = re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules(path)]


def test_each_runbook_has_its_rules():
    assert {path.name.split(".")[0] for path in FILES} == {path.stem for path in RUNBOOKS.glob("*.md")} != set()


def test_all_that_the_design_of_the_gateway_names_is_counted(tmp_path):
    families = {family.name for family in registry(tmp_path).collect()}
    assert {f"interlock_gateway_{name.removesuffix('_total')}" for name in GATEWAY} <= families


def test_a_switch_that_a_live_process_does_not_know_is_counted():
    metrics = Metrics()
    note = watch_kills(metrics)
    note(Propagation(30, ["edge-0"], []))
    assert "interlock_flags_kills_unacknowledged_total 0.0" in merge([metrics.snapshot()])
    note(Propagation(1_000, [], ["edge-0"]))
    page = merge([metrics.snapshot()])
    assert "interlock_flags_kills_unacknowledged_total 1.0" in page
    assert "interlock_flags_kill_propagation_seconds_count 2.0" in page


@pytest.mark.parametrize(("cost_usd_micros", "unpriced"), [(None, 1.0), (0, 0.0), (12, 0.0)])
def test_an_answer_without_a_price_is_counted(cost_usd_micros, unpriced):
    metrics = Metrics()
    usage = SimpleNamespace(input_tokens=10, output_tokens=3, estimated=True)
    passage = SimpleNamespace(
        endpoint="/v1/chat/completions", outcome="ok", envelope=object(), queue_ms=None, upstream_ms=1.0, ttft_ms=None,
        elapsed_ms=lambda: 2.0, attempts=(), skipped=0, placement=object(), arm=None, usage=usage, input_estimate=10,
        cost_usd_micros=cost_usd_micros,
    )  # fmt: skip
    EdgeMetrics(metrics).finished(passage)
    assert f"interlock_gateway_unpriced_requests_total {unpriced}" in merge([metrics.snapshot()])
