"""Alerts watch figures that exist, and each has its runbook."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.registry import CollectorRegistry

from interlock.foundation.clock import SystemClock
from interlock.foundation.telemetry import Metrics
from interlock.retrieval.metrics import IndexMetrics, ProbeMetrics, RecallMetrics, SearchMetrics
from interlock.scheduler import PoolMetrics
from interlock.scheduler.adapters.parity_metrics import ParityMetrics
from interlock.scheduler.service.measuring import Measuring

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
FILES = sorted(RUNBOOKS.glob("*.rules.yml"))
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
