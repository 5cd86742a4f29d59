"""`interlock scheduler replay`: policies compared on a trace, a recorded log fed through the core.

Needs no running platform and measures nothing by a clock.
"""

import random
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from interlock.cli import numbers
from interlock.cli.numbers import Finite
from interlock.cli.output import BadFileError, show_json, with_json
from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.asks import CLASSES, Classes
from interlock.scheduler.domain.decisions import replay_decisions
from interlock.scheduler.domain.log_lines import Line, LogInvalidError, Sink
from interlock.scheduler.domain.order_log import OPEN, replay_orders
from interlock.scheduler.domain.profiles import BUILT_IN, ProfileInvalidError, StepProfile, read_vidur
from interlock.scheduler.domain.replay import POLICIES, ReplayOptions, compare, order_of
from interlock.scheduler.domain.shadow import compared
from interlock.scheduler.domain.simulate import Hardware
from interlock.scheduler.domain.trace import Mix, TraceInvalidError, read_trace, window
from interlock.scheduler.domain.versions import SHARE_LEVEL_MIN

_COLUMNS: Final = ("policy", "load", "goodput_rps", "attainment", "accepted_attainment", "rejected_share",
                   "displaced_share", "well_behaved_attainment", "jain")  # fmt: skip

_BY_HAND: Final = click.core.ParameterSource.COMMANDLINE
# More than the longest line of a log.
_TAIL_BYTES: Final = 4 << 20


def _policies(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(POLICIES) if text == "all" else tuple(part.strip() for part in text.split(","))
    unknown = [each for each in names if each not in POLICIES]
    if unknown:
        raise click.BadParameter(f"no policy {unknown[0]!r}; there are {', '.join(POLICIES)}, and all")
    return names


def _objectives(_context: click.Context, _parameter: click.Parameter, text: str) -> Classes:
    """Read `interactive=8000/250,batch=60000/-`: milliseconds to the first token and of each further one."""
    rules = dict(CLASSES)
    for part in filter(None, text.split(",")):
        name, _, figures = part.partition("=")
        ttft_ms, _, tpot_ms = figures.partition("/")
        try:
            service_class = ServiceClass(name.strip())
            tpot_us = None if tpot_ms.strip() == "-" else int(tpot_ms) * 1_000
            changed = replace(rules[service_class], ttft_us=int(ttft_ms) * 1_000, tpot_us=tpot_us)
        except ValueError:
            raise click.BadParameter("write it as interactive=1000/50,batch=60000/-") from None
        if changed.ttft_us <= 0 or (tpot_us or 1) <= 0:
            raise click.BadParameter(f"{part}: milliseconds over 0")
        rules[service_class] = changed
    return rules


def profile_of(name: str) -> StepProfile:
    """Return a built-in profile, or that of a file. Raises `click.UsageError`.

    `NAME@FACTOR` is so many times as fast, `NAME@WRITING/READING` at writing and at reading.
    """
    built_in, at, factors = name.partition("@")
    if built_in in BUILT_IN:
        try:
            speeds = [_factor(each) for each in factors.split("/", 1)] if at else []
        except ValueError as error:
            raise click.UsageError(f"profile_invalid {name}: a factor is a number over 0") from error
        return BUILT_IN[built_in].at(*speeds) if speeds else BUILT_IN[built_in]
    try:
        with Path(name).open(newline="", encoding="utf-8", errors="replace") as lines:
            return read_vidur(name, lines)
    except (OSError, ProfileInvalidError) as error:
        raise click.UsageError(f"profile_invalid {error}") from error


def _factor(text: str) -> float:
    factor = float(text)
    if not 1e-6 <= factor <= 1e6:
        raise ValueError(text)
    return factor


@click.command("replay")
@click.argument("trace", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--decisions",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Decision log to decide again, DIR/decisions/POOL.jsonl; with TRACE it is written.",
)
@click.option(
    "--policy",
    "policies",
    default="fcfs,vtc,interlock",
    show_default=True,
    callback=_policies,
    help="With --decisions: what each would have decided otherwise.",
)
@click.option(
    "--last-s", default=3_600.0, show_default=True, type=Finite(0, numbers.SPAN_S_MAX), help="The end of a log."
)
@click.option(
    "--load",
    "loads",
    default="1.5",
    show_default=True,
    callback=numbers.listed(numbers.LOAD_MIN, numbers.LOAD_MAX),
    help="Relative to capacity.",
)
@click.option(
    "--load-rps",
    type=Finite(numbers.LOAD_MIN, numbers.RATE_RPS_MAX),
    help="Absolute mean rate instead of --load, requests a second.",
)
@click.option("--seed", "seeds", default="1", show_default=True, callback=numbers.seeds)
@click.option(
    "--profile",
    default="a100-llama3-8b",
    show_default=True,
    help="Built-in, NAME@FACTOR, NAME@WRITING/READING, or a Vidur mlp.csv.",
)
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option("--slots", default=128, show_default=True, type=click.IntRange(1, 4_096))
@click.option("--kv-tokens", default=427_000, show_default=True, type=click.IntRange(1))
@click.option(
    "--chunk-tokens",
    default=0,
    type=click.IntRange(0, 65_536),
    help="What engines read in a step that cut prompts themselves; 0: each step is planned.",
)
@click.option("--offset-s", default=0.0, show_default=True, type=Finite(0, numbers.SPAN_S_MAX))
@click.option("--duration-s", default=400.0, show_default=True, type=Finite(1, numbers.SPAN_S_MAX))
@click.option("--tenants", default=27, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--zipf", default=1.1, show_default=True, type=Finite(0, numbers.ZIPF_MAX))
@click.option("--classes", default="interactive=0.7,standard=0.3", show_default=True, callback=numbers.class_shares)
@click.option(
    "--objectives",
    default="",
    callback=_objectives,
    metavar="CLASS=TTFT_MS/TPOT_MS,..",
    help="Instead of the classes' own.",
)
@click.option(
    "--hog", default=0.0, show_default=True, type=Finite(0, numbers.HOG_MAX), help="One more tenant at this load."
)
@click.option("--share-level", default=0.8, show_default=True, type=Finite(SHARE_LEVEL_MIN, 1))
@click.option("--predict", type=click.Choice(["noisy", "oracle", "online"]), default="noisy", show_default=True)
@click.option("--price-usd-hour", default=2.5, show_default=True, type=Finite(0, numbers.PRICE_USD_HOUR_MAX))
@with_json
@click.pass_context
def replay(
    context: click.Context, /, trace: Path | None, decisions: Path | None, *, as_json: bool, **given: Any
) -> None:
    """Compare policies on TRACE (columns TIMESTAMP, ContextTokens, GeneratedTokens; - reads standard input).

    `interlock` is the order with predicted admission, shares and promises that a running pool grants by.
    With --decisions alone a log is decided again; with --policy or --share-level as well, by another policy beside it.
    With TRACE and --decisions the calls of the simulations are written, to be decided again.
    """
    if trace is None and (decisions is None or not decisions.is_file()):
        raise click.UsageError("give a TRACE or --decisions FILE")
    if trace is not None:
        _simulate(trace, decisions, given, as_json=as_json)
        return
    named = {name for name in ("policies", "share_level") if context.get_parameter_source(name) is _BY_HAND}
    if decisions is not None and named:
        _compare_decisions(decisions, {name: given[name] for name in named}, given["last_s"], as_json=as_json)
    elif decisions is not None:
        _replay_decisions(decisions, as_json=as_json)


def _simulate(trace: Path, decisions: Path | None, given: dict[str, Any], *, as_json: bool) -> None:
    if decisions is None:
        _compare(trace, given, None, as_json=as_json)
        return
    try:
        file = decisions.open("wb")
    except OSError as error:
        raise click.UsageError(f"decisions_invalid {error}") from error
    with file:

        def write(line: bytes) -> None:
            file.write(line + b"\n")

        _compare(trace, given, write, as_json=as_json)


def _replay_decisions(path: Path, *, as_json: bool) -> None:
    """Feed a log through the core; exit 1 at the first line that it decides otherwise."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            lines = chain([first], file)
            is_simulated = f'"call":"{OPEN}"'.encode() in first[:64]
            fed, difference = replay_orders(lines, order_of) if is_simulated else replay_decisions(lines)
    except LogInvalidError as error:
        raise click.UsageError(f"decisions_invalid {error}") from error
    if as_json:
        show_json({"decisions": fed, "difference": None if difference is None else asdict(difference)})
    elif difference is None:
        click.echo(f"decisions: {fed} decided alike")
    else:
        click.echo(f"line {difference.line} {difference.call}: recorded {difference.recorded}")
        click.echo(f"line {difference.line} {difference.call}: decided {difference.decided}")
    raise SystemExit(0 if difference is None else 1)


def _compare_decisions(path: Path, changes: dict[str, Any], last_s: float, *, as_json: bool) -> None:
    """Show what other rules would have decided otherwise of the last part of a log."""
    rows = []
    for policy in changes.get("policies", (None,)):
        wanted = {"policy": policy, "share_level": changes.get("share_level")}
        change = {name: value for name, value in wanted.items() if value is not None}
        try:
            since_us = last_us(path) - round(last_s * 1_000_000)
            with path.open("rb") as lines:
                found = compared(lines, change, since_us)
        except LogInvalidError as error:
            raise click.UsageError(f"decisions_invalid {error}") from error
        rows.append({"policy": policy or "as recorded", **found})
    if as_json:
        show_json({"rows": rows})
        return
    kinds = list(rows[0]["differences"])
    heads = ("policy", "requests", *kinds, "granted", "granted_live", "refused", "refused_live")
    click.echo("  ".join(f"{name:>12}" for name in heads))
    for row in rows:
        own, live = row["candidate"], row["live"]
        counts = [row["differences"][kind] for kind in kinds]
        totals = (own["granted"], live["granted"], own["refused"], live["refused"])
        click.echo("  ".join(f"{each:>12}" for each in (row["policy"], row["requests"], *counts, *totals)))


def last_us(path: Path) -> int:
    """Return when the last call of a log was made. Raises `LogInvalidError`."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = [each for each in file.read().split(b"\n") if each.strip()]
    try:
        return int(msgspec.json.decode(lines[-1], type=Line).at_us)
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogInvalidError(f"last line: {error}") from error


def _compare(trace: Path, given: dict[str, Any], sink: Sink | None, *, as_json: bool) -> None:
    try:
        with click.open_file(str(trace), encoding="utf-8", errors="replace") as lines:
            rows = window(read_trace(lines), given["offset_s"], given["duration_s"])
        found = compare(rows, replace(_options(given), sink=sink), random.Random)
    except TraceInvalidError as error:
        raise BadFileError(f"trace_invalid {error}") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        show_json(found)
        return
    click.echo("  ".join(f"{name:>23}" for name in _COLUMNS))
    for row in found["rows"]:
        click.echo("  ".join(f"{_cell(row[name]):>23}" for name in _COLUMNS))
    click.echo(f"capacity_rps: {found['capacity_rps']}")


def _options(given: dict[str, Any]) -> ReplayOptions:
    sizes = (given[name] for name in ("replicas", "slots", "kv_tokens", "chunk_tokens"))
    hardware = Hardware(profile_of(given["profile"]), *sizes)
    sigma = 0.0 if given["predict"] == "oracle" else Mix().length_sigma
    rate_rps = given["load_rps"]
    return ReplayOptions(
        policies=given["policies"],
        hardware=hardware,
        loads=given["loads"] if rate_rps is None else (0.0,),
        seeds=given["seeds"],
        mix=Mix(given["tenants"], given["zipf"], given["classes"], sigma),
        hog=given["hog"],
        share_level=given["share_level"],
        price_usd_hour=given["price_usd_hour"],
        rate_rps=rate_rps,
        classes=given["objectives"],
        is_online=given["predict"] == "online",
    )


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
