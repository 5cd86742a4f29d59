"""The offline commands as their user runs them: files in, JSON out, an exit code that a script can trust."""

import json

import pytest
from click.testing import CliRunner

from interlock.cli.root import main


@pytest.fixture
def run(tmp_path):
    def call(*arguments, stdin=None):
        found = CliRunner().invoke(main, ["evals", *map(str, arguments)], input=stdin)
        return found.exit_code, found.stdout

    return call


@pytest.fixture
def results(tmp_path):
    def write(name, passes, **more):
        path = tmp_path / name
        path.write_text(
            "".join(json.dumps({"key": f"k{n}", "pass": each, **more}) + "\n" for n, each in enumerate(passes))
        )
        return path

    return write


def test_compare_passes_equal_files_and_fails_a_drop(run, results):
    base = results("base", [True] * 160 + [False] * 40)
    code, out = run("compare", base, base, "--json")
    found = json.loads(out)
    assert (code, found["verdict"]) == (0, "PASS")
    assert found["completeness"] == {"expected": 400, "scored": 400, "errored": 0, "missing": 0, "complete": True}
    worse = results("worse", [True] * 130 + [False] * 70)
    code, out = run("compare", base, worse)
    found = json.loads(out)
    assert (code, found["verdict"], found["paired"]["diff_pp"]) == (1, "FAIL", -15.0)


def test_compare_says_what_it_cannot_tell(run, results):
    base = results("base", [True] * 200)
    code, out = run("compare", results("b", [True] * 40), results("c", [True] * 40))
    assert (code, json.loads(out)["reasons"][0]["code"]) == (1, "underpowered")
    code, out = run("compare", base, results("short", [True] * 199))
    found = json.loads(out)
    assert (code, found["verdict"], found["reasons"][0]["code"]) == (1, "INCONCLUSIVE", "incomplete")
    assert found["completeness"]["missing"] == 1
    code, out = run("compare", results("s", [True] * 199), base)
    reason = json.loads(out)["reasons"][0]
    assert (code, reason["code"], reason["numbers"]["only_candidate"]) == (1, "keys_differ", ["k199"])


def test_compare_refuses_lines_that_are_no_results(run, results, tmp_path):
    base = results("base", [True] * 60)
    for text in (
        '{"key":"k0"}',
        '{"key":"k0","pass":"yes"}',
        "[]",
        '{"key":"k0","pass":true}\n{"key":"k0","pass":true}',
    ):
        odd = tmp_path / "odd"
        odd.write_text(text + "\n")
        code, out = run("compare", base, odd)
        found = json.loads(out)
        assert (code, found["verdict"], found["reasons"][0]["code"]) == (1, "INCONCLUSIVE", "line_invalid")


@pytest.mark.parametrize(
    "option", [("--margin-pp", "0"), ("--margin-pp", "21"), ("--alpha", "0.5"), ("--rule", "best")]
)
def test_figures_out_of_range_are_usage_errors(run, results, option):
    base = results("base", [True] * 60)
    assert run("compare", base, base, *option)[0] == 2


def test_canary_reads_standard_input_and_tells_by_its_exit_code(run):
    def lines(bad):
        look = {"weight": 0.1, "canary": {"units": 300, "bad": bad}, "control": {"units": 2700, "bad": 20}}
        return "".join(json.dumps({"look": number, **look}) + "\n" for number in range(1, 5))

    code, out = run("canary", "-", stdin=lines(2))
    assert (code, json.loads(out)["decision"]) == (0, "HOLD")
    code, out = run("canary", "-", stdin=lines(20))
    assert (code, json.loads(out)["decision"]) == (1, "ROLLBACK")
    code, out = run("canary", "-", stdin=lines(2) + "oops\n")
    assert (code, json.loads(out)["reasons"][0]["line"]) == (1, 5)


def test_power_needs_nothing_but_a_size(run):
    code, out = run("power", "--n", 114, "--json")
    assert (code, json.loads(out)) == (0, {"mde_pp": 8.9121, "n": 114, "power": 0.8})


def test_a_file_that_is_not_there_is_a_usage_error(run, tmp_path):
    assert run("canary", tmp_path / "absent")[0] == 2
