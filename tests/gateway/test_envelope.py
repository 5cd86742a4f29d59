"""A chat body is read as far as the edge needs it, and refused when two readers could read it differently."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.gateway.domain.envelope import DEPTH_MAX, Envelope, decode_chat, encode_for_upstream
from interlock.gateway.domain.refusals import Refusal

MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


def chat(**fields):
    return json.dumps({"model": "m", "messages": [], **fields}).encode()


def test_the_fields_that_decide_are_read():
    body = chat(stream=True, max_tokens=7, n=2, stream_options={"include_usage": True})
    envelope = decode_chat(body)
    assert isinstance(envelope, Envelope)
    assert (envelope.model, envelope.is_stream, envelope.max_tokens, envelope.n) == ("m", True, 7, 2)
    assert envelope.wants_usage
    assert envelope.text_bytes == len(body)


def test_the_newer_name_of_the_token_limit_wins():
    assert decode_chat(chat(max_tokens=5, max_completion_tokens=9)).max_tokens == 9


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'"text"', "invalid_json", None),
        (b'{"model":"m"', "invalid_json", None),
        (b'{"model":"m"} x', "invalid_json", None),
        (b'{"model":"m","model":"n"}', "invalid_json", None),
        (b'{"model":"m","mod\\u0065l":"n"}', "invalid_json", None),
        (b'{"model":"m","a":1,"a":1}', "invalid_json", None),
        (b'{"model":"\xff"}', "invalid_json", None),
        (b'{"model":"m","x":"\xc3\x28"}', "invalid_json", None),
        (b'{"model":"m","x":NaN}', "invalid_json", None),
        (b'\xef\xbb\xbf{"model":"m"}', "invalid_json", None),
        (b'{"model":"m","x":' + b"[" * 64 + b"]" * 64 + b"}", "invalid_json", None),
        (b'{"model":"m","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "invalid_json", None),
        (b"{}", "invalid_request", "model"),
        (b'{"model":3}', "invalid_request", "model"),
        (b'{"model":""}', "invalid_request", "model"),
        (b'{"model":null}', "invalid_request", "model"),
        (b'{"model":"m","stream":"yes"}', "invalid_request", "stream"),
        (b'{"model":"m","max_tokens":0}', "invalid_request", "max_tokens"),
        (b'{"model":"m","max_tokens":-4}', "invalid_request", "max_tokens"),
        (b'{"model":"m","max_tokens":true}', "invalid_request", "max_tokens"),
        (b'{"model":"m","max_completion_tokens":1.5}', "invalid_request", "max_completion_tokens"),
        (b'{"model":"m","max_tokens":10000001}', "invalid_request", "max_tokens"),
        (b'{"model":"m","max_tokens":1e400}', "invalid_request", "max_tokens"),
        (b'{"model":"m","max_tokens":' + b"9" * 5_000 + b"}", "invalid_request", "max_tokens"),
        (b'{"model":1e400}', "invalid_request", "model"),
        (b'{"model":"m","stream":1e400}', "invalid_request", "stream"),
        (b'{"model":"m","stream_options":{"x":1e400}}', "invalid_request", "stream_options"),
        (b'{"model":"m","n":129}', "invalid_request", "n"),
        (b'{"model":"m","n":0}', "invalid_request", "n"),
        (b'{"model":"m","stream_options":7}', "invalid_request", "stream_options"),
    ],
)
def test_a_body_that_is_no_request_is_refused_by_name(body, code, param):
    refusal = decode_chat(body)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.param) == (code, param)
    assert refusal.rule.startswith("body.")


def test_blanks_between_tokens_are_no_reason_to_refuse():
    spaced = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a  b"}]}, indent=4).encode()
    assert decode_chat(spaced).model == "m"


def test_depth_is_counted_outside_strings():
    text = json.dumps({"model": "m", "x": "[" * 500 + '\\"{'}).encode()
    assert decode_chat(text).model == "m"
    fits = b'{"model":"m","x":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}"
    assert decode_chat(fits).model == "m"


def test_what_goes_upstream_is_what_was_checked():
    body = b'{"model":"m","stream":true,' + MESSAGES.encode() + b',"temperature":0.10,"x":{"b":1,"a":2}}'
    sent = encode_for_upstream(decode_chat(body), "upstream/model")
    assert b'"temperature":0.10' in sent
    assert b'"x":{"b":1,"a":2}' in sent
    decoded = json.loads(sent)
    assert decoded["model"] == "upstream/model"
    assert decoded["stream_options"] == {"include_usage": True}


def test_usage_is_asked_for_beside_the_callers_own_stream_options():
    body = chat(stream=True, stream_options={"include_usage": False, "other": 1})
    sent = json.loads(encode_for_upstream(decode_chat(body), "u"))
    assert sent["stream_options"] == {"include_usage": True, "other": 1}


def test_an_image_weighs_tokens_and_not_bytes():
    url = "data:image/png;base64," + "A" * 40_000
    content = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": url}}]
    envelope = decode_chat(chat(messages=[{"role": "user", "content": content}]))
    assert envelope.images == 1
    assert envelope.text_bytes < 400


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=5), st.sampled_from([None, 1, 4]), st.booleans())
def test_whatever_json_says_is_passed_on_unchanged(extra, indent, ascii_only):
    given_body = {**extra, "model": "m", "messages": []}
    for name in ("stream", "max_tokens", "max_completion_tokens", "n", "stream_options"):
        given_body.pop(name, None)
    body = json.dumps(given_body, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    envelope = decode_chat(body)
    if isinstance(envelope, Refusal):
        with pytest.raises((UnicodeDecodeError, msgspec.DecodeError, ValueError)):
            read_strictly(body)
    else:
        assert json.loads(encode_for_upstream(envelope, "m")) == json.loads(body)


def read_strictly(body):
    str(body, "utf-8")
    return msgspec.json.decode(body)
