"""`interlock sources`: places that documents come from, and proofs of who may read them.

Which commands there are; each file beside it holds some.
"""

import click

from interlock.cli import sources_admin, sources_proof


@click.group("sources")
def command() -> None:
    """Sources of documents."""


for each in (*sources_admin.COMMANDS, *sources_proof.COMMANDS):
    command.add_command(each)
