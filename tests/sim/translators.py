"""Answers made by dice, written in one dialect, cut at any byte, read back, and written in every other one.

What must hold: nothing is lost or doubled by the way, whatever the borders; each block starts and stops once, in
order; the text of a tool's arguments is unchanged; there is one finish, and it is the last.
"""

import json

from interlock.gateway.domain.translate.answer import gathered
from interlock.gateway.domain.translate.chat_reader import ChatReader
from interlock.gateway.domain.translate.chat_writer import ChatWriter
from interlock.gateway.domain.translate.events import (
    BlockEnd,
    Finish,
    Reason,
    Start,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolStart,
    Usage,
)
from interlock.gateway.domain.translate.messages_reader import MessagesReader
from interlock.gateway.domain.translate.messages_scanner import MessagesScanner
from interlock.gateway.domain.translate.messages_writer import MessagesWriter
from interlock.gateway.domain.translate.responses_writer import ResponsesWriter

CASES_A_SEED = 5
BOUND = 1 << 20
ALPHABET = 'aZ9 \n\r\t"\\{}[]:,\u2028é漢🚚\x00data: event'


class DoubledStop(MessagesReader):
    """The planted bug: a block that is closed twice, as when a stop is taken for each of two tools."""

    def _stop(self, index):
        super()._stop(index)
        if index:
            self._events.append(BlockEnd())


async def scenario(dice, clock, *, messages_reader=MessagesReader) -> int:
    """Run the cases of one seed; return how many pieces they were cut into."""
    del clock
    return sum(_case(_Dealer(dice), messages_reader) for _ in range(CASES_A_SEED))


class _Dealer:
    def __init__(self, dice):
        self._dice = dice

    def up_to(self, limit):
        """A whole number from 0 to `limit`."""
        return min(limit, int(self._dice.random() * (limit + 1)))

    def pick(self, items):
        return items[self.up_to(len(items) - 1)]

    def text(self, longest=12):
        return "".join(self.pick(ALPHABET) for _ in range(1 + self.up_to(longest)))

    def pieces(self, content):
        """The same bytes, cut anywhere; now and then at every byte."""
        if self.up_to(9) == 0 and len(content) < 4_000:
            return [content[at : at + 1] for at in range(len(content))]
        borders = sorted(self.up_to(len(content)) for _ in range(self.up_to(12)))
        return [content[a:b] for a, b in zip([0, *borders], [*borders, len(content)], strict=True)]


def _case(dealer, messages_reader):
    answer = _answer(dealer)
    usage = next(event for event in answer if isinstance(event, Usage))
    chat = b"".join(map(ChatWriter("x", 1, wants_usage=True).write, answer))
    messages = b"".join(map(MessagesWriter("x", 3).write, answer))
    pieces = 0
    for written, reader in ((chat, ChatReader), (messages, messages_reader)):
        cut = dealer.pieces(_line_ends(dealer, written))
        pieces += len(cut)
        read = _read(reader(BOUND), cut)
        _require_order(read)
        _require_same(answer, read)
        _require_counted(usage, read, is_chat=reader is ChatReader)
        _require_written(read)
    scanner = MessagesScanner(BOUND)
    passed = b"".join(map(scanner.feed, dealer.pieces(messages)))
    assert passed == messages
    assert scanner.is_done
    assert scanner.is_finished
    return pieces


def _answer(dealer):
    """An answer as a model may give it; chat keeps thinking and text in one place each, so each comes once."""
    events = [Start("id", "model")]
    if dealer.up_to(2) == 0:
        events += [*(ThinkingDelta(dealer.text()) for _ in range(1 + dealer.up_to(3))), BlockEnd()]
    if dealer.up_to(3):
        events += [*(TextDelta(dealer.text()) for _ in range(1 + dealer.up_to(6))), BlockEnd()]
    for number in range(dealer.up_to(3)):
        events.append(ToolStart(f"call_{number}", dealer.pick(["look", "sell", "é"])))
        written = json.dumps({dealer.text(): dealer.text() for _ in range(dealer.up_to(2))}, ensure_ascii=False)
        events += [ToolArgsDelta(each.decode()) for each in _characters(dealer, written)]
        events.append(BlockEnd())
    cached = dealer.up_to(5)
    events.append(Usage(cached + dealer.up_to(90), dealer.up_to(90), cached=cached, cache_written=0))
    is_tool = any(isinstance(event, ToolStart) for event in events)
    events.append(Finish(Reason.TOOLS if is_tool else dealer.pick([Reason.STOP, Reason.LENGTH, Reason.REFUSAL])))
    return events


def _characters(dealer, text):
    borders = sorted(dealer.up_to(len(text)) for _ in range(dealer.up_to(4)))
    cut = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    return [each.encode() for each in cut if each]


def _line_ends(dealer, content):
    return content.replace(b"\n", dealer.pick([b"\n", b"\r\n", b"\r"])) if dealer.up_to(3) == 0 else content


def _read(reader, pieces):
    events = [event for piece in pieces for event in reader.feed(piece)]
    events += reader.end()
    assert reader.skipped == 0
    return events


def _require_order(events):
    """One block at a time, each ended once; the start first, one finish, last."""
    opened = None
    for event in events:
        kind = {TextDelta: "text", ThinkingDelta: "thinking", ToolArgsDelta: "tool"}.get(type(event))
        if kind is not None:
            assert opened in (None, kind)
            assert kind != "tool" or opened == "tool"
            opened = kind
        elif isinstance(event, ToolStart):
            assert opened is None
            opened = "tool"
        elif isinstance(event, BlockEnd):
            assert opened is not None, "a block ended twice"
            opened = None
    assert opened is None
    assert isinstance(events[0], Start)
    assert [isinstance(event, Finish) for event in events].count(True) == 1
    assert isinstance(events[-1], Finish)


def _require_same(given, read):
    before, after = gathered(given), gathered(read)
    assert [(each.kind, each.text, each.id, each.name) for each in after.blocks] == [
        (each.kind, each.text, each.id, each.name) for each in before.blocks
    ]
    assert after.finish == before.finish


def _require_counted(usage, read, *, is_chat):
    counted = next(event for event in read if isinstance(event, Usage))
    assert (counted.input, counted.output, counted.cached) == (usage.input, usage.output, usage.cached)
    assert is_chat or counted.cache_written == 0


def _require_written(events):
    """The responses dialect has no reader here: its stream is checked for itself, and against the whole answer."""
    asked = {}
    written = b"".join(map(ResponsesWriter("x", 1, asked).write, events))
    told = [json.loads(frame.partition(b"data: ")[2]) for frame in written.split(b"\n\n") if frame]
    assert [each["sequence_number"] for each in told] == list(range(len(told)))
    assert told[-1]["type"] in ("response.completed", "response.incomplete")
    kinds = [each["type"] for each in told]
    added = [each["item"]["id"] for each in told if each["type"] == "response.output_item.added"]
    done = [each["item"]["id"] for each in told if each["type"] == "response.output_item.done"]
    assert added == done
    assert len(set(done)) == len(done)
    assert kinds.count("response.content_part.added") == kinds.count("response.content_part.done")
    whole = json.loads(ResponsesWriter("x", 1, asked).whole(events))
    assert told[-1]["response"]["output"] == whole["output"]
    for each in (ChatWriter("x", 1, wants_usage=True), MessagesWriter("x", 1)):
        again = ChatReader(BOUND) if isinstance(each, ChatWriter) else MessagesReader(BOUND)
        _require_same(events, again.whole(each.whole(events)))
