"""Policies side by side on one trace: the same requests, seeds and engines for each.

Opens no file and prints nothing; `cli/scheduler.py` does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from interlock.scheduler.domain import baselines
from interlock.scheduler.domain.asks import CLASSES, Classes, Order
from interlock.scheduler.domain.length import LengthBook
from interlock.scheduler.domain.log_lines import Sink
from interlock.scheduler.domain.order_log import Opened, RecordedOrder, opened
from interlock.scheduler.domain.promises import PromiseOrder, Rules
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.report import Cell, row_of
from interlock.scheduler.domain.share import Shares
from interlock.scheduler.domain.simulate import Hardware, Simulation
from interlock.scheduler.domain.trace import Mix, Offered, Seeded, TraceRow, offer, stretched, with_hog

_MICRO: Final = 1_000_000
POLICIES: Final[Mapping[str, Callable[[Rates, float], Order]]] = {
    "fcfs": lambda rates, _: baselines.fcfs(rates),
    "fcfs-bound": lambda rates, _: baselines.fcfs_bound(rates),
    "sjf": lambda rates, _: baselines.sjf(rates),
    "priority": lambda rates, _: baselines.priority(rates),
    "edf": lambda rates, _: baselines.edf(rates),
    "vtc": lambda rates, _: baselines.FairOrder(rates),
    "bands": lambda rates, _: baselines.BandOrder(rates),
    "interlock": lambda rates, share_level: PromiseOrder(rates, Shares(share_level)),
}


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What is compared, and on what. `loads` are relative to capacity; `hog` adds one tenant at that load."""

    policies: tuple[str, ...]
    hardware: Hardware
    loads: tuple[float, ...] = (1.5,)
    seeds: tuple[int, ...] = (1,)
    mix: Mix = field(default_factory=Mix)
    hog: float = 0.0
    share_level: float = 0.8
    price_usd_hour: float = 2.5
    rate_rps: float | None = None
    classes: Classes = field(default_factory=lambda: CLASSES)
    # Lengths are learned from what ended instead of drawn with the requests.
    is_online: bool = False
    # Where each call of an order is written with its result.
    sink: Sink | None = None


def capacity_rps(offered: Sequence[Offered], hardware: Hardware) -> float:
    """Return the throughput of the same requests when all arrive at once and are served in order of arrival."""
    backlogged = [replace(each, at_us=0) for each in offered]
    rates = Rates.declared(hardware.profile.prefill_tps, hardware.replicas)
    run = Simulation(baselines.fcfs(rates), hardware).run(backlogged)
    return len(offered) * _MICRO / max(run.now_us, 1)


def compare(rows: Sequence[TraceRow], options: ReplayOptions, seeded: Callable[[int], Seeded]) -> dict[str, Any]:
    """Return the comparison as `scheduler replay --json` prints it. Raises `ValueError` for fewer than two rows."""
    if len(rows) < 2:
        raise ValueError("fewer than 2 usable rows")
    worlds = [_World.drawn(rows, options, seeded(seed)) for seed in options.seeds]
    cells = [
        (Cell(policy, load, options.hog, options.price_usd_hour), load)
        for load in options.loads
        for policy in options.policies
    ]
    return {
        "trace": {
            "requests": len(rows),
            "duration_s": round((rows[-1].at_us - rows[0].at_us) / _MICRO, 6),
            "tenants": len({each.tenant for each in worlds[0].offered}),
        },
        "profile": options.hardware.profile.name,
        "capacity_rps": round(sum(each.capacity for each in worlds) / len(worlds), 6),
        "rows": [row_of(cell, [each.run(cell.policy, load, options) for each in worlds]) for cell, load in cells],
    }


def order_of(made_of: Opened) -> Order:
    """Return a new order."""
    rates = Rates.declared(made_of.prefill_tps, made_of.replicas)
    rates.tightest_us = min(each.ttft_us for each in made_of.classes.values())
    if made_of.policy == "interlock":
        return PromiseOrder(rates, Shares(made_of.share_level), Rules(made_of.classes))
    return POLICIES[made_of.policy](rates, made_of.share_level)


@dataclass(frozen=True, slots=True)
class _World:
    """One seed: its requests, what the engines can do with them, and the generator for what comes on top."""

    offered: list[Offered]
    capacity: float
    hog: Callable[[Sequence[Offered], float], list[Offered]]

    @classmethod
    def drawn(cls, rows: Sequence[TraceRow], options: ReplayOptions, seeded: Seeded) -> "_World":
        offered = offer(rows, options.mix, seeded)
        drawn: dict[int, list[Offered]] = {}

        def hog(others: Sequence[Offered], rate_rps: float) -> list[Offered]:
            # Every policy meets the same flood, so it is drawn once for each end of the run.
            end_us = others[-1].at_us
            if end_us not in drawn:
                drawn[end_us] = with_hog(others, rate_rps, options.mix, seeded)
            return drawn[end_us]

        return cls(offered, capacity_rps(offered, options.hardware), hog)

    def run(self, policy: str, load: float, options: ReplayOptions) -> Simulation:
        rate_rps = options.rate_rps or load * self.capacity
        requests = stretched(self.offered, rate_rps)
        if options.hog:
            requests = self.hog(requests, options.hog * self.capacity)
        hardware = options.hardware
        made_of = opened(policy, options.share_level, hardware.profile.prefill_tps, hardware.replicas, options.classes)
        order = order_of(made_of)
        if options.sink is not None:
            order = RecordedOrder(order, made_of, options.sink)
        lengths = LengthBook() if options.is_online else None
        return Simulation(order, options.hardware, options.classes, lengths=lengths).run(requests)
