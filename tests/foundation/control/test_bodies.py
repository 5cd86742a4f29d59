"""Bodies: what is JSON here, what is a field, and where exactly it went wrong."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation.control.strict_json import StrictJsonError, decode, scan

DEEP = 64
HOSTILE = [
    (b"[1]", "not a JSON object", 0),
    (b'"x"', "not a JSON object", 0),
    (b"null", "not a JSON object", 0),
    (b'{"name": 1e400}', "too large", 9),
    (b'{"name": -1e999}', "too large", 9),
    (b'{"name": NaN}', "", 0),
    (b'{"name": Infinity}', "", 0),
    (b'{"name": "a", "name": "b"}', "twice", 14),
    (b'{"name": "a", "n\\u0061me": "b"}', "twice", 14),
    (b'{"inner": {"a": 1, "a": 2}}', "twice", 19),
    (b'{"name": "\\ud800"}', "surrogate", 9),
    (b'{"name": "\\udc00\\ud800"}', "surrogate", 9),
    (b'{"na\\u0000me": "x"}', "NUL", 1),
    (b'{"name": "a\\u0000"}', "NUL", 9),
    (b'{"name": "a\x00"}', "", 11),
    (b'{"name": "\xff"}', "UTF-8", 10),
    (b'\xef\xbb\xbf{"name": "x"}', "", 0),
    (b'{"name": "x"} x', "", 14),
    (b'{"name": "x",}', "", 12),
    (b"{'name': 'x'}", "", 1),
    (b"{", "", 1),
    (b'{"name": 01}', "", 9),
    (b'{"name": ' + b"9" * 5_000 + b"}", "too large", 9),
    (b'{"tags": ' + b"[" * 64 + b"]" * 64 + b"}", "nests deeper", 72),
    (b'{"tags": ' + b"[" * 100_000, "nests deeper", 72),
]


@pytest.mark.parametrize(("raw", "words", "position"), HOSTILE)
async def test_what_is_not_strict_json_is_refused_with_its_position(admin, world, raw, words, position):
    answer = await admin("POST", "/admin/v1/notes", raw, content_type="application/json")
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert words in answer.json["error"]["message"]
    assert abs(answer.json["error"]["detail"]["position"] - position) <= 1
    assert world.work == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "nmae": 1}, "nmae"),
        ({"nmae": 1}, "nmae"),
        ({"name": "x", "": 1}, ""),
    ],
)
async def test_an_unknown_field_is_named(admin, body, field):
    answer = await admin("POST", "/admin/v1/notes", body)
    assert (answer.status, answer.code) == (400, "unknown_field")
    assert answer.json["error"]["detail"] == {"field": field}


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "$"), ({"name": 1}, "name"), ({"name": "x", "count": "1"}, "count"), ({"name": "x", "tags": [1]}, "tags[0]")],
)
async def test_a_field_of_the_wrong_type_is_named(admin, body, field):
    answer = await admin("POST", "/admin/v1/notes", body)
    assert answer.code == "invalid_request"
    assert answer.json["error"]["detail"]["field"] == field


async def test_a_well_formed_body_is_taken(admin):
    answer = await admin("POST", "/admin/v1/notes", {"name": "Zoë \U0001f600", "inner": {"a": 1}})
    assert (answer.status, answer.json["name"]) == (201, "Zoë \U0001f600")
    escaped = b'{"name": "\\ud83d\\ude00 \\\\u0000"}'
    assert (await admin("POST", "/admin/v1/notes", escaped, content_type="application/json")).status == 201


async def test_a_body_that_is_too_large_is_refused_by_its_announcement_and_by_its_size(admin):
    announced = await admin("POST", "/admin/v1/notes", {"name": "x"}, content_length="1048577")
    assert (announced.status, announced.code) == (413, "body_too_large")
    assert announced.json["error"]["detail"] == {"limit_bytes": 1 << 20}
    sent = await admin("POST", "/admin/v1/notes", b'{"name": "' + b"x" * (1 << 20) + b'"}')
    assert sent.code == "body_too_large"


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/json", "content_encoding": "gzip"},
        {"content_type": "application/json; charset=latin-1"},
    ],
)
async def test_another_type_or_coding_is_415(admin, headers):
    answer = await admin("POST", "/admin/v1/notes", b'{"name": "x"}', **headers)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


async def test_an_empty_body_is_refused_where_fields_are_needed(admin):
    assert (await admin("POST", "/admin/v1/notes")).code == "invalid_request"


async def test_the_body_of_a_stranger_is_not_read(anyone):
    answer = await anyone("POST", "/admin/v1/notes", b"\xff" * 10)
    assert answer.status == 401


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
NUMBER = st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=30,
)


def position_of_refusal(raw):
    try:
        value = decode(raw, DEEP)
    except StrictJsonError as error:
        return error.position
    assert not (isinstance(value, float) and math.isinf(value))
    return 0


@given(JSON, st.booleans())
def test_every_value_that_json_can_write_is_read_back(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    scan(text, DEEP)
    assert decode(text.encode(), DEEP) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_never_crash(raw):
    assert 0 <= position_of_refusal(raw) <= len(raw)


@given(st.text(alphabet='{}[]",:\\u0d8f 1e9-"', max_size=60))
def test_hostile_punctuation_is_read_or_refused(text):
    assert 0 <= position_of_refusal(text.encode()) <= len(text)
