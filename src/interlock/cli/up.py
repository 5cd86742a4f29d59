"""`interlock up`: one machine, all roles, until a signal.

Does not compose anything: the supervisor is built by `wiring`.
"""

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from interlock import wiring
from interlock.cli.client import DEFAULT_DATA
from interlock.crawler.adapters.egress import parse_allow
from interlock.foundation import config
from interlock.foundation.clock import SystemClock
from interlock.foundation.redaction import Redactor
from interlock.foundation.supervisor import ROLES, Supervisor, UpOptions, default_edge_workers
from interlock.foundation.telemetry import configure_logs


def _roles(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ROLES
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in ROLES]
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} is no role; roles are {', '.join(ROLES)}")
    return names


def _engine(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if text in {"none", "embedded"}:
        return text
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.username is not None:
        raise click.BadParameter("it is none, embedded or an http(s) URL with a host and without a user")
    return text


def _pool(context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    if name is None:
        return None
    if context.params.get("engine") in {"none", "embedded"}:
        raise click.BadParameter("it goes with --engine URL")
    if not wiring.POOL_NAME.fullmatch(name) or name == wiring.POOL:
        raise click.BadParameter(f"it is 1 to 64 of a-z, 0-9, `.`, `_` and `-`, and not {wiring.POOL}")
    return name


def _networks(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    try:
        parse_allow(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return tuple(part.strip() for part in text.split(",") if part.strip())


def platform_options(command: Any) -> Any:
    """Give a command the flags of `up`; it is called with one `UpOptions`."""

    @click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(file_okay=False, path_type=Path))
    @click.option(
        "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 lets the OS choose."
    )
    @click.option("--host", default="127.0.0.1", show_default=True)
    @click.option("--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.option("--demo", "is_demo", is_flag=True, help="Print a one-time login link of the console.")
    @click.option("--roles", callback=_roles, help="Roles to run, with commas; all by default.")
    @click.option("--edge-workers", type=click.IntRange(1, 256), help="Edge processes; the cores by default.")
    @click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
    @click.option("--schedulers", default=1, show_default=True, type=click.IntRange(1, 8), help="One leads a pool.")
    @click.option("--agent-slots", default=4, show_default=True, type=click.IntRange(1, 256), help="Tasks of a worker.")
    @click.option("--test-models", is_flag=True, help="Register the models replay and adversary.")
    @click.option(
        "--engine", default="embedded", show_default=True, callback=_engine, is_eager=True,
        help="none, embedded or a URL.",
    )  # fmt: skip
    @click.option("--pool", callback=_pool, metavar="NAME", help="Put the engine at the URL behind a pool.")
    @click.option("--crawl-allow", callback=_networks, metavar="CIDR[:PORT][,..]", help="Private networks to crawl.")
    @click.option("--crawl-slots", type=click.IntRange(1, 4096), help="Crawl requests in flight a worker.")
    @click.option("--crawl-contact", metavar="URL|MAIL", help="Contact in the crawler's user agent.")
    @click.pass_context
    def with_options(context: click.Context, /, **given: Any) -> Any:
        file = given["config_file"]
        options = UpOptions(
            data=str(given["data"].absolute()),
            port=given["port"],
            host=given["host"],
            config=None if file is None else str(file.absolute()),
            is_demo=given["is_demo"],
            roles=given["roles"],
            edge_workers=given["edge_workers"] or default_edge_workers(),
            workers=given["workers"],
            schedulers=given["schedulers"],
            engine=given["engine"],
            pool=given["pool"],
            crawl_allow=given["crawl_allow"],
            crawl_slots=given["crawl_slots"],
            crawl_contact=given["crawl_contact"],
            agent_slots=given["agent_slots"],
            test_models=given["test_models"],
        )
        return context.invoke(command, options)

    with_options.__doc__ = command.__doc__
    return with_options


@click.command("up")
@platform_options
def command(options: UpOptions) -> None:
    """Boot the platform and serve until a signal; a first one drains, a second one ends at once."""
    forbid_core_dumps()
    warm = wiring.warm_process(options.directory)
    configure_logs("supervisor", sys.stderr, clock=SystemClock(), redactor=Redactor(()))
    settings = config.load(wiring.SECTIONS, options.config_file)
    supervisor = wiring.build_supervisor(options, settings, warm)
    supervisor.on_ready = lambda url: announce(supervisor, url)
    raise SystemExit(asyncio.run(supervisor.run()))


async def announce(supervisor: Supervisor, url: str | None) -> None:
    """Print what scripts wait for: `ready URL`, then what there is to tell a person."""
    tell("ready" if url is None else f"ready {url}")
    for line in await supervisor.greet():
        tell(line)


def tell(line: str) -> None:
    """Print a line at once; a reader that has seen enough (`up | head -1`) does not end the platform."""
    try:
        click.echo(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def forbid_core_dumps() -> None:
    """A core file would hold keys and prompts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
