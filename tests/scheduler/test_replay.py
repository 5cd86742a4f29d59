"""Policies on a trace: the same seed gives the same bytes, and promises hold under overload."""

import json
import random
from dataclasses import replace

import pytest
from click.testing import CliRunner

from interlock.cli.scheduler import command
from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.length import LengthBook
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.replay import POLICIES, ReplayOptions, capacity_rps, compare
from interlock.scheduler.domain.simulate import Hardware, Simulation
from interlock.scheduler.domain.trace import Mix, Offered, TraceInvalidError, TraceRow, offer, read_trace, window

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
PREFIXED = "TIMESTAMP,ContextTokens,GeneratedTokens,Tenant,PrefixGroup,PrefixTokens\n"


def trace_text(rows=400, seed=7):
    """A trace of the quantiles that production chat has: many short prompts, few long ones."""
    dice = random.Random(seed)
    lines, at_s = [HEAD], 0.0
    for _ in range(rows):
        at_s += dice.expovariate(5.0)
        taken = max(1, min(round(dice.lognormvariate(6.6, 0.9)), 4_200))
        made = max(1, min(round(dice.lognormvariate(4.9, 0.9)), 800))
        lines.append(f"{at_s:.6f},{taken},{made}\n")
    return "".join(lines)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(trace_text())
    return path


def run(*args):
    return CliRunner().invoke(command, ["replay", *map(str, args)])


def test_the_same_seed_gives_the_same_bytes(trace):
    args = (trace, "--policy", "all", "--load", "1.5", "--seed", "1,2", "--hog", "0.5", "--json")
    first, second = run(*args), run(*args)
    assert first.exit_code == 0, first.output
    assert first.output == second.output
    found = json.loads(first.stdout)
    assert [row["policy"] for row in found["rows"]] == list(POLICIES)
    assert found["trace"]["requests"] == 400


def test_an_accepted_request_is_a_promise_at_every_load(trace):
    found = json.loads(run(trace, "--policy", "fcfs,vtc,interlock", "--load", "0.8,1.5,3.0", "--json").stdout)
    by = {(row["policy"], row["load"]): row for row in found["rows"]}
    for load in (0.8, 1.5, 3.0):
        own = by["interlock", load]
        assert own["broken_promises"] == 0
        assert own["accepted_attainment"] >= 0.97
        assert own["attainment"] <= own["upper_bound"] + 1e-9
        assert own["attainment"] >= max(by["fcfs", load]["attainment"], by["vtc", load]["attainment"])


def test_a_flood_costs_the_others_little(trace):
    args = (trace, "--policy", "fcfs,interlock", "--load", "0.6", "--hog", "1.0", "--json")
    fcfs, own = json.loads(run(*args).stdout)["rows"]
    assert own["well_behaved_attainment"] > 0.8 > fcfs["well_behaved_attainment"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("x,1,1", "line 2"),
        ("1,-5,1", "line 2"),
        ("1,,1", "line 2"),
        ("1,nan,1", "line 2"),
        ("1,1e9,1", "line 2"),
        ("1,1.5,1", "line 2"),
        ("2023-13-01 00:00:00,1,1", "line 2"),
        ("nan,1,1", "line 2"),
        ("1e300,1,1", "line 2"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, row, why):
    path = tmp_path / "bad.csv"
    path.write_text(HEAD + row + "\n")
    refused = run(path)
    assert refused.exit_code == 2
    assert refused.output.startswith(f"error: trace_invalid {why}: ")


def test_a_file_that_is_no_text_is_named_by_its_line(tmp_path):
    path = tmp_path / "binary.csv"
    for content, line in ((b"\xff\xfe\x00GGUF\n", 1), (HEAD.encode() + b"1,1,1\n2,\xff\x00,1\n", 3)):
        path.write_bytes(content)
        refused = run(path)
        assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
        assert refused.output.startswith(f"error: trace_invalid line {line}: ")
    path.write_text(HEAD + "1," + "9" * 200_000 + ",1\n")
    assert run(path).output.startswith("error: trace_invalid line 2: ")


def test_usage_errors_name_what_there_is(tmp_path, trace):
    assert run(trace, "--policy", "wishful").exit_code == 2
    assert "interlock" in run(trace, "--policy", "wishful").output
    path = tmp_path / "short.csv"
    path.write_text(HEAD + "1,1,1\n")
    assert run(path).exit_code == 2
    assert "fewer than 2" in run(path).output
    assert run(trace, "--profile", tmp_path / "none.csv").exit_code == 2


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--load", ("nan", "inf", "0", "-1", "1e-300", "1.5,x")),
        ("--load-rps", ("nan", "0", "-1", "inf")),
        ("--seed", ("", "1.5", "9" * 5_000)),
        ("--classes", ("interactive=-1", "interactive=nan", "interactive=inf", "interactive=0,standard=0", "gold=1")),
        ("--zipf", ("nan", "inf", "-1")),
        ("--hog", ("nan", "1e9", "-1")),
        ("--share-level", ("nan", "0", "1.1")),
        ("--price-usd-hour", ("nan", "inf", "-1")),
        ("--offset-s", ("nan", "inf", "-1")),
        ("--duration-s", ("nan", "inf", "0")),
    ],
)
def test_an_option_that_no_run_could_have_is_a_usage_error(trace, option, values):
    for value in values:
        refused = run(trace, option, value)
        assert refused.exit_code == 2, (value, refused.output)
        assert option in refused.output


def test_a_log_that_cannot_be_written_is_a_usage_error(trace, tmp_path):
    refused = run(trace, "--decisions", tmp_path / "none" / "log.jsonl")
    assert refused.exit_code == 2
    assert "decisions_invalid" in refused.output


def test_times_are_read_as_they_are_commonly_written():
    lines = [
        "\ufeffContextTokens,TIMESTAMP,GeneratedTokens,More\r\n",
        "5,2023-11-16 18:15:46.6805901,7,x\r\n",
        "5,2023-11-16T18:15:45Z,7,x\r\n",
        "5,2023-11-16 18:15:47.5,7,x\r\n",
    ]
    rows = read_trace(lines)
    assert [each.at_us - rows[0].at_us for each in rows] == [0, 1_680_590, 2_500_000]


def test_a_time_is_a_moment_wherever_it_was_written():
    def times(*texts):
        return [each.at_us for each in read_trace([HEAD, *(f"{text},5,7\n" for text in texts)])]

    one, other = times("2023-11-16T18:15:45.123456789+02:00", "2023-11-16T16:15:46.5Z")
    assert other - one == 1_376_544
    assert times("1e-05", "2.5E0", ".25") == [10, 250_000, 2_500_000]


def test_a_trace_without_its_columns_is_told_so():
    with pytest.raises(TraceInvalidError, match="no column"):
        read_trace(["a,b\n"])


def prefixed(*, is_shared, rows=300):
    """Prompts of 1,100 to 2,000 tokens, six of ten of which begin with the 1,024 tokens of one of three groups."""
    dice, at_s, lines = random.Random(3), 0.0, [PREFIXED]
    for row in range(rows):
        at_s += dice.expovariate(15)
        group = f"{dice.randrange(3) if is_shared else row},1024" if dice.random() < 0.6 else ","
        dice.seed(row)
        lines.append(
            f"{at_s:.4f},{dice.randrange(1_100, 2_000)},{dice.randrange(20, 200)},t{dice.randrange(3)},{group}\n"
        )
    return "".join(lines)


@pytest.mark.parametrize("replicas", [1, 3])
def test_what_prompts_begin_with_is_read_once_an_engine(tmp_path, replicas):
    path, rows = tmp_path / "prefixed.csv", []
    shared = prefixed(is_shared=True)
    for content in (shared, shared.replace("PrefixGroup", "Other"), prefixed(is_shared=False)):
        path.write_text(content)
        args = (path, "--policy", "interlock", "--load-rps", 7 * replicas, "--replicas", replicas, "--json")
        rows += json.loads(run(*args).stdout)["rows"]
        assert run(*args).stdout == run(*args).stdout
    known, unknown, alone = (row["time_to_first_token_s"]["p50"] for row in rows)
    assert known < 0.9 * unknown
    assert alone == unknown, "what nobody else begins with saves nothing"
    assert [row["broken_promises"] for row in rows] == [0, 0, 0]
    assert min(row["accepted_attainment"] for row in rows) >= 0.99


def test_tenants_share_no_prefix():
    lines = (
        "TIMESTAMP,ContextTokens,GeneratedTokens,Tenant,PrefixGroup,PrefixTokens\n",
        "0,300,9,a,g,256\n",
        "1,300,9,b,g,256\n",
    )
    one, other = offer(read_trace(lines), Mix(), random.Random(1))
    assert len(one.prefix) == len(other.prefix) == 2
    assert not set(one.prefix) & set(other.prefix)


@pytest.mark.parametrize("prefix", ["g,-1", "g,301", "g,1.5", "g,x", "g,nan"])
def test_a_prefix_that_no_prompt_could_have_is_named(tmp_path, prefix):
    path = tmp_path / "bad.csv"
    path.write_text(f"{PREFIXED}0,300,9,t,,\n1,300,9,t,{prefix}\n")
    refused = run(path)
    assert refused.exit_code == 2
    assert refused.output.startswith("error: trace_invalid line 3: ")


def test_capacity_is_what_the_engines_do_with_everything_at_once():
    rows = window(read_trace(trace_text().splitlines(keepends=True)), 0, 400)
    offered = offer(rows, Mix(), random.Random(1))
    one, two = (capacity_rps(offered, Hardware(A100_LLAMA3_8B, replicas)) for replicas in (1, 2))
    assert 1.5 * one < two <= 2.2 * one


def test_an_absolute_rate_is_kept():
    rows = window(read_trace(trace_text().splitlines(keepends=True)), 0, 400)
    options = ReplayOptions(("fcfs",), Hardware(A100_LLAMA3_8B), rate_rps=2.0)
    row = compare(rows, options, random.Random)["rows"][0]
    assert row["goodput_rps"] == pytest.approx(2.0 * row["attainment"], rel=0.02)


def test_lengths_that_are_learned_are_those_of_what_ended():
    """A pool that has seen nothing expects half of what may come; after an answer, what that tenant's answers were."""
    expected = []

    class Heard(PromiseOrder):
        def arrive(self, now_us, ask, room):
            expected.append((ask.path, ask.output))
            return super().arrive(now_us, ask, room)

    like = Offered(0, 0, 100, 60, 7, "a", ServiceClass.INTERACTIVE, max_tokens=60)
    asked = [replace(like, index=at, at_us=at * 10_000_000, tenant="ab"[at // 30]) for at in range(32)]
    order = Heard(Rates.declared(A100_LLAMA3_8B.prefill_tps))
    Simulation(order, Hardware(A100_LLAMA3_8B), lengths=LengthBook()).run(asked)
    assert expected[0] == (("a",), 30)
    assert expected[29][1] == pytest.approx(60, rel=0.15)
    # Another tenant's first answer is expected as long as the model's.
    assert expected[30] == (("b",), expected[29][1])


def test_engines_that_cut_prompts_themselves_read_that_much_a_step_and_no_more(trace):
    found = {
        chunk: json.loads(
            run(trace, "--policy", "interlock", "--load", "0.5", "--chunk-tokens", chunk, "--json").output
        )
        for chunk in (0, 64, 512)
    }
    first_s = {chunk: each["rows"][0]["time_to_first_token_s"]["p50"] for chunk, each in found.items()}
    assert first_s[64] > 1.5 * first_s[512]
    assert first_s[0] == pytest.approx(first_s[512], rel=0.3)


def test_a_pool_counts_as_read_what_an_engine_of_its_own_mind_should_have_read():
    """In the middle of a step of 512 tokens half of them count no more; where steps are planned all of them do."""
    left = {}

    class Heard(PromiseOrder):
        def arrive(self, now_us, ask, room):
            left.setdefault(chunk, []).append(room.prefill_left)
            return super().arrive(now_us, ask, room)

    for chunk in (0, 512):
        order = Heard(Rates.declared(A100_LLAMA3_8B.prefill_tps))
        middle_us = A100_LLAMA3_8B.step_us(512) // 2
        first = Offered(0, 0, 512, 60, 60, "a", ServiceClass.INTERACTIVE)
        Simulation(order, Hardware(A100_LLAMA3_8B, chunk_tokens=chunk)).run(
            [first, replace(first, index=1, at_us=middle_us)]
        )
    assert left == {0: [0, 512], 512: [0, pytest.approx(256, abs=8)]}


@pytest.mark.parametrize("slots", [16, 32])
def test_what_is_accepted_is_kept_where_seats_are_scarcer_than_the_speed_of_reading(slots):
    dice = random.Random(11)
    lengths = [(dice.randrange(50, 1_500), round(dice.lognormvariate(4.6, 0.9)) + 1) for _ in range(500)]
    rows = [TraceRow(number * 100_000, *each) for number, each in enumerate(lengths)]
    found = compare(rows, ReplayOptions(("interlock",), Hardware(A100_LLAMA3_8B, slots=slots)), random.Random)
    [row] = found["rows"]
    assert row["accepted_attainment"] >= 0.98
