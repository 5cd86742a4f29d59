"""The compiled forms say what the forms in Python say, of whatever comes in: bodies and streams."""

import importlib
import itertools
import json
import os
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.foundation import native
from interlock.gateway import domain
from interlock.gateway.domain import envelope, events, passing, times
from interlock.gateway.domain.translate import messages_scanner
from tests.gateway.test_events import DONE, EVENTS, HIDDEN, compact, delta, event

pytestmark = pytest.mark.skipif(envelope._compiled is None, reason="nothing was compiled here")
PACKAGE = "interlock.gateway.domain"


def in_python(*names):
    """Load modules a second time, without the compiled forms."""
    kept = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE)}
    was = os.environ.get(native.PURE)
    os.environ[native.PURE] = "1"
    try:
        for name in kept:
            del sys.modules[name]
        return [importlib.import_module(f"{PACKAGE}.{name}") for name in names]
    finally:
        for name in [each for each in sys.modules if each.startswith(PACKAGE)]:
            del sys.modules[name]
        sys.modules.update(kept)
        sys.modules["interlock.gateway"].domain = domain
        if was is None:
            del os.environ[native.PURE]


PURE_ENVELOPE, PURE_EVENTS, PURE_PASSING, PURE_TIMES, PURE_MESSAGES = in_python(
    "envelope", "events", "passing", "times", "translate.messages_scanner"
)


def test_both_forms_are_here():
    assert envelope._compiled is not None
    assert PURE_ENVELOPE._compiled is None
    assert envelope.decode_envelope is not PURE_ENVELOPE.decode_envelope
    assert sys.modules[f"{PACKAGE}.envelope"] is envelope


# Bodies.

SCALARS = st.sampled_from([
    "null", "true", "false", "0", "-0", "1", "7", "100", "-3", "1.5", "0.10", "1e5", "1E+2", "-2.5e-3", "10000000",
    "10000001", "128", "129", "1e400", "01", "1.", ".5", "-", "+1", "1e", "NaN", "Infinity", "-Infinity", "nul",
    "truex", "9" * 25, "9" * 16, "9" * 4400, "", " ", "undefined", "{", "[", "]", "}",
])  # fmt: skip
TEXTS = st.sampled_from([
    '""', '"m"', '"a model"', '"é"', '"\\u00e9"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00"', '"\\ud83d\\u0041"',
    '"\\ud83dx"', '"\\n\\t\\"\\\\\\/\\b\\f\\r"', '"\\x"', '"\\u12"', '"\\u12g4"', '"tab\tin"', '"line\nin"', '"\x00"',
    '"\x7f"', '"image"', '"image_url"', '"an image"', '"data:image/png;base64,AAAA"', '"base64"',
    '"\\"data:a;base64,AA"', '"12345678"', '"1234567"', '"123456789012345678901234567890 é and more of it"', '"open',
    '"open\\', '"a" "b"', "'a'", '"\u2028"', '"\U0001f600"',
])  # fmt: skip
NAMES = st.sampled_from([
    '"model"', '"messages"', '"stream"', '"stream_options"', '"max_tokens"', '"max_completion_tokens"',
    '"max_output_tokens"', '"n"', '"a"', '"type"', '"user"', '"metadata"', '"include_usage"', '"data"', '"é"',
    '"mod\\u0065l"', '"a\\"b"', '""', '"x y"',
    '"image"', '"\x7f"', "bare", '"\\ud83d\\ude00"',
])  # fmt: skip
# Two of them are none in JSON.
BLANK = st.sampled_from([*[""] * 40, " ", " ", "\n  ", "\t", "\r\n", "\x0b", "\u00a0"])


@st.composite
def members(draw, values, names=NAMES):
    told = draw(st.lists(st.tuples(BLANK, names, BLANK, BLANK, values, BLANK), max_size=6))
    return "{" + ",".join(f"{a}{name}{b}:{c}{value}{d}" for a, name, b, c, value, d in told) + draw(BLANK) + "}"


@st.composite
def lists(draw, values):
    return "[" + draw(BLANK) + ",".join(draw(st.lists(values, max_size=4))) + draw(BLANK) + "]"


VALUES = st.recursive(SCALARS | TEXTS, lambda inner: lists(inner) | members(inner), max_leaves=8)
DEEP = st.builds(
    lambda way, n: way[0] * n + "1" + way[1] * n, st.sampled_from([("[", "]"), ('{"a":', "}")]), st.integers(30, 66)
)
PLAIN = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "gpt", "é", "a b"])},
    optional={
        "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=40)})),
        "stream": st.sampled_from([True, False, None]),
        "max_tokens": st.sampled_from([None, 1, 100, 10_000_000]),
        "max_completion_tokens": st.sampled_from([None, 1, 100]),
        "max_output_tokens": st.sampled_from([1, 100]),
        "n": st.sampled_from([None, 1, 2]),
        "temperature": st.floats(0, 2),
        "stream_options": st.sampled_from([None, {}, {"include_usage": True}, {"include_usage": False, "x": 1}]),
        "input": st.text(max_size=20),
        "x": st.just([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
    },
)  # fmt: skip
# Mostly well formed, with few names, so that some are given twice.
FEW = members(
    st.sampled_from(["1", '"a"', "null", "true", "[1, {}]", '{"a" : "\\u00e9"}', '"\\ud83d"', "01", '"image"']),
    st.sampled_from(['"a"', '"b"', '"n"', '"stream"', '"max_tokens"', '"model"', '"mod\\u0065l"', '"é"']),
)
BODIES = st.one_of(
    FEW.map(lambda text: '{"model":"m",' + text[1:]),
    st.tuples(PLAIN, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")])).map(
        lambda told: json.dumps(told[0], indent=told[1], ensure_ascii=told[2], separators=told[3])
    ),
    members(VALUES),
    members(VALUES).map(lambda text: '{"model":"m",' + text[1:]),
    DEEP.map(lambda text: f'{{"model":"m","x":{text}}}'),
    VALUES,
)


@st.composite
def spoilt(draw, texts):
    """The bytes of a text, some of them changed, lost or repeated, or put between others."""
    body = bytearray(draw(texts).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(body)))
        count = draw(st.integers(0, 3))
        body[at : at + count] = draw(
            st.sampled_from(
                [b"", b" ", b'"', b"\\", b",", b"}", b"{", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"0", b"\n"]
            )
            | st.binary(max_size=2)
        )
    return bytes(draw(st.sampled_from([b"", b"", b"", b" ", b"\n", b"\xef\xbb\xbf"])) + body)


def told_of(found):
    """Everything that is said of a body."""
    if not hasattr(found, "top"):
        return repr(found)
    fields = {name: getattr(found, name) for name in found.__struct_fields__ if name != "top"}
    types = {name: type(each).__name__ for name, each in fields.items()}
    return fields, types, [(name, bytes(raw)) for name, raw in found.top.items()]


@settings(max_examples=400)
@given(spoilt(BODIES), st.sampled_from(list(envelope.Dialect)))
@example(b'{"model":"m","x":"\\ud83d\\ude00"}', envelope.Dialect.CHAT)
@example(b'{"model":"m","a":1,"a":2}', envelope.Dialect.CHAT)
@example(b'{"model":"m", "a":1, "\\u0061":2}', envelope.Dialect.CHAT)
@example(b'{"model":"m","x":"\xc3\x28"}', envelope.Dialect.CHAT)
@example(b'{"model":"m"} x', envelope.Dialect.CHAT)
@example(b'{"model":"m","stream":true,"stream_options":{"include_usage": true}}', envelope.Dialect.MESSAGES)
@example(b'{"model":"m","x":' + b"1" * 4_400 + b" }", envelope.Dialect.CHAT)
def test_a_body_is_read_alike_and_goes_on_alike(body, dialect):
    found = envelope.decode_envelope(body, dialect)
    expected = PURE_ENVELOPE.decode_envelope(body, PURE_ENVELOPE.Dialect(dialect))
    assert told_of(found) == told_of(expected)
    if isinstance(found, envelope.Envelope):
        sent = (
            module.encode_for_upstream(each, "u") for module, each in ((envelope, found), (PURE_ENVELOPE, expected))
        )
        assert next(sent) == next(sent)


@given(PLAIN, st.sampled_from([None, 1]), st.booleans())
def test_a_plain_body_is_read_by_the_compiled_form(body, indent, is_ascii):
    text = json.dumps(body, indent=indent, ensure_ascii=is_ascii).encode()
    is_escaped = is_ascii and not body["model"].isascii()
    assert (envelope._read_plain[envelope.Dialect.CHAT](text) is None) is is_escaped


def test_what_is_no_bytes_is_left_to_the_other_form():
    body = b'{"model":"m"}'
    assert envelope._read_plain[envelope.Dialect.CHAT](bytearray(body)) is None
    assert envelope.decode_chat(bytearray(body)).model == "m"


# Streams.


class Grant:
    output_tokens = 0


class Reader:
    """Takes what is pushed, and is slow each `stumbles` pieces."""

    def __init__(self, stumbles):
        self.pushed = []
        self._stumbles = stumbles

    def push(self, block):
        self.pushed.append(block)
        return len(self.pushed) % self._stumbles != 0


def run(module, scanner, timed, pieces, stumbles):
    """Pass pieces on; return all that can be seen of it, after each piece."""
    reader, grant, clock = Reader(stumbles), Grant(), itertools.count()
    passage = module.Passing(scanner, reader.push, timed, lambda: next(clock) ** 2 / 1_000, grant)
    seen = []
    for piece in pieces:
        try:
            said = passage.take(piece)
        except ValueError as error:
            said = f"{type(error).__name__}: {error}"
        names = ("events", "is_finished", "is_done", "failure")
        seen.append((said, *(getattr(scanner, name) for name in names), repr(scanner.usage), grant.output_tokens))
    return seen, reader.pushed, passage.last, passage.came, timed.counts, timed.sum_s


NAMED = st.sampled_from([
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n',
    b'event: content_block_delta\ndata: {"text":"\xc3\xa9 \\n\\n"}\n\n', b"event: content_block_deltas\ndata: {}\n\n",
    b"event: content_block_delta\n\n", b"event: content_block_delt\n\n", b'data: {"type":"content_block_delta"}\n\n',
    b"event: ping\ndata: {}\n\n", b": ping\n\n", b"\n", b"\n\n",
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n',
    b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n', b'event: error\ndata: {"type":"error"}\n\n',
    b"event: content_block_delta\ndata: " + b"x" * 200 + b"\n\n",
])  # fmt: skip
MORE = st.sampled_from([
    b'data: {"usage":null,"choices":[]}\n\n', b'data: {"usage" : {"prompt_tokens":2}}\n\n', b"data: [DONE]",
    b"data: [DON]\n\n", b'data: {"finish_reason":null}\n\n', b'data: {"finish_reason": null}\n\n',
    b'data: {"finish_reason":"stop"}\n\n', b'data: {"finish_reason":nul\n\n', b'data: "error"\n\n',
    b'event: e\ndata: {"error":1}\n\n', b":c\n\n: d\n\n", b"\n\n\n", b"data: a\ndata: b\n\n", b"data: a\n:c\n\n",
    b"data: " + b"x" * 200 + b"\n\n", b'data: x"', b'data: ["usage"', b"[",
])  # fmt: skip
ANY = EVENTS | MORE | NAMED | st.sampled_from([DONE, delta("x"), event(error={"message": "no"}), compact("a")])


@st.composite
def streams(draw, told):
    """Pieces of a stream: its events one by one, or cut anywhere."""
    pieces = draw(st.lists(told, max_size=10))
    end = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"]))
    pieces = [each.replace(b"\n", end) for each in pieces]
    if draw(st.booleans()):
        whole = b"".join(pieces)
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
        pieces = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    return pieces


@settings(max_examples=400)
@given(streams(ANY), st.booleans(), st.integers(1, 4), st.sampled_from([100, 1 << 20]))
@example([compact("a"), HIDDEN[0].join(compact("|").split(b"|"))], True, 4, 1 << 20)
def test_a_chat_stream_passes_alike(pieces, keeps_usage, stumbles, bytes_max):
    seen, expected = (
        run(
            passes,
            scans.ChatScanner(keeps_usage=keeps_usage, event_bytes_max=bytes_max),
            timed.Times(),
            pieces,
            stumbles,
        )
        for passes, scans, timed in ((passing, events, times), (PURE_PASSING, PURE_EVENTS, PURE_TIMES))
    )
    assert seen == expected


@settings(max_examples=400)
@given(streams(NAMED | ANY), st.integers(1, 4), st.sampled_from([100, 1 << 20]))
def test_a_messages_stream_passes_alike(pieces, stumbles, bytes_max):
    seen, expected = (
        run(passes, scans.MessagesScanner(bytes_max), timed.Times(), pieces, stumbles)
        for passes, scans, timed in ((passing, messages_scanner, times), (PURE_PASSING, PURE_MESSAGES, PURE_TIMES))
    )
    assert seen == expected
