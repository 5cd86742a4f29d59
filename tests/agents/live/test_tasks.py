"""What a task promises, each on a real platform: it ends once, with proof, and nothing of it is lost or done twice."""

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest
from examples.shop.steps import agents, kit, platform

from tests.agents.live.conftest import FILES, FINAL, PROGRAM, TEST, TESTS, Tasks
from tests.agents.worlds import assert_empty
from tests.journeys.processes import files_with

# Together, as each worker would start a platform of its own.
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("tasks")]
HIDDEN = {"hidden.py": "from refund import refund\nassert refund(100, 1) == 99\nprint('CHECKED-BY-US')\n"}


def finished(task):
    return [step["seq"] for step in task["steps"] if step["status"] in {"done", "failed"}]


def require_dense(tasks, task):
    """Numbers of events and steps have no gap, and the books agree."""
    assert [event["seq"] for event in tasks.events(task["id"])] == list(range(1, len(tasks.events(task["id"])) + 1))
    assert [step["seq"] for step in task["steps"]] == list(range(1, task["head_step"] + 1))
    assert tasks.call("GET", f"/{task['id']}/fsck").body["findings"] == []


def test_a_failing_program_is_mended_and_the_diff_makes_the_callers_test_pass(running, tmp_path):
    (tmp_path / "refund.py").write_text(PROGRAM)
    (tmp_path / "test_refund.py").write_text(TESTS)
    done = running.cli(
        "tasks", "submit", "--repo", str(tmp_path), "--target", "refund.py", "--test", TEST["command"],
        "--verify", TEST["command"], "--model", "repair-search", "--goal", "mend it", "--follow", "--json",
    )  # fmt: skip
    task = json.loads(done.stdout)
    assert (done.returncode, task["state"]) == (0, "complete"), done.stderr
    assert running.cli("tasks", "apply", task["id"], "--into", str(tmp_path)).returncode == 0
    command = ["python3", "-m", "unittest", "-q", "test_refund"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    again = running.cli("tasks", "apply", task["id"], "--into", str(tmp_path))
    assert (again.returncode, "does not apply" in again.stderr) == (1, True)


def test_each_model_step_opens_at_the_gateway_with_the_task_and_its_principal(tasks):
    task = tasks.until(tasks.submit(target="refund.py", test=TEST))
    assert task["state"] == "complete"
    asked = [step["request_id"] for step in task["steps"] if step["kind"] == "model"]
    assert asked
    assert all(asked)
    for request_id in asked[:2]:
        story = tasks.running.story(request_id)
        assert task["id"] in json.dumps(story)
        assert story["principal"]["id"] == task["principal"] if "principal" in story else story["key_id"]
    require_dense(tasks, task)


def test_what_only_passes_the_visible_tests_is_not_accepted_and_the_hidden_files_are_nowhere(tasks):
    overfit = ("write_file", {"path": "refund.py", "content": "def refund(paid, fee):\n    return 8\n"})
    verify = {"command": "python3 hidden.py", "files": HIDDEN, "expect": "CHECKED-BY-US", "max_rejections": 1}
    task = tasks.until(tasks.script(overfit, test=TEST, verify=verify))
    assert (task["state"], task["reason"]) == ("failed", "verification_failed")
    told = json.dumps([task, tasks.events(task["id"])])
    assert "CHECKED-BY-US" not in told
    assert "refund(100, 1)" not in told


def test_a_program_that_ends_the_check_from_inside_is_not_accepted(tasks):
    escape = ("write_file", {"path": "refund.py", "content": "import os\nos._exit(0)\n"})
    verify = {"command": "python3 hidden.py", "files": HIDDEN, "expect": "CHECKED-BY-US", "max_rejections": 1}
    assert tasks.until(tasks.script(escape, verify=verify))["reason"] == "verification_failed"


def test_an_agent_that_edits_the_test_never_completes_and_the_edit_is_not_in_the_diff(tasks):
    by_tool = ("write_file", {"path": "test_refund.py", "content": "pass\n"})
    by_shell = ("run", {"command": "echo pass > test_refund.py; echo pass > conftest.py"})
    task = tasks.until(tasks.script(by_tool, by_shell, test=TEST, verify={**TEST, "max_rejections": 1}))
    assert task["state"] == "failed"
    assert task["diff"] == ""
    errors = [step["error"] for step in task["steps"] if step["kind"] == "tool"]
    assert errors[:2] == ["denied", "policy_violation"]


def test_shell_write_outside_scope_is_reverted(tasks):
    outside = ("run", {"command": "mkdir -p docs; echo x > docs/a; echo y > refund.py"})
    grants = ["fs.read:/task/**", "fs.write:/task/docs/**", "shell.run"]
    task = tasks.until(tasks.script(outside, tools=grants))
    step = next(step for step in task["steps"] if step["kind"] == "tool")
    assert (step["status"], step["error"]) == ("failed", "policy_violation")
    assert task["diff"] == ""


def test_cancel_leaves_no_namespace(tasks):
    forks = "if os.fork()==0:\n os.setsid()\n if os.fork()==0:\n  time.sleep(600)\n os._exit(0)"
    daemon = f"python3 -c 'import os,time\n{forks}'"
    last = f"600.{time.time_ns()}"
    task_id = tasks.script(("run", {"command": f"{daemon}; sleep {last}", "timeout_s": 600}))
    # By the time that the last command runs, what was left behind by the first one does as well.
    until(lambda: any(_command(each) == f"sleep\0{last}\0" for each in Path("/proc").glob("[0-9]*")))
    asked = tasks.call("POST", f"/{task_id}/cancel", {"reason": "no longer needed"})
    assert (asked.status, bool(asked.body["cancel"]["requested_at"])) == (202, True)
    task = tasks.until(task_id)
    assert task["state"] == "canceled"
    proof = task["cancel"]["proof"]
    assert proof["kind"] == "namespace_empty"
    assert proof["killed"] >= 2
    assert_empty(proof["pidns"])
    assert tasks.call("POST", f"/{task_id}/cancel", {"reason": "again"}).status == 200
    require_dense(tasks, task)


def test_a_deadline_ends_an_endless_tool_and_cannot_be_resumed(tasks):
    mark = f"endless-{time.time_ns():x}"
    task_id = tasks.script(("run", {"command": f": {mark}; while :; do :; done", "timeout_s": 300}), deadline_s=2)
    task = tasks.until(task_id)
    assert (task["state"], task["reason"]) == ("failed", "deadline_exceeded")
    assert task["ended_at"] >= task["deadline_at"]
    assert not [each for each in Path("/proc").glob("[0-9]*") if mark in _command(each)]
    assert tasks.call("POST", f"/{task_id}/resume", {}).error["code"] == "invalid_transition"
    fork = tasks.call("POST", f"/{task_id}/fork", {"from_step": 0, "goal": "script:[]", "deadline_s": 600})
    assert fork.status == 201
    assert fork.body["deadline_at"] > task["deadline_at"]
    assert tasks.until(fork.body["id"])["state"] == "complete"


def _command(process):
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_a_deadline_passes_for_a_task_that_waits_for_a_human(tasks):
    task = tasks.until(tasks.script(("ask_human", {"question": "go on?"}), deadline_s=3), {"blocked", "failed"})
    over = tasks.until(task["id"], FINAL)
    assert (over["state"], over["reason"]) == ("failed", "deadline_exceeded")
    assert over["deadline_at"] == task["deadline_at"]
    assert tasks.call("POST", f"/{task['id']}/resume", {"answer": "yes"}).error["code"] == "invalid_transition"


def test_one_task_of_another_workspace_starts_before_the_sixth_of_a_crowd(running):
    made = {}
    for name in ("crowd", "lone"):
        workspace = running.owner.call("POST", "/admin/v1/workspaces", {"name": f"{name}-{time.time_ns():x}"}).body[
            "id"
        ]
        key = running.key(name, workspace, scopes=["agents:read", "agents:write", "inference"])
        made[name] = Tasks(running.as_key(key["key"]), running)
    endless = ("run", {"command": "sleep 300", "timeout_s": 300})
    crowd = [made["crowd"].script(endless) for _ in range(20)]
    first = until(lambda: (found := started(made["crowd"])) and len(found) == 4 and found)
    lone = made["lone"].script(endless)
    made["crowd"].call("POST", f"/{first[0]}/cancel", {"reason": "its slot is free"})
    until(lambda: started(made["lone"]))
    assert len(started(made["crowd"])) <= 5
    for tasks, each in [(made["lone"], lone), *((made["crowd"], each) for each in crowd)]:
        tasks.call("POST", f"/{each}/cancel", {"reason": "done"})
        tasks.until(each, {"canceled"})


def started(tasks):
    return [task["id"] for task in tasks.call("GET", "?limit=100").body["data"] if task["started_at"]]


def until(found, within_s=280.0):
    deadline = time.monotonic() + within_s
    while not (now := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return now


def test_undo_gives_exactly_the_tree_of_a_step_and_a_fork_goes_its_own_way(tasks):
    calls = [("run", {"command": f"echo {number} > file-{number}; rm -f file-{number - 1}"}) for number in range(4)]
    task = tasks.until(tasks.script(*calls))
    assert task["state"] == "complete"
    trees = {step["seq"]: step["tree_after"] for step in task["steps"] if step["tree_after"]}
    second = sorted(trees)[1]
    undone = tasks.call("POST", f"/{task['id']}/undo", {"to_step": second})
    assert (undone.status, undone.body["tree"]) == (200, trees[second])
    assert set(undone.body["files_changed"]) >= {"file-2", "file-3"}
    after = tasks.get(task["id"])
    assert (after["state"], after["tree"]) == ("complete", trees[second])
    assert "file-1" in after["diff"]
    assert "file-3" not in after["diff"]
    script = [{"tool": "run", "args": {"command": "ls > listed; test -f file-0"}}]
    body = {"from_step": min(trees), "goal": "script:" + json.dumps(script)}
    fork = tasks.until(tasks.call("POST", f"/{task['id']}/fork", body).body["id"])
    assert fork["state"] == "complete"
    assert fork["branch"] != task["branch"]
    assert fork["forked_from"] == {"task_id": task["id"], "step": min(trees)}
    assert "listed" in fork["diff"]
    assert "file-1" not in fork["diff"]
    require_dense(tasks, tasks.get(task["id"]))
    require_dense(tasks, fork)


def test_killing_the_worker_in_mid_task_loses_nothing_and_repeats_no_finished_step(tasks, running):
    # Steps so long that the task is still at work when it is looked at; on a machine that stands still, longer ones.
    for pause_s in (0.3, 3, 20):
        calls = [("run", {"command": f"echo {number} >> log; sleep {pause_s}"}) for number in range(8)]
        task_id = tasks.script(*calls)
        for seq in (3, 9):
            tasks.until_step(task_id, seq)
            before = running.pid("worker")
            os.kill(before, signal.SIGKILL)
            until(lambda before=before: running.pid("worker") not in {None, before})
        task = tasks.until(task_id)
        if task["attempt"] > 1:
            break
    assert (task["state"], task["attempt"] > 1) == ("complete", True)
    added = [line[1:] for line in task["diff"].splitlines() if re.fullmatch(r"\+\d", line)]
    assert added == [str(number) for number in range(8)]
    assert any(event["data"].get("reason") == "recovered" for event in tasks.events(task_id))
    require_dense(tasks, task)


def test_an_approval_waits_without_a_slot_survives_a_restart_and_runs_the_call_once(tasks, running):
    grants = ["fs.read:/task/**", "fs.write:/task/**", "ask:shell.run"]
    task = tasks.until(tasks.script(("run", {"command": "echo once >> log"}), tools=grants))
    assert (task["state"], task["reason"], task["approval"]["tool"]) == ("blocked", "approval_required", "run")
    os.kill(running.pid("worker"), signal.SIGKILL)
    os.kill(running.pid("control"), signal.SIGKILL)
    running.await_ready()
    body = {"approval_id": task["approval"]["id"], "decision": "approve", "note": "fine"}
    deadline = time.monotonic() + 280
    while (said := tasks.call("POST", f"/{task['id']}/approve", body)).status >= 500:
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    assert said.status == 200
    assert tasks.call("POST", f"/{task['id']}/approve", body).error["code"] == "approval_decided"
    done = tasks.until(task["id"])
    assert done["state"] == "complete"
    assert [step["status"] for step in done["steps"] if step["tool"] == "run" and step["kind"] == "tool"] == ["done"]
    assert "+once" in done["diff"]


def test_an_approval_of_a_tree_that_changed_is_stale(tasks):
    grants = ["fs.read:/task/**", "fs.write:/task/**", "ask:shell.run"]
    calls = [("write_file", {"path": "a", "content": "1"}), ("run", {"command": "true"})]
    task = tasks.until(tasks.script(*calls, tools=grants))
    assert tasks.call("POST", f"/{task['id']}/undo", {"to_step": 0}).status == 200
    body = {"approval_id": task["approval"]["id"], "decision": "approve"}
    assert tasks.call("POST", f"/{task['id']}/approve", body).error["code"] == "approval_stale"


def test_a_denied_approval_is_told_to_the_model_and_the_call_is_not_made(tasks):
    grants = ["fs.read:/task/**", "fs.write:/task/**", "ask:shell.run"]
    task = tasks.until(tasks.script(("run", {"command": "echo no > log"}), tools=grants))
    body = {"approval_id": task["approval"]["id"], "decision": "deny"}
    assert tasks.call("POST", f"/{task['id']}/approve", body).status == 200
    done = tasks.until(task["id"], {"complete"})
    assert done["diff"] == ""


def test_a_question_waits_for_its_answer(tasks):
    task = tasks.until(tasks.script(("ask_human", {"question": "blue or green?"})))
    assert (task["reason"], task["detail"]["question"]) == ("input_required", "blue or green?")
    assert tasks.call("POST", f"/{task['id']}/resume", {}).error["code"] == "invalid_transition"
    assert tasks.call("POST", f"/{task['id']}/resume", {"answer": "green"}).status == 202
    assert tasks.until(task["id"], {"complete"})["state"] == "complete"


def test_a_stream_is_resumed_without_a_gap_and_foreign_keys_see_nothing(tasks, running):
    task = tasks.until(tasks.submit(target="refund.py", test=TEST))
    whole = _stream(tasks, task["id"])
    assert [seq for seq, _ in whole] == list(range(1, len(whole) + 1))
    assert whole[-1][1] == "task.end"
    assert _stream(tasks, task["id"], after=5) == whole[5:]
    made = running.owner.call("POST", "/admin/v1/workspaces", {"name": f"other-{task['id'][-6:]}"})
    key = running.key("foreign", made.body["id"], scopes=["agents:read", "agents:write", "agents:approve"])
    foreign = Tasks(running.as_key(key["key"]), running)
    for method, path, body in (
        ("GET", f"/{task['id']}", None),
        ("GET", f"/{task['id']}/events", None),
        ("GET", f"/{task['id']}/artifacts", None),
        ("GET", f"/{task['id']}/artifacts/x", None),
        ("POST", f"/{task['id']}/cancel", {"reason": ""}),
        ("POST", f"/{task['id']}/undo", {"to_step": 0}),
        ("POST", f"/{task['id']}/fork", {"from_step": 0}),
        ("POST", f"/{task['id']}/resume", {}),
        ("POST", f"/{task['id']}/approve", {"approval_id": "apr_x", "decision": "deny"}),
    ):
        refused = foreign.call(method, path, body)
        assert (refused.status, refused.error["code"]) == (404, "task_not_found"), (method, path)
    assert foreign.call("GET", "").body["data"] == []


def _stream(tasks, task_id, after=None):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(tasks.running.url).netloc, timeout=280)
    headers = {"authorization": f"Bearer {tasks.running.owner_key}", "accept": "text/event-stream"}
    if after is not None:
        headers["last-event-id"] = str(after)
    connection.request("GET", f"/v1/agents/tasks/{task_id}/events", headers=headers)
    text = connection.getresponse().read().decode()
    connection.close()
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "id" in fields:
            found.append((int(fields["id"]), fields["event"]))
    return found


def test_canary_secret_in_no_store(tasks, running):
    secret = "canary-7f3a9c51e2d8-value"
    goal = "attack:print_secrets"
    task_id = tasks.submit(goal=goal, model="adversary", secrets={"CANARY": secret})
    task = tasks.until(task_id)
    assert task["state"] in {"complete", "blocked", "failed"}
    told = json.dumps([task, tasks.events(task_id)])
    assert "[redacted:CANARY]" in told
    needles = [secret.encode(), base64.b64encode(secret.encode())[:-4], secret.encode().hex().encode()]
    for artifact in tasks.call("GET", f"/{task_id}/artifacts").body["data"]:
        body = tasks.call("GET", f"/{task_id}/artifacts/{artifact['name']}").body
        told += body.decode("latin-1") if isinstance(body, bytes) else json.dumps(body)
    for needle in needles:
        assert needle.decode() not in told
    for folder in ("artifacts", "logs", "spool"):
        assert files_with(running.directory / folder, needles) == []
    dumped = subprocess.run(
        ["grep", "-rlaF", secret, str(Path(running.directory) / "pg")], capture_output=True, text=True, check=False
    )
    assert dumped.stdout == ""


def test_a_budget_of_steps_blocks_and_a_larger_one_goes_on(tasks):
    task = tasks.until(tasks.submit(target="refund.py", test=TEST, budget={"steps": 3}))
    assert (task["state"], task["reason"]) == ("blocked", "budget_exhausted")
    assert task["budget"]["steps"] == {"limit": 3, "used": 3, "reserved": 0, "delegated": 0}
    assert tasks.call("POST", f"/{task['id']}/resume", {"budget": {"steps": 200}}).status == 202
    assert tasks.until(task["id"], {"complete", "failed"})["state"] == "complete"
    failed = tasks.until(tasks.submit(target="refund.py", test=TEST, budget={"tokens": 100}, on_budget="fail"))
    assert (failed["state"], failed["reason"]) == ("failed", "budget_exhausted")


def test_an_artifact_is_kept_and_given(tasks):
    save = ("save_artifact", {"name": "program.py", "path": "refund.py"})
    task = tasks.until(tasks.script(save))
    listed = tasks.call("GET", f"/{task['id']}/artifacts").body["data"]
    assert [each["name"] for each in listed] == ["program.py"]
    answer = tasks.call("GET", f"/{task['id']}/artifacts/program.py")
    assert answer.body == PROGRAM.encode()
    assert "attachment" in answer.headers["content-disposition"]


def test_a_kill_switch_pauses_and_refuses_until_it_is_lifted(tasks, running):
    task_id = tasks.script(("run", {"command": "sleep 300", "timeout_s": 300}))
    tasks.until_step(task_id, 2)
    body = {"scope": "agents", "target": "*", "mode": "abort", "reason": "test"}
    switch = running.owner.call("POST", "/admin/v1/kill-switches", body)
    assert switch.status == 201
    try:
        task = tasks.until(task_id, {"blocked"})
        assert task["reason"] == "paused"
        idle = {"goal": "x", "model": "repair-search", "repo": {"kind": "empty"}}
        # The worker knew of it; control hears by itself.
        until(lambda: (answer := tasks.call("POST", "", idle)).status == 503 and answer.error["code"] == "killed")
    finally:
        running.owner.call("DELETE", f"/admin/v1/kill-switches/{switch.body['id']}", {"reason": "test is over"})
    tasks.call("POST", f"/{task_id}/cancel", {"reason": ""})


def test_bad_input_is_answered_as_the_page_says(tasks):
    good = {"goal": "x", "model": "repair-search", "repo": {"kind": "files", "files": FILES}}
    for change, status, code in (
        ({"repo": {"kind": "files", "files": {"../x": ""}}}, 422, "unsafe_path"),
        ({"repo": {"kind": "files", "files": {"/abs": ""}}}, 422, "unsafe_path"),
        ({"repo": {"kind": "files", "files": {".git/config": ""}}}, 422, "unsafe_path"),
        ({"repo": {"kind": "files", "files": {"big": "x" * (1 << 20) + "y"}}}, 413, "repo_too_large"),
        ({"repo": {"kind": "bundle", "data_b64": "bm90IGEgYnVuZGxl"}}, 422, "repo_invalid"),
        ({"deadline_s": 0}, 422, "deadline_in_past"),
        ({"deadline_at": "2020-01-01T00:00:00Z"}, 422, "deadline_in_past"),
        ({"tools": ["fly"]}, 422, "unknown_tool"),
        ({"model": "no-such-model"}, 404, "model_not_found"),
        ({"budget": {"tokens": 1 << 50}}, 422, "budget_exceeds_limit"),
        ({"goal": ""}, 400, "invalid_request"),
        ({"repo": {"kind": "remote", "name": "x"}}, 400, "invalid_request"),
        ({"parent_id": "task_x"}, 400, "unknown_field"),
        ({"secrets": {"SHORT": "1234567"}}, 400, "invalid_request"),
    ):
        refused = tasks.call("POST", "", good | change)
        assert (refused.status, refused.error["code"]) == (status, code), change
    task = tasks.until(tasks.script())
    assert tasks.call("POST", f"/{task['id']}/undo", {"to_step": 99}).error["code"] == "unknown_step"
    assert tasks.call("POST", f"/{task['id']}/cancel", {"reason": ""}).error["code"] == "task_terminal"


def test_the_same_idempotency_key_makes_one_task(tasks):
    body = {"goal": "script:[]", "model": "adversary", "repo": {"kind": "empty"}}
    first = tasks.call("POST", "", body, idempotency_key="submit-once")
    second = tasks.call("POST", "", body, idempotency_key="submit-once")
    assert (first.status, second.status, first.body["id"]) == (201, 201, second.body["id"])


def test_fsck_and_the_audit_chain_agree_after_all_of_it(running):
    """Runs last in this file by its name in no way; whatever ran before has to be clean."""
    assert running.cli("tasks", "fsck").returncode == 0
    assert running.cli("audit", "verify").returncode == 0


def test_the_console_shows_a_task_and_takes_its_decisions(tasks, running):
    evil = "<script>alert(1)</script>"
    grants = ["fs.read:/task/**", "fs.write:/task/**", "ask:shell.run"]
    calls = [("write_file", {"path": "a", "content": evil}), ("run", {"command": "true"})]
    task = tasks.until(tasks.script(*calls, tools=grants))
    page = running.owner.call("GET", f"/console/tasks/{task['id']}")
    shown = page.body.decode()
    assert page.status == 200
    assert evil not in shown
    assert "It asks to call run" in shown
    assert "/console/requests/req_" in shown
    listed = running.owner.call("GET", "/console/tasks?state=blocked").body.decode()
    assert task["id"] in listed
    assert running.owner.call("GET", "/console/tasks/task_nope").status == 404


def test_the_tour_of_agents_is_verified(running, monkeypatch):
    monkeypatch.setattr(kit, "STORY_WAIT_S", 240.0)
    monkeypatch.setattr(agents, "_WAIT_S", 240.0)
    shop = kit.Shop(running.owner, running.url, run=f"{time.time_ns():x}", data=str(running.directory), site=None)
    platform.set_up_the_company(shop)
    assert "namespace_empty" in agents.mend_a_failing_test(shop).figure
    assert "no step twice" in agents.kill_the_worker_in_mid_task(shop).figure
