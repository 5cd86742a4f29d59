"""Named queries: `-- name: x`, `-- why: ...`, then one statement; loaded from a package's `queries.sql`.

Does not run anything, and knows no parameters; PostgreSQL types them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_HEADER: Final = re.compile(r"^-- name: (\w+)\n-- why: (.+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Query:
    """One statement with its reason to exist."""

    name: str
    why: str
    sql: str


class Queries:
    """The named queries of one package, read at first use: `SQL = Queries(__package__)`, `SQL.find_key`.

    Iterating yields all of them. An unknown name raises `AttributeError`, a malformed file `ValueError`.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._loaded: dict[str, Query] | None = None

    def __getattr__(self, name: str) -> Query:
        # Dunder look-ups (copy, pickle, inspect) must not read files.
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._all()[name]
        except KeyError:
            raise AttributeError(f"{self._package}/queries.sql has no query named {name}") from None

    def __iter__(self) -> Iterator[Query]:
        return iter(self._all().values())

    def _all(self) -> dict[str, Query]:
        if self._loaded is None:
            text = files(self._package).joinpath("queries.sql").read_text(encoding="utf-8")
            self._loaded = parse(text, self._package)
        return self._loaded


def parse(text: str, origin: str) -> dict[str, Query]:
    """Return the queries of a file by name. Raises `ValueError` for a doubled name or a query without a why."""
    parts = _HEADER.split(text)
    found: dict[str, Query] = {}
    for name, why, sql in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if name in found:
            raise ValueError(f"{origin}: query {name} is there twice")
        found[name] = Query(name, why.strip(), sql.strip().rstrip(";"))
    if text.count("-- name: ") != len(found):
        raise ValueError(f"{origin}: a query has no `-- why:` line after its name")
    return found
