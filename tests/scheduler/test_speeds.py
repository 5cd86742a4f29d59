"""Engines that read and write at other speeds than their profile: what their hour tells, and what is made of it."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from interlock.cli.replays import profile_of
from interlock.cli.scheduler import command
from interlock.scheduler.domain.last_hour import Asked, as_it_was, as_simulated, fleet_of, options, rate_rps, trace_of
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.speeds import ANSWERS_MIN, Speeds, speeds_of
from interlock.scheduler.service.pool_view import pool_view
from tests.scheduler.hours import recorded


def simulated(rows, fleet, tmp_path):
    trace = tmp_path / "hour.csv"
    trace.write_text(trace_of(rows))
    done = CliRunner().invoke(command, ["replay", str(trace), *options(fleet, rate_rps(rows), Asked(1.0, 1))])
    assert done.exit_code == 0, done.output
    return as_simulated(json.loads(done.output))["attainment"]


@pytest.mark.parametrize(("writing", "reading"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4), (2.0, 0.7)])
def test_an_hour_tells_how_fast_its_engines_wrote_and_how_fast_they_read(writing, reading):
    rows, _ = recorded(A100_LLAMA3_8B.at(writing, reading), rps=3, seconds=60)
    found = speeds_of([each.answer for each in rows if each.answer], A100_LLAMA3_8B)
    assert found.writing == pytest.approx(writing, rel=0.1)
    assert found.reading == pytest.approx(reading, rel=0.2)


def test_engines_of_one_pool_are_told_apart_by_their_id():
    """Seen as one, two engines would seem to read the prompts of both one after the other, and so twice as fast."""
    rows, _ = recorded(A100_LLAMA3_8B.at(0.5), rps=8, seconds=40, engines=2)
    answers = [each.answer for each in rows if each.answer]
    assert speeds_of(answers, A100_LLAMA3_8B).reading == pytest.approx(0.5, rel=0.25)
    as_one = [replace(each, engine_id="one") for each in answers]
    assert speeds_of(as_one, A100_LLAMA3_8B).reading > 1.0


@pytest.mark.parametrize(("writing", "reading", "rps"), [(0.5, 1.0, 6), (0.3, 1.5, 3)])
def test_the_simulated_hour_is_near_the_hour_where_one_factor_is_far_from_it(writing, reading, rps, tmp_path):
    rows, statistics = recorded(A100_LLAMA3_8B.at(writing, reading), rps=rps, seconds=100)
    view, was = pool_view(statistics, "host"), as_it_was(rows)["attainment"]
    assert abs(simulated(rows, fleet_of(view, 0.8, rows), tmp_path) - was) < 0.08
    assert abs(simulated(rows, fleet_of(view, 0.8), tmp_path) - was) > 0.3


def test_a_few_answers_tell_no_speed():
    rows, _ = recorded(A100_LLAMA3_8B, rps=3, seconds=20)
    answers = [each.answer for each in rows if each.answer]
    assert isinstance(speeds_of(answers[:ANSWERS_MIN], A100_LLAMA3_8B), Speeds)
    assert speeds_of(answers[: ANSWERS_MIN - 1], A100_LLAMA3_8B) is None
    assert speeds_of([replace(each, written_tokens=1) for each in answers], A100_LLAMA3_8B) is None


def test_a_profile_that_reads_slower_writes_as_fast():
    slow, whole = profile_of("a100-llama3-8b@1/0.5"), A100_LLAMA3_8B
    assert slow.step_us(0, 40, 1_000) == whole.step_us(0, 40, 1_000)
    added_us = whole.step_us(512, 40) - whole.step_us(0, 40)
    assert slow.step_us(512, 40) == whole.step_us(0, 40) + 2 * added_us
    assert profile_of("a100-llama3-8b@2/2") == profile_of("a100-llama3-8b@2")
    assert CliRunner().invoke(command, ["replay", "-", "--profile", "a100-llama3-8b@1/x"], input="").exit_code == 2
