"""`interlock evals`: suites, runs and evidence. Which commands there are; `evals_offline.py` needs no platform.

Judges nothing itself.
"""

import click

from interlock.cli import evals_offline, evals_online


@click.group("evals")
def command() -> None:
    """Suites, runs and evidence."""


for each in (*evals_offline.COMMANDS, *evals_online.COMMANDS):
    command.add_command(each)
