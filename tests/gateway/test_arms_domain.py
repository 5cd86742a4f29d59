"""Arms by arithmetic: units are sticky, shares are what the weight says, and counts have bounds."""

import dataclasses
import math
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from interlock.gateway.domain.arm_counts import BAD_UNITS_MAX, ArmBook, Counted
from interlock.gateway.domain.arms import (
    WHOLE_BP,
    bucket_of,
    is_canary,
    state_of,
    unit_hash,
    unit_of,
    weight_in_force_bp,
)
from interlock.gateway.domain.directory import Weight

ORGANIZATION, OTHER, KEY = UUID(int=1), UUID(int=2), UUID(int=3)
sessions = st.binary(min_size=1, max_size=40)
digests = st.text(alphabet="0123456789abcdef", min_size=8, max_size=64).map(lambda each: f"sha256:{each}")


def hash_of(session, digest="sha256:a", alias="shop"):
    return unit_hash(alias, digest, unit_of(ORGANIZATION, session, None, KEY))


@given(sessions, digests, st.integers(0, WHOLE_BP), st.integers(0, WHOLE_BP))
def test_no_unit_leaves_the_canary_while_its_weight_rises(session, digest, first, second):
    low, high = sorted((first, second))
    place = hash_of(session, digest)
    assert not is_canary(place, low) or is_canary(place, high)
    assert hash_of(session, digest) == place
    assert not is_canary(place, 0)
    assert is_canary(place, WHOLE_BP)
    assert 0 <= bucket_of(place) < WHOLE_BP


@settings(max_examples=25)
@given(digests, st.sampled_from([100, 500, 2_500, 5_000, 9_000]))
def test_the_share_of_units_is_the_weight(digest, weight_bp):
    count = 4_000
    share = weight_bp / WHOLE_BP
    found = sum(is_canary(hash_of(b"session-%d" % each, digest), weight_bp) for each in range(count))
    # Five standard deviations of the binomial: one false alarm in 1.7 million.
    assert abs(found - count * share) <= 5 * math.sqrt(count * share * (1 - share)) + 1


def test_a_share_of_ten_thousand_units_is_within_a_point_of_the_weight():
    found = sum(is_canary(hash_of(b"s-%d" % each), 500) for each in range(10_000))
    assert abs(found / 100 - 5.0) < 1.0


@given(st.text(min_size=1, max_size=20))
def test_units_of_two_kinds_or_two_organizations_are_never_one(text):
    given_as = text.encode("utf-8", "surrogatepass")
    units = {
        unit_of(ORGANIZATION, given_as, None, KEY),
        unit_of(ORGANIZATION, None, text, KEY),
        unit_of(OTHER, given_as, None, KEY),
        unit_of(ORGANIZATION, None, None, KEY),
    }
    assert len({each.value for each in units}) == 4


def test_a_session_goes_before_an_end_user_and_an_end_user_before_a_key():
    assert unit_of(ORGANIZATION, b"s", "u", KEY).kind == "session"
    assert unit_of(ORGANIZATION, b"", "u", KEY).kind == "user"
    assert unit_of(ORGANIZATION, None, "", KEY).kind == "key"


def test_other_units_come_first_in_another_rollout():
    first = {each for each in range(2_000) if is_canary(hash_of(b"%d" % each, "sha256:a"), 500)}
    second = {each for each in range(2_000) if is_canary(hash_of(b"%d" % each, "sha256:b"), 500)}
    assert len(first & second) < len(first) / 2


class LeaseMachine(RuleBasedStateMachine):
    """A weight under renewals, expiries and time: it never holds beyond lease or verdict, nor above what was set."""

    def __init__(self):
        super().__init__()
        self.now_us = 1_000_000
        self.weight = Weight(ORGANIZATION, "shop", 1)

    @rule(weight_bp=st.integers(1, WHOLE_BP - 1), lease=st.integers(1, 100), verdict=st.integers(1, 100))
    def put(self, weight_bp, lease, verdict):
        ends = min(self.now_us + lease, self.now_us + verdict)
        self.weight = Weight(
            ORGANIZATION, "shop", 1, 2, "canary", weight_bp, "vdt", "token", self.now_us + verdict, ends, self.now_us
        )

    @rule(steps=st.integers(0, 60))
    def wait(self, steps):
        self.now_us += steps

    @rule()
    def roll_back(self):
        self.weight = Weight(ORGANIZATION, "shop", 1)

    @invariant()
    def it_holds_only_while_lease_and_verdict_live(self):
        found = weight_in_force_bp(self.weight, self.now_us)
        ends = self.weight.expires_us or 0
        verdict = self.weight.verdict_expires_us or 0
        is_live = self.weight.candidate_version is not None and self.now_us < ends and self.now_us < verdict
        assert found == (self.weight.weight_bp if is_live else 0)
        expected = "canary" if is_live else "draft"
        assert state_of(2, self.weight, self.now_us) == expected
        assert state_of(1, self.weight, self.now_us) == "stable"
        assert state_of(0, self.weight, self.now_us) == "retired"


TestLeaseMachine = LeaseMachine.TestCase


def counted(unit=b"u" * 8, arm="canary", rose_us=1, bad=(), alias="shop"):
    return Counted(ORGANIZATION, alias, 2, arm, unit, 500, rose_us, bad)


def test_a_unit_counts_once_until_the_weight_rises_and_a_late_request_counts_none():
    book = ArmBook(units_max=100, seconds_max=100)
    for second, rose_us in ((10, 1), (10, 1), (11, 1), (12, 2), (13, 1)):
        book.note(counted(rose_us=rose_us), second)
    found = {place[2]: (count.units, count.requests) for place, count in book.take(100).items()}
    assert found == {10: (1, 2), 11: (0, 1), 12: (1, 1), 13: (0, 1)}


def test_the_second_in_which_a_weight_changes_is_counted_by_each_weight():
    book = ArmBook(units_max=100, seconds_max=100)
    book.note(counted(unit=b"a" * 8), 10)
    book.note(dataclasses.replace(counted(unit=b"b" * 8, rose_us=2), weight_bp=5_000), 10)
    book.note(counted(unit=b"c" * 8), 10)
    found = {place[5]: (count.units, count.requests) for place, count in book.take(11).items()}
    assert found == {500: (1, 2), 5_000: (1, 1)}


def test_a_second_is_taken_once_it_is_over_and_given_back_when_it_could_not_be_shipped():
    book = ArmBook(units_max=100, seconds_max=3)
    book.note(counted(bad=("errors",)), 10)
    book.note(counted(bad=("errors", "slow")), 11)
    taken = book.take(11)
    assert [place[2] for place in taken] == [10]
    book.give_back(taken)
    assert [place[2] for place in book] == [10, 11]
    again = book.take(12)
    assert [count.bad["errors"].requests for count in again.values()] == [1, 1]
    assert book.take(12) == {}


def test_every_count_is_bounded():
    book = ArmBook(units_max=10, seconds_max=4)
    for each in range(20):
        book.note(counted(unit=b"%08d" % each), each)
    assert book.statistics() == {"waiting": 4, "units": 10, "dropped": 16}
    book.give_back(book.take(100))
    book.forget_units(set())
    assert book.statistics()["units"] == 0
    for each in range(BAD_UNITS_MAX + 50):
        book.note(counted(unit=b"%08d" % each, bad=("errors",)), 50)
    bad = next(count for place, count in book.take(51).items() if place[2] == 50).bad["errors"]
    assert (bad.requests, len(bad.units)) == (BAD_UNITS_MAX + 50, BAD_UNITS_MAX)
