"""`interlock sources`: places that documents come from, and proofs of who may read them.

Which commands there are; each file beside it holds some.
"""

import click

from interlock.cli.sources_proof import COMMANDS


@click.group("sources")
def command() -> None:
    """Sources of documents."""


for each in COMMANDS:
    command.add_command(each)
