"""How many replicas a load needs: arithmetic first, then the production policy in virtual time, one replica less too.

A large fleet is sized by an equal part of it. Reads no file and prints nothing; `cli/capacity.py` does.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from interlock.scheduler.domain.asks import CLASSES
from interlock.scheduler.domain.profiles import CHUNK_MAX, StepProfile
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.rates import KV_SHARE, Rates
from interlock.scheduler.domain.report import Cell, row_of, upper_bound
from interlock.scheduler.domain.share import Shares
from interlock.scheduler.domain.simulate import Hardware, Simulation
from interlock.scheduler.domain.trace import Mix, Offered, Seeded, TraceRow, offer, stretched

LINES: Final = (
    "requests_per_second", "prefill_tokens_per_second", "output_tokens_per_second", "weighted_tokens_per_second",
    "replica_capacity_rps", "replicas_by_arithmetic", "replicas", "goal", "attainment", "attainment_one_less",
    "concurrent_sequences", "kv_tokens", "gpu_utilization", "cost_per_hour_usd", "cost_per_successful_request_usd",
    "verified_by",
)  # fmt: skip
# What one simulation holds. A fleet with more to do is several pools anyway: one of them is simulated, with its part of
# the requests over the same time. A shorter time would not do: engines that begin empty take half a minute to fill.
REQUESTS_MAX: Final = 50_000
# Arithmetic is of the best steps, and never wrong by more than this. With fewer replicas than that leaves, and more to
# do than one simulation holds, none is run: what no order could exceed is told instead.
_ARITHMETIC_OFF_MAX: Final = 2
# How many requests, and from how many replicas on, a first search for where to begin has.
_ROUGH_REQUESTS: Final = 5_000
_ROUGH_REPLICAS: Final = 16
_LENGTH_SIGMA: Final = 0.8
_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests a second, and the means of their lengths."""

    rate_rps: float
    input_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class SizingOptions:
    """What is sized. `hardware.replicas` is ignored; `load` multiplies the arrival rate.

    `workload` is what generated rows were drawn for; the figures of a trace are its own.
    """

    hardware: Hardware
    workload: Workload | None = None
    goal: float = 0.99
    load: float = 1.0
    seed: int = 1
    mix: Mix = field(default_factory=Mix)
    price_usd_hour: float = 2.5
    replicas_max: int = 256
    share_level: float = 0.8


@dataclass(frozen=True, slots=True)
class GoalUnreachable:
    """No number of replicas meets the goal: the best attainment seen, with how many, and why."""

    best: float
    replicas: int
    reason: str


# Hears of each simulation how far it is: replicas, requests that have come, all of them.
Hears = Callable[[int, int, int], None]


def generated(workload: Workload, window_s: float, seeded: Seeded) -> list[TraceRow]:
    """Return Poisson arrivals whose lengths are log-normal with the given means."""
    rows, at_s = [], seeded.expovariate(workload.rate_rps)
    while at_s < window_s:
        means = (workload.input_tokens, workload.output_tokens)
        taken, made = (max(1, round(_length(mean, seeded))) for mean in means)
        rows.append(TraceRow(round(at_s * _MICRO), taken, made))
        at_s += seeded.expovariate(workload.rate_rps)
    return rows


def size(
    rows: Sequence[TraceRow], options: SizingOptions, seeded: Callable[[int], Seeded], hears: Hears | None = None
) -> dict[str, Any] | GoalUnreachable:
    """Return the lines of a size, or why there is none. Raises `ValueError` for fewer than two rows."""
    if len(rows) < 2:
        raise ValueError("fewer than 2 usable rows")
    own_rps = len(rows) * _MICRO / max(rows[-1].at_us - rows[0].at_us, 1)
    mean_in, mean_out = fmean(each.input_tokens for each in rows), fmean(each.output_tokens for each in rows)
    load = options.workload or Workload(own_rps, mean_in, mean_out)
    rate_rps = load.rate_rps * options.load
    capacity_rps = arithmetic_rps(rows, options.hardware)
    by_arithmetic = max(1, math.ceil(rate_rps / capacity_rps))
    parts, most = min(math.ceil(len(rows) / REQUESTS_MAX), by_arithmetic), options.replicas_max
    is_hopeless = parts > most and most < by_arithmetic / _ARITHMETIC_OFF_MAX
    parts = parts if is_hopeless else min(parts, most)
    dice = seeded(options.seed)
    drawn = rows if parts == 1 else [each for each in rows if dice.random() * parts < 1][:REQUESTS_MAX]
    requests = stretched(offer(drawn, options.mix, dice), rate_rps / parts)
    reason, share = _impossible(requests, options.hardware)
    if share > 1 - options.goal:
        return GoalUnreachable(1 - share, most, reason)
    if is_hopeless:
        return GoalUnreachable(upper_bound(requests, options.hardware.profile, most / parts), most, "replicas_max")
    runs, start = _Runs(requests, options, parts, hears), by_arithmetic
    if len(requests) > _ROUGH_REQUESTS and by_arithmetic // parts >= _ROUGH_REPLICAS:
        # Where to begin is found with a few of the requests: simulations of all of them cost much more each.
        few = min(len(requests) // _ROUGH_REQUESTS + 1, by_arithmetic // parts // (_ROUGH_REPLICAS // 2))
        rough = stretched([each for each in requests if dice.random() * few < 1], rate_rps / parts / few)
        start = _Runs(rough, options, parts * few, hears).smallest(by_arithmetic) or by_arithmetic
    replicas = runs.smallest(start)
    if replicas is None:
        return GoalUnreachable(runs.attainment(most // parts * parts), most, "replicas_max")
    found = runs.row(replicas)
    return {
        "requests_per_second": round(rate_rps, 6),
        "prefill_tokens_per_second": round(rate_rps * load.input_tokens),
        "output_tokens_per_second": round(rate_rps * load.output_tokens),
        "weighted_tokens_per_second": round(rate_rps * (load.input_tokens + 2 * load.output_tokens)),
        "replica_capacity_rps": round(capacity_rps, 3),
        "replicas_by_arithmetic": by_arithmetic,
        "replicas": replicas,
        "goal": options.goal,
        "attainment": found["attainment"],
        "attainment_one_less": None if replicas == parts else runs.attainment(replicas - parts),
        **runs.held(replicas),
        "gpu_utilization": found["gpu_utilization"],
        "cost_per_hour_usd": round(replicas * options.price_usd_hour, 4),
        "cost_per_successful_request_usd": found["cost_per_successful_request_usd"],
        "verified_by": f"simulation seed={options.seed} requests={len(requests)}",
    }


def arithmetic_rps(requests: Sequence[TraceRow | Offered], hardware: Hardware) -> float:
    """Return what one replica does in its best steps: prompts in large chunks, outputs in a full batch."""
    profile, slots = hardware.profile, hardware.slots
    mean_in = fmean(each.input_tokens for each in requests)
    mean_out = fmean(each.output_tokens for each in requests)
    prefill_us = min(profile.step_us(tokens) / tokens for tokens, _ in profile.points)
    held = min(slots * (mean_in + mean_out / 2), hardware.kv_tokens)
    decode_us = profile.step_us(0, slots, round(held)) / slots
    return _MICRO / (mean_in * prefill_us + mean_out * decode_us)


class _Runs:
    """Simulations by number of replicas, each once; of a fleet in `parts` one part is simulated."""

    def __init__(self, requests: Sequence[Offered], options: SizingOptions, parts: int, hears: Hears | None) -> None:
        self._requests = requests
        self._options = options
        self._parts = parts
        self._hears = hears
        self._found: dict[int, tuple[Simulation, dict[str, Any]]] = {}

    def smallest(self, start: int) -> int | None:
        """Return the least number that meets the goal, searched upwards from `start`, then downwards."""
        parts, most = self._parts, self._options.replicas_max // self._parts
        each, step = min(-(-start // parts), most), 1
        while not self._meets(each * parts):
            if each == most:
                return None
            each, step = min(each + step, most), step * 2
        while each > 1 and self._meets((each - 1) * parts):
            each -= 1
        return each * parts

    def row(self, replicas: int) -> dict[str, Any]:
        """Return the figures of a run."""
        return self._run(replicas)[1]

    def attainment(self, replicas: int) -> float:
        """Return the share of requests in their objectives."""
        return float(self.row(replicas)["attainment"])

    def held(self, replicas: int) -> dict[str, int]:
        """Return the means over time of sequences and of KV tokens in the engines."""
        run = self._run(replicas)[0]
        spans = [
            (each.ended_us - each.granted_us, each.offered.input_tokens + each.offered.output_tokens // 2)
            for each in run.outcomes
            if each.ended_us is not None and each.granted_us is not None
        ]
        duration_us = max(run.now_us - run.outcomes[0].offered.at_us, 1)
        return {
            "concurrent_sequences": round(self._parts * sum(span for span, _ in spans) / duration_us),
            "kv_tokens": round(self._parts * sum(span * tokens for span, tokens in spans) / duration_us),
        }

    def _meets(self, replicas: int) -> bool:
        return self.attainment(replicas) >= self._options.goal

    def _run(self, replicas: int) -> tuple[Simulation, dict[str, Any]]:
        if replicas not in self._found:
            options, given, each = self._options, self._options.hardware, replicas // self._parts
            hardware = Hardware(given.profile, each, given.slots, given.kv_tokens)
            rates, hears, total = Rates.declared(given.profile.prefill_tps, each), self._hears, len(self._requests)
            run = Simulation(PromiseOrder(rates, Shares(options.share_level)), hardware)
            if hears is not None:
                run.hears = lambda come: hears(replicas, come, total)
            run.run(self._requests)
            row = row_of(Cell("interlock", options.load, 0.0, options.price_usd_hour), [run])
            self._found[replicas] = (run, row)
        return self._found[replicas]


def _impossible(requests: Sequence[Offered], hardware: Hardware) -> tuple[str, float]:
    """Return the commonest reason why requests miss on an idle engine, and the share of all that do."""
    reasons = Counter(reason for each in requests if (reason := _why_not(each, hardware)))
    if not reasons:
        return "", 0.0
    return reasons.most_common(1)[0][0], reasons.total() / len(requests)


def _why_not(offered: Offered, hardware: Hardware) -> str | None:
    rules, profile = CLASSES[offered.service_class], hardware.profile
    if offered.input_tokens + 1 > hardware.kv_tokens * KV_SHARE:
        return "request_exceeds_kv"
    if rules.tpot_us is not None and profile.step_us(0, 1, offered.input_tokens) > rules.tpot_us:
        return "tpot_below_step_floor"
    return "ttft_below_prefill" if _alone_us(offered.input_tokens, profile) > rules.ttft_us else None


def _alone_us(tokens: int, profile: StepProfile) -> int:
    whole, rest = divmod(tokens, CHUNK_MAX)
    return whole * profile.step_us(CHUNK_MAX) + (profile.step_us(rest) if rest else 0)


def _length(mean: float, seeded: Seeded) -> float:
    return seeded.lognormvariate(math.log(mean) - _LENGTH_SIGMA**2 / 2, _LENGTH_SIGMA)
