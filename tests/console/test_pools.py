"""Pools on a page: the figures of a real core, drawn; a tenant sees its own part of the tree and nobody else's."""

from dataclasses import replace
from uuid import UUID

import pytest

from interlock.console.moments import when_at
from interlock.console.pools import gate_sentence, lines, own_shares, pool_values, sentence, told, trial_values
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
    "title": "Pool", "here": "pool", "open": "scheduler", "navigation": navigation(bool), "kills": [],
    "kills_left_out": 0, "degraded": [], "bars_seen": "0",
    "csrf": "x", "who": "usr_1", "when": when_at(MINUTE_US),
}  # fmt: skip

UNTRIED = {"versions": [], "trial": None}
ARM = {"arrived": 90, "refused": 10, "judged": 80, "kept": 60, "accepted_attainment": 0.75}
TRIED = {
    "pool": "fast", "number": 3, "stage": "canary", "share_bp": 250, "settings": {}, "by": "usr_1", "verdict": None,
    "changed": {"policy": ["interlock", "vtc"], "batch.tpot_ms": [None, 90]}, "began_at": "2026-01-02T03:04:05.000Z",
    "ended_at": None,
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
    html = fragment("pool.html", {**AROUND, **values, **UNTRIED})
    assert [each.name for each in values["charts"]] == [
        "Time to first token", "Tokens per second", "Queue wait time", "End-to-end latency", "GPU utilization",
        "Overload rejections", "Cost per successful request",
    ]  # fmt: skip
    assert "1 of 4 seats are in use" in html
    assert "error rate 0.0%" in html
    assert "100.0% came within its objective" in html
    assert 'href="/console/grants/req_11"' in html
    assert html.count("deadline_infeasible") >= 4


def test_an_answer_says_which_objective_it_missed(policy):
    view, now_us = pool_view(policy.statistics(0), "host"), 5 * MINUTE_US
    figures = window().figures(now_us)
    ended = {**recent(window(), now_us)[-1], "outcome": "ok", "code": None}
    cases = [({"ttft_ms": 1_200, "in_slo": False}, "late"), ({"ttft_ms": 90, "in_slo": False}, "slow"),
             ({"ttft_ms": 90, "in_slo": True}, None), ({"outcome": "timeout", "in_slo": False}, None)]  # fmt: skip
    for given, missed in cases:
        values = pool_values(view, figures, {"history": history(window(), now_us), "recent": [{**ended, **given}]})
        assert values["recent"][0]["missed"] == missed, given


def test_a_pool_in_which_nothing_happened_says_what_would_fill_it(policy):
    seen = Window()
    view = pool_view(policy.statistics(0), "host")
    values = pool_values(view, seen.figures(0), {"history": history(seen, 0), "recent": recent(seen, 0)})
    html = fragment("pool.html", {**AROUND, **values, **UNTRIED})
    assert "interlock scheduler pools set fast share_level=0.7 --shadow" in html
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


def test_a_candidate_is_shown_as_it_stands_and_what_another_leader_said_of_an_older_one_is_not(policy):
    seen = Window()
    view = pool_view(policy.statistics(0), "host")
    values = pool_values(view, seen.figures(0), {"history": history(seen, 0), "recent": recent(seen, 0)})
    version = {"version": 2, "changed": {"policy": ["vtc", "interlock"]}, "settings": {}, "reason": "back to version 1",
               "by": "usr_2", "at": "2026-01-02T03:04:05.000Z"}  # fmt: skip

    def page(tried, told):
        trial = trial_values(tried, told)
        return fragment("pool.html", {**AROUND, **values, "versions": [version], "trial": trial})

    html = page(
        TRIED, {"number": 3, "canary": {"live": ARM, "candidate": {**ARM, "kept": 80, "accepted_attainment": 1}}}
    )
    assert "It decides for 2.5 % of the workspaces." in html
    assert "policy interlock to vtc, batch.tpot_ms none to 90" in html
    assert "60 of 80 promises kept, 75.00%; 10 of 90 refused" in html
    assert "policy vtc to interlock; back to version 1" in html
    assert "promises kept" not in page(TRIED, {"number": 2, "canary": {"live": ARM, "candidate": ARM}})
    assert "<dt>Gate</dt>" not in html
    stands = {"required": True, "admits": False, "first_share_bp": None, "reasons": [{"text": "It came to FAIL."}]}
    trial = trial_values(TRIED, {"number": 3}, stands)
    assert "Blocked: It came to FAIL." in fragment("pool.html", {**AROUND, **values, "versions": [], "trial": trial})
    assert gate_sentence({**stands, "admits": True, "first_share_bp": 500}).startswith("Admitted for 5 %")
    assert gate_sentence(None) is gate_sentence({**stands, "required": False}) is None
    newest = [{"request_id": "req_12345678", "kind": "refused", "live": "final", "candidate": "displaced", "ago_s": 4}]
    heard = {"requests": 1_234, "differences": {"refused": 7, "later": 0}, "newest": newest}
    html = page({**TRIED, "stage": "shadow"}, {"number": 3, "shadow": heard})
    assert "It decides beside the pool for nobody, and has heard 1,234 requests." in html
    assert "7 would have been refused" in html
    assert "granted later" not in html
    assert 'href="/console/grants/req_12345678"' in html
    fell = {"reason": "accepted attainment fell by a point", "live": ARM, "candidate": ARM}
    html = page({**TRIED, "stage": "rolled_back", "verdict": fell}, {"number": None})
    assert "accepted attainment fell by a point" in html
    assert html.count("promises kept, 75.00%") == 2
