"""What the tools do, and what a model gets to see of it."""

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.agents.adapters.output import CleanText, shortened
from interlock.agents.domain.policy import CODE, World, parse_grants
from interlock.agents.domain.tools import parse_call
from interlock.agents.domain.types import AskHuman, Finish, LimitSet, SaveArtifact, ToolRefused, UndoTo
from interlock.foundation.redaction import Redactor

PROGRAM = {"p.py": "def f(a, b):\n    return a - b\n", "test_p.py": "from p import f\nassert f(1, 2) == 3\n"}
SECRET = {"TOKEN": "hunter2-hunter2+/x"}


def edit(new, old="a - b"):
    return {"edits": [{"path": "p.py", "old": old, "new": new}]}


async def test_a_program_is_read_searched_mended_and_tested(machine):
    place, _ = await machine.repo(PROGRAM)
    bench = machine.bench(place, test_command="python3 test_p.py")
    assert (await machine.call(bench, "list_files"))[1] == {"files": ["p.py", "test_p.py"], "is_cut": False}
    _, found = await machine.call(bench, "search", query="return")
    assert found["matches"] == [{"path": "p.py", "line": 2, "text": "    return a - b"}]
    _, shown = await machine.call(bench, "read_file", path="p.py", offset=1, limit=1)
    assert shown == {"path": "p.py", "content": "    return a - b\n", "lines": 2, "is_cut": False}
    failed, told = await machine.call(bench, "run_tests")
    assert (failed.error, failed.exit_code, told["exit_code"]) == (None, 1, 1)
    assert "AssertionError" in told["output"]
    await machine.call(bench, "apply_edits", **edit("a + b"))
    assert (await machine.call(bench, "run_tests"))[1]["exit_code"] == 0


async def test_edits_are_applied_all_or_none(machine):
    place, _ = await machine.repo(PROGRAM)
    bench = machine.bench(place)
    edits = [{"path": "p.py", "old": "a - b", "new": "x"}, {"path": "test_p.py", "old": "nowhere", "new": "y"}]
    result, told = await machine.call(bench, "apply_edits", edits=edits)
    assert result.error == "tool_error"
    assert "0 times" in told["message"]
    assert (Path(place.work) / "p.py").read_text() == PROGRAM["p.py"]


async def test_candidates_are_tried_on_copies_and_leave_the_tree_as_it_is(machine):
    place, _ = await machine.repo({**PROGRAM, "data.txt": "0"})
    bench = machine.bench(place, test_command="echo run >> data.txt; test $(wc -l < data.txt) = 1 && python3 test_p.py")
    wanted = [edit(new) for new in ("a * b", "1/0", "a + b", "a | b")] + [edit("x", old="nowhere")]
    _, told = await machine.call(bench, "try_edits", candidates=wanted, stop_at_first=False)
    assert told["outcomes"] == ["failed", "failed", "passed", "passed", "invalid"]
    assert told["baseline"]["outcome"] == "failed"
    _, told = await machine.call(bench, "try_edits", candidates=wanted)
    assert told["outcomes"] == ["failed", "failed", "passed", "not_run", "not_run"]
    assert told["passed"] == [2]
    assert (Path(place.work) / "p.py").read_text() == PROGRAM["p.py"]
    assert list(Path(place.scratch).iterdir()) == []


async def test_no_candidate_runs_the_bytecode_of_another(machine):
    """Equal sizes in the same second: with bytecode on disk, the second would run as the first."""
    place, _ = await machine.repo(PROGRAM)
    bench = machine.bench(place, test_command="python3 test_p.py")
    for _ in range(3):
        wanted = [edit(new) for new in ("a * b", "a + b", "a / b", "b + a", "a % b", "a | b")]
        _, told = await machine.call(bench, "try_edits", candidates=wanted, stop_at_first=False)
        assert told["outcomes"] == ["failed", "passed", "failed", "passed", "failed", "passed"]
    await machine.call(bench, "run", command="python3 -c 'import p'; ls")
    assert not (Path(place.work) / "__pycache__").exists()


async def test_a_candidate_that_never_ends_or_leaves_processes_costs_its_limit_alone(machine):
    place, _ = await machine.repo(PROGRAM)
    daemon = "exec('import os,time\\nif os.fork()==0:\\n os.setsid()\\n time.sleep(600)') or a + b"
    wanted = [edit(new) for new in ("exec('while 1: pass')", daemon, "a + b")]
    # Those that end need more time only on a machine that stands still.
    for limit_s in (5.0, 60.0):
        bench = machine.bench(
            place, test_command="python3 test_p.py", test_timeout_s=limit_s, limits=LimitSet(timeout_s=240.0)
        )
        _, told = await machine.call(bench, "try_edits", candidates=wanted, stop_at_first=False)
        if "timeout" not in told["outcomes"][1:]:
            break
    assert told["outcomes"] == ["timeout", "passed", "passed"]


async def test_candidates_cannot_forge_a_result(machine):
    place, _ = await machine.repo(PROGRAM)
    bench = machine.bench(place, test_command="python3 test_p.py")
    line = json.dumps({"number": 0, "exit_code": 0, "seconds": 0})
    handles = "for p in os.listdir('/proc'):\n try: open(f'/proc/{p}/fd/1', 'w').write(LINE)\n except OSError: 0"
    forge = f"print({line!r}) or exec({('import os' + chr(10) + handles).replace('LINE', repr(line))!r})"
    _, told = await machine.call(bench, "try_edits", candidates=[edit(forge)], stop_at_first=False)
    assert told["outcomes"] == ["failed"]


async def test_what_a_limit_stopped_still_tells_what_came_before(machine):
    place, _ = await machine.repo(PROGRAM)
    wanted = [edit("a + b"), *[edit(f"exec('while {number}: pass')") for number in range(1, 20)]]
    # The first one ends soon, but on a machine that stands still.
    for limit_s in (3.0, 60.0):
        limits = LimitSet(timeout_s=limit_s)
        bench = machine.bench(place, test_command="python3 test_p.py", test_timeout_s=limit_s + 2.0, limits=limits)
        _, told = await machine.call(bench, "try_edits", candidates=wanted, stop_at_first=False)
        if told["outcomes"][0] == "passed":
            break
    assert told["stopped_by"] == "timeout"
    assert told["outcomes"][0] == "passed"
    assert told["outcomes"][-1] == "not_run"


async def test_a_secret_is_in_nothing_that_comes_out(machine):
    """Plain, over two writes and two streams, in base64 at each alignment, hex, URL and JSON."""
    place, _ = await machine.repo(PROGRAM)
    pieces = []

    async def show(piece):
        pieces.append(piece)

    bench = machine.bench(place, secrets=SECRET, on_output=show)
    code = (
        "import os,sys,time,base64,json,urllib.parse as u; v=os.environ['TOKEN']; w=sys.stdout\n"
        "print('plain', v); w.write(v[:7]); w.flush(); time.sleep(.1); w.write(v[7:]); w.flush(); print()\n"
        "w.write(v[:9]); w.flush(); sys.stderr.write(v[9:] + chr(10)); sys.stderr.flush()\n"
        "[print(base64.b64encode(p + v.encode()).decode()) for p in (b'', b'x', b'xy')]\n"
        "print(base64.urlsafe_b64encode(v.encode()).decode(), v.encode().hex(), v.encode().hex().upper())\n"
        "print(u.quote(v, safe=''), json.dumps(v)); open('f','w').write(v)"
    )
    result, told = await machine.call(bench, "run", command=f'python3 -c "{code}"')
    assert result.exit_code == 0, told
    seen = "".join(pieces) + result.text + (await machine.call(bench, "read_file", path="f"))[0].text
    seen += (await machine.call(bench, "search", query="hunter"))[0].text
    kept, _ = await machine.call(bench, "save_artifact", name="f", path="f")
    assert kept.act == SaveArtifact("f", b"[redacted:TOKEN]")
    value = SECRET["TOKEN"]
    encoded = base64.b64encode(value.encode()).decode()
    for form in (value, value[:12], value[5:], encoded[:16], encoded[4:20], value.encode().hex()[:20]):
        assert form not in seen, form
    assert seen.count("[redacted:TOKEN]") >= 12
    assert result.redactions >= 6


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_way_to_cut_the_output_gives_the_same_clean_text(data):
    value = "hunter2-hunter2+/x"
    forms = [value, base64.b64encode(value.encode()).decode(), value.encode().hex(), "plain words", "é\U0001f600", "\n"]
    raw = " ".join(data.draw(st.lists(st.sampled_from(forms), max_size=8))).encode()
    whole = CleanText(Redactor(named={"T": value.encode()}))
    expected = whole.feed(raw) + whole.finish()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    cleaned = CleanText(Redactor(named={"T": value.encode()}))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert "".join(map(cleaned.feed, pieces)) + cleaned.finish() == expected
    assert value not in expected


async def test_what_belongs_to_the_journal_is_handed_on(machine):
    place, _ = await machine.repo(PROGRAM)
    bench = machine.bench(place, secrets=SECRET)
    assert (await machine.call(bench, "undo_to", step=3))[0].act == UndoTo(3)
    asked, _ = await machine.call(bench, "ask_human", question=f"Is it {SECRET['TOKEN']}?")
    assert asked.act == AskHuman("Is it [redacted:TOKEN]?")
    done, _ = await machine.call(bench, "finish", summary=f"Used {SECRET['TOKEN']}")
    assert done.act == Finish("Used [redacted:TOKEN]", is_done=True)
    gave_up, _ = await machine.call(bench, "finish", summary="no", status="gave_up")
    assert gave_up.act == Finish("no", is_done=False)


async def test_a_check_runs_without_the_secrets_of_the_task(machine):
    place, base = await machine.repo(PROGRAM)
    bench = machine.bench(place, secrets=SECRET)
    ran = await machine.tools.check("env; ls", place.work, bench)
    assert b"TOKEN" not in ran.output
    assert base.tree


@pytest.mark.parametrize("name", ["run_tests", "try_edits"])
async def test_a_task_without_tests_is_told_so(machine, name):
    place, _ = await machine.repo(PROGRAM)
    arguments = {"candidates": [edit("x")]} if name == "try_edits" else {}
    result, told = await machine.call(machine.bench(place), name, **arguments)
    assert result.error == "tool_error"
    assert "no test command" in told["message"]


async def test_a_cancelled_tool_leaves_no_process_and_no_copy(machine):
    place, _ = await machine.repo(PROGRAM)
    records = []

    async def note(record):
        records.append(record)

    bench = machine.bench(place, test_command="sleep 600", test_timeout_s=600.0, on_start=note)
    trying = asyncio.ensure_future(machine.call(bench, "try_edits", candidates=[edit("x")]))
    while not records:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    assert (await machine.sandbox.kill(records[0])).kind == "namespace_empty"
    assert list(Path(place.scratch).iterdir()) == []


async def test_a_file_that_cannot_be_written_is_a_result(machine):
    place, _ = await machine.repo(PROGRAM)
    bench = machine.bench(place)
    result, _ = await machine.call(bench, "write_file", path="n" * 255 + "/x", content="1")
    assert result.error is None
    result, _ = await machine.call(bench, "write_file", path="p.py/x", content="1")
    assert result.error == "tool_error"
    (Path(place.work) / "dangling").symlink_to("nowhere")
    result, _ = await machine.call(bench, "read_file", path="dangling")
    assert result.error == "tool_error"


@pytest.mark.parametrize("command", ["echo a\0b", "\U0001f600" * (32 << 10)], ids=["nul", "long"])
def test_a_command_that_no_machine_takes_is_the_model_s_mistake(command):
    assert isinstance(parse_call("1", "run", json.dumps({"command": command})), ToolRefused)


async def test_a_link_of_the_tree_gives_no_leave_to_read_what_its_target_does_not(machine):
    place, _ = await machine.repo({"src/p.py": "1\n", "closed/key.txt": "hidden words\n"})
    work = Path(place.work)
    (work / "src" / "key").symlink_to("../closed/key.txt")
    (work / "src" / "all").symlink_to("../closed")
    (work / "src" / "up").symlink_to("..")
    (work / "src" / "own").symlink_to("p.py")
    grants = parse_grants(["fs.read:/task/src/**", "artifact.write"])
    bench = replace(machine.bench(place), world=World((CODE, grants)))
    for path in ("src/key", "src/all/key.txt", "src/up/closed/key.txt"):
        result, told = await machine.call(bench, "read_file", path=path)
        assert result.error == "tool_error" and "hidden" not in json.dumps(told), path
        result, _ = await machine.call(bench, "save_artifact", name="a", path=path)
        assert result.error == "tool_error", path
    for path in ("src", "src/all", "src/up"):
        assert (await machine.call(bench, "search", query="hidden", path=path))[1]["matches"] == []
        assert "closed" not in json.dumps((await machine.call(bench, "list_files", path=path))[1])
    assert (await machine.call(bench, "read_file", path="src/own"))[1]["content"] == "1\n"


def test_a_long_output_loses_its_middle():
    text = "head " + "x" * 100_000 + " tail"
    short = shortened(text, 1_000)
    assert short.startswith("head")
    assert short.endswith("tail")
    assert "99010 characters left out" in short
    assert shortened("short") == "short"
