"""Traces of requests: reading one, drawing tenants and classes for it, stretching it to a load.

Opens no file; the lines come in.
"""

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Final, Protocol

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.prefix import BLOCK_TOKENS

TOKENS_MAX: Final = 10_000_000
HOG: Final = "hog"
_MICRO: Final = 1_000_000
_SECONDS: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FRACTION: Final = re.compile(r"[.,]([0-9]+)")
# Three thousand years; microseconds of it are far from what 64 bits hold.
_SECONDS_MAX: Final = 1e11


class TraceInvalidError(ValueError):
    """A row cannot be read; the message is `line N: REASON`."""


class Seeded(Protocol):
    """The part of a seeded generator that is needed; `random.Random` has it."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def lognormvariate(self, mu: float, sigma: float, /) -> float:
        """Return a draw of a log-normal distribution."""
        ...

    def expovariate(self, lambd: float, /) -> float:
        """Return the gap to the next arrival of a Poisson process."""
        ...

    def randrange(self, start: int, /) -> int:
        """Return an index below `start`."""
        ...


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request as it was seen: when, how much in, how much out, and of whom where the trace knows.

    Prompts of one `prefix_group` begin with the same `prefix_tokens`.
    """

    at_us: int
    input_tokens: int
    output_tokens: int
    tenant: str = ""
    service_class: ServiceClass | None = None
    prefix_group: str = ""
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Offered:
    """One request of a run. `predicted_tokens` is what the policy may know of `output_tokens`.

    `max_tokens` is what its caller asked for at most, 0 where nobody knows. `prefix` are the blocks that its prompt
    begins with, as far as others begin with them too.
    """

    index: int
    at_us: int
    input_tokens: int
    output_tokens: int
    predicted_tokens: int
    tenant: str
    service_class: ServiceClass
    max_tokens: int = 0
    prefix: tuple[str, ...] = ()

    @property
    def least_prefill(self) -> int:
        """Prompt tokens that are read even where all of the beginning is known."""
        return max(1, self.input_tokens - len(self.prefix) * BLOCK_TOKENS)

    @property
    def cost(self) -> int:
        """Weighted tokens as predicted."""
        return self.input_tokens + 2 * self.predicted_tokens


@dataclass(frozen=True, slots=True)
class Mix:
    """How tenants and classes are drawn where the trace has none."""

    tenants: int = 27
    zipf: float = 1.1
    classes: tuple[tuple[ServiceClass, float], ...] = (
        (ServiceClass.INTERACTIVE, 0.7),
        (ServiceClass.STANDARD, 0.3),
    )
    length_sigma: float = 0.6


def read_trace(lines: Iterable[str]) -> list[TraceRow]:
    """Return the rows by time. Raises `TraceInvalidError`."""
    reader = csv.DictReader(line.removeprefix("\ufeff") for line in lines)
    try:
        for column in ("TIMESTAMP", "ContextTokens", "GeneratedTokens"):
            if column not in (reader.fieldnames or ()):
                raise TraceInvalidError(f"line 1: no column {column}")
        rows = [_row(each, reader.line_num) for each in reader]
    except csv.Error as error:
        raise TraceInvalidError(f"line {reader.line_num + 1}: {error}") from error
    return sorted(rows, key=lambda each: each.at_us)


def window(rows: Sequence[TraceRow], offset_s: float, duration_s: float) -> list[TraceRow]:
    """Return the rows of a part of the trace, its times counted from the start of the part."""
    if not rows:
        return []
    begin = rows[0].at_us + round(offset_s * _MICRO)
    end = begin + round(duration_s * _MICRO)
    return [replace(each, at_us=each.at_us - begin) for each in rows if begin <= each.at_us < end]


def offer(rows: Sequence[TraceRow], mix: Mix, seeded: Seeded) -> list[Offered]:
    """Return the requests of a run, with what the trace lacks drawn from the seed."""
    names = [f"t{number:02d}" for number in range(1, mix.tenants + 1)]
    tenant_edges = list(accumulate(number**-mix.zipf for number in range(1, mix.tenants + 1)))
    class_edges = list(accumulate(share for _, share in mix.classes))
    offered = []
    for index, row in enumerate(rows):
        tenant = names[_pick(tenant_edges, seeded.random())]
        service_class = mix.classes[_pick(class_edges, seeded.random())][0]
        predicted = max(1, round(row.output_tokens * seeded.lognormvariate(0.0, mix.length_sigma)))
        offered.append(
            Offered(
                index=index,
                at_us=row.at_us,
                input_tokens=row.input_tokens,
                output_tokens=row.output_tokens,
                predicted_tokens=predicted,
                tenant=row.tenant or tenant,
                service_class=row.service_class or service_class,
                prefix=_blocks(row, row.tenant or tenant),
            )
        )
    return offered


def stretched(offered: Sequence[Offered], rate_rps: float) -> list[Offered]:
    """Return the requests with the time axis stretched so that their mean rate is `rate_rps`."""
    first, last = offered[0].at_us, offered[-1].at_us
    wanted_us = len(offered) / rate_rps * _MICRO
    factor = wanted_us / max(last - first, 1)
    return [replace(each, at_us=round((each.at_us - first) * factor)) for each in offered]


def with_hog(offered: Sequence[Offered], rate_rps: float, mix: Mix, seeded: Seeded) -> list[Offered]:
    """Return the requests with those of one more tenant, a Poisson process of lengths drawn from the others."""
    added, at_us, end_us = [], 0.0, offered[-1].at_us
    while True:
        at_us += seeded.expovariate(rate_rps) * _MICRO
        if at_us >= end_us:
            break
        like = offered[seeded.randrange(len(offered))]
        predicted = max(1, round(like.output_tokens * seeded.lognormvariate(0.0, mix.length_sigma)))
        added.append(replace(like, at_us=round(at_us), tenant=HOG, predicted_tokens=predicted, prefix=()))
    merged = sorted([*offered, *added], key=lambda each: each.at_us)
    return [replace(each, index=index) for index, each in enumerate(merged)]


def _blocks(row: TraceRow, tenant: str) -> tuple[str, ...]:
    """Return whole blocks, named by tenant as an edge salts them: no tenant meets the prompts of another."""
    return tuple(f"{tenant} {row.prefix_group} {at}" for at in range(row.prefix_tokens // BLOCK_TOKENS))


def _pick(edges: Sequence[float], draw: float) -> int:
    wanted = draw * edges[-1]
    return next(at for at, edge in enumerate(edges) if wanted < edge)


def _row(row: Mapping[str, str | None], line: int) -> TraceRow:
    try:
        at_us = _time_us((row["TIMESTAMP"] or "").strip())
        taken, made = _tokens(row["ContextTokens"]), _tokens(row["GeneratedTokens"])
        name = (row.get("Class") or "").strip().lower()
        service_class = ServiceClass(name) if name else None
        group = (row.get("PrefixGroup") or "").strip()
        alike = _alike(row.get("PrefixTokens"), taken) if group else 0
    except (TypeError, ValueError) as error:
        raise TraceInvalidError(f"line {line}: {error}") from error
    return TraceRow(at_us, taken, made, (row.get("Tenant") or "").strip(), service_class, group, alike)


def _alike(text: str | None, taken: int) -> int:
    """Read how much of a prompt others begin with too; nothing where the trace does not say."""
    alike = 0 if (text or "").strip() in {"", "0"} else _tokens(text)
    if alike > taken:
        raise ValueError(f"a prompt of {taken} tokens begins with no {alike}")
    return alike


def _tokens(text: str | None) -> int:
    try:
        value = float((text or "").strip())
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value != int(value) or not 1 <= value <= TOKENS_MAX:
        raise ValueError(f"token counts are whole numbers from 1 to {TOKENS_MAX}, not {text!r}")
    return int(value)


def _time_us(text: str) -> int:
    """Read seconds, or ISO 8601 with up to nine fractional digits and, where it has one, its offset from UTC."""
    if not text:
        raise ValueError("no time")
    if _SECONDS.fullmatch(text):
        seconds = float(text)
        if not abs(seconds) <= _SECONDS_MAX:
            raise ValueError(f"not a time: {text!r}")
        return round(seconds * _MICRO)
    # The library reads six digits at most, so the fraction is read apart.
    fraction = _FRACTION.search(text)
    digits = fraction[1] if fraction else ""
    try:
        moment = datetime.fromisoformat(text if fraction is None else text.replace(fraction[0], "", 1))
    except ValueError:
        raise ValueError(f"not a time: {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp()) * _MICRO + int(digits[:9].ljust(9, "0")) // 1_000
