"""What the pools did, as Prometheus reads it."""

from dataclasses import replace

from interlock.contracts.scheduling import GrantProgress, Settlement, SettleOutcome
from interlock.foundation.telemetry import Metrics, merge
from interlock.scheduler import EMBEDDED_OBJECTIVES, EngineSpec, FrontService, PoolMetrics, PoolSpec, SchedulerConfig
from interlock.scheduler.adapters.parity_metrics import ParityMetrics
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.share import Standing
from interlock.scheduler.domain.types import EngineCondition, Grant
from interlock.scheduler.service.measuring import Measuring
from tests.scheduler.calls import grant_request

# Section 9 of the design: what is counted, and the labels that tell one series from another.
NAMES = {
    "time_to_first_token_seconds": {"pool", "class"},
    "tokens_per_second": {"pool", "kind"},
    "queue_wait_time_seconds": {"pool", "class"},
    "end_to_end_latency_seconds": {"pool", "class"},
    "gpu_utilization": {"pool", "source"},
    "error_rate": {"pool", "class"},
    "overload_rejections_total": {"pool", "class", "code"},
    "cost_per_successful_request_usd": {"pool", "class"},
    "goodput": {"pool", "class"},
    "attainment": {"pool", "class"},
    "accepted_attainment": {"pool", "class"},
    "wasted_tokens_total": {"pool", "class"},
    "queued": {"pool"},
    "granted": {"pool"},
    "water_level": {"pool"},
    "over_share_tenants": {"pool"},
    "promises_at_risk_total": {"pool"},
    "displaced_total": {"pool", "class"},
    "prediction_error_ratio": {"pool", "kind"},
    "retry_after_error_seconds": {"pool", "class"},
    "kv_reserved_share": {"pool"},
    "prefix_hit_share": {"pool", "class"},
    "decision_seconds": {"pool"},
    "backlog_seconds": {"pool"},
    "shed_rate": {"pool"},
    "slo_burn": {"pool"},
    "desired_replicas": {"pool"},
    "engine_state": {"pool", "engine", "state"},
    "parity": {"engine", "backend"},
    "settle_mismatch_total": {"pool"},
    "engine_overrun_total": {"pool"},
    "leader_fence": {"pool"},
    "kv_limit_share": {"pool", "engine"},
    "replicas": {"pool"},
}


def test_all_that_the_design_names_is_counted_under_its_name(clock, tmp_path):
    metrics = Metrics()
    observer = PoolMetrics(metrics)
    observer.pools(tuple, Measuring(clock))
    observer.leading(dict)
    ParityMetrics(metrics, tmp_path)
    found = {}
    for family in metrics.registry.collect():
        name = family.name.removeprefix("interlock_scheduler_")
        found[f"{name}_total" if family.type == "counter" else name] = family
    assert set(NAMES) <= set(found)


def test_of_those_inside_their_share_only_refusals_for_load_count():
    metrics = Metrics()
    observer = PoolMetrics(metrics)
    inside, over = Standing(1.0, 2.0, 0.0, 0.5), Standing(9.0, 2.0, 0.0, 4.5)
    request = grant_request("req_a")
    for code, standing in (
        ("overloaded", inside), ("overloaded", over), ("request_exceeds_engine", inside), ("overloaded", None),
    ):  # fmt: skip
        observer.ended(DecisionRecord(request, "refused", 0, code=code, standing=standing))
    for standing in (inside, over):
        observer.ended(DecisionRecord(request, "ok", 0, standing=standing))
    page = merge([metrics.snapshot()])
    for line in (f'{{class="interactive",pool="embedded",refused="{word}"}} 1.0' for word in ("true", "false")):
        assert f"interlock_scheduler_in_share_requests_total{line}" in page


def test_the_error_of_a_time_that_was_told_is_counted_of_who_was_told():
    metrics = Metrics()
    observer = PoolMetrics(metrics)
    request = grant_request("req_a")
    for error_us in (None, 250_000, 1_500_000):
        observer.granted(Grant(request, None, 0, 40_000, 1, None, "final", "least_backlog", error_us))
    page = merge([metrics.snapshot()])
    labels = '{class="interactive",pool="embedded"}'
    assert f"interlock_scheduler_retry_after_error_seconds_count{labels} 2.0" in page
    assert f"interlock_scheduler_retry_after_error_seconds_sum{labels} 1.75" in page


def test_the_highest_fence_is_that_of_the_leader():
    pages = []
    for fences in ({"embedded": 3}, {"embedded": 4}, {"embedded": 0}):
        metrics = Metrics()
        PoolMetrics(metrics).leading(lambda fences=fences: fences)
        pages.append(metrics.snapshot())
    assert 'interlock_scheduler_leader_fence{pool="embedded"} 4.0' in merge(pages)
    assert "leader_fence{" not in merge(pages[2:])


async def test_grants_refusals_and_settlements_are_counted_by_pool_and_class(clock, ids):
    metrics = Metrics()
    observer = PoolMetrics(metrics)
    spec = PoolSpec("embedded", EMBEDDED_OBJECTIVES, (EngineSpec("unix:/engine.sock", "m", 2, 2_048),))
    front = FrontService([spec], clock=clock, ids=ids, config=SchedulerConfig(), observers=(observer,))
    observer.pools(lambda: [each for name in front.pool_names() if (each := front.statistics(name))], front.measuring)
    [engine] = front.engines("embedded")
    front.engine_changed("embedded", replace(engine, condition=EngineCondition.DOWN))
    await front.acquire(grant_request("req_early"))
    front.engine_changed("embedded", replace(engine, condition=EngineCondition.READY))
    grant = await front.acquire(grant_request("req_a"))
    await front.acquire(grant_request("req_b"))
    await front.progress([GrantProgress(grant.grant_id, 1, 50)])
    await front.progress([GrantProgress(grant.grant_id, 4, 50)])
    await front.settle(grant.grant_id, Settlement(SettleOutcome.CLIENT_GONE, 10, 0, 3, 50, 90))
    page = merge([metrics.snapshot()])
    labels = 'class="interactive",'
    for line in (
        f'interlock_scheduler_overload_rejections_total{{{labels}code="no_capacity",pool="embedded"}} 1.0',
        f'interlock_scheduler_settled_total{{{labels}in_slo="false",outcome="client_gone",pool="embedded"}} 1.0',
        f'interlock_scheduler_wasted_tokens_total{{{labels}pool="embedded"}} 14.0',
        f'interlock_scheduler_queue_wait_time_seconds_count{{{labels}pool="embedded"}} 2.0',
        f'interlock_scheduler_time_to_first_token_seconds_count{{{labels}pool="embedded"}} 1.0',
        'interlock_scheduler_granted{pool="embedded"} 1.0',
        'interlock_scheduler_queued{pool="embedded"} 0.0',
        'interlock_scheduler_settle_mismatch_total{pool="embedded"} 1.0',
        'interlock_scheduler_engine_overrun_total{pool="embedded"} 0.0',
        'interlock_scheduler_replicas{pool="embedded"} 1.0',
    ):
        assert line in page
    for family in metrics.registry.collect():
        name = family.name.removeprefix("interlock_scheduler_")
        labels = NAMES.get(f"{name}_total" if family.type == "counter" else name)
        assert labels is None or all(set(each.labels) - {"le"} == labels for each in family.samples), name
    assert f'engine="{engine.engine_id}",pool="embedded",state="ready"}} 1.0' in page
