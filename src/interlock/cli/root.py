"""The root command: which groups there are, and how a failure becomes one line and an exit code.

Does not import a command before it is asked for.
"""

from typing import Any, Final

import click

import interlock
from interlock.cli.lazy import LazyCommands
from interlock.foundation.config import ConfigError
from interlock.foundation.errors import BrokenWorldError, InterlockError

GROUPS: Final = (
    "ask",
    "audit",
    "capacity",
    "config",
    "crawl",
    "demo",
    "doctor",
    "down",
    "engine",
    "evals",
    "flags",
    "gates",
    "groups",
    "incidents",
    "keys",
    "kill",
    "limits",
    "migrate",
    "orgs",
    "rollouts",
    "routes",
    "scheduler",
    "search",
    "secrets",
    "serve",
    "sources",
    "store",
    "tasks",
    "trace",
    "up",
    "usage",
    "users",
)


_COMMANDS: Final = LazyCommands({name: f"interlock.cli.{name}:command" for name in GROUPS})


class Root(click.Group):
    """Turns the platform's own exceptions into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except (BrokenWorldError, InterlockError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Root, commands=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(interlock.__version__, prog_name="interlock")
def main() -> None:
    """One platform in front of, under and around language models."""
