"""What a task may and may not, as a table: `tests/policy/agents.yaml`."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from interlock.agents.domain.paths import is_matched, is_safe, link_escapes, named_in, protected_by
from interlock.agents.domain.policy import (
    CODE,
    PROTECT_DEFAULT,
    World,
    decide,
    first_wider,
    is_readable,
    needs_sandbox,
    parse_grant,
    parse_grants,
    usable_tools,
    violations,
)
from interlock.agents.domain.tools import TOOLS, offered, parse_call
from interlock.agents.domain.types import Change, Outcome, ToolCall, ToolRefused, TreeDiff

TABLE = yaml.safe_load((Path(__file__).parents[1] / "policy" / "agents.yaml").read_text())


def world_of(block):
    layers = [CODE if each == "code" else parse_grants(each) for each in block["layers"]]
    assert not any(isinstance(each, str) for each in layers), layers
    return World(tuple(layers), tuple(block.get("protect", PROTECT_DEFAULT)))


def rows():
    for block in TABLE:
        for answer, outcome in (("may", Outcome.ALLOW), ("ask", Outcome.ASK), ("may_not", Outcome.DENY)):
            for line in block.get(answer, ()):
                yield pytest.param(block, line, outcome, id=f"{block['world']}: {line}")


@pytest.mark.parametrize(("block", "line", "outcome"), list(rows()))
def test_a_call_gets_the_answer_of_the_table(block, line, outcome):
    name, _, arguments = line.partition(" ")
    call = parse_call("1", name, arguments)
    assert isinstance(call, ToolCall), call
    decision = decide(call, world_of(block))
    assert decision.outcome is outcome, decision
    assert decision.rule
    assert (decision.grant is not None) == (outcome is not Outcome.DENY and TOOLS[name].scope is not None)


@pytest.mark.parametrize("block", [block for block in TABLE if "tree" in block], ids=lambda block: block["world"])
def test_a_step_stands_or_is_reverted_by_what_it_changed(block):
    world = world_of(block)
    for path in block["tree"]["stands"]:
        assert violations(TreeDiff((Change(path, "M"),)), world) == (), path
    for path in block["tree"]["reverted"]:
        (found,) = violations(TreeDiff((Change("src/ok.py", "M"), Change(path, "D"))), world)[-1:]
        assert found.path == path
        assert found.rule


@pytest.mark.parametrize(
    "text",
    ["", "nope", "git_push", "git.push:agent/*", "mcp:a.b", "task.spawn", "docs.read", "fs.read", "shell.run:x",
     "fs.write:", "ask:", "deny:nope", "search_documents", "spawn_task", "ask:deny:run", "RUN"],
)  # fmt: skip
def test_a_grant_of_nothing_that_exists_is_unknown(text):
    assert parse_grant(text) is None
    assert parse_grants(["run", text]) == text


def test_a_line_is_written_as_it_is_read():
    for text in ("fs.read:/task/**", "ask:fs.write:/task/a/*", "deny:shell.run", "tests.run"):
        assert parse_grant(text).text == text
    assert parse_grant("ask:write_file").text == "ask:fs.write:/task/**"
    assert parse_grant("fs.read:src/*").text == "fs.read:/task/src/*"


def test_a_request_wider_than_its_workspace_is_named():
    workspace = parse_grants(["fs.read:**", "fs.write:src/**", "ask:run"])
    assert (
        first_wider(parse_grants(["fs.read:a/*", "fs.write:src/x/**", "ask:run", "deny:run_tests"]), workspace) is None
    )
    for text in ("fs.write:**", "run", "run_tests", "fs.write:srcs/a"):
        assert first_wider(parse_grants([text]), workspace).text == parse_grant(text).text


def test_a_model_is_offered_only_what_some_call_could_use():
    world = World((CODE, parse_grants(["read_file", "ask:run", "deny:run_tests", "deny:fs.write:src/**"])))
    assert usable_tools(world) == ["list_files", "search", "read_file", "run", "finish"]
    assert needs_sandbox(world)
    assert not needs_sandbox(World((CODE, parse_grants(["fs.read:**", "fs.write:**"]))))
    for tool in offered(usable_tools(world)):
        assert tool["function"]["parameters"]["type"] == "object"
        assert tool["function"]["description"]


def test_a_hidden_path_is_not_readable():
    world = World((CODE, parse_grants(["fs.read:**", "deny:fs.read:secret/**"])))
    assert is_readable("a.py", world)
    assert not is_readable("secret/a.py", world)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nope", "{}"),
        ("run", "{"),
        ("run", "[]"),
        ("run", '{"command": 1}'),
        ("run", '{"command": ""}'),
        ("run", '{"command": "x", "timeout_s": 0}'),
        ("run", '{"command": "x", "network": true}'),
        ("read_file", '{"path": "../x"}'),
        ("read_file", '{"path": ""}'),
        ("read_file", '{"path": "a/../../x"}'),
        ("write_file", '{"path": "/etc/passwd", "content": ""}'),
        ("write_file", '{"path": "/task/../etc/passwd", "content": ""}'),
        ("write_file", '{"path": ".git/config", "content": ""}'),
        ("apply_edits", '{"edits": []}'),
        ("apply_edits", '{"edits": [{"path": "a", "old": "", "new": "x"}]}'),
        ("try_edits", '{"candidates": [' + ",".join(['{"edits":[{"path":"a","old":"x","new":""}]}'] * 65) + "]}"),
        ("save_artifact", '{"name": "../x", "path": "a"}'),
        ("finish", '{"summary": "", "status": "maybe"}'),
        ("undo_to", '{"step": -1}'),
    ],
)
def test_a_call_that_does_not_fit_is_a_message_to_the_model(name, arguments):
    refused = parse_call("1", name, arguments)
    assert isinstance(refused, ToolRefused)
    assert refused.message


def test_a_path_may_be_written_from_the_mount():
    assert parse_call("1", "read_file", '{"path": "/task/a/b.py"}').arguments["path"] == "a/b.py"
    assert parse_call("1", "list_files", '{"path": "/task"}').arguments["path"] == ""
    assert parse_call("1", "list_files", '{"path": "."}').arguments["path"] == ""
    assert parse_call("1", "read_file", '{"path": "./a.py"}').arguments["path"] == "a.py"


@pytest.mark.parametrize(
    ("path", "target", "escapes"),
    [("a", "b", False), ("d/a", "../b", False), ("a", "../b", True), ("d/a", "../../b", True), ("a", "/etc", True),
     ("d/e/a", "../x/../../b", False), ("a", "d/../../x", True)],
)  # fmt: skip
def test_a_link_is_judged_by_where_it_leads(path, target, escapes):
    assert link_escapes(path, target) is escapes


@pytest.mark.parametrize(
    ("glob", "path", "matched"),
    [("/task/**", "/task/a/b", True), ("/task/*", "/task/a/b", False), ("/task/**/x.py", "/task/x.py", True),
     ("/task/**/x.py", "/task/a/b/x.py", True), ("/task/a?c", "/task/abc", True), ("/task/a?c", "/task/a/c", False),
     ("/task/[a]", "/task/a", False), ("/task/a.b", "/task/axb", False)],
)  # fmt: skip
def test_a_glob_crosses_folders_only_with_two_stars(glob, path, matched):
    assert is_matched(glob, path) is matched


@given(st.text(max_size=60))
def test_no_path_that_is_taken_leads_out_of_its_tree(path):
    if is_safe(path):
        parts = path.split("/")
        assert ".." not in parts
        assert not path.startswith("/")
        assert all(part and part.lower() != ".git" for part in parts)


def test_what_the_test_command_names_is_protected():
    files = ["checks/test_it.py", "checks/data.json", "src/app.py", "run_tests.sh", "pkg/checks_all.py"]
    assert named_in("sh ./run_tests.sh", files) == ["/run_tests.sh"]
    assert named_in("python -m unittest checks.test_it", files) == ["/checks/test_it.py"]
    assert named_in("pytest checks/test_it.py::test_one", files) == ["/checks/test_it.py"]
    assert "/checks/**" in named_in("pytest checks", files)
    assert named_in("true", files) == []
    assert protected_by(["/checks/**"], "checks/new.py") == "/checks/**"
