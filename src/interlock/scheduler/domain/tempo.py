"""How far apart the tokens of an engine come now, and how many sequences it may run for that to stay in an objective.

Knows no request and refuses nothing; `fleet.py` asks it for every engine.
"""

from dataclasses import dataclass, field
from typing import Final

_MICRO: Final = 1_000_000
# A span ends when both are there: long enough to be a rate, and no shorter than a step of the engine.
SPAN_TOKENS: Final = 8
SPAN_US: Final = _MICRO // 2
_WEIGHT: Final = 0.3
# A span alone counts as no further from the mean than this: one step that stood still is no slow machine, two are.
_LEAP: Final = 2.0
# So many spans in a row have to be late before fewer sequences run.
LATE_SPANS: Final = 2
# What a limit leaves of an objective, and how far below it an engine has to be before it is tried with one more.
_TARGET_SHARE: Final = 0.95
_EASY_SHARE: Final = 0.9
EASE_US: Final = 5 * _MICRO
# An engine that nobody saw a token of for as long may be another by now: it is tried with one sequence, then with more.
# Each try that finds it too slow again doubles the rest before the next one.
QUIET_US: Final = 5 * _MICRO
REST_US_MAX: Final = 20 * _MICRO
# Tokens that come after so long waited for their reader or their network: a step does not take this.
SILENT_US: Final = 5 * _MICRO
_DOUBLINGS_MAX: Final = 10


@dataclass(slots=True)
class _Strain:
    """What an engine is for one objective: how many spans in a row were late, and whether it is held to fewer seats."""

    late_spans: int = 0
    is_held: bool = False
    more: int = 0
    eased_us: int = 0


@dataclass(slots=True)
class Tempo:
    """One engine. `gap_us` is its time per output token as a short mean, 0 before the first span.

    An engine is held to fewer sequences only once its tokens came late: how fast it would be with more of them is known
    to nobody before. From then on its time per token is taken to grow with the sequences beside it, which is the worst
    that a batch does, so that it is loosened by what was seen and not by hope.
    """

    slots: int
    gap_us: float = 0.0
    _beside: float = 1.0
    _tokens: int = 0
    _stream_us: int = 0
    _beside_us: int = 0
    _began_us: int | None = None
    _seen_us: int = 0
    _rest_us: int = QUIET_US
    # How many spans in a row were beyond a leap.
    _leaps: int = 0
    _is_old: bool = False
    _strains: dict[int, _Strain] = field(default_factory=dict)
    # Whether it is held to fewer sequences for any objective.
    is_held: bool = False

    def begun(self, now_us: int) -> None:
        """Note that it was given a request: what that one shows comes before the next try."""
        self._rested(now_us)
        self._seen_us = max(self._seen_us, now_us)

    def streamed(self, now_us: int, tokens: int, took_us: int, beside: int, objectives_us: tuple[int, ...]) -> None:
        """Take in that one answer got so many tokens in a time, while so many sequences held seats."""
        if took_us <= SILENT_US:
            self._add(now_us, (tokens, took_us, now_us - took_us), beside, objectives_us)

    def stepped(self, now_us: int, took_us: int, decoding: int, beside: int, objectives_us: tuple[int, ...]) -> None:
        """Take in a whole step of an engine that tells its steps: each of those that decode got a token."""
        if decoding:
            self._add(now_us, (decoding, decoding * took_us, now_us - took_us), beside, objectives_us)

    def _add(self, now_us: int, seen: tuple[int, int, int], beside: int, objectives_us: tuple[int, ...]) -> None:
        tokens, stream_us, began_us = seen
        self._rested(now_us)
        if self._began_us is None:
            self._began_us = began_us
        self._seen_us = now_us
        self._tokens += tokens
        self._stream_us += stream_us
        self._beside_us += max(1, beside) * stream_us
        if self._tokens >= SPAN_TOKENS and now_us - self._began_us >= SPAN_US and self._stream_us > 0:
            self._end_span(now_us, objectives_us)

    def seats(self, now_us: int, objective_us: int) -> int:
        """Return how many sequences it may run so that an objective holds; 0 where one alone would be late."""
        strain = self._strains.get(objective_us)
        if strain is None or not strain.is_held:
            return self.slots
        fitting = self._fitting(objective_us) + strain.more
        doublings = min((now_us - self._seen_us) // self._rest_us, _DOUBLINGS_MAX)
        return min(self.slots, fitting if not doublings else max(1, fitting << doublings))

    def tried_in_us(self, now_us: int) -> int:
        """Return after how long without a token it would be tried again."""
        return max(0, self._seen_us + self._rest_us - now_us)

    def _rested(self, now_us: int) -> None:
        """After a rest what was seen before it is no part of a span, and the next span counts alone."""
        if now_us - self._seen_us >= QUIET_US:
            self._tokens = self._stream_us = self._beside_us = 0
            self._began_us, self._is_old = None, True

    def _end_span(self, now_us: int, objectives_us: tuple[int, ...]) -> None:
        gap_us, beside = self._stream_us / self._tokens, self._beside_us / self._stream_us
        if self._is_old or not self.gap_us:
            self._note_try(gap_us, objectives_us)
            self.gap_us, self._beside, self._is_old = gap_us, beside, False
        else:
            counted_us = min(max(gap_us, self.gap_us / _LEAP), self.gap_us * _LEAP)
            self._leaps = 0 if counted_us == gap_us else self._leaps + 1
            self.gap_us += _WEIGHT * ((counted_us if self._leaps < LATE_SPANS else gap_us) - self.gap_us)
            self._beside += _WEIGHT * (beside - self._beside)
        self._tokens = self._stream_us = self._beside_us = 0
        self._began_us = now_us
        for objective_us in objectives_us:
            self._judge(now_us, objective_us, gap_us)
        self.is_held = any(each.is_held for each in self._strains.values())

    def _note_try(self, gap_us: float, objectives_us: tuple[int, ...]) -> None:
        """Take the first span after a rest: the next rest is longer where it was in vain."""
        is_vain = self.is_held and any(gap_us > each for each in objectives_us)
        self._rest_us = min(2 * self._rest_us, REST_US_MAX) if is_vain else QUIET_US

    def _judge(self, now_us: int, objective_us: int, span_gap_us: float) -> None:
        strain = self._strains.setdefault(objective_us, _Strain())
        strain.late_spans = strain.late_spans + 1 if span_gap_us > objective_us else 0
        if strain.late_spans >= LATE_SPANS and self.gap_us > objective_us:
            strain.is_held, strain.more, strain.eased_us = True, 0, now_us
        elif strain.is_held and self.gap_us <= _EASY_SHARE * objective_us and now_us - strain.eased_us >= EASE_US:
            strain.more, strain.eased_us = max(1, 2 * strain.more), now_us
            strain.is_held = self._fitting(objective_us) + strain.more < self.slots

    def _fitting(self, objective_us: int) -> int:
        return int(_TARGET_SHARE * objective_us * self._beside / self.gap_us) if self.gap_us else 0
