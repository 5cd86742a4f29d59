"""Bytes that two servers could read in two ways are refused, named and recorded; none reaches a handler."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.foundation.wire.harness import drive, drive_each, read_answers

HOST = b"Host: shop.example\r\n"
POST = b"POST /v1/x HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

BAD_HEADS = {
    "length and coding": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two equal lengths": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "two unequal lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a list of lengths": POST + b"Content-Length: 4, 4\r\n\r\nabcd",
    "a plus length": POST + b"Content-Length: +4\r\n\r\nabcd",
    "a minus length": POST + b"Content-Length: -4\r\n\r\nabcd",
    "a hex length": POST + b"Content-Length: 0x4\r\n\r\nabcd",
    "an empty length": POST + b"Content-Length:\r\n\r\n",
    "an underscored length": POST + b"Content-Length: 1_0\r\n\r\n0123456789",
    "a huge length": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "an arabic digit length": POST + b"Content-Length: \xd9\xa4\r\n\r\nabcd",
    "gzip then chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked then gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice in one": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two coding fields": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "coding identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "coding xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "vertical tab before chunked": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "blank before the colon of the coding": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "folded first line": b"GET / HTTP/1.1\r\n " + HOST + b"\r\n",
    "bare LF after the request line": b"GET / HTTP/1.1\n" + HOST + b"\r\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare LF everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare CR in a value": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\n" + HOST + b"X\x00: b\r\n\r\n",
    "control in a value": b"GET / HTTP/1.1\r\n" + HOST + b"X: \x01\r\n\r\n",
    "blank before a colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "an empty name": b"GET / HTTP/1.1\r\n" + HOST + b": x\r\n\r\n",
    "a name with a slash": b"GET / HTTP/1.1\r\n" + HOST + b"A/B: x\r\n\r\n",
    "a line without colon": b"GET / HTTP/1.1\r\n" + HOST + b"nothing\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "no host in HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "an empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "two hosts in one": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a host with a user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "an absolute target of another host": b"GET http://other.example/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "an absolute target of another port": b"GET http://shop.example:81/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "an absolute target with a user": b"GET http://u@shop.example/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without slash": b"GET x HTTP/1.1\r\n" + HOST + b"\r\n",
    "an authority as target": b"GET shop.example:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "an asterisk with GET": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a fragment": b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a high byte": b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tab in the request line": b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "two blanks before the target": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "two blanks after the target": b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n",
    "a blank after the version": b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 by name": b"GET / HTTP/0.9\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/1.10": b"GET / HTTP/1.10\r\n" + HOST + b"\r\n",
    "lower-case http": b"GET / http/1.1\r\n" + HOST + b"\r\n",
    "another protocol": b"GET / RTSP/1.0\r\n" + HOST + b"\r\n",
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "a lower-case method": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "an unknown method": b"FROB / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a blank first": b" GET / HTTP/1.1\r\n" + HOST + b"\r\n",
}

BAD_BODIES = {
    "no size": b"\r\nabcd\r\n0\r\n\r\n",
    "size with a sign": b"+4\r\nabcd\r\n0\r\n\r\n",
    "size with 0x": b"0x4\r\nabcd\r\n0\r\n\r\n",
    "size in octal look": b"4_\r\nabcd\r\n0\r\n\r\n",
    "a blank before the size": b" 4\r\nabcd\r\n0\r\n\r\n",
    "a blank after the size": b"4 \r\nabcd\r\n0\r\n\r\n",
    "bare LF after the size": b"4\nabcd\r\n0\r\n\r\n",
    "bare LF in an extension": b"4;a\nabcd\r\n0\r\n\r\n",
    "bare CR in an extension": b"4;a\rb\r\nabcd\r\n0\r\n\r\n",
    "bare LF after the chunk": b"4\r\nabcd\n0\r\n\r\n",
    "a chunk longer than its size": b"4\r\nabcdef\r\n0\r\n\r\n",
    "a chunk shorter than its size": b"5\r\nabcd\r\n0\r\n\r\n",
    "a size that overflows": b"FFFFFFFFFFFFFFFF1\r\nabcd\r\n0\r\n\r\n",
    "an extension of 257 bytes": b"4;" + b"x" * 256 + b"\r\nabcd\r\n0\r\n\r\n",
    "NUL in an extension": b"4;\x00\r\nabcd\r\n0\r\n\r\n",
    "a malformed trailer": b"0\r\nnothing\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "bare LF in the trailers": b"0\r\nA: b\n\r\n",
    "trailers without end": b"0\r\n" + b"A: b\r\n" * 2_000,
}

OTHER_REFUSALS = {
    "CONNECT": (b"CONNECT shop.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    "TRACE": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    "an upgrade to h2c": (
        b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    "an upgrade without its option": (
        b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    "another expectation": (POST + b"Content-Length: 1\r\nExpect: 200-ok\r\n\r\n", 417, "expectation_failed"),
    "a compressed body": (POST + b"Content-Length: 1\r\nContent-Encoding: gzip\r\n\r\n", 415, "unsupported_media_type"),
    "a long target": (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target_too_long"),
    "a target without end": (b"GET /" + b"a" * 60_000, 414, "target_too_long"),
    "a long field": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 33_000 + b"\r\n\r\n", 431, "headers_too_large"),
    "a field without end": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 300_000, 431, "headers_too_large"),
    "101 fields": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 100 + b"\r\n", 431, "headers_too_large"),
    "fields without end": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 50_000, 431, "headers_too_large"),
}


def test_the_corpus_is_as_large_as_promised():
    assert len(BAD_HEADS) + len(BAD_BODIES) >= 40


@pytest.mark.parametrize("name", BAD_HEADS)
@pytest.mark.parametrize("step", [1_000_000, 1], ids=["at once", "byte by byte"])
def test_an_ambiguous_head_is_refused_before_any_handler(name, step):
    raw = BAD_HEADS[name]
    written, seen, told, is_shut = drive([raw[at : at + step] for at in range(0, len(raw), step)])
    assert seen == []
    method = told[0].method or "GET"
    [answer] = read_answers(written, [method])
    assert (answer.status, answer.code) == (400, "bad_http")
    assert is_shut
    assert answer.headers[b"connection"] == b"close"
    assert answer.headers[b"x-request-id"] == answer.headers[b"request-id"] == b"req_1"
    assert answer.json["error"]["request_id"] == "req_1"
    assert [each.refusal.code for each in told] == ["bad_http"]


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("step", [1_000_000, 1], ids=["at once", "byte by byte"])
def test_an_ambiguous_chunked_body_is_never_given_to_the_handler(name, step):
    raw = CHUNKED + BAD_BODIES[name]
    written, seen, told, is_shut = drive([raw[at : at + step] for at in range(0, len(raw), step)])
    assert [each.body for each in seen] == [None]
    [answer] = read_answers(written, ["POST"])
    assert (answer.status, answer.code) == (400, "bad_http")
    assert is_shut
    assert [each.refusal.code for each in told] == ["bad_http"]


@pytest.mark.parametrize("name", OTHER_REFUSALS)
def test_what_is_http_but_not_for_us_has_its_own_code(name):
    raw, status, code = OTHER_REFUSALS[name]
    written, seen, told, is_shut = drive([raw])
    [answer] = read_answers(written, ["GET"])
    assert (answer.status, answer.code, seen, is_shut) == (status, code, [], True)
    assert [each.refusal.code for each in told] == [code]
    if status == 405:
        assert b"GET" in answer.headers[b"allow"]


def test_good_neighbours_of_the_bad_forms_are_served():
    good = [
        b"GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        b"GET http://SHOP.example/x?y HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: \xff\t ok \r\nX:\r\n\r\n",
        POST + b"Content-Length: 0\r\nContent-Encoding: gzip\r\n\r\n",
        POST + b"Content-Length: 2 \r\nContent-Encoding: Identity\r\n\r\nab",
        POST + b"Transfer-Encoding: Chunked\r\n\r\n2;" + b"x" * 255 + b"\r\nab\r\n0\r\nA: b\r\n\r\n",
    ]
    written, seen, told, _ = drive([b"".join(good)])
    assert told == []
    assert [each.body for each in seen][-3:] == [b"", b"ab", b"ab"]
    assert len(read_answers(written, [each.method for each in seen], is_closed=False)) == len(good)


def test_bytes_behind_a_close_are_recorded_and_never_served():
    first = b"GET /first HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    written, seen, told, is_shut = drive([first + b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"])
    assert [each.target for each in seen] == [b"/first"]
    [answer] = read_answers(written, ["GET"])
    assert (answer.status, answer.headers[b"connection"], is_shut) == (200, b"close", True)
    assert [each.refusal.code for each in told] == ["bad_http"]


VALID = [
    b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-Y: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n",
    b"HEAD http://a/x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    b"PUT /%41 HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nz",
]
LENGTHS = [
    POST + b"Content-Length: 4\r\n\r\nabcd",
    POST + b"content-length: 12\r\n\r\n012345678901",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-Strength: 7\r\n\r\nab",
    b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"X-Strength: 4\r\n\r\n",
]
SPICE = [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b",", b";", b"0", b"5", b"-", b"+", b"\x0b", b"\xff", b"/"]


@st.composite
def mutations(draw) -> bytes:
    raw = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        until = draw(st.integers(at, min(len(raw), at + 3)))
        raw = raw[:at] + draw(st.sampled_from(SPICE)) + raw[until:]
    return raw


@settings(max_examples=400, deadline=None)
@given(mutations())
def test_what_we_take_a_strict_second_reader_reads_the_same_way(raw):
    """h11 is the oracle: no request reaches a handler that h11 would refuse or read otherwise."""
    written, seen, told, _ = drive([raw])
    if not seen or seen[0].body is None:
        return
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(raw)
    head = oracle.next_event()
    assert isinstance(head, h11.Request), head
    assert (head.method.decode(), bytes(head.target)) == (seen[0].method, seen[0].target)
    told_by_oracle = [(bytes(name), bytes(value)) for name, value in head.headers]
    # A length is told by the request itself, not among its headers.
    assert [each for each in told_by_oracle if each[0] != b"content-length"] == seen[0].headers
    body = b""
    while isinstance(event := oracle.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert body == seen[0].body
    # What stands behind this request is answered too: as more requests, or with one refusal.
    assert read_answers(written, [*(each.method for each in seen), "GET"][: len(seen) + len(told)])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(VALID[:4]), min_size=1, max_size=5), st.data())
def test_requests_mean_the_same_wherever_the_bytes_are_split(messages, data):
    raw = b"".join(messages)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]
    whole, split = drive([raw]), drive(pieces)
    assert split == whole
    assert [each.body is not None for each in whole[1]] == [True] * len(messages)


@pytest.mark.parametrize("raw", VALID, ids=range(len(VALID)))
def test_a_request_means_the_same_at_every_single_border(raw):
    whole = drive([raw])
    for at in range(1, len(raw)):
        written, seen, told, _ = drive([raw[:at], raw[at:]])
        assert (seen, told) == (whole[1], whole[2])
        # The interim answer to an expectation depends on whether the body was already there.
        assert written.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n") == whole[0]


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_head_that_is_known_opens_no_door_for_one_like_it(name):
    good = [*LENGTHS, *LENGTHS, *LENGTHS]
    written, seen, told, is_shut = drive([*good, BAD_HEADS[name]])
    assert len(seen) == len(good)
    assert [each.refusal.code for each in told] == ["bad_http"]
    assert is_shut
    methods = [*(each.method for each in seen), told[0].method or "GET"]
    assert read_answers(written, methods)[-1].status == 400


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*VALID, *LENGTHS]), max_size=6), mutations(), mutations())
def test_what_came_before_changes_nothing_of_what_a_request_means(before, first, raw):
    """A server that knows many heads takes, and refuses, what one does that knows none."""
    alone = drive([raw])
    heard = drive_each([[each] for each in (*before, *before, first, first, raw)])[-1]
    assert (heard[1], [each.refusal.code for each in heard[2]]) == (alone[1], [each.refusal.code for each in alone[2]])


def test_heads_that_differ_in_their_length_are_one_and_no_others():
    def post(length, body, name=b"Content-Length", rest=b""):
        return POST + name + b": " + length + b"\r\n" + rest + b"\r\n" + body

    raw = [
        post(b"9", b"it is new"),
        post(b"2", b"ab"),
        post(b"0", b""),
        post(b"005", b"hello"),
        post(b"1", b"z", rest=b"Expect: 100-continue\r\n"),
    ]
    _, seen, told, _ = drive(raw)
    assert told == []
    assert [each.body for each in seen] == [b"it is new", b"ab", b"", b"hello", b"z"]
    assert seen[1].headers is seen[2].headers is seen[3].headers
    assert seen[4].headers is not seen[1].headers
