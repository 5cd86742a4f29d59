"""`interlock migrate`: bring the schema of the store forward. There is no way back; a newer file mends an older one."""

import asyncio
from pathlib import Path

import click

from interlock.cli.client import DEFAULT_DATA
from interlock.cli.ground import running_store
from interlock.foundation.clock import SystemClock
from interlock.foundation.store import Migrated, migrate, role_statements
from interlock.foundation.store.roles import ADD_VECTOR
from interlock.foundation.supervisor import DataDirectory


@click.command("migrate")
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
@click.option("--to", type=click.IntRange(0), help="Last migration to apply; the newest by default.")
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@click.option(
    "--print-roles", is_flag=True, help="Print the SQL that makes roles and extension in a database of your own."
)
def command(data: Path, to: int | None, *, dry_run: bool, print_roles: bool) -> None:
    """Apply the migrations that the store lacks."""
    if print_roles:
        for statement in (*role_statements(), ADD_VECTOR):
            click.echo(f"{statement};")
        return
    done = asyncio.run(_migrate(DataDirectory(data), to, dry_run=dry_run))
    for name in done.applied:
        click.echo(f"{'would apply' if dry_run else 'applied'} {name}")
    click.echo(f"schema {done.version:04d}" + ("" if done.applied else ", nothing to do"))


async def _migrate(directory: DataDirectory, to: int | None, *, dry_run: bool) -> Migrated:
    async with running_store(directory, may_create=True) as urls:
        return await migrate(urls, to=to, dry_run=dry_run, clock=SystemClock())
