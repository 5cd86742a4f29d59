"""Cost per successful request and wasted work, computed once more from the decision log alone, as an auditor would."""

import random
from collections import defaultdict
from dataclasses import replace

import msgspec

from interlock.contracts.scheduling import ServiceClass
from interlock.foundation.ids import parse_id
from interlock.scheduler import PoolSpec, SchedulerConfig
from interlock.scheduler.domain.cost import dollars
from interlock.scheduler.domain.measures import Window
from interlock.scheduler.domain.types import EngineCondition
from tests.scheduler import three_hosts
from tests.scheduler.three_hosts import ENGINE, OBJECTIVES, Fronted, Moment, at_odd_moments, fronted

PRICE_USD_HOUR = 3.6
USD_US = PRICE_USD_HOUR / 3_600_000_000
TENANTS = (1, 2, 3)


class Ended:
    """Collects what ended, as the console's figures and the store's sums do."""

    def __init__(self):
        self.window = Window()

    def granted(self, grant):
        pass

    def decided(self, pool, took_s):
        pass

    def ended(self, record):
        self.window.add(record)


def script():
    dice, now_us = random.Random(4), 0
    moments = [Moment(0, "engine", condition=EngineCondition.READY)]
    for _ in range(600):
        now_us += dice.choice([1_000, 20_000, 60_000, 200_000])
        what = dice.choice(["arrives"] * 4 + ["generates"] * 8 + ["ends"] * 3 + ["leaves", "ticks"])
        tokens = dice.choice([5, 40, 200, 700]) if what == "arrives" else dice.choice([1, 3, 9])
        moments.append(
            Moment(now_us, what, dice.randrange(12), tokens, dice.choice(TENANTS), dice.choice(list(ServiceClass)))
        )
    return at_odd_moments(moments)


def computed_again(lines):
    """Split the engine's price over what ran on it by weighted tokens, and judge each answer by its objectives."""
    running, found, last_us, bill_usd = {}, defaultdict(lambda: [0, 0.0, 0]), None, 0.0
    for line in map(msgspec.json.decode, lines):
        if last_us is not None and running:
            whole = sum(each["weight"] for each in running.values())
            for each in running.values():
                each["usd"] += (line["at_us"] - last_us) * USD_US * each["weight"] / whole
            bill_usd += (line["at_us"] - last_us) * USD_US
        last_us = line["at_us"] or last_us
        if line["call"] == "next_grants":
            for grant in line["result"]:
                asked, told = grant["request"], grant["predicted"]
                uncached = max(1, asked["input_tokens"] - told["cached_input_tokens"])
                weight = uncached + 2 * told["output_tokens"]
                running[asked["request_id"]] = {"weight": weight, "usd": 0.0, "grant": grant}
        elif line["call"] == "expire":
            assert not line["result"]["lost"]
        elif line["call"] == "settle":
            name, settled = line["args"]
            ended = running.pop(name)
            assert line["result"]["cost_usd"] == dollars(ended["usd"])
            row = found[ended["grant"]["request"]["organization_id"]]
            is_kept = keeps(ended["grant"], settled)
            row[0] += is_kept
            row[1] += ended["usd"]
            row[2] += 0 if is_kept else settled["input_tokens"] + settled["output_tokens"]
    return found, bill_usd, sum(each["usd"] for each in running.values())


def keeps(grant, settled):
    if settled["outcome"] != "ok":
        return False
    objective = OBJECTIVES[ServiceClass(grant["request"]["service_class"])]
    waited_ms = (grant["granted_us"] - grant["arrived_us"]) // 1_000
    output = settled["output_tokens"]
    if settled["ttft_ms"] is None:
        allowed_ms = objective.ttft_ms + (objective.tpot_ms or 0) * max(0, output - 1)
        return objective.tpot_ms is None or waited_ms + settled["total_ms"] <= allowed_ms
    is_paced = objective.tpot_ms is None or output < 2
    paced_ms = 0 if is_paced else (settled["total_ms"] - settled["ttft_ms"]) / (output - 1)
    return waited_ms + settled["ttft_ms"] <= objective.ttft_ms and (is_paced or paced_ms <= objective.tpot_ms)


def test_the_figures_of_a_tenant_are_those_of_the_log(monkeypatch):
    ended, engine = Ended(), replace(ENGINE, slots=6, price_usd_hour=PRICE_USD_HOUR)
    monkeypatch.setattr(three_hosts, "ENGINE", engine)
    monkeypatch.setattr(three_hosts, "SPEC", PoolSpec("p", OBJECTIVES, (engine,)))
    monkeypatch.setattr(three_hosts, "CONFIG", SchedulerConfig(lease_s=300.0))

    class Watched(Fronted.front_class):
        def __init__(self, pools, **parts):
            super().__init__(pools, observers=(ended,), **parts)

    lines = fronted(script(), type("Observed", (Fronted,), {"front_class": Watched}))
    found, bill_usd, unsettled_usd = computed_again(lines)
    assert abs(sum(row[1] for row in found.values()) + unsettled_usd - bill_usd) < 1e-12
    shown = figures(ended)
    assert len(found) == len(TENANTS)
    for tenant, (successes, usd, wasted) in found.items():
        figure = shown[tenant]
        assert successes > 0
        assert wasted > 0
        assert figure["wasted_tokens"] == wasted
        assert abs(figure["cost_usd"] - usd) < 1e-7
        assert abs(figure["cost_per_successful_request_usd"] - usd / successes) < 1e-7


def figures(ended):
    newest_us = max(each.at_us for each in ended.window.records)
    return {str(parse_id("org", each["organization_id"])): each for each in ended.window.by_tenant(newest_us)}
