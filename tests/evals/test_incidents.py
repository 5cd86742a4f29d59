"""Incidents: the same report twice is one, a test is admitted by what it tells apart, and nothing closes unguarded."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.contracts.incidents import Deduplicated, IncidentReport, Opened, Severity
from interlock.evals.domain.fingerprint import fingerprint
from tests.evals.eval_world import answers, recorded

REPORT = {
    "title": "The assistant promised a day", "severity": "sev2", "source": "support", "route": "shop",
    "detector": "person", "text": "You will have your money on Friday, I promise. Order 4711.",
    "input": {"messages": [{"role": "user", "content": "When is my money there?"}]},
}  # fmt: skip
BAD, GOOD = "You will have it on Friday, I promise.", "Cards take three to five working days."
ORACLE = [{"type": "contains_none", "value": ["promise"]}, {"type": "contains_all", "value": ["working days"]}]


def case_of(bad=BAD, good=GOOD, tries=5):
    return {
        "suite": "guard", "key": "promise", "oracle": ORACLE, "tries": tries,
        "bad": recorded("bad", {"promise": [bad] * tries}),
        "reference": recorded("ref", {"promise": [good] * tries}),
    }  # fmt: skip


async def guarded(lab, incident):
    """A required gate over the suite of the incident's case."""
    await lab.ok("POST", f"/v1/incidents/{incident['id']}/case", case_of(), 201)
    check = {"name": "guard", "suite": "guard", "rule": "must_pass", "accept_recorded": True, "repeats": 2}
    return await lab.armed_gate([check], {"promise": [GOOD] * 2})


async def test_the_same_report_twice_is_one_incident_and_after_closing_it_opens_again(lab):
    first = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    again = {**REPORT, "text": REPORT["text"].replace("4711", "982").upper()}
    second = await lab.ok("POST", "/v1/incidents", again, 200)
    assert (second["id"], second["occurrences"], second["deduplicated"]) == (first["id"], 2, True)
    other = await lab.ok("POST", "/v1/incidents", {**REPORT, "route": "other"}, 201)
    assert other["id"] != first["id"]
    await guarded(lab, first)
    closed = await lab.ok("POST", f"/v1/incidents/{first['id']}/close", {"note": "guarded now"})
    assert closed["state"] == "closed"
    opened = await lab.ok("POST", "/v1/incidents", REPORT, 200)
    assert (opened["id"], opened["state"], opened["reopened"]) == (first["id"], "open", True)


async def test_an_incident_does_not_close_without_a_guard(lab):
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    path = f"/v1/incidents/{found['id']}"
    assert (await lab.refused("POST", f"{path}/close", {"note": "done"}))[:2] == (409, "incident_unguarded")
    await lab.ok("POST", f"{path}/case", case_of(), 201)
    # The case is in a suite, and no required gate asks for the suite.
    assert (await lab.refused("POST", f"{path}/close", {"note": "done"}))[:2] == (409, "incident_unguarded")


async def test_a_case_that_left_the_suite_guards_nothing(lab):
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    await guarded(lab, found)
    await lab.push("guard", 3, "must_pass")
    path = f"/v1/incidents/{found['id']}/close"
    assert (await lab.refused("POST", path, {"note": "done"}))[:2] == (409, "incident_unguarded")


@pytest.mark.parametrize(("bad", "good"), [(GOOD, GOOD), (BAD, BAD)])
async def test_a_case_that_tells_nothing_apart_is_not_admitted(lab, bad, good):
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    refused = await lab.refused("POST", f"/v1/incidents/{found['id']}/case", case_of(bad, good))
    assert refused[:2] == (409, "case_not_admitted")
    assert refused[2]["bad"]["n"] == 5


async def test_a_case_is_admitted_at_four_failures_of_five_and_not_at_three(lab):
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    path = f"/v1/incidents/{found['id']}/case"
    mixed = case_of()
    mixed["bad"]["outputs"]["promise"] = [BAD] * 3 + [GOOD] * 2
    assert (await lab.refused("POST", path, mixed))[1] == "case_not_admitted"
    mixed["bad"]["outputs"]["promise"] = [BAD] * 4 + [GOOD]
    admitted = await lab.ok("POST", path, mixed, 201)
    assert admitted["admission"] == {"bad": {"failed": 4, "n": 5}, "reference": {"passed": 5, "n": 5}}
    assert admitted["suite_version"] == 1
    shown = await lab.ok("GET", f"/v1/incidents/{found['id']}")
    assert (shown["state"], shown["repro"]["k"]) == ("guarded", 4)


async def test_an_oracle_that_cannot_fail_makes_no_case(lab):
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    body = {**case_of(), "oracle": [{"type": "regex", "value": ".*"}]}
    assert (await lab.refused("POST", f"/v1/incidents/{found['id']}/case", body))[:2] == (422, "oracle_cannot_fail")


async def test_without_an_input_there_is_nothing_to_test(lab):
    bare = {name: each for name, each in REPORT.items() if name != "input"}
    found = await lab.ok("POST", "/v1/incidents", bare, 201)
    assert (await lab.refused("POST", f"/v1/incidents/{found['id']}/case", case_of()))[:2] == (409, "capture_missing")


async def test_the_case_makes_the_bad_artifact_fail_and_the_fixed_one_pass(lab):
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    gate = await guarded(lab, found)
    bad = await lab.verdict(gate["id"], recorded("sha256:bad", {"promise": [BAD] * 2}))
    assert (bad["verdict"], bad["reasons"][0]["numbers"]["key"]) == ("FAIL", "promise")
    fixed = await lab.verdict(gate["id"], recorded("sha256:fixed", {"promise": [GOOD] * 2}))
    assert fixed["verdict"] == "PASS"


async def test_a_dismissed_report_opens_anew(lab):
    first = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    await lab.ok("POST", f"/v1/incidents/{first['id']}/triage", {"note": "mine", "owner": "ana"})
    gone = await lab.ok("POST", f"/v1/incidents/{first['id']}/dismiss", {"note": "a test"})
    assert gone["state"] == "dismissed"
    assert (await lab.refused("POST", f"/v1/incidents/{first['id']}/triage", {"note": "x"}))[1] == "state_conflict"
    assert (await lab.ok("POST", "/v1/incidents", REPORT, 201))["id"] != first["id"]


async def test_other_systems_report_by_the_contract(lab):
    report = IncidentReport("A rollout was rolled back", Severity.SEV3, "evals", "monitor", route="shop")
    opened = await lab.incidents.report(lab.scope, report)
    assert isinstance(opened, Opened)
    again = await lab.incidents.report(lab.scope, report)
    assert again == Deduplicated(opened.incident_id)


async def test_a_report_keeps_no_personal_data(lab):
    text = "Customer jo@example.org paid with 4111 1111 1111 1111."
    found = await lab.ok("POST", "/v1/incidents", {**REPORT, "text": text}, 201)
    assert "jo@example.org" not in found["text"]
    assert "4111" not in found["text"]


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_numbers_and_ids_make_no_other_incident(one, other):
    def mark(number):
        return fingerprint(f"Order {number} was refunded twice to the card", taxonomy=None, detector="d", route="r")

    assert mark(one) == mark(other)


def test_another_text_is_another_incident():
    texts = [
        "The card of another customer was shown", "A refund was promised for Friday",
        "The address of a neighbour was read out", "A prompt in a review was followed",
    ]  # fmt: skip
    assert len({fingerprint(each, taxonomy=None, detector="d", route="r") for each in texts}) == 4


async def test_a_suite_pushed_meanwhile_does_not_lose_the_case(lab):
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    await lab.push("guard", 3, "must_pass")
    admitted = await lab.ok("POST", f"/v1/incidents/{found['id']}/case", case_of(), 201)
    assert admitted["suite_version"] == 2
    listed = (await lab.ok("GET", "/v1/evals/suites/guard/cases"))["data"]
    assert [each["key"] for each in listed] == ["c0", "c1", "c2", "promise"]
    assert answers(1)


ROUTE = {"kind": "route", "route": "shop", "version": 2}
STABLE = {**ROUTE, "version": 1}


async def settled(lab, asked):
    """Work as a worker while a call waits for it."""
    call = asyncio.ensure_future(asked)
    while not call.done():
        await lab.drain(3)
        await asyncio.sleep(0.02)
    return await call


async def test_a_case_is_admitted_by_what_two_versions_of_a_route_answer(lab):
    lab.models.answer = lambda _text, version, _tries: GOOD if version == 1 else BAD
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    path, body = f"/v1/incidents/{found['id']}/case", {**case_of(), "bad": ROUTE, "reference": STABLE}
    made = await settled(lab, lab.ok("POST", path, body, 201))
    assert made["admission"] == {"bad": {"failed": 5, "n": 5}, "reference": {"passed": 5, "n": 5}}
    refused = await settled(lab, lab.refused("POST", path, {**body, "key": "again", "bad": STABLE, "reference": ROUTE}))
    assert refused[:2] == (409, "case_not_admitted")
    # What the reference answered is what controls over the suite are built from.
    check = {"name": "guard", "suite": "guard", "rule": "must_pass", "repeats": 2}
    gate = await lab.ok("POST", "/v1/gates", {"name": "g", "route": "shop", "checks": [check]}, 201)
    assert (await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {}, 202))["armed"]


async def test_an_incident_is_reproduced_on_a_target_and_says_how_often(lab):
    lab.models.answer = lambda _text, _version, tries: BAD if tries % 2 else GOOD
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    path = f"/v1/incidents/{found['id']}"
    body = {"candidate": ROUTE, "tries": 10}
    assert (await lab.refused("POST", f"{path}/reproduce", body))[:2] == (409, "capture_missing")
    run = await lab.ok("POST", f"{path}/reproduce", {**body, "oracle": ORACLE}, 202)
    await lab.drain()
    shown = await lab.ok("GET", path)
    assert (shown["state"], shown["repro"]["k"], shown["repro"]["n"]) == ("reproduced", 5, 10)
    assert shown["repro"]["ci95"][0] < 0.5 < shown["repro"]["ci95"][1]
    assert (await lab.ok("GET", f"/v1/evals/runs/{run['id']}"))["completeness"]["scored"] == 10


async def test_an_incident_that_does_not_come_back_is_not_reproduced(lab):
    lab.models.answer = lambda _text, _version, _tries: GOOD
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    path = f"/v1/incidents/{found['id']}"
    await lab.ok("POST", f"{path}/reproduce", {"candidate": ROUTE, "oracle": ORACLE}, 202)
    await lab.drain()
    shown = await lab.ok("GET", path)
    assert (shown["state"], shown["repro"]["k"], shown["repro"]["rate"]) == ("open", 0, 0.0)
