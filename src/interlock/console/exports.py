"""Lists as CSV: read page by page up to a bound, each cell safe to open in a spreadsheet.

Knows no list; a page hands over how to read its rows and what to tell of each.
"""

import csv
import io
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from interlock.foundation.control.route import Reply

ROWS_READ_AT_ONCE: Final = 200
Row = TypeVar("Row")
Place = TypeVar("Place")


async def all_rows(
    read: Callable[[Place, int], Awaitable[Sequence[Row]]],
    start: Place,
    place_of: Callable[[Row], Place],
    rows_max: int,
) -> list[Row]:
    """Return the rows of a list from `start` on, `rows_max` at most; `read` returns those behind a place."""
    found: list[Row] = []
    while len(found) < rows_max:
        limit = min(ROWS_READ_AT_ONCE, rows_max - len(found))
        rows = await read(start, limit)
        found += rows
        if len(rows) < limit:
            break
        start = place_of(rows[-1])
    return found


def csv_of(name: str, columns: Sequence[str], told: Iterable[Mapping[str, Any]]) -> Reply:
    """Return the download of a list: of each row the columns, nothing for None, several words with a space between."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in told)
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Reply(content=text.getvalue().encode(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: Any) -> str:
    """Return a cell that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    text = "" if value is None else " ".join(value) if isinstance(value, tuple) else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
