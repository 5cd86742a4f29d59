"""Pools on a page: the figures of a real core, drawn; a tenant sees its own part of the tree and nobody else's."""

from dataclasses import replace
from uuid import UUID

import pytest

from interlock.console.pools import lines, own_shares, pool_values, sentence, told
from interlock.console.render import fragment
from interlock.console.screens import navigation
from interlock.foundation.ids import OrganizationId, WorkspaceId, format_id
from interlock.foundation.scope import ALL_WORKSPACES
from interlock.scheduler.domain.history import history, recent
from interlock.scheduler.domain.measures import Window
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.service.pool_view import pool_view
from tests.scheduler.calls import grant_request
from tests.scheduler.test_policy import arrive, granted, pool, tenant
from tests.support.store import scope_of

MINUTE_US = 60_000_000
AROUND = {
    "title": "Pool", "here": "pool", "open": "scheduler", "navigation": navigation(bool), "kills": [], "degraded": [],
    "csrf": "x", "who": "usr_1",
}  # fmt: skip


@pytest.fixture
def policy():
    found = pool()
    arrive(found, "a", "b", organization=tenant(7), input_tokens=400)
    arrive(found, "c", organization=tenant(8), input_tokens=400)
    granted(found)
    return found


def window():
    found = Window()
    for number in range(12):
        request = grant_request(f"req_{number}")
        at_us = 4 * MINUTE_US + number * 5_000_000
        if number % 3:
            found.add(DecisionRecord(request, "ok", at_us, queue_wait_ms=5, ttft_ms=200 + number, total_ms=900,
                                     input_tokens=10, output_tokens=4, is_in_slo=True))  # fmt: skip
        else:
            found.add(DecisionRecord(request, "refused", at_us, code="deadline_infeasible", predicted_ttft_ms=1_900))
    return found


def test_the_page_shows_seven_metrics_the_queue_the_engines_and_what_ended(policy):
    seen, now_us = window(), 5 * MINUTE_US
    view = pool_view(policy.statistics(0), "host")
    values = pool_values(view, seen.figures(now_us), {"history": history(seen, now_us), "recent": recent(seen, now_us)})
    html = fragment("pool.html", {**AROUND, **values})
    assert [each.name for each in values["charts"]] == [
        "Time to first token", "Tokens per second", "Queue wait time", "End-to-end latency", "GPU utilization",
        "Overload rejections", "Cost per success",
    ]  # fmt: skip
    assert "1 of 4 seats are in use" in html
    assert "100.0% came within its objective" in html
    assert 'href="/console/grants/req_11"' in html
    assert html.count("deadline_infeasible") >= 4


def test_a_pool_in_which_nothing_happened_says_what_would_fill_it(policy):
    seen = Window()
    view = pool_view(policy.statistics(0), "host")
    values = pool_values(view, seen.figures(0), {"history": history(seen, 0), "recent": recent(seen, 0)})
    html = fragment("pool.html", {**AROUND, **values})
    assert "Nothing ended in the last five minutes. Send something:" in html


def test_spans_follow_what_ended_in_them():
    spans = history(window(), 5 * MINUTE_US)
    assert len(spans) == 30
    assert sum(each["overload_rejections"] for each in spans) == 4
    assert spans[0]["time_to_first_token_s"] is None
    assert spans[-1]["time_to_first_token_s"] == 0.21


def test_a_line_breaks_where_nobody_measured():
    assert len(lines([1.0, None, 2.0, 3.0])) == 2
    assert lines([]) == ()


def test_a_tenant_sees_its_own_part_of_the_tree(policy):
    tenants = pool_view(policy.statistics(0), "host")["tenants"]
    scope = scope_of(OrganizationId(UUID(int=7)))
    own = replace(scope, workspace_id=ALL_WORKSPACES)
    mine = format_id("org", UUID(int=7))
    assert {each["path"].split("/")[0] for each in own_shares(tenants, own)} == {mine}
    inside = replace(scope, workspace_id=WorkspaceId(UUID(int=2)))
    assert [each["depth"] for each in own_shares(tenants, inside)] == [1]
    assert own_shares(tenants, replace(scope, workspace_id=WorkspaceId(UUID(int=99)))) == []
    operator = replace(own, principal=replace(own.principal, is_platform_operator=True))
    assert len(own_shares(tenants, operator)) == len(tenants)


def test_a_grant_tells_predicted_beside_actual():
    found = {
        "outcome": "ok", "code": None, "queue_wait_ms": 12, "is_in_slo": True, "predicted_ttft_ms": 100,
        "ttft_ms": 90, "predicted_tpot_ms": None, "tpot_ms": 7.5, "predicted_output": 20, "output_tokens": 5,
    }  # fmt: skip
    assert told(found)[0] == ("First token", "100 ms", "90 ms")
    assert sentence(found) == "Granted after 12 ms, and within its objective."
    refused = found | {"outcome": "refused", "code": "displaced"}
    assert sentence(refused) == "Refused by displaced: its first token was predicted after 100 ms."
