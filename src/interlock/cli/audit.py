"""`interlock audit`: read, verify, sign and export the chain. Nothing here can change an event.

Verify, export and checkpoint work on the data directory itself, so they need no running platform.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from interlock.cli.client import DEFAULT_DATA, Client, connect, connected
from interlock.cli.ground import running_store
from interlock.cli.output import cell, show_json, show_rows, with_json
from interlock.foundation.audit import (
    AuditReader,
    Checkpointer,
    CheckpointFile,
    CheckpointKey,
    CheckpointKeys,
    MalformedCheckpointError,
    parse_checkpoint,
)
from interlock.foundation.clock import SystemClock
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, MalformedIdError, format_id, parse_id
from interlock.foundation.store import Store
from interlock.foundation.store.config import UNHURRIED
from interlock.foundation.supervisor import DataDirectory

_data = click.option("--data", default=None, type=click.Path(path_type=Path), help="Data directory [./.interlock].")


def _org(_context: click.Context, _parameter: click.Parameter, text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return parse_id("org", text)
    except MalformedIdError:
        raise click.BadParameter("give the organization's id, org_...; `interlock orgs list` shows it") from None


_organization = click.option("--org", "organization_id", callback=_org, help="Id of one organization; all by default.")


@click.group("audit")
def command() -> None:
    """The audit chain."""


@command.command("list")
@click.option("--action", help="For example key.create.")
@click.option("--target", help="Id of what was changed.")
@click.option("--actor", help="Id of who did it.")
@click.option("--from", "since", help="RFC 3339, inclusive.")
@click.option("--to", "until", help="RFC 3339, exclusive.")
@with_json
@connected
def listing(client: Client, since: str | None, until: str | None, *, as_json: bool, **wanted: str | None) -> None:
    """List events of the organization, newest first."""
    page = client.rows("/admin/v1/audit", **wanted, **{"from": since, "to": until})
    if as_json:
        show_json(page)
        return
    rows = [{**row, "actor": _named(row, "actor"), "target": _named(row, "target")} for row in page["data"]]
    show_rows({"data": rows}, ("seq", "at", "actor", "action", "target", "outcome", "reason"), as_json=False)


@command.command("verify")
@_data
@click.option("--url", help="Ask this platform instead of reading a data directory; with --key.")
@click.option("--key", "api_key", help="API key for --url.")
@_organization
@click.option(
    "--checkpoints", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Copies kept elsewhere."
)
@with_json
def verify(
    data: Path | None,
    url: str | None,
    api_key: str | None,
    organization_id: UUID | None,
    checkpoints: Path | None,
    *,
    as_json: bool,
) -> None:
    """Walk every chain, head and checkpoint; exit 1 and name the first event that is not as it was written."""
    is_remote = data is None and (url or os.environ.get("INTERLOCK_URL"))
    if is_remote:
        if checkpoints is not None:
            raise click.UsageError("--checkpoints is read where the data directory is; give --data")
        body = {"organization_id": None if organization_id is None else format_id("org", organization_id)}
        found = connect(None, url, api_key).post("/admin/v1/audit/verify", body)
    else:
        found = asyncio.run(_verify(DataDirectory(data or DEFAULT_DATA), organization_id, checkpoints))
    if as_json:
        show_json(found)
    elif found["ok"]:
        counts = f"{found['events']} events of {found['organizations']} organizations"
        click.echo(f"ok: {counts}, {found['checkpoints']} checkpoints")
    else:
        where = f"{found['organization_id']} seq {found['first_bad_seq']}"
        click.echo(f"{found['code']}: {where}; {found['detail']}")
    raise SystemExit(not found["ok"])


@command.command("export")
@_data
@click.option("--org", "organization_id", callback=_org, help="Id of the organization, needed where there are several.")
@click.option(
    "-o", "output", required=True, type=click.Path(path_type=Path, allow_dash=True), help="File; - for stdout."
)
def export(data: Path | None, organization_id: UUID | None, output: Path) -> None:
    """Write one chain as JSON lines that `examples/verify_audit.py` can verify without our code."""
    count = asyncio.run(_export(DataDirectory(data or DEFAULT_DATA), organization_id, output))
    click.echo(f"{count} lines to {output}", err=True)


@command.command("checkpoint")
@_data
@_organization
def checkpoint(data: Path | None, organization_id: UUID | None) -> None:
    """Sign every chain that grew, now."""
    for line in asyncio.run(_checkpoint(DataDirectory(data or DEFAULT_DATA), organization_id)):
        click.echo(line)


def _named(row: dict[str, Any], field: str) -> str:
    found = row.get(field) or {}
    return cell(found.get("id")) if isinstance(found, dict) else cell(found)


@asynccontextmanager
async def _store(directory: DataDirectory) -> AsyncIterator[Store]:
    async with running_store(directory) as urls:
        store = await Store.open(urls, application_name="cli", clock=SystemClock(), config=UNHURRIED)
        try:
            yield store
        finally:
            await store.close()


def _reader(store: Store, directory: DataDirectory) -> AuditReader:
    publics = [CheckpointKey(directory.audit_key.read_bytes()).public] if directory.audit_key.is_file() else []
    return AuditReader(store, CheckpointKeys(publics), CheckpointFile(directory.checkpoints))


async def _verify(directory: DataDirectory, organization_id: UUID | None, copies: Path | None) -> dict[str, Any]:
    try:
        lines = [] if copies is None else copies.read_text(encoding="utf-8").splitlines()  # noqa: ASYNC240 - nothing else runs yet
        extra = [parse_checkpoint(line, f"{copies}:{number}") for number, line in enumerate(lines, start=1)]
    except MalformedCheckpointError as error:
        raise click.ClickException(f"signature_invalid: {error}") from error
    async with _store(directory) as store:
        return (await _reader(store, directory).verify(organization_id, extra)).public()


async def _export(directory: DataDirectory, organization_id: UUID | None, output: Path) -> int:
    count = 0
    async with _store(directory) as store:
        reader = _reader(store, directory)
        wanted = organization_id or _only(await reader.organizations())
        file = sys.stdout.buffer if str(output) == "-" else output.open("wb")
        try:
            async for line in reader.export(wanted):
                file.write(line)
                count += 1
        finally:
            file.flush()
            if file is not sys.stdout.buffer:
                file.close()
    return count


def _only(chains: list[UUID]) -> UUID:
    """Return the one tenant's chain; of several the caller has to say which."""
    tenants = [each for each in chains if each != SYSTEM_ORGANIZATION_ID]
    if len(tenants) == 1:
        return tenants[0]
    names = ", ".join(format_id("org", each) for each in sorted(chains)) or "no organization"
    raise click.UsageError(f"a file holds one chain; give --org, one of {names}")


async def _checkpoint(directory: DataDirectory, organization_id: UUID | None) -> list[str]:
    if not directory.audit_key.is_file():
        raise click.ClickException(f"{directory.root} has no audit.key; the first `interlock up` makes it")
    key = CheckpointKey(directory.audit_key.read_bytes())
    async with _store(directory) as store:
        signer = Checkpointer(store, SystemClock(), key, CheckpointFile(directory.checkpoints))
        signed = await signer.checkpoint(organization_id)
    return [f"{format_id('org', each.organization_id)} seq {each.seq}" for each in signed]
