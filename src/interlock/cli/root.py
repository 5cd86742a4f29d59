"""The root command: which groups there are, and how a failure becomes one line and an exit code.

Does not import a command before it is asked for.
"""

import importlib
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import click

import interlock
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


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands by name; each module `interlock.cli.NAME` has one called `command`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._names:
            raise KeyError(name)
        found: click.Command = importlib.import_module(f"interlock.cli.{name}").command
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __setitem__(self, name: str, command: click.Command) -> None:
        raise TypeError("the commands are a fixed list")

    def __delitem__(self, name: str) -> None:
        raise TypeError("the commands are a fixed list")


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


@click.group(cls=Root, commands=LazyCommands(GROUPS), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(interlock.__version__, prog_name="interlock")
def main() -> None:
    """One platform in front of, under and around language models."""
