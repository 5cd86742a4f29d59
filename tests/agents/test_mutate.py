"""Each operator mends a mistake of its kind, and every candidate is a clean edit of one place."""

import ast
import json
from pathlib import Path

import pytest

from interlock.agents.domain import repair
from interlock.agents.domain.mutate import mutants
from interlock.agents.domain.prompts import Opening, opening_messages, read_opening
from interlock.agents.domain.transcripts import Exchange, Transcript, read_transcript
from tests.agents.loop import run_loop

SUITE = json.loads((Path(__file__).parent / "repair_cases" / "suite.json").read_text())["cases"]

# operator: a program with a seeded mistake, and what mends it
SEEDED = {
    "swap_comparison": ("def f(a):\n    return a < 3\n", "a < 3", "a <= 3"),
    "swap_operator": ("def f(a):\n    return a + 3\n", "a + 3", "a - 3"),
    "swap_operands": ("def f(a, b):\n    return a - b\n", "a - b", "b - a"),
    "off_by_one": ("def f(a):\n    return g(a)\n", "g(a)", "g(a + 1)"),
    "constant": ("def f():\n    return True\n", "True", "False"),
    "swap_name": ("def f(a, b):\n    return g(a, a)\n", "g(a, a)", "g(a, b)"),
    "swap_callee": ("def f(a):\n    return any(a)\n", "any(a)", "all(a)"),
    "swap_attribute": ("def f(a):\n    a.x = a.y\n    return a.x\n", "return a.x", "return a.y"),
    "swap_arguments": ("def f(a, b):\n    return g(a, b)\n", "g(a, b)", "g(b, a)"),
    "drop_operand": ("def f(a, b):\n    return a and b\n", "a and b", "b"),
    "unwrap": ("def f(a):\n    return g(a)\n", "return g(a)", "return a"),
    "wrap": ("def f():\n    return []\n", "[]", "[[]]"),
    "condition": ("def f(a, b):\n    if a:\n        return b\n", "if a:", "if a or not b:"),
    "slice": ("def f(a):\n    return g(a[:2])\n", "a[:2]", "a[1:2]"),
    "swap_subscripts": ("def f(a, i, j):\n    return a[i][j]\n", "a[i][j]", "a[j][i]"),
    "return": ("def f(a):\n    b = a\n    return None\n", "return None", "return []"),
    "default_argument": ("def f(a=3):\n    return a\n", "a=3", "a=None"),
    "donor": ("def f(a, b):\n    c = g(b)\n    return h(len(a))\n", "h(len(a))", "h(g(b))"),
    "delete_statement": ("def f(a):\n    a = 1\n    g(a)\n", "    g(a)", "    pass"),
    "swap_statements": ("def f(a):\n    a = 1\n    g(a)\n", "    a = 1\n    g(a)", "    g(a)\n    a = 1"),
    "duplicate_statement": ("def f(a):\n    g(a, a)\n", "    g(a, a)", "    g(a, a)\n    g(a, a)"),
    "unconditional": ("def f(a):\n    if a:\n        g(a)\n", "    if a:\n        g(a)", "    g(a)"),
    "move_statement": (
        "def f(a):\n    for b in a:\n        g(b)\n        h(a)\n",
        "        g(b)\n        h(a)",
        "        g(b)\n    h(a)",
    ),
    "insert_statement": (
        "def f(a, seen):\n    if a in seen:\n        return 1\n    return g(a)\n",
        "    return g(a)",
        "    seen.add(a)\n    return g(a)",
    ),
}


@pytest.mark.parametrize("operator", SEEDED)
def test_an_operator_mends_a_mistake_of_its_kind(operator):
    source, old, new = SEEDED[operator]
    assert source.count(old) == 1
    wanted = ast.unparse(ast.parse(source.replace(old, new)))
    found = {ast.unparse(ast.parse(source.replace(each.old, each.new))): each for each in mutants(source)}
    assert wanted in found


def test_no_operator_is_without_its_seeded_mistake():
    used = {mutant.operator for case in SUITE for text in case["files"].values() for mutant in mutants(text)}
    assert used <= set(SEEDED)


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case["id"])
def test_a_candidate_is_one_edit_that_fits_once_and_leaves_the_rest_alone(case):
    source = case["files"][case["target"]].replace("\n", "  # kept\n", 1)
    made = mutants(source)
    assert made
    forms = {ast.unparse(ast.parse(source))}
    for mutant in made:
        assert source.count(mutant.old) == 1
        changed = source.replace(mutant.old, mutant.new)
        form = ast.unparse(ast.parse(changed))
        assert form not in forms
        forms.add(form)
        assert "# kept" in changed
    assert mutants(source) == made
    assert [each.rank for each in made] == sorted(each.rank for each in made)


@pytest.mark.parametrize(
    "text", ["", "def f(:\n", "not python at all {", "\0", "x = 'ä\U0001f600'\n\ndef f(a):\n    return a < 'ü'\n"]
)
def test_any_text_is_taken(text):
    for mutant in mutants(text):
        assert text.count(mutant.old) == 1


# One of each family; the benchmark runs them all.
SAMPLE = [case for case in SUITE if case["id"] in {"gcd", "fibonacci", "unique", "reachable", "leap_year"}]


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case["id"])
async def test_a_program_is_mended_and_passes_what_nobody_saw(machine, case):
    ended, place, base = await run_loop(machine, case, repair.next_call)
    assert ended.state == "complete"
    changed = await machine.trees.diff(place, base.tree, ended.tree)
    assert changed.paths == (case["target"],)
    hidden = next(iter(case["verify"]["files"].values()))
    told = json.dumps(ended.messages)
    assert hidden.splitlines()[-2] not in told
    assert case["verify"]["expect"] not in told


async def test_a_patch_that_passes_the_visible_tests_alone_is_not_accepted(machine):
    """The search is told no more than `rejected`, puts its change back and goes on."""
    case = {
        "files": {
            "p.py": "def f(a, b):\n    return a - b\n",
            "test_p.py": "from p import f\nassert f(2, 2) == 4\n",
        },
        "target": "p.py",
        "goal": "mend it",
        "test": {"command": "python3 test_p.py", "timeout_s": 60},
        "verify": {"command": "python3 c.py", "files": {"c.py": "from p import f\nassert f(2, 3) == 6\n"}},
    }
    ended, place, _ = await run_loop(machine, case, repair.next_call)
    assert ended.state == "complete"
    assert ended.rejections >= 1
    assert "a * b" in (Path(place.work) / "p.py").read_text()


async def test_a_search_that_is_through_gives_up(machine):
    case = {
        "files": {"p.py": "X = 'a'\n", "test_p.py": "raise SystemExit(1)\n"},
        "target": "p.py",
        "goal": "mend it",
        "test": {"command": "python3 test_p.py", "timeout_s": 60},
    }
    ended, *_ = await run_loop(machine, case, repair.next_call)
    assert ended.state == "gave_up"


def test_a_batch_fits_in_the_answer_that_is_left():
    files = {"files": ["p.py"]}
    text = SUITE[0]["files"][SUITE[0]["target"]]
    exchanges = (
        Exchange("list_files", {}, files),
        Exchange("read_file", {"path": "p.py"}, {"content": text}),
        Exchange("run_tests", {}, {"exit_code": 1}),
    )
    transcript = Transcript(Opening("g"), exchanges)
    whole, small = repair.next_call(transcript), repair.next_call(transcript, 1_024)
    assert len(json.dumps(small.arguments)) <= 1_024
    assert 0 < len(small.arguments["candidates"]) < len(whole.arguments["candidates"])


def test_an_opening_is_read_as_it_was_written():
    opening = Opening("Goal: nested\nTarget file: no.py", "p.py", "python3 -m unittest", "[]")
    assert read_opening(opening_messages(opening)) == (opening, 1)
    assert read_transcript(opening_messages(Opening("x"))).opening == Opening("x")
    with pytest.raises(ValueError):
        read_opening([{"role": "user", "content": "hello"}])
