"""How lists become CSV: whole up to a bound, in order, and safe to open."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.console.exports import ROWS_READ_AT_ONCE, all_rows, csv_of
from interlock.console.views import CSV_COLUMNS, exported
from tests.console import samples

NOW_US = 1_795_575_600_000_000


class Shelf:
    """A list of numbers from 1 on, read behind a number; remembers how many it was asked for."""

    def __init__(self, count):
        self.numbers = range(1, count + 1)
        self.asked = []

    async def read(self, after, limit):
        self.asked.append(limit)
        return list(self.numbers[after : after + limit])


def cells_of(reply):
    return list(csv.reader(io.StringIO(reply.content.decode(), newline="")))


@pytest.mark.parametrize("count", [0, 1, ROWS_READ_AT_ONCE, ROWS_READ_AT_ONCE + 1, 3 * ROWS_READ_AT_ONCE])
async def test_a_list_is_read_whole_each_row_once(count):
    assert await all_rows(Shelf(count).read, 0, int, 10_000) == list(range(1, count + 1))


async def test_no_more_is_read_than_the_export_may_have():
    shelf = Shelf(1_000)
    assert await all_rows(shelf.read, 0, int, ROWS_READ_AT_ONCE + 50) == list(range(1, ROWS_READ_AT_ONCE + 51))
    assert shelf.asked == [ROWS_READ_AT_ONCE, 50]
    assert await all_rows(shelf.read, 0, int, 0) == []


@given(st.text(max_size=40))
def test_no_cell_begins_a_formula_and_none_loses_a_character(text):
    (_, (cell,)) = cells_of(csv_of("a.csv", ("a",), [{"a": text}, {"a": "last"}]))[:2]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell.removeprefix("'") == text.removeprefix("'")


def test_columns_stand_in_their_order_and_what_is_nothing_is_empty():
    reply = csv_of("list.csv", ("b", "a", "c"), [{"a": 1, "b": None, "c": ("x", "y"), "left out": 2}])
    assert cells_of(reply) == [["b", "a", "c"], ["", "1", "x y"]]
    assert reply.media_type == "text/csv; charset=utf-8"
    assert reply.headers["content-disposition"] == 'attachment; filename="list.csv"'


def test_an_export_names_each_column_and_disarms_what_a_client_wrote():
    record = samples.answered(NOW_US, client_request_id="=cmd|'/c calc'!A1")
    names, cells = cells_of(csv_of("requests.csv", CSV_COLUMNS, [exported(record)]))
    line = dict(zip(names, cells, strict=True))
    assert line["client_request_id"] == "'=cmd|'/c calc'!A1"
    assert (line["status"], line["outcome"], line["output_tokens"]) == ("200", "ok_stream", "128")
