"""`interlock config show`: every setting in force and where it came from.

Does not change a setting; a change is a drain and a start.
"""

from pathlib import Path

import click

from interlock import wiring
from interlock.cli.client import DEFAULT_DATA
from interlock.cli.output import show_json, with_json
from interlock.foundation.config import load
from interlock.foundation.supervisor import DataDirectory, load_options


@click.group("config")
def command() -> None:
    """The settings."""


@command.command("show")
@click.option("--data", default=DEFAULT_DATA, type=click.Path(path_type=Path), help="Whose settings file to read.")
@click.option("--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--defaults", is_flag=True, help="Ignore file and environment.")
@with_json
def show(data: Path, config_file: Path | None, *, defaults: bool, as_json: bool) -> None:
    """Print the effective value and the source of every setting; secrets as `[set]`."""
    file = None if defaults else config_file or load_options(DataDirectory(data)).config_file
    found = load(wiring.SECTIONS, file, env={} if defaults else None).effective
    if as_json:
        rows = [{"name": each.name, "value": each.shown, "source": each.source, "doc": each.doc} for each in found]
        show_json({"data": rows, "next_cursor": None})
        return
    for each in found:
        click.echo(f"{each.name} = {each.shown}  ({each.source})")
