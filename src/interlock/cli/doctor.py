"""`interlock doctor`: names what is wrong and what to do about it. Changes nothing."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from interlock import wiring
from interlock.cli.client import DEFAULT_DATA, RefusedError, connect
from interlock.cli.output import show_json, with_json
from interlock.foundation.clock import SystemClock
from interlock.foundation.config import ConfigError, load
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.supervisor import DataDirectory, UpOptions, load_options
from interlock.foundation.supervisor.collector_check import collector_finding
from interlock.foundation.supervisor.doctor import Finding, Verdict, machine_findings
from interlock.foundation.supervisor.store_checks import store_findings
from interlock.foundation.telemetry import OtlpConfig
from interlock.scheduler import find_model


@click.command("doctor")
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), help="Port to look at; that of the last `up`, else 8080.")
@with_json
def command(data: Path, port: int | None, *, as_json: bool) -> None:
    """Check machine, store and running roles; exit 1 on any fail."""
    directory = DataDirectory(data)
    clock = SystemClock()
    options = load_options(directory)
    findings = [*machine_findings(directory, options.host, port or options.port or 8080, clock)]
    findings += asyncio.run(store_findings(directory, clock, os.environ))
    findings += [_model(options), _collector(directory, options), *_platform(directory)]
    if as_json:
        show_json({"data": [_row(each) for each in findings], "next_cursor": None})
    else:
        for each in findings:
            click.echo(each.line())
    raise SystemExit(any(each.verdict is Verdict.FAIL for each in findings))


def _row(each: Finding) -> dict[str, Any]:
    return {"status": each.verdict.value, "name": each.name, "finding": each.finding, "remedy": each.remedy}


def _model(options: UpOptions) -> Finding:
    if options.engine != "embedded":
        return Finding(Verdict.OK, "model", f"not needed with --engine {options.engine}")
    try:
        model = find_model()
    except BrokenWorldError as error:
        return Finding(Verdict.FAIL, "model", error.finding, f"{error.remedy}, or start with --engine none")
    return Finding(Verdict.OK, "model", f"{model.name}, {model.path.stat().st_size / (1 << 20):.0f} MiB")


def _collector(directory: DataDirectory, options: UpOptions) -> Finding:
    """Ask the collector of spans, and what runs how it fared with it."""
    try:
        config = load(wiring.SECTIONS, options.config_file).section(OtlpConfig)
    except ConfigError as error:
        return Finding(Verdict.FAIL, "settings", str(error), "correct it; the platform does not start with it")
    metrics = b""
    if config.endpoint and directory.url_file.is_file():
        with suppress(click.ClickException):
            metrics = connect(directory.root, None, None).call("GET", "/metrics", is_file=True)
    return collector_finding(config, metrics)


def _platform(directory: DataDirectory) -> list[Finding]:
    """Ask a running platform how it is."""
    if not directory.url_file.is_file():
        return []
    try:
        found = connect(directory.root, None, None).get("/readyz")
    except RefusedError as error:
        return [Finding(Verdict.FAIL, "platform", f"not ready, {error.message}", f"see {directory.logs}")]
    except click.ClickException as error:
        return [Finding(Verdict.FAIL, "platform", error.message, "`interlock down`, then `interlock up`")]
    if found.get("degraded"):
        return [Finding(Verdict.WARN, "platform", f"degraded: {', '.join(found['degraded'])}", "see the checks above")]
    return [Finding(Verdict.OK, "platform", "ready")]
