"""`interlock scheduler pools gate|evaluate`: the gate that a policy of a pool has to pass, and evidence for it.

The trace is replayed here, by the code that decides in the pool; the platform decides what it is worth.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.client import Client, connected
from interlock.cli.numbers import LOAD_MAX, LOAD_MIN, SPAN_S_MAX, Finite, listed
from interlock.cli.output import BadFileError, show_object, with_json
from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.asks import CLASSES, Classes
from interlock.scheduler.domain.profiles import BUILT_IN
from interlock.scheduler.domain.replay import ReplayOptions
from interlock.scheduler.domain.simulate import Hardware
from interlock.scheduler.domain.slo_evidence import (
    ACCEPTED_MIN,
    Outputs,
    Replayed,
    gate_of,
    outputs_of,
    recording_of,
    suite_of,
)
from interlock.scheduler.domain.trace import TraceInvalidError, read_trace, window

NAME: Final = "scheduler-slo"
_POOLS: Final = "/admin/v1/pools"
_GATES: Final = "/v1/gates"
_WAIT_S: Final = 60.0
_POLL_S: Final = 0.5
_LOADS: Final = listed(LOAD_MIN, LOAD_MAX)
_GATE_FIELDS: Final = ("id", "name", "route", "mode", "armed", "armed_reasons", "policy_digest")
_VERDICT_FIELDS: Final = ("id", "verdict", "admits", "artifact_digest", "attempt", "reasons", "expires_at")


def _with_trace(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a replay of a trace needs to know."""
    for option in reversed((
        click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
        click.option("--gate", "gate_name", default=NAME, show_default=True, help="Name of gate and suite."),
        click.option("--load", "loads", default="0.8,1.5", show_default=True, callback=_LOADS),
        click.option("--profile", default="a100-llama3-8b", show_default=True, type=click.Choice(list(BUILT_IN))),
        click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 256)),
        click.option("--offset-s", default=0.0, show_default=True, type=Finite(0, SPAN_S_MAX)),
        click.option("--duration-s", default=120.0, show_default=True, type=Finite(1, SPAN_S_MAX)),
        click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 20), help="Seeds of a load."),
    )):  # fmt: skip
        function = option(function)
    return function


@click.command("gate")
@click.argument("name")
@_with_trace
@click.option(
    "--accepted-min", default=ACCEPTED_MIN, show_default=True, type=Finite(0, 1),
    help="Share of accepted requests that keep their objectives.",
)  # fmt: skip
@with_json
@connected
def gate(
    client: Client, name: str, *, as_json: bool, gate_name: str, repeats: int, accepted_min: float, **given: Any
) -> None:
    """Make a required gate for the policy of pool NAME, from what its policy of today makes of TRACE.

    Exit 1 where its controls did not pass, as they do not where today's policy itself misses what is asked: such a gate
    is not required and blocks nobody.
    """
    newest = client.rows(f"{_POOLS}/{name}/versions")["data"][0]
    outputs = _outputs(newest["settings"], given, repeats)
    client.post("/v1/evals/suites", suite_of(gate_name, outputs, accepted_min))
    body = gate_of(gate_name, name, repeats)
    known = [each for each in client.rows(_GATES)["data"] if each["name"] == gate_name]
    if known:
        made = client.call("PUT", f"{_GATES}/{known[0]['id']}", body={**body, "mode": known[0]["mode"]})
    else:
        made = client.post(_GATES, {**body, "mode": "advisory"})
    path = f"{_GATES}/{made['id']}"
    proved = client.post(f"{path}/controls", {"baseline": recording_of(newest["artifact_digest"], outputs)})
    if proved["armed"]:
        proved = client.call("PUT", path, body={**body, "mode": "required"})
    show_object(proved, _GATE_FIELDS, as_json=as_json)
    raise SystemExit(0 if proved["armed"] else 1)


@click.command("evaluate")
@click.argument("name")
@_with_trace
@with_json
@connected
def evaluate(client: Client, name: str, *, as_json: bool, gate_name: str, repeats: int, **given: Any) -> None:
    """Ask the gate of pool NAME for a verdict about its candidate. Exit 0 for PASS, 1 for anything else."""
    tried = client.get(f"{_POOLS}/{name}/candidate")
    outputs = _outputs(tried["settings"], given, repeats)
    known = [each["id"] for each in client.rows(_GATES)["data"] if each["name"] == gate_name]
    if not known:
        raise click.UsageError(f"no gate {gate_name}; `interlock scheduler pools gate {name} TRACE` makes it")
    body = {"candidate": recording_of(tried["artifact_digest"], outputs), "wait_s": _WAIT_S}
    found = client.post(f"{_GATES}/{known[0]}/evaluate", body)
    ends_s = time.monotonic() + _WAIT_S
    while found.get("state") == "pending" and time.monotonic() < ends_s:
        time.sleep(_POLL_S)
        found = client.get(f"{_GATES}/verdicts/{found['id']}")
    show_object(found, _VERDICT_FIELDS, as_json=as_json)
    raise SystemExit(0 if found.get("verdict") == "PASS" else 1)


def _outputs(settings: dict[str, Any], given: dict[str, Any], repeats: int) -> Outputs:
    try:
        with given["trace"].open(encoding="utf-8", errors="replace") as lines:
            rows = window(read_trace(lines), given["offset_s"], given["duration_s"])
        options = ReplayOptions(
            policies=(settings["policy"],),
            hardware=Hardware(BUILT_IN[given["profile"]], given["replicas"]),
            loads=given["loads"],
            share_level=settings["share_level"],
            classes=_classes(settings),
        )
        return outputs_of(Replayed(rows, options, repeats), random.Random)
    except TraceInvalidError as error:
        raise BadFileError(f"trace_invalid {error}") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _classes(settings: dict[str, Any]) -> Classes:
    """Return the classes with the objectives that settings name."""
    rules = dict(CLASSES)
    for each in ServiceClass:
        ttft_ms, tpot_ms = settings[f"{each.value}.ttft_ms"], settings[f"{each.value}.tpot_ms"]
        tpot_us = None if tpot_ms is None else tpot_ms * 1_000
        rules[each] = replace(rules[each], ttft_us=ttft_ms * 1_000, tpot_us=tpot_us)
    return rules
