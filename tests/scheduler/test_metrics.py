"""What the pools did, as Prometheus reads it."""

from dataclasses import replace

from interlock.contracts.scheduling import GrantProgress, Settlement, SettleOutcome
from interlock.foundation.telemetry import Metrics, merge
from interlock.scheduler import EMBEDDED_OBJECTIVES, EngineSpec, FrontService, PoolMetrics, PoolSpec, SchedulerConfig
from interlock.scheduler.domain.types import EngineCondition
from tests.scheduler.calls import grant_request


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
    await front.settle(grant.grant_id, Settlement(SettleOutcome.CLIENT_GONE, 10, 0, 3, 50, 90))
    page = merge([metrics.snapshot()])
    labels = 'class="interactive",'
    for line in (
        f'interlock_scheduler_overload_rejections_total{{{labels}code="no_capacity",pool="embedded"}} 1.0',
        f'interlock_scheduler_settled_total{{{labels}in_slo="false",outcome="client_gone",pool="embedded"}} 1.0',
        f'interlock_scheduler_wasted_tokens_total{{{labels}pool="embedded"}} 13.0',
        f'interlock_scheduler_queue_wait_time_seconds_count{{{labels}pool="embedded"}} 2.0',
        f'interlock_scheduler_time_to_first_token_seconds_count{{{labels}pool="embedded"}} 1.0',
        'interlock_scheduler_granted{pool="embedded"} 1.0',
        'interlock_scheduler_queued{pool="embedded"} 0.0',
    ):
        assert line in page
    assert f'engine="{engine.engine_id}",pool="embedded",state="ready"}} 1.0' in page
