"""How fast the engines of an hour were, beside a profile: at writing and at reading, told apart by what was recorded.

A sequence that writes waits for what its steps write and for what they read beside it; a prompt waits for what is read
before it and for the floors of the steps that read it. The sums of both over all answers are two equations for two
speeds. Simulates nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interlock.scheduler.domain.profiles import StepProfile

# Fewer answers say more of their moments than of their engine.
ANSWERS_MIN: Final = 20
# What engines read of prompts in one step by default; it only says how many floors of a step a prompt pays.
_CHUNK: Final = 512
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as its engine made it: read from `granted_us` to `first_us`, written from there to `ended_us`."""

    engine_id: str
    granted_us: int
    first_us: int
    ended_us: int
    read_tokens: int
    written_tokens: int


@dataclass(frozen=True, slots=True)
class Speeds:
    """How many times as fast as the profile the engines wrote, and read."""

    writing: float
    reading: float


def speeds_of(answers: Sequence[Answer], profile: StepProfile) -> Speeds | None:
    """Return the speeds of the engines; None where too little was seen to tell reading from writing."""
    told = [each for each in answers if each.granted_us < each.first_us < each.ended_us and each.written_tokens > 1]
    if len(told) < ANSWERS_MIN:
        return None
    by_engine: dict[str, list[Answer]] = {}
    for each in told:
        by_engine.setdefault(each.engine_id, []).append(each)
    sums = sum((_sums(found, profile) for found in by_engine.values()), np.zeros((2, 3)))
    (written, beside, writing_us), (floors, read, reading_us) = sums.tolist()
    determinant = written * read - beside * floors
    if determinant <= 0:
        return None
    slower_writing = (writing_us * read - beside * reading_us) / determinant
    slower_reading = (written * reading_us - floors * writing_us) / determinant
    if slower_writing <= 0 or slower_reading <= 0:
        return None
    return Speeds(1 / slower_writing, 1 / slower_reading)


def _sums(answers: Sequence[Answer], profile: StepProfile) -> Floats:
    """Return for writing and for reading: microseconds of steps that write, of what reading adds, and those seen."""
    figures = [
        (each.granted_us, each.first_us, each.ended_us, each.read_tokens, each.written_tokens) for each in answers
    ]
    granted, first, ended, read, made = np.array(figures, np.float64).T
    begin = granted.min()
    granted, first, ended = granted - begin, first - begin, ended - begin
    wrote_us, read_us = ended - first, first - granted
    sequences = _Spread(first, ended, wrote_us)
    context = _Spread(first, ended, wrote_us * (read + made / 2))
    prompts = _Spread(granted, first, read)
    beside, ahead = prompts.within(first, ended), np.maximum(prompts.within(granted, first), read)
    steps = np.array([
        profile.step_us(0, max(1, round(count)), round(held))
        for count, held in zip(sequences.within(first, ended) / wrote_us, context.within(first, ended) / wrote_us,
                               strict=True)
    ])  # fmt: skip
    floors = np.array([
        profile.step_us(0, max(1, round(count)), round(held))
        for count, held in zip(sequences.within(granted, first) / read_us, context.within(granted, first) / read_us,
                               strict=True)
    ])  # fmt: skip
    per_token_us = (profile.step_us(_CHUNK, 1) - profile.step_us(0, 1)) / _CHUNK
    attention_us = read * read / 2 * profile.attention_ps / 10**6
    return np.array([
        ((made - 1) @ steps, beside.sum() * per_token_us, wrote_us.sum()),
        ((ahead / _CHUNK + 0.5) @ floors, ahead.sum() * per_token_us + attention_us.sum(), read_us.sum()),
    ])  # fmt: skip


class _Spread:
    """Amounts that are spread evenly over spans of time, summed: how much of them lies within other spans."""

    def __init__(self, starts: Floats, ends: Floats, amounts: Floats) -> None:
        rates = amounts / (ends - starts)
        times = np.concatenate((starts, ends))
        order = np.argsort(times, kind="stable")
        self._times = times[order]
        rate = np.cumsum(np.concatenate((rates, -rates))[order])
        self._sums = np.concatenate(([0.0], np.cumsum(rate[:-1] * np.diff(self._times))))

    def within(self, starts: Floats, ends: Floats) -> Floats:
        """Return the amount within each span."""
        found: Floats = np.interp(ends, self._times, self._sums) - np.interp(starts, self._times, self._sums)
        return found
