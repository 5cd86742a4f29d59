"""`interlock serve ROLE`: one role, under a supervisor or by hand on a machine of its own.

Does not restart the role.
"""

from pathlib import Path

import click

from interlock import wiring
from interlock.cli.client import DEFAULT_DATA
from interlock.foundation.supervisor import ROLES, DataDirectory


def _listen(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise click.BadParameter("write it as HOST:PORT, such as 10.0.0.5:7070")
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - refused: edges are told this very address
        raise click.BadParameter("name the address at which edges reach this scheduler")
    return host, int(port)


@click.command("serve")
@click.argument("role", type=click.Choice(ROLES))
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
@click.option("--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--index", default=0, show_default=True, type=click.IntRange(0, 1023), help="Number among its equals.")
@click.option(
    "--listen", callback=_listen, metavar="HOST:PORT", help="Where edges of other machines reach a scheduler."
)
def command(role: str, data: Path, config_file: Path | None, index: int, listen: tuple[str, int] | None) -> None:
    """Run one role until it is told to drain."""
    if listen is not None and role != "scheduler":
        raise click.UsageError("--listen belongs to the role scheduler")
    raise SystemExit(wiring.serve(role, index, DataDirectory(data), config_file, listen=listen))
