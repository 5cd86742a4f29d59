"""`interlock serve ROLE`: one role, under a supervisor or by hand on a machine of its own.

Does not restart the role.
"""

from pathlib import Path

import click

from interlock import wiring
from interlock.cli.client import DEFAULT_DATA
from interlock.foundation.supervisor import ROLES, DataDirectory


@click.command("serve")
@click.argument("role", type=click.Choice(ROLES))
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
@click.option("--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--index", default=0, show_default=True, type=click.IntRange(0, 1023), help="Number among its equals.")
def command(role: str, data: Path, config_file: Path | None, index: int) -> None:
    """Run one role until it is told to drain."""
    raise SystemExit(wiring.serve(role, index, DataDirectory(data), config_file))
