"""`interlock scheduler`: policies compared on a trace, and the pools of a running platform.

Imports none of its commands before it is asked for.
"""

import click

from interlock.cli.lazy import LazyCommands

_COMMANDS = LazyCommands(
    {
        "replay": "interlock.cli.replays:replay",
        "pools": "interlock.cli.pools:pools",
        "weights": "interlock.cli.pools:weights",
        "metrics": "interlock.cli.pools:metrics",
    }
)


@click.group("scheduler", commands=_COMMANDS)
def command() -> None:
    """Scheduling of self-hosted engines."""
