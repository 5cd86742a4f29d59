"""`interlock kill`: stop something now. A switch only ever stops; it cannot start anything.

With `--local` the switch is a signed file in the data directory, which works with the store and control dead.
"""

from pathlib import Path
from typing import Any

import click

from interlock.cli.client import Connection, quoted, with_connection
from interlock.cli.output import show_object, show_rows, with_json
from interlock.foundation.clock import SystemClock, SystemDice, rfc3339
from interlock.foundation.flags import Kill, KillMode, KillScope, open_local, seal_local
from interlock.foundation.flags.domain.kills import TARGET_KINDS
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.paths import write_private
from interlock.foundation.supervisor import DataDirectory

_FIELDS = ("id", "scope", "target", "mode", "reason")
_local = click.option("--local", "is_local", is_flag=True, help="A signed file instead of a call; needs --data.")


@click.group("kill")
def command() -> None:
    """Kill switches."""


@command.command("on")
@click.argument("scope", type=click.Choice([scope.value for scope in KillScope]))
@click.argument("target")
@click.option("--mode", required=True, type=click.Choice([mode.value for mode in KillMode]))
@click.option("--reason", required=True)
@_local
@with_json
@with_connection
def turn_on(connection: Connection, *, is_local: bool, as_json: bool, **switch: str) -> None:
    """Stop TARGET of SCOPE; the target of gateway is '*', of the others an id or a name."""
    if is_local:
        show_object(_sealed(connection.directory, switch), _FIELDS, as_json=as_json)
        return
    made = connection.client().post("/admin/v1/kill-switches", switch)
    show_object(made, (*_FIELDS, "propagation_ms", "acknowledged", "missing"), as_json=as_json)


@command.command("off")
@click.argument("switch", metavar="ID")
@click.option("--reason", default="lifted on the command line", show_default=True, help="Why it may run again.")
@_local
@with_json
@with_connection
def turn_off(connection: Connection, switch: str, reason: str, *, is_local: bool, as_json: bool) -> None:
    """Lift a switch."""
    if is_local:
        file = _file(connection.directory, switch)
        if not file.is_file():
            raise click.ClickException(f"not_found: no local switch {switch} in {file.parent}")
        file.unlink()
        show_object({"id": switch}, ("id",), as_json=as_json)
        return
    path = f"/admin/v1/kill-switches/{quoted(switch)}"
    lifted = connection.client().call("DELETE", path, body={"reason": reason})
    show_object(lifted, ("id", "scope", "target"), as_json=as_json)


@command.command("list")
@_local
@with_json
@with_connection
def listing(connection: Connection, *, is_local: bool, as_json: bool) -> None:
    """List the switches that are on."""
    if is_local:
        show_rows({"data": _local_rows(connection.directory), "next_cursor": None}, _FIELDS, as_json=as_json)
        return
    page = connection.client().rows("/admin/v1/kill-switches")
    show_rows(page, (*_FIELDS, "created_at"), as_json=as_json)


def _sealed(directory: DataDirectory, switch: dict[str, str]) -> dict[str, Any]:
    """Write the file that every process of this machine looks for."""
    clock = SystemClock()
    kill = Kill(
        id=format_id("kill", IdFactory(clock, SystemDice()).new()),
        organization_id=SYSTEM_ORGANIZATION_ID,
        scope=switch["scope"],
        target=_target(switch["scope"], switch["target"]),
        mode=switch["mode"],
        reason=switch["reason"],
        actor="local",
        created_us=clock.now_us(),
        is_local=True,
    )
    file = _file(directory, kill.id)
    if not file.parent.is_dir():
        raise click.ClickException(f"{directory.root} is no data directory of a platform")
    write_private(file, seal_local(kill, _key(directory)))
    return _row(kill)


def _target(scope: str, target: str) -> str:
    if scope == KillScope.GATEWAY and target != "*":
        raise click.UsageError("the target of gateway is '*'")
    kind = TARGET_KINDS.get(KillScope(scope))
    if kind is None:
        return target
    try:
        return str(parse_id(kind, target))
    except MalformedIdError:
        raise click.UsageError(f"a local switch on {scope} needs its id, {kind}_...") from None


def _local_rows(directory: DataDirectory) -> list[dict[str, Any]]:
    key = _key(directory)
    return [_row(open_local(file.read_bytes(), key)) for file in sorted(directory.kill_dir.glob("*.kill"))]


def _row(kill: Kill) -> dict[str, Any]:
    fields: dict[str, Any] = {field: getattr(kill, field) for field in _FIELDS}
    return {**fields, "is_local": True, "created_at": rfc3339(kill.created_us)}


def _file(directory: DataDirectory, switch: str) -> Path:
    return directory.kill_dir / f"{quoted(switch)}.kill"


def _key(directory: DataDirectory) -> bytes:
    """Return what local switches are signed with: only who may read the data directory's keys can write one."""
    try:
        return directory.pepper.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{directory.root} has no pepper; the first `interlock up` makes it") from error
