"""Rollouts: no weight rises without live evidence, a bad version is rolled back, a good one becomes stable."""

import asyncio
import re
from dataclasses import replace
from importlib.resources import files

import pytest

from interlock.contracts.arms import ArmSecond, BadCounts
from interlock.evals.domain.rollout_counts import Remembered, Versions, packed, tally, unpacked
from interlock.evals.domain.rollout_states import ACTIVE, TRANSITIONS, RolloutAct, RolloutState, after
from interlock.evals.service.rollouts import topic_of
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import parse_id
from interlock.foundation.leases import LeaseLostError
from interlock.foundation.scope import Principal, PrincipalKind
from interlock.gateway.domain.directory import RouteSpec, Target
from interlock.gateway.service.route_versions import RouteWanted
from tests.evals.rollout_world import Lab
from tests.support.store import IDS


@pytest.fixture
async def lab(store, scope):
    made = Lab(store, scope)
    await made.make_route()
    return made


async def refusal(awaitable):
    with pytest.raises(InterlockError) as refused:
        await awaitable
    return refused.value


async def test_a_draft_names_its_artifact_and_gives_nobody_anything(lab):
    made = await lab.create()
    assert made["id"].startswith("rol_")
    assert (made["state"], made["stage"], made["weight"]) == ("draft", 0, 0)
    assert (made["from_version"], made["to_version"], made["artifact_digest"]) == (1, 2, lab.gate.digest)
    assert made["gate"]["verdict"] == "PASS"
    assert await lab.weight() == (1, 0.0)
    assert not await lab.look()


async def test_without_live_evidence_nothing_starts(lab):
    made = await lab.create()
    lab.gate.is_live = False
    refused = await refusal(lab.act("start", made["id"]))
    assert (refused.code, refused.http_status) == ("gate_blocked", 409)
    assert refused.safe_detail["reasons"][0]["code"] == "verdict_expired"
    assert (await lab.get(made["id"]))["state"] == "draft"
    assert await lab.weight() == (1, 0.0)


async def test_the_first_stage_may_not_exceed_what_a_fresh_verdict_admits(lab):
    made = await lab.create(stages=(10.0, 100.0))
    refused = await refusal(lab.act("start", made["id"]))
    assert refused.safe_detail["reasons"][0]["code"] == "first_stage_too_large"
    assert lab.gate.minted == []


async def test_a_good_version_goes_through_its_stages_to_stable(lab):
    rollout = await lab.started()
    assert (rollout["state"], rollout["weight"]) == ("canary", 5.0)
    assert await lab.weight() == (1, 5.0)
    for weight in (5.0, 50.0):
        rollout = await lab.get(rollout["id"])
        assert (rollout["state"], rollout["weight"]) == ("canary", weight)
        lab.answer(rollout, units=450)
        await lab.look()
        early = await lab.get(rollout["id"])
        assert (early["decision"], early["reasons"][0]["code"]) == ("HOLD", "dwell")
        lab.answer(rollout, units=5)
        await lab.look()
    done = await lab.get(rollout["id"])
    assert (done["state"], done["decision"], done["weight"]) == ("promoted", "PROMOTE", 100.0)
    assert await lab.weight() == (2, 0.0)
    assert lab.gate.minted == [5.0, 50.0, 100.0]
    assert not await lab.look()
    assert [action for action, _ in await lab.audited() if action.startswith("rollout")] == [
        "rollout.create", "rollout.start", "rollout.stage", "rollout.stage", "rollout.promoted",
    ]  # fmt: skip
    events = await lab.events.after(lab.scope, [topic_of(parse_id("rol", rollout["id"]))], 0)
    assert [each.payload["state"] for each in events if each.payload["event"] == "rollout.state"] == [
        "canary", "canary", "canary", "promoted",
    ]  # fmt: skip


async def test_a_bad_version_is_rolled_back_and_becomes_an_incident(lab):
    rollout = await lab.started()
    lab.answer(rollout, units=60, bad=20, control_bad=3)
    await lab.look()
    done = await lab.get(rollout["id"])
    assert (done["state"], done["decision"], done["weight"]) == ("rolled_back", "ROLLBACK", 0.0)
    assert done["reasons"][0]["code"] == "worse_than_control"
    assert done["monitor"]["errors"]["e_rollback"] > done["monitor"]["errors"]["threshold"]
    assert await lab.weight() == (1, 0.0)
    (report,) = lab.reports.filed
    assert (report.detector, report.artifact_digest, report.route) == (
        "rollout.worse_than_control", lab.gate.digest, "shop",
    )  # fmt: skip
    assert not await lab.look()
    assert (await refusal(lab.act("resume", rollout["id"]))).code == "state_conflict"


async def test_rollback_wins_over_every_wait(lab):
    rollout = await lab.started(dwell_s=3_600.0)
    await lab.act("pause", rollout["id"])
    lab.gate.is_live = False
    lab.answer(rollout, units=60, bad=20)
    await lab.look()
    assert (await lab.get(rollout["id"]))["state"] == "rolled_back"


async def test_inconclusive_never_raises_a_weight(lab):
    rollout = await lab.started()
    for _ in range(6):
        lab.answer(rollout, units=20)
        await lab.look(wait_s=10.0)
        rollout = await lab.get(rollout["id"])
        assert (rollout["decision"], rollout["weight"]) == ("HOLD", 5.0)
        assert {each["code"] for each in rollout["reasons"]} <= {"evidence_short", "arm_empty"}


async def test_low_traffic_holds_and_is_not_blindness(lab):
    rollout = await lab.started()
    for _ in range(15):
        lab.answer(rollout, units=1, without=("canary",))
        lab.counts.seconds[-1] = replace(lab.counts.seconds[-1], units=2)
        await lab.look()
        rollout = await lab.get(rollout["id"])
        assert (rollout["state"], rollout["decision"]) == ("canary", "HOLD")
    assert "counts_invalid" not in {each["code"] for each in rollout["reasons"]}


async def test_a_missing_arm_holds_and_a_monitor_that_stays_blind_rolls_back(lab):
    rollout = await lab.started()
    for number in range(12):
        lab.answer(rollout, units=50, without=("canary",))
        await lab.look()
        rollout = await lab.get(rollout["id"])
        if number < 11:
            assert (rollout["decision"], rollout["reasons"][0]["code"]) == ("HOLD", "counts_invalid")
    assert (rollout["state"], rollout["reasons"][0]["code"]) == ("rolled_back", "monitor_blind")


async def test_a_monitor_whose_clock_stepped_back_is_blind_and_not_content(lab):
    """A look of an hour ahead has read what there was; what comes until then is never read."""
    rollout = await lab.started()
    ahead_s, lab.clock.ahead_s = lab.clock.ahead_s, lab.clock.ahead_s + 3_600
    await lab.look(wait_s=0)
    assert (await lab.get(rollout["id"]))["reasons"][0]["code"] == "lease_lapsed"
    lab.clock.ahead_s = ahead_s
    for _ in range(12):
        lab.answer(rollout, units=60, bad=30)
        await lab.look()
        rollout = await lab.get(rollout["id"])
    assert (rollout["state"], rollout["reasons"][0]["code"]) == ("rolled_back", "monitor_blind")


async def test_each_increase_checks_live_verdicts(lab):
    rollout = await lab.started()
    lab.answer(rollout, units=450)
    lab.gate.is_live = False
    await lab.look(wait_s=12.0)
    held = await lab.get(rollout["id"])
    assert (held["decision"], held["state"], held["weight"], held["stage"]) == ("PROMOTE", "canary", 5.0, 0)
    lab.gate.is_live = True
    lab.answer(rollout, units=5)
    await lab.look()
    assert (await lab.get(rollout["id"]))["weight"] == 50.0


async def test_a_paused_rollout_keeps_its_weight_and_goes_on_only_with_evidence(lab):
    rollout = await lab.started()
    await lab.act("pause", rollout["id"], "let us look")
    lab.answer(rollout, units=450)
    await lab.look(wait_s=12.0)
    held = await lab.get(rollout["id"])
    assert (held["state"], held["weight"], held["decision"]) == ("paused", 5.0, "PROMOTE")
    assert (await lab.weight())[1] == 5.0
    lab.gate.is_live = False
    assert (await refusal(lab.act("resume", rollout["id"]))).code == "gate_blocked"
    lab.gate.is_live = True
    await lab.act("resume", rollout["id"])
    lab.answer(rollout, units=5)
    await lab.look()
    assert (await lab.get(rollout["id"]))["weight"] == 50.0


async def test_a_weight_that_lapsed_comes_back_with_live_evidence_and_its_stage_begins_anew(lab):
    rollout = await lab.started()
    lab.answer(rollout, units=300)
    await lab.look()
    lab.clock.ahead_s += 120
    assert (await lab.weight())[1] == 0.0, "with the monitor stopped it drains"
    lab.gate.is_live = False
    await lab.look()
    assert (await lab.get(rollout["id"]))["reasons"][0]["code"] == "verdict_ended"
    assert (await lab.weight())[1] == 0.0
    lab.gate.is_live = True
    await lab.look()
    assert (await lab.weight())[1] == 5.0
    lab.answer(rollout, units=300)
    await lab.look(wait_s=12.0)
    again = await lab.get(rollout["id"])
    assert again["decision"] == "HOLD", "300 units of before and 300 of now are not 600 units"


async def test_a_version_in_the_shadow_sees_copies_for_its_time_and_then_answers_with_live_evidence(lab):
    rollout = await lab.started(shadow_s=30.0)
    assert (rollout["state"], rollout["stage"], rollout["weight"]) == ("shadow", 0, 5.0)
    assert (await lab.mode(), await lab.weight()) == ("shadow", (1, 5.0))
    assert (await refusal(lab.create())).code == "rollout_active"
    assert (await refusal(lab.act("pause", rollout["id"]))).code == "state_conflict"
    for _ in range(2):
        await lab.look(wait_s=10.0)
        held = await lab.get(rollout["id"])
        assert (held["state"], held["decision"], held["reasons"][0]["code"]) == ("shadow", "HOLD", "shadow")
    lab.gate.is_live = False
    await lab.look(wait_s=10.0)
    held = await lab.get(rollout["id"])
    assert (held["state"], held["decision"], await lab.mode()) == ("shadow", "PROMOTE", "shadow")
    lab.gate.is_live = True
    await lab.look()
    opened = await lab.get(rollout["id"])
    assert (opened["state"], opened["stage"], await lab.mode()) == ("canary", 0, "canary")
    assert lab.gate.minted == [5.0, 5.0]
    lab.answer(opened, units=450)
    await lab.look()
    assert (await lab.get(rollout["id"]))["reasons"][0]["code"] == "dwell", "the stage begins where the shadow ends"
    lab.answer(opened, units=5)
    await lab.look()
    assert (await lab.get(rollout["id"]))["weight"] == 50.0
    assert [action for action, _ in await lab.audited() if action.startswith("rollout")] == [
        "rollout.create", "rollout.start", "rollout.open", "rollout.stage",
    ]  # fmt: skip


async def test_a_shadow_that_nobody_renewed_begins_anew(lab):
    rollout = await lab.started(shadow_s=30.0)
    lab.clock.ahead_s += 120
    assert (await lab.weight())[1] == 0.0
    await lab.look()
    assert (await lab.get(rollout["id"]))["reasons"][0]["code"] == "lease_lapsed"
    assert (await lab.mode(), await lab.weight()) == ("shadow", (1, 5.0))
    await lab.look(wait_s=20.0)
    assert (await lab.get(rollout["id"]))["state"] == "shadow"


async def test_a_version_that_fails_most_of_its_copies_is_taken_back(lab):
    rollout = await lab.started(shadow_s=30.0)
    lab.copied(rollout, made=9, failed=9)
    await lab.look(wait_s=40.0)
    held = await lab.get(rollout["id"])
    assert (held["state"], held["decision"], held["reasons"][0]["code"]) == ("shadow", "HOLD", "shadow_errors")
    lab.copied(rollout, made=1, failed=1)
    await lab.look(wait_s=5.0)
    back = await lab.get(rollout["id"])
    assert (back["state"], back["reasons"][0]["text"]) == (
        "rolled_back",
        "Of 10 copies of answered requests 10 failed.",
    )
    assert ((await lab.weight()), len(lab.reports.filed), await lab.look()) == ((1, 0.0), 1, False)


async def test_a_verdict_that_ends_in_the_shadow_is_told_and_another_one_carries_on(lab):
    lab.gate.lives_s = 100
    rollout = await lab.started(shadow_s=600.0)
    await lab.look(wait_s=50.0)
    await lab.look(wait_s=30.0)
    assert (await lab.weight())[1] == 5.0, "a token of a verdict that lives on came before the first one ended"
    assert len(lab.gate.minted) > 1
    lab.gate.is_live = False
    for _ in range(3):
        await lab.look(wait_s=50.0)
    ended = await lab.get(rollout["id"])
    assert (ended["state"], ended["reasons"][0]["code"]) == ("shadow", "verdict_ended")
    assert (await lab.weight())[1] == 0.0
    lab.gate.is_live = True
    await lab.look(wait_s=5.0)
    again = await lab.get(rollout["id"])
    assert (again["reasons"][0]["code"], await lab.mode(), (await lab.weight())[1]) == ("lease_lapsed", "shadow", 5.0)
    await lab.look(wait_s=5.0)
    assert (await lab.get(rollout["id"]))["reasons"][0]["text"].startswith("It sees copies only, for 5 of 600 seconds")


@pytest.mark.parametrize(("act", "state", "incidents"), [("rollback", "rolled_back", 1), ("kill", "killed", 0)])
async def test_a_version_in_the_shadow_is_taken_back_at_once(lab, act, state, incidents):
    rollout = await lab.started(shadow_s=30.0)
    assert (await lab.act(act, rollout["id"]))["state"] == state
    assert (await lab.weight(), len(lab.reports.filed)) == ((1, 0.0), incidents)
    assert not await lab.look()


async def test_a_killed_rollout_comes_back_by_two_people_only(lab):
    rollout = await lab.started()
    killed = await lab.act("kill", rollout["id"])
    assert (killed["state"], await lab.weight()) == ("killed", (1, 0.0))
    for _ in range(2):
        assert (await lab.act("unkill", rollout["id"]))["state"] == "killed"
    for program in await programs_of(lab, lab.scope):
        assert (await lab.act("unkill", rollout["id"], scope=program))["state"] == "killed"
    person = Principal(IDS.new(), PrincipalKind.USER, lab.scope.organization_id)
    back = await lab.act("unkill", rollout["id"], scope=replace(lab.scope, principal=person))
    assert back["state"] == "draft"
    again = await lab.act("start", rollout["id"])
    assert (again["state"], await lab.weight()) == ("canary", (1, 5.0))


async def programs_of(lab, scope):
    """A program that somebody made, and one that this program made: both are that person's."""
    made = []
    for name in ("first", "second"):
        async with lab.store.transaction(scope) as tx:
            account = await lab.identity.create_service_account(tx, scope.workspace_id, f"{name}-{IDS.new().hex}")
        scope = replace(scope, principal=replace(scope.principal, id=account["id"], kind=PrincipalKind.SERVICE_ACCOUNT))
        made.append(scope)
    return made


async def test_a_route_tries_one_version_at_a_time(lab):
    await lab.started()
    assert (await refusal(lab.create())).code == "rollout_active"


async def test_of_two_that_start_at_once_only_one_moves_the_weight(lab):
    async with lab.store.transaction(lab.scope) as tx:
        await lab.versions.add(tx, RouteWanted("shop", RouteSpec(targets=(Target("new"),))))
    drafts = [await lab.create(version=number) for number in (2, 3)]
    found = await asyncio.gather(*(lab.act("start", each["id"]) for each in drafts), return_exceptions=True)
    (started,) = [each for each in found if isinstance(each, dict)]
    (refused,) = [each for each in found if isinstance(each, InterlockError)]
    assert refused.code == "rollout_active"
    assert await lab.candidate() == started["to_version"]
    moved = [action for action, _ in await lab.audited() if action == "route.weight"]
    assert moved == ["route.weight"]


async def test_of_two_workers_only_the_holder_of_the_lease_writes(lab):
    rollout = await lab.started()
    lab.answer(rollout, units=60, bad=20)
    lab.clock.ahead_s += 5
    (lease,) = [each for each in await lab.table.claim("one", 50) if each.organization_id == lab.scope.organization_id]
    with pytest.raises(LeaseLostError):
        await lab.monitor.look(replace(lease, token=lease.token - 1))
    assert (await lab.get(rollout["id"]))["state"] == "canary"
    await lab.monitor.look(lease)
    assert (await lab.get(rollout["id"]))["state"] == "rolled_back"


async def test_a_kill_between_look_and_act_is_not_undone_by_a_promotion(lab):
    rollout = await lab.started()
    lab.answer(rollout, units=450)
    ask = lab.monitor._ask

    async def killed_first(*given):
        raise AssertionError("a killed rollout asks for no weight")

    lab.monitor._ask = killed_first
    write = lab.monitor._write

    async def write_then_kill(*given):
        noted = await write(*given)
        await lab.act("kill", rollout["id"])
        return noted

    lab.monitor._write = write_then_kill
    await lab.look(wait_s=12.0)
    lab.monitor._ask = ask
    assert (await lab.get(rollout["id"]))["state"] == "killed"
    assert await lab.weight() == (1, 0.0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 1}, "state_conflict"),
        ({"version": 9}, "not_found"),
        ({"route": "nothing"}, "not_found"),
        ({"stages": ()}, "invalid_request"),
        ({"stages": (5.0, 5.0)}, "invalid_request"),
        ({"stages": (100.0,)}, "invalid_request"),
        ({"stages": (0.0, 50.0)}, "invalid_request"),
        ({"stages": (5.0, float("nan"))}, "invalid_request"),
        # As basis points it would be the whole, and nobody asked for that.
        ({"stages": (5.0, 99.996)}, "invalid_request"),
        ({"dwell_s": 1.0}, "invalid_request"),
        ({"shadow_s": -1.0}, "invalid_request"),
        ({"shadow_s": float("nan")}, "invalid_request"),
        ({"metrics": {"flagged": {"r_max": 2.0}}}, "invalid_request"),
        ({"metrics": {"errors": {"r_max": 1.0}}}, "invalid_request"),
        ({"metrics": {"errors": {"alpha": 0.5}}}, "invalid_request"),
    ],
)
async def test_a_rollout_that_makes_no_sense_is_refused(lab, change, code):
    assert (await refusal(lab.create(**change))).code == code


def test_states_are_those_of_the_store_and_only_a_live_rollout_has_a_weight():
    text = _migration("_evals_shadow.sql")
    check = re.search(r"CHECK \(state IN \(([^)]*)\)\)", text)[1]
    assert set(re.findall(r"'(\w+)'", check)) == {str(each) for each in RolloutState}
    active = re.search(r"evals_rollouts_active .*\n  WHERE state IN \(([^)]*)\)", text)[1]
    assert set(re.findall(r"'(\w+)'", active)) == {str(each) for each in ACTIVE}
    ended = set(RolloutState) - {state for state, _ in TRANSITIONS}
    assert ended == {RolloutState.PROMOTED, RolloutState.ROLLED_BACK}
    assert after(RolloutState.KILLED, RolloutAct.START) is None


def _migration(ending):
    return next(each for each in files("interlock.migrations").iterdir() if each.name.endswith(ending)).read_text()


def second(arm, weight, units, bad=(), at=1, version=None):
    metrics = {"errors": BadCounts(len(bad), frozenset(bad))}
    number = version or {"canary": 2, "stable": 1}[arm]
    return ArmSecond("shop", number, arm, at, weight, units, units, metrics)


def test_only_seconds_of_the_weight_in_force_count():
    seconds = [
        second("canary", 0.05, 10), second("stable", 0.95, 190), second("canary", 0.5, 99, at=2),
        second("stable", 0.5, 99, at=2), second("canary", 0.05, 7, version=3),
    ]  # fmt: skip
    found = tally(seconds, Versions(1, 2, 0.05), {"errors": Remembered()}, {})
    assert (found.canary.units, found.control.units) == (10, 190)


def test_one_session_is_one_bad_unit():
    memory = {"errors": Remembered()}
    units = [b"%08d" % each for each in range(3)]
    first = [second("canary", 0.5, 3, units), second("stable", 0.5, 3, units[:1])]
    found = tally(first, Versions(1, 2, 0.5), memory, {})
    assert (found.canary.bad, found.control.bad) == ({"errors": 3}, {"errors": 0})
    again = tally(first, Versions(1, 2, 0.5), memory, {})
    assert (again.canary.bad, again.canary.bad_in_stage) == ({"errors": 0}, {"errors": 0})
    memory["errors"].stage.clear()
    staged = tally(first, Versions(1, 2, 0.5), memory, {})
    assert (staged.canary.bad, staged.canary.bad_in_stage) == ({"errors": 0}, {"errors": 3})
    assert unpacked(packed(memory["errors"].rollout)) == set(units)


def test_a_metric_that_was_not_counted_is_missing_and_never_zero():
    found = tally([second("canary", 0.5, 3), second("stable", 0.5, 3)], Versions(1, 2, 0.5), {"slow": Remembered()}, {})
    assert found.canary.bad == {}


def test_silence_is_no_fault_until_somebody_had_to_be_there():
    memory, silent = {"errors": Remembered()}, {}
    versions = Versions(1, 2, 0.05)
    for _ in range(3):
        found = tally([second("stable", 0.95, 60)], versions, memory, silent)
        silent = found.silent
        assert (found.canary.units, found.canary.bad) == (0, {"errors": 0})
    assert tally([second("stable", 0.95, 60)], versions, memory, silent).canary is None
    back = tally([second("stable", 0.95, 60), second("canary", 0.05, 1)], versions, memory, silent)
    assert back.silent == {}
