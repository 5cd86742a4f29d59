"""The product's metrics of one pool over the last minutes, by the words of the documentation.

Reads no clock; times come with the records.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from interlock.foundation.ids import format_id
from interlock.scheduler.domain.records import DecisionRecord

SPAN_US: Final = 300_000_000
RECORDS_MAX: Final = 20_000
# An exporter shows a new figure each half minute at most; one that is older says nothing of now.
DEVICE_FRESH_US: Final = 60_000_000
_MICRO: Final = 1_000_000
SHED: Final = frozenset({
    "deadline_infeasible", "fair_share_exceeded", "displaced", "queue_time_exceeded", "tenant_queue_full", "overloaded",
    "no_capacity",
})  # fmt: skip
_LEFT: Final = frozenset({"client_gone", "unused", "canceled"})
Keep = Callable[[DecisionRecord], bool]


@dataclass(slots=True)
class Window:
    """What ended in the last five minutes, and how long the engines were busy in them."""

    records: deque[DecisionRecord] = field(default_factory=lambda: deque(maxlen=RECORDS_MAX))
    _busy: deque[tuple[int, int, int]] = field(default_factory=deque)
    _devices: deque[tuple[int, float]] = field(default_factory=deque)

    def add(self, record: DecisionRecord) -> None:
        """Take in a request that ended."""
        self.records.append(record)

    def note_busy(self, now_us: int, busy_us: int, engines: int) -> None:
        """Take in how long the engines were in use altogether."""
        self._busy.append((now_us, busy_us, engines))
        while len(self._busy) > 2 and self._busy[1][0] <= now_us - SPAN_US:
            self._busy.popleft()

    def note_device(self, now_us: int, share: float) -> None:
        """Take in how busy the accelerators themselves say they are."""
        self._devices.append((now_us, share))
        while self._devices[0][0] <= now_us - SPAN_US:
            self._devices.popleft()

    def device_utilization(self, first_us: int, span_us: int) -> float | None:
        """Return what the accelerators said in a span, as a mean; None where they said nothing."""
        said = [share for at_us, share in self._devices if first_us < at_us <= first_us + span_us]
        return sum(said) / len(said) if said else None

    def recent(self, now_us: int, span_us: int = SPAN_US) -> list[DecisionRecord]:
        """Return what ended in the span, newest last."""
        while self.records and self.records[0].at_us < now_us - SPAN_US:
            self.records.popleft()
        return [each for each in self.records if each.at_us >= now_us - span_us]

    def utilization(self) -> float | None:
        """Return the share of time that the engines had something to do; None before two looks."""
        if len(self._busy) < 2 or not self._busy[-1][2]:
            return None
        (began_us, began_busy, _), (now_us, busy_us, engines) = self._busy[0], self._busy[-1]
        took_us = (now_us - began_us) * engines
        return None if took_us <= 0 else max(0.0, min(1.0, (busy_us - began_busy) / took_us))

    def utilization_in(self, first_us: int, span_us: int) -> float | None:
        """Return the same over a span of the past; None where nobody looked before and in it.

        What the accelerators said counts before what their engines seemed to do.
        """
        device = self.device_utilization(first_us, span_us)
        if device is not None:
            return _rounded(device)
        before = [each for each in self._busy if each[0] <= first_us][-1:]
        looks = before + [each for each in self._busy if first_us < each[0] <= first_us + span_us]
        if len(looks) < 2:
            return None
        (began_us, began_busy, _), (ended_us, ended_busy, engines) = looks[0], looks[-1]
        took_us = (ended_us - began_us) * engines
        return None if took_us <= 0 else _rounded(max(0.0, min(1.0, (ended_busy - began_busy) / took_us)))

    def figures(self, now_us: int, keep: Keep | None = None) -> dict[str, Any]:
        """Return the seven metrics and what goes with them; what nobody measured is None."""
        records = [each for each in self.recent(now_us) if keep is None or keep(each)]
        is_fresh = bool(self._devices) and self._devices[-1][0] > now_us - DEVICE_FRESH_US
        device = self.device_utilization(now_us - SPAN_US, SPAN_US) if is_fresh else None
        return figures_of(records, _span_s(records, now_us)) | {
            "gpu_utilization": _rounded(self.utilization() if device is None else device),
            "gpu_utilization_source": "step_busy" if device is None else "device",
        }

    def by_tenant(self, now_us: int) -> list[dict[str, Any]]:
        """Return the figures of each organization."""
        recent = self.recent(now_us)
        tenants = sorted({each.request.organization_id for each in recent})
        rows = []
        for tenant in tenants:
            own = [each for each in recent if each.request.organization_id == tenant]
            rows.append({"organization_id": format_id("org", tenant)} | figures_of(own, _span_s(own, now_us)))
        return rows

    def shed_rate(self, now_us: int, span_us: int = 30_000_000) -> float:
        """Return the share of the requests of the last 30 s that were refused for load."""
        recent = self.recent(now_us, span_us)
        return sum(each.code in SHED for each in recent) / len(recent) if recent else 0.0

    def miss_rate(self, now_us: int) -> float:
        """Return the share of accepted requests that missed their objective."""
        accepted = [each for each in self.recent(now_us) if _is_judged(each)]
        return sum(not each.is_in_slo for each in accepted) / len(accepted) if accepted else 0.0


def figures_of(records: Sequence[DecisionRecord], span_s: float) -> dict[str, Any]:
    """Return the figures of some records over a span."""
    judged = [each for each in records if _is_judged(each)]
    offered = [each for each in records if each.outcome not in _LEFT]
    successes = sum(each.is_in_slo for each in judged)
    failed = sum(each.outcome in {"upstream_error", "timeout", "lost"} for each in judged)
    cost_usd = sum(each.cost_usd for each in records)
    return {
        "requests": len(records),
        "time_to_first_token_s": percentiles((each.ttft_ms for each in records), (50, 99)),
        "tokens_per_second": {
            "prefill": round(sum(each.input_tokens - each.cached_tokens for each in records) / span_s, 3),
            "output": round(sum(each.output_tokens for each in records) / span_s, 3),
        },
        "queue_wait_time_s": percentiles((each.queue_wait_ms for each in records), (50, 99)),
        "end_to_end_latency_s": percentiles((each.total_ms for each in records), (95, 99)),
        "error_rate": _share(failed, len(judged)),
        "overload_rejections": dict(sorted(Counter(each.code for each in records if each.code in SHED).items())),
        "cost_per_successful_request_usd": None if not successes else round(cost_usd / successes, 9),
        "goodput_rps": round(successes / span_s, 6),
        "attainment": _share(successes, len(offered)),
        "accepted_attainment": _share(successes, len(judged)),
        "wasted_tokens": sum(each.wasted_tokens for each in records),
        "cost_usd": round(cost_usd, 9),
        "prefix_hit_share": _share(sum(each.cached_tokens for each in records), sum(e.input_tokens for e in records)),
        "prediction_error_ratio": {
            "ttft": _error([(each.predicted_ttft_ms, each.ttft_ms) for each in judged]),
            "output": _error([(each.predicted_output_tokens, each.output_tokens) for each in judged]),
        },
    }


def percentiles(milliseconds: Iterable[int | None], ranks: tuple[int, ...]) -> dict[str, float | None]:
    """Return nearest-rank percentiles in seconds; None without samples."""
    found = sorted(each for each in milliseconds if each is not None)
    if not found:
        return {f"p{rank}": None for rank in ranks}
    return {f"p{rank}": found[min(len(found) - 1, -(-len(found) * rank // 100) - 1)] / 1_000 for rank in ranks}


def _is_judged(record: DecisionRecord) -> bool:
    """Whether an engine was given to it, and its caller stayed: the promise was there to be kept."""
    return not record.is_refused and record.outcome not in _LEFT


def _span_s(records: Sequence[DecisionRecord], now_us: int) -> float:
    return max(1.0, (now_us - records[0].at_us) / _MICRO) if records else 1.0


def _error(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    errors = [abs(actual - predicted) / actual for predicted, actual in pairs if predicted is not None and actual]
    return _rounded(sum(errors) / len(errors)) if errors else None


def _share(part: int, whole: int) -> float | None:
    return _rounded(part / whole) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
