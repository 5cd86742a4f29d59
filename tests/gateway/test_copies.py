"""Places for copies: bounded, shared among whoever asks, never lost."""

from hypothesis import given
from hypothesis import strategies as st

from interlock.gateway.domain.copies import REMEMBERED_S, CopyPlaces

STEPS = st.lists(st.tuples(st.sampled_from(["take", "give"]), st.integers(0, 4), st.floats(0, 20)), max_size=80)


@given(places=st.integers(1, 16), steps=STEPS)
def test_no_more_than_all_places_and_nobody_beyond_its_share(places, steps):
    book, held, now = CopyPlaces(places), {}, 0.0
    for act, owner, later_s in steps:
        now += later_s
        if act == "take":
            before = held.get(owner, 0)
            if book.take(owner, now):
                held[owner] = before + 1
                assert held[owner] <= book.share()
        elif held.get(owner):
            held[owner] -= 1
            book.give(owner)
        assert book.taken == sum(held.values()) <= places


def test_an_organization_that_fills_all_places_leaves_half_to_a_second_one():
    book = CopyPlaces(16)
    assert all(book.take("first", 0.0) for _ in range(16))
    assert not book.take("second", 1.0), "a copy that runs is not ended for another"
    for _ in range(8):
        book.give("first")
        assert not book.take("first", 2.0), "the first has more than its share"
        assert book.take("second", 2.0)
    assert not book.take("second", 2.0)


def test_one_that_asks_no_more_is_forgotten():
    book = CopyPlaces(2)
    assert book.take("gone", 0.0)
    book.give("gone")
    assert [book.take("here", REMEMBERED_S + 1) for _ in range(3)] == [True, True, False]
