"""`interlock capacity`: how much machine a load needs. Needs no running platform and measures nothing."""

import csv
import dataclasses
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from interlock.cli import numbers
from interlock.cli.numbers import Finite
from interlock.cli.output import BadFileError, cell, show_json, with_json
from interlock.cli.progress import Progress
from interlock.cli.replays import profile_of
from interlock.foundation.clock import SystemClock
from interlock.gateway.domain.capacity import Load, size
from interlock.scheduler.domain import capacity as pools
from interlock.scheduler.domain.simulate import Hardware
from interlock.scheduler.domain.trace import Mix, TraceInvalidError, TraceRow, read_trace, window


@click.group("capacity")
def command() -> None:
    """Sizing."""


@command.command("gateway")
@click.option("--rpm", required=True, type=float, help="Requests a minute.")
@click.option("--input-tokens", required=True, type=float, help="Input tokens of a request.")
@click.option("--output-tokens", required=True, type=float, help="Output tokens of a request.")
@click.option("--stream-tokens-per-second", default=50.0, show_default=True, type=float)
@click.option("--us-per-event", default=23.0, show_default=True, type=float, help="CPU of an event, microseconds.")
@click.option("--us-per-request", default=60.0, show_default=True, type=float, help="CPU of a request, microseconds.")
@with_json
def gateway(*, as_json: bool, **load: Any) -> None:
    """Size the edge for a load."""
    try:
        found = size(Load(**load))
    except (ValueError, OverflowError) as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        show_json(dataclasses.asdict(found))
        return
    for line in found.lines():
        click.echo(line)


@command.command("scheduler")
@click.argument("trace", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rps", type=Finite(0, numbers.RATE_RPS_MAX, min_open=True), help="Requests a second, without a trace.")
@click.option("--input-tokens", type=Finite(1, numbers.TOKENS_MEAN_MAX), help="Mean input tokens of a request.")
@click.option("--output-tokens", type=Finite(1, numbers.TOKENS_MEAN_MAX), help="Mean output tokens of a request.")
@click.option("--goal", default=0.99, show_default=True, type=Finite(0, 1, min_open=True))
@click.option(
    "--load", default=1.0, show_default=True, type=Finite(numbers.LOAD_MIN, numbers.LOAD_MAX), help="Head-room."
)
@click.option(
    "--window-s", default=120.0, show_default=True, type=Finite(1, numbers.SPAN_S_MAX), help="Seconds simulated."
)
@click.option("--seed", default=1, show_default=True)
@click.option("--profile", default="a100-llama3-8b", show_default=True, help="As of `scheduler replay`.")
@click.option("--slots", default=128, show_default=True, type=click.IntRange(1, 4_096))
@click.option("--kv-tokens", default=427_000, show_default=True, type=click.IntRange(1))
@click.option("--classes", default="interactive=0.7,standard=0.3", show_default=True, callback=numbers.class_shares)
@click.option("--price-usd-hour", default=2.5, show_default=True, type=Finite(0, numbers.PRICE_USD_HOUR_MAX))
@click.option("--replicas-max", default=256, show_default=True, type=click.IntRange(1, 4_096))
@click.option("--save-trace", type=click.Path(dir_okay=False, path_type=Path), help="Write the requests for `replay`.")
@with_json
def scheduler(trace: Path | None, *, as_json: bool, **given: Any) -> None:
    """Size a pool of engines for TRACE at its own rate, or for a rate and lengths; exit 1 where nothing suffices.

    A simulation holds 50,000 requests; of a load with more an equal part is simulated, on its part of the replicas.
    """
    workload = _workload(trace, given)
    rows = _rows(trace, workload, given)
    if given["save_trace"] is not None:
        _save(given["save_trace"], rows)
    hardware = Hardware(profile_of(given["profile"]), 1, given["slots"], given["kv_tokens"])
    names = ("goal", "load", "seed", "price_usd_hour", "replicas_max")
    wanted = {name: given[name] for name in names}
    options = pools.SizingOptions(hardware, workload, mix=Mix(classes=given["classes"]), **wanted)
    progress = Progress(SystemClock(), sys.stderr)
    try:
        found = pools.size(rows, options, random.Random, progress)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    finally:
        progress.clear()
    if isinstance(found, pools.GoalUnreachable):
        click.echo(
            f"error: goal_unreachable best={found.best:.4f} replicas={found.replicas} reason={found.reason}", err=True
        )
        raise SystemExit(1)
    if as_json:
        show_json(found)
        return
    for name in pools.LINES:
        click.echo(f"{name}: {cell(found[name])}")


def _workload(trace: Path | None, given: dict[str, Any]) -> pools.Workload | None:
    sizes = [given[name] for name in ("rps", "input_tokens", "output_tokens")]
    if (trace is None) == (None in sizes) or (trace is not None and any(sizes)):
        raise click.UsageError("give either TRACE, or --rps, --input-tokens and --output-tokens")
    return pools.Workload(*sizes) if trace is None else None


def _rows(trace: Path | None, workload: pools.Workload | None, given: dict[str, Any]) -> Sequence[TraceRow]:
    if workload is not None:
        return pools.generated(workload, given["window_s"], random.Random(given["seed"]))  # noqa: S311 - a workload
    assert trace is not None
    try:
        with trace.open(newline="", encoding="utf-8", errors="replace") as lines:
            return window(read_trace(lines), 0.0, given["window_s"])
    except TraceInvalidError as error:
        raise BadFileError(f"trace_invalid {error}") from error


def _save(path: Path, rows: Sequence[TraceRow]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
        out.writerows((f"{each.at_us / 1e6:.6f}", each.input_tokens, each.output_tokens) for each in rows)
