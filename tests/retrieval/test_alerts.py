"""Alerts watch figures that exist, and each has its runbook."""

import re
from pathlib import Path

import yaml

from interlock.foundation.telemetry import Metrics
from interlock.retrieval.metrics import IndexMetrics, ProbeMetrics, RecallMetrics, SearchMetrics

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
# What a histogram and a counter are asked for by.
_SUFFIX = re.compile(r"_(bucket|sum|count|total)$")


def rules():
    (group,) = yaml.safe_load((RUNBOOKS / "retrieval.rules.yml").read_text())["groups"]
    return group["rules"]


def test_an_alert_watches_what_is_counted():
    metrics = Metrics()
    for each in (IndexMetrics, ProbeMetrics, RecallMetrics, SearchMetrics):
        each(metrics)
    counted = {family.name for family in metrics.registry.collect()}
    for rule in rules():
        asked = re.findall(r"interlock_\w+", rule["expr"])
        assert asked
        assert {_SUFFIX.sub("", each) for each in asked} <= counted, rule["alert"]


def test_an_alert_has_its_section_and_a_section_its_alert():
    sections = re.findall(r"^## (\w+)$", (RUNBOOKS / "retrieval.md").read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules()]
