"""The last hour of a pool as a trace, and how `scheduler replay` is asked what another load or fleet would make of it.

Simulates nothing; the command does, in a process of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean
from typing import Any, Final

from interlock.scheduler.domain.profiles import BUILT_IN, StepProfile
from interlock.scheduler.domain.speeds import Answer, speeds_of

REPLICAS_MAX: Final = 64
LOADS: Final = (0.25, 4.0)
_MICRO: Final = 1_000_000
_OUTPUT_UNKNOWN: Final = 128
# Engines cut prompts themselves: our own by its batch, others by a budget that they do not tell and that is often this.
CHUNK_EMBEDDED: Final = 128
CHUNK_TOKENS: Final = 512
_SLOWEST: Final = 0.001
_HEAD: Final = "TIMESTAMP,ContextTokens,GeneratedTokens,Tenant,Class"


@dataclass(frozen=True, slots=True)
class HourRow:
    """What ended: `at_us` is its end, `output_tokens` 0 where it never got so far."""

    organization_id: str
    service_class: str
    outcome: str
    at_us: int
    total_ms: int | None
    queue_wait_ms: int | None
    ttft_ms: int | None
    is_in_slo: bool
    output_tokens: int
    input_tokens: int
    cached_tokens: int = 0
    engine_id: str | None = None

    @property
    def arrived_us(self) -> int:
        """When it came."""
        return self.at_us - (self.total_ms or 0) * 1_000

    @property
    def answer(self) -> Answer | None:
        """What its engine made of it; None where that was not seen."""
        if self.engine_id is None or self.ttft_ms is None or self.queue_wait_ms is None:
            return None
        came_us = self.arrived_us
        times = (came_us + self.queue_wait_ms * 1_000, came_us + self.ttft_ms * 1_000, self.at_us)
        return Answer(self.engine_id, *times, max(1, self.input_tokens - self.cached_tokens), self.output_tokens)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the simulated engines are: a profile, made as fast as the pool was seen to write and to read."""

    profile: str
    replicas: int
    slots: int
    kv_tokens: int
    price_usd_hour: float
    policy: str
    share_level: float
    objectives: str
    chunk_tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A load as a multiple of the last hour's, on so many engines."""

    load: float
    replicas: int


def trace_of(rows: Sequence[HourRow]) -> str:
    """Return the trace of what came, oldest first. Who was refused counts with the mean output of those answered."""
    made: dict[str, list[int]] = {}
    for each in rows:
        if each.output_tokens:
            made.setdefault(each.service_class, []).append(each.output_tokens)
    means = {name: max(1, round(fmean(found))) for name, found in made.items()}
    ordered = sorted(rows, key=lambda each: (each.arrived_us, each.organization_id))
    begin_us = ordered[0].arrived_us if ordered else 0
    lines = [_HEAD]
    for each in ordered:
        at_s = (each.arrived_us - begin_us) / _MICRO
        output = each.output_tokens or means.get(each.service_class, _OUTPUT_UNKNOWN)
        lines.append(f"{at_s:.6f},{each.input_tokens},{output},{each.organization_id},{each.service_class}")
    return "\n".join(lines) + "\n"


def rate_rps(rows: Sequence[HourRow]) -> float:
    """Return the mean rate of arrivals."""
    times = [each.arrived_us for each in rows]
    return len(rows) * _MICRO / max(max(times) - min(times), 1)


def as_it_was(rows: Sequence[HourRow]) -> dict[str, Any]:
    """Return the figures of the hour itself, by the words of the simulation's."""
    first = sorted(each.ttft_ms for each in rows if each.ttft_ms is not None)
    return {
        "attainment": sum(each.is_in_slo for each in rows) / len(rows),
        "refused": sum(each.outcome == "refused" for each in rows) / len(rows),
        "p50": _percentile(first, 50),
        "p99": _percentile(first, 99),
    }


def as_simulated(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same figures of what `scheduler replay --json` printed."""
    [row] = found["rows"]
    first = row["time_to_first_token_s"]
    return {
        "attainment": row["attainment"],
        "refused": row["rejected_share"] + row["displaced_share"],
        "p50": None if first["p50"] is None else first["p50"] * 1_000,
        "p99": None if first["p99"] is None else first["p99"] * 1_000,
    }


def fleet_of(view: Mapping[str, Any], share_level: float, rows: Sequence[HourRow] = ()) -> Fleet | None:
    """Return the engines of a pool as its view shows them, as fast as its hour shows them; None where it has none."""
    engines = view["engines"]
    if not engines:
        return None
    is_own = engines[0]["adapter"] == "embedded"
    profile = BUILT_IN["embedded-cpu" if is_own else "a100-llama3-8b"]
    slots = ceil(fmean(each["slots"] for each in engines))
    known = [each["kv_tokens"] for each in engines if each["kv_tokens"]]
    objectives = ",".join(
        f"{name}={each['ttft_ms']}/{'-' if each['tpot_ms'] is None else each['tpot_ms']}"
        for name, each in sorted(view["objectives"].items())
    )
    return Fleet(
        f"{profile.name}@{_pace(rows, engines, profile)}", len(engines), slots,
        ceil(fmean(known)) if known else 427_000,
        fmean(each["price_usd_hour"] for each in engines), view["policy"], share_level, objectives,
        CHUNK_EMBEDDED if is_own else CHUNK_TOKENS,
    )  # fmt: skip


def _pace(rows: Sequence[HourRow], engines: Sequence[Mapping[str, Any]], profile: StepProfile) -> str:
    """Return the speeds of the engines beside the profile, as `--profile` takes them."""
    found = speeds_of([answer for each in rows if (answer := each.answer)], profile)
    if found is not None:
        return f"{max(found.writing, _SLOWEST):.3g}/{max(found.reading, _SLOWEST):.3g}"
    paces = [each["tpot_ms"] for each in engines if each["tpot_ms"]]
    # Prompts of other lengths are read at other speeds; how long a token takes says more of an engine.
    written = profile.step_us(0, 1) / 1_000 / fmean(paces) if paces else None
    factor = written or fmean(each["prefill_tps"] for each in engines) / profile.prefill_tps
    return f"{max(factor, _SLOWEST):.3g}"


def options(fleet: Fleet, rps: float, asked: Asked) -> list[str]:
    """Return the options of `scheduler replay` for a fleet at a load."""
    return [
        "--policy", fleet.policy, "--load-rps", f"{rps * asked.load:.6g}", "--replicas", str(asked.replicas),
        "--slots", str(fleet.slots), "--kv-tokens", str(fleet.kv_tokens), "--profile", fleet.profile,
        "--duration-s", "1000000", "--share-level", f"{fleet.share_level:g}", "--objectives", fleet.objectives,
        "--price-usd-hour", f"{fleet.price_usd_hour:g}", "--chunk-tokens", str(fleet.chunk_tokens),
        "--predict", "online", "--json",
    ]  # fmt: skip


def _percentile(values: Sequence[int], wanted: int) -> int | None:
    return values[min(len(values) * wanted // 100, len(values) - 1)] if values else None
