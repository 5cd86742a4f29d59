"""`interlock store`: where the store is and how it is. Does not start it."""

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from interlock.cli.client import DEFAULT_DATA
from interlock.cli.ground import is_running, running_store
from interlock.cli.output import show_object, with_json
from interlock.foundation.clock import SystemClock
from interlock.foundation.store import StoreUrls
from interlock.foundation.supervisor import DataDirectory
from interlock.foundation.supervisor.store_checks import store_status


@click.group("store")
def command() -> None:
    """The PostgreSQL under the platform."""


@command.command("url")
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--role", default="app", show_default=True, type=click.Choice(["superuser", "owner", "app", "ops", "read"])
)
def url(data: Path, role: str) -> None:
    """Print the connection string of a role, password included."""
    urls = asyncio.run(_urls(DataDirectory(data)))
    found = getattr(urls, role)
    if found is None:
        raise click.ClickException(f"a store under DATABASE_URL has no {role} that the platform knows")
    click.echo(found)


@command.command("status")
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
@with_json
def status(data: Path, *, as_json: bool) -> None:
    """Print version, schema, size and extensions of the running store."""
    found = asyncio.run(_status(DataDirectory(data)))
    fields = ("server_version", "schema", "due", "size_bytes", "connections", "extensions")
    show_object(found, fields, as_json=as_json)


async def _urls(directory: DataDirectory) -> StoreUrls:
    if not os.environ.get("DATABASE_URL") and not is_running(directory):
        raise click.ClickException(f"store_unavailable: the store of {directory.root} does not run")
    async with running_store(directory) as urls:
        return urls


async def _status(directory: DataDirectory) -> dict[str, Any]:
    return await store_status(await _urls(directory), SystemClock())
