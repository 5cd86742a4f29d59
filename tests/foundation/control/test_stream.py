"""A reader of events that comes back gets what it missed, once each."""

import pytest

from interlock.foundation.control.stream import Numbered, follow, last_event_id
from interlock.foundation.errors import InterlockError
from interlock.foundation.wire.sse import SseParser


class Log:
    def __init__(self, count):
        self.events = [Numbered(seq, "step", {"seq": seq}, is_last=seq == count) for seq in range(1, count + 1)]
        self.visible = 1

    async def read(self, after):
        shown = [each for each in self.events[: self.visible] if each.seq > after]
        self.visible += 1
        return shown


class TestClock:
    __test__ = False

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s

    async def sleep(self, seconds):
        self.now_s += seconds


async def test_a_stream_ends_behind_the_last_event_and_numbers_each():
    parser = SseParser()
    log = Log(3)
    seen = [each async for piece in follow(log.read, 0, TestClock()) for each in parser.feed(piece)]
    assert [(each.id, each.event) for each in seen] == [("1", "step"), ("2", "step"), ("3", "step")]


async def test_a_reader_that_comes_back_gets_what_came_after_its_number():
    parser = SseParser()
    log = Log(5)
    log.visible = 5
    seen = [each.id async for piece in follow(log.read, 3, TestClock()) for each in parser.feed(piece)]
    assert seen == ["4", "5"]


async def test_silence_is_filled_with_pings_and_has_an_end():
    async def nothing(_after):
        return []

    pieces = [piece async for piece in follow(nothing, 0, TestClock(), seconds_max=60.0)]
    assert pieces == [b": ping\n\n"] * 3


async def test_a_store_that_goes_away_ends_the_stream():
    async def away(_after):
        raise InterlockError("store_unavailable")

    assert [piece async for piece in follow(away, 0, TestClock())] == []


def test_the_number_to_go_on_from_is_a_number():
    assert last_event_id({"last-event-id": "7"}, {"after": "3"}) == 7
    assert last_event_id({}, {"after": "3"}) == 3
    assert last_event_id({}, {}) == 0
    with pytest.raises(InterlockError):
        last_event_id({"last-event-id": "seven"}, {})
