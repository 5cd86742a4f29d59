"""Every bound of the front door, named and with its unit.

Holds no limit of a tenant; those are rows and change while the platform runs.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Section `edge`."""

    trusted_proxies: tuple[str, ...] = setting(
        (),
        "networks (CIDR, comma list) whose x-forwarded-for names the client's address, beyond the bound of one address",
    )
    body_bytes_max: int = setting(20 << 20, "body of an inference request, bytes", minimum=1_024, maximum=1 << 30)
    body_bytes_held_max: int = setting(
        512 << 20, "bodies of all running inference requests of one process, bytes", minimum=1 << 20
    )
    control_body_bytes_max: int = setting(
        17 << 20, "body of a request that is passed on to control, bytes", minimum=1_024, maximum=1 << 30
    )
    answer_bytes_max: int = setting(
        16 << 20, "answer of a model server that is not streamed, bytes", minimum=1_024, maximum=1 << 30
    )
    error_bytes_max: int = setting(64 << 10, "error body read from a model server, bytes", minimum=256)
    event_bytes_max: int = setting(4 << 20, "one event of a stream, bytes", minimum=1_024)
    inflight_max: int = setting(1_024, "inference requests running in one process", minimum=1)
    queue_max: int = setting(256, "inference requests that wait for a place in one process", minimum=0)
    queue_s_max: float = setting(2.0, "longest wait of a request for a place, seconds", minimum=0, maximum=60)
    idempotency_wait_s: float = setting(
        2.0, "wait for the store where a request has an Idempotency-Key, seconds", minimum=0.05, maximum=30
    )
    idempotency_lease_s: float = setting(
        10.0, "time after which the Idempotency-Key of a request is free again whose edge died, seconds", minimum=1
    )
    idempotency_kept_s: float = setting(
        86_400.0, "how long an answer is given again under its Idempotency-Key, seconds", minimum=60
    )
    replay_bytes_max: int = setting(1 << 20, "an answer that is kept to be given again, bytes", minimum=1_024)
    keep_alive_s: float = setting(15.0, "silence in a stream after which a comment is sent, seconds", minimum=0.05)
    connect_s: float = setting(
        2.0, "connect time of a model server where the route says nothing, seconds", minimum=0.01
    )
    whole_s: float = setting(
        300.0, "longest wait for an answer that is not streamed, seconds", minimum=0.1, maximum=3_600
    )
    ttft_s: float = setting(30.0, "wait for the first byte where the route says nothing, seconds", minimum=0.01)
    idle_s: float = setting(60.0, "silence of a model server where the route says nothing, seconds", minimum=0.01)
    total_s: float = setting(600.0, "a whole request where the route says nothing, seconds", minimum=0.01)
    control_s: float = setting(60.0, "first byte of an answer of control, seconds", minimum=0.1)
    control_idle_s: float = setting(3_600.0, "silence of an answer of control, seconds", minimum=1)
    attempts_max: int = setting(2, "calls of model servers for one request, the first included", minimum=1, maximum=5)
    retry_after_s_max: float = setting(
        5.0, "longest wait that a model server may ask for before it is asked again, seconds", minimum=0, maximum=120
    )
    failed_keys_per_minute: int = setting(
        100, "failed authentications of one address a minute before it gets 429", minimum=1
    )
    failed_addresses_max: int = setting(10_000, "addresses whose failed authentications are counted", minimum=16)
    heads_max: int = setting(
        1_024, "heads that were let in and are kept for an equal one; all are forgotten when there are more", minimum=1
    )
    stranger_stories_per_s: int = setting(
        100, "stories a second of requests without an identity; the rest is only counted", minimum=1
    )
    output_tokens_default: int = setting(
        512, "output tokens reserved when neither the caller nor experience names a figure", minimum=1
    )
    progress_interval_s: float = setting(0.25, "time between two progress reports, seconds", minimum=0.01, maximum=5)
    grants_held_max: int = setting(10_000, "settled grants that wait for the schedulers of all pools", minimum=16)
    settlements_pool_max: int = setting(
        2_500, "settled grants of one pool that wait for its scheduler; beyond it the oldest is given up", minimum=16
    )
    scheduler_call_s: float = setting(2.0, "a call of the scheduler other than a held acquire, seconds", minimum=0.05)
    scheduler_back_s: float = setting(
        2.0, "how long a call for a grant waits for a scheduler that is away, before it is refused, seconds", minimum=0
    )
    bypass_inflight_max: int = setting(
        4, "requests of one edge on one engine while the scheduler is bypassed", minimum=1, maximum=4_096
    )
    bypass_rest_s: float = setting(
        5.0, "time that an engine is left alone which failed while the scheduler is bypassed, seconds", minimum=0
    )
    acquire_s: float = setting(300.0, "longest held acquire; the scheduler's own bound is shorter, seconds", minimum=1)
    shadows_max: int = setting(
        16, "copies of requests that run at once in one process, for versions in the shadow", minimum=0, maximum=1_024
    )
    shadow_body_bytes_max: int = setting(
        1 << 20, "body of a request that is copied for a version in the shadow, bytes", minimum=1_024
    )
    objective_ttft_ms: int = setting(
        5_000, "first token of a stream above which it counts as slow where the route says nothing, ms", minimum=1
    )
    arm_units_max: int = setting(
        200_000, "sticky units remembered for a route on which a version is tried; beyond it none is new", minimum=16
    )
    arm_seconds_max: int = setting(
        4_096, "seconds of arms that wait for the store; beyond it the oldest is lost", minimum=16
    )
    arm_interval_s: float = setting(
        0.5, "time between two shipments of what the arms of routes answered, seconds", minimum=0.05, maximum=60
    )
    arm_kept_s: float = setting(604_800.0, "age at which counts of arms are deleted, seconds", minimum=3_600)
    snapshot_interval_s: float = setting(5.0, "time between two looks whether the start state changed, seconds")
    stale_after_s: float = setting(1.0, "age of the last confirmed state from which answers say so, seconds")
    key_use_interval_s: float = setting(
        60.0, "time between two writings of when keys were last used, seconds", minimum=0.1
    )


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Section `limits`."""

    wait_s: float = setting(
        0.05, "wait of a request for the store to decide its limits, seconds", minimum=0.001, maximum=300
    )
    away_s: float = setting(
        2.0, "time without an answer after which the store counts as away, seconds", minimum=0.05, maximum=300
    )
    again_s: float = setting(0.2, "time until a store that did not answer is told again, seconds", minimum=0.01)
    lease_s: float = setting(
        2.0, "life of a worker's lease, from when it was asked for, seconds", minimum=0.1, maximum=10
    )
    settle_s: float = setting(
        0.05, "time in which a worker gathers what it settled and gives back, seconds", minimum=0.001, maximum=2
    )
    gather_s: float = setting(
        0.02, "time in which the broker gathers what the store is only told, seconds", minimum=0.001, maximum=2
    )
    beat_s: float = setting(
        1.0, "time between two heartbeats of a machine that leases, seconds", minimum=0.05, maximum=3
    )
    beats_a_renewal: int = setting(
        3, "heartbeats after which held slots are renewed; their lease lives for 10 s", minimum=1, maximum=3
    )
    machine_live_s: float = setting(
        5.0, "age of a heartbeat up to which a machine counts for everybody's share, seconds", minimum=1
    )
    untouched_s: float = setting(
        120.0, "life of a broker after which a bucket that it never touched is taken for full, seconds", minimum=60
    )
    waiting_max: int = setting(4_096, "requests of one machine that wait for their limits", minimum=16)
    turns_max: int = setting(2, "flights of one machine to the store at once; the others wait in order", minimum=1)
    lease_kept_s: float = setting(
        86_400.0, "age at which the empty rows of machines that are gone are deleted, seconds", minimum=3_600
    )


@dataclass(frozen=True, slots=True)
class UsageConfig:
    """Section `usage`."""

    minutes_days: int = setting(35, "days that usage by the minute is kept", minimum=1, maximum=400)
    hours_days: int = setting(400, "days that usage by the hour is kept", minimum=31, maximum=4_000)


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """Section `inference`: how the platform's own work calls models."""

    url: str = setting("", "address of the front door for a worker on another machine; empty: that of the data folder")
    connect_s: float = setting(2.0, "connect time of the front door, seconds", minimum=0.01)
    answer_bytes_max: int = setting(16 << 20, "an answer of the front door, bytes", minimum=1_024)
