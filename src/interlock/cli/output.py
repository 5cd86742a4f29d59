"""How commands print: tables for people, the object of the HTTP call for programs.

Does not decide what is shown.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NoReturn

import click

Row = Mapping[str, Any]

with_json: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print the answer as JSON."
)


class BadFileError(click.ClickException):
    """A file that a command was given cannot be used; exit 2, in one line that a program can read."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the reason; how the command is used was not the trouble."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


def leave(code: int) -> NoReturn:
    """End the process at once, with what was printed.

    A command that loaded a model has its answer out before the interpreter and the libraries of the model have taken
    themselves apart, and those join threads of their own at the end: nobody should have to wait for that.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def show_rows(page: Mapping[str, Any], columns: Sequence[str], *, as_json: bool) -> None:
    """Print a list as a table of these columns, or as it came."""
    if as_json:
        show_json(page)
        return
    rows = [[cell(row.get(column)) for column in columns] for row in page["data"]]
    widths = [max(len(line[index]) for line in [list(columns), *rows]) for index in range(len(columns))]
    for line in [[column.upper() for column in columns], *rows]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def show_object(found: Row, fields: Sequence[str], *, as_json: bool) -> None:
    """Print `field: value` lines, or the object as it came."""
    if as_json:
        show_json(found)
        return
    for field in fields:
        click.echo(f"{field}: {cell(found.get(field))}")


def show_json(found: Any) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(found, ensure_ascii=False))


def cell(value: Any) -> str:
    """Render a value for people: nothing as a dash, lists with commas; control characters never reach a terminal."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(cell(each) for each in value)
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)
