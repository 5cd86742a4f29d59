"""The book of those who may come back holds nothing of who came, was admitted, or stayed away."""

import pytest

from interlock.scheduler.domain.retries import KeptPlace, RetryBook, Telling

SECOND_US = 1_000_000


@pytest.mark.parametrize("end", ["admitted", "back in time", "stayed away"])
def test_nothing_is_left_of_who_was_told(end):
    book = RetryBook()
    for number in range(50):
        place = KeptPlace(("shop", f"workspace {number % 3}"), SECOND_US, 100, 0)
        book.tell(0, Telling(str(number), "deadline_infeasible", None, SECOND_US, 1_000, place))
    assert book.kept(0) is not None
    if end == "admitted":
        for number in range(50):
            book.forget(str(number))
    elif end == "back in time":
        for number in range(50):
            assert book.early(31 * SECOND_US, str(number)) is None
    assert book.kept(600 * SECOND_US) is None
    assert book._inside == {}
