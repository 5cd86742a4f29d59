"""Writes the generated pages of docs/reference from the code: errors, settings, commands."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from interlock.cli import main as cli
from interlock.foundation.config import load
from interlock.foundation.errors import ERRORS
from interlock.wiring import SECTIONS

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
NOTE = "Written by `make docs` from the code; edit the code, not this page.\n"


def pages() -> dict[Path, str]:
    """Return every generated page and the text it must have."""
    return {
        FOLDER / "errors.md": errors_page(),
        FOLDER / "settings.md": settings_page(),
        FOLDER / "cli.md": cli_page(),
    }


def errors_page() -> str:
    rows = [
        f"| `{row.code}` | {row.http_status} | {row.message} | {'yes' if row.retry_after_s else 'no'} |"
        for row in sorted(ERRORS.values(), key=lambda row: (row.http_status, row.code))
    ]
    head = ["# Error codes", "", NOTE, "| code | status | meaning | a repeat can help |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def settings_page() -> str:
    effective = load(SECTIONS, env={}).effective
    rows = [f"| `{each.name}` | `{each.value}` | {each.doc} |" for each in effective]
    lead = "A TOML file (`[section]`, `name = value`), then `INTERLOCK_SECTION__NAME`, then a flag; the last wins."
    head = ["# Settings", "", NOTE, lead, "", "| setting | default | meaning |", "|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def cli_page() -> str:
    parts = ["# Commands", "", NOTE]
    for path, command in commands("interlock", cli):
        context = click.Context(command, info_name=path, terminal_width=80)
        parts += [
            f"## {path}",
            "",
            "```",
            *[line.rstrip() for line in command.get_help(context).splitlines()],
            "```",
            "",
        ]
    return "\n".join(parts)


def commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, parents first."""
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(f"{path} {name}", command.commands[name])


def main() -> int:
    """Write the pages, or with `--check` name those that differ."""
    if "--check" not in sys.argv:
        for path, text in pages().items():
            path.write_text(text)
        return 0
    stale = [path.name for path, text in pages().items() if path.read_text() != text]
    print(" ".join(stale))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
