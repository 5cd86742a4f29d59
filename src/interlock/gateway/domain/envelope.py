"""The few fields of an inference request that the edge decides by; everything else stays the bytes that came.

Checks that the rest is JSON, whole and unambiguous; does not know what its fields mean to a model.
"""

import json
import re
from collections.abc import Callable
from enum import StrEnum
from itertools import accumulate
from typing import Any, Final

import msgspec

from interlock.foundation import native
from interlock.gateway.domain.refusals import Refusal

_compiled: Final = native.load("interlock.gateway.domain._native_body")
DEPTH_MAX: Final = 64
IMAGE_TOKENS: Final = 1_100
# Blanks between tokens of JSON, and the quotes, colons, commas and braces that the top level itself needs.
_MEMBER_BYTES: Final = len('"":,')
_decode_top: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_DATA_URL: Final = re.compile(rb'"data:[^",\\]{0,128};base64,[A-Za-z0-9+/=_-]*"')
_DATA_FIELD: Final = re.compile(rb'"data"\s*:\s*"[A-Za-z0-9+/=_-]*"')
_IMAGE_PART: Final = re.compile(rb'"type"\s*:\s*"(?:image_url|input_image|image)"')
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# Brackets become steps of a signed byte: 1 down, -1 up; every other byte goes.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(each for each in range(256) if each not in b"[{]}")
# More tokens than any model writes, and more answers than any vendor gives to one request: what is reserved of a limit
# must stay a number that the store can add up.
_TOKENS_MAX: Final = 10_000_000
_UNREADABLE: Final = object()


class Dialect(StrEnum):
    """What a request is written in; the last two have no stream."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    COUNT = "count_tokens"


_FIGURES: Final[dict[Dialect, dict[str, int]]] = {
    Dialect.CHAT: {"max_tokens": _TOKENS_MAX, "max_completion_tokens": _TOKENS_MAX, "n": 128},
    Dialect.RESPONSES: {"max_output_tokens": _TOKENS_MAX},
    Dialect.MESSAGES: {"max_tokens": _TOKENS_MAX},
    Dialect.EMBEDDINGS: {},
    Dialect.COUNT: {},
}
_STREAMED: Final = frozenset({Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES})


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Envelope(msgspec.Struct, frozen=True):
    """A request as far as the edge reads it. `top` is written out again for the upstream.

    `text_bytes` is the body less base64 payloads; `images` counts the parts that a model sees as pictures.
    """

    model: str
    is_stream: bool
    max_tokens: int | None
    n: int
    wants_usage: bool
    text_bytes: int
    images: int
    top: dict[str, msgspec.Raw]
    dialect: Dialect = Dialect.CHAT


def decode_chat(body: bytes) -> Envelope | Refusal:
    """Return what the edge reads of a chat request, or why the body is none."""
    return decode_envelope(body, Dialect.CHAT)


def decode_envelope(body: bytes, dialect: Dialect) -> Envelope | Refusal:
    """Return what the edge reads of a request, or why the body is none."""
    if _read_plain is not None:
        plain = _read_plain[dialect](body)
        if plain is not None:
            return plain
    return _decode(body, dialect)


def _decode(body: bytes, dialect: Dialect) -> Envelope | Refusal:
    top = _top_level(body)
    if isinstance(top, Refusal):
        return top
    model = _value(top, "model")
    if not isinstance(model, str) or not model:
        return _wrong("model", "`model` must be the name of a model.")
    stream = _value(top, "stream") if "stream" in top else None
    if not (stream is None or stream is False or (stream is True and dialect in _STREAMED)):
        return _wrong("stream", "`stream` must be true or false, and is false where there is no stream.")
    figures: dict[str, int | None] = {}
    for name, maximum in _FIGURES[dialect].items():
        if name not in top:
            continue
        value = _value(top, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= maximum):
            return _wrong(name, f"`{name}` must be a whole number from 1 to {maximum}.")
        figures[name] = value
    wants_usage = _wants_usage(top)
    if wants_usage is None:
        return _wrong("stream_options", "`stream_options` must be an object.")
    text_bytes, images = _weigh(body)
    return Envelope(
        model=model,
        is_stream=bool(stream),
        max_tokens=figures.pop("max_completion_tokens", None) or _most_output(figures),
        n=figures.get("n") or 1,
        wants_usage=wants_usage,
        text_bytes=text_bytes,
        images=images,
        top=top,
        dialect=dialect,
    )


def plain_reader(dialect: Dialect) -> Callable[[bytes], Envelope | None]:
    """Return what reads a body as `decode_envelope` does, or leaves it alone where anything about it is unusual."""
    return _leave if _read_plain is None else _read_plain[dialect]


def end_user(envelope: Envelope) -> str | None:
    """Return the end user whom the caller names: `user`, else `metadata.user_id`."""
    user = _value(envelope.top, "user")
    if isinstance(user, str) and user:
        return user
    metadata = _value(envelope.top, "metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    return user if isinstance(user, str) and user else None


def encode_for_upstream(envelope: Envelope, upstream_model: str) -> bytes:
    """Write the checked top level out again, for another name of the model and with usage always asked for."""
    top: dict[str, Any] = dict(envelope.top)
    top["model"] = upstream_model
    if envelope.is_stream and not envelope.wants_usage:
        given = _value(envelope.top, "stream_options")
        top["stream_options"] = {**given, "include_usage": True} if given else {"include_usage": True}
    return _encode(top)


def _leave(_: bytes) -> None:
    """Read nothing, where there is no compiled form."""


def _top_level(body: bytes) -> dict[str, msgspec.Raw] | Refusal:
    if not body.isascii():
        try:
            str(body, "utf-8")
        except UnicodeDecodeError as error:
            return _not_json(f"not UTF-8 at byte {error.start}")
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and _depth(body) > DEPTH_MAX:
        return _not_json(f"nested deeper than {DEPTH_MAX}")
    try:
        top = _decode_top(body)
    except (msgspec.DecodeError, RecursionError) as error:
        return _not_json(str(error))
    if _has_bytes_left_over(body, top):
        return _strictly(body, top)
    return top


def _has_bytes_left_over(body: bytes, top: dict[str, msgspec.Raw]) -> bool:
    """Tell whether the body holds more than one rendering of `top` needs: blanks, or a key given twice."""
    names = "".join(top)
    name_bytes = len(names) if names.isascii() else len(names.encode())
    return len(body) != 2 - bool(top) + name_bytes + sum(map(len, top.values())) + _MEMBER_BYTES * len(top)


def _strictly(body: bytes, top: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw] | Refusal:
    latest: list[list[tuple[str, Any]]] = [[]]

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        latest[0] = pairs
        return {}

    try:
        json.loads(body, object_pairs_hook=keep)
    except (ValueError, RecursionError) as error:
        return _not_json(str(error))
    # Objects are closed from the inside out, so the last one is the top level.
    names = [name for name, _ in latest[0]]
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        return _not_json(f"the key {repeated[:64]!r} is given twice")
    return top


def _depth(body: bytes) -> int:
    steps = _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0)


def _weigh(body: bytes) -> tuple[int, int]:
    if b"base64" not in body and b"image" not in body:
        return len(body), 0
    payload = sum(len(match) for match in _DATA_URL.findall(body))
    if b'"base64"' in body:
        payload += sum(len(match) for match in _DATA_FIELD.findall(body))
    return len(body) - payload, len(_IMAGE_PART.findall(body))


def _most_output(figures: dict[str, int | None]) -> int | None:
    return figures.get("max_tokens") or figures.get("max_output_tokens")


def _wants_usage(top: dict[str, msgspec.Raw]) -> bool | None:
    """Return whether the caller asks for usage, None where `stream_options` cannot be read."""
    raw = top.get("stream_options")
    if raw is None:
        return False
    try:
        # It is written out again, so all of it must be readable and not only the field that counts here.
        _decode_any(raw)
        options = msgspec.json.decode(raw, type=_StreamOptions | None)
    except msgspec.ValidationError:
        return None
    return options is not None and options.include_usage is True


def _value(top: dict[str, msgspec.Raw], name: str) -> Any:
    """Return a field, None where it is absent, or `_UNREADABLE` for a number that no figure can hold."""
    raw = top.get(name)
    try:
        return None if raw is None else _decode_any(raw)
    except msgspec.ValidationError:
        return _UNREADABLE


def _not_json(reason: str) -> Refusal:
    return Refusal("invalid_json", "body.json", message=f"The body is not a JSON object: {reason}.")


def _wrong(param: str, message: str) -> Refusal:
    return Refusal("invalid_request", f"body.{param}", message=message, param=param)


# Bodies without anything unusual are read by compiled code, which leaves all others to what stands above.
_read_plain: Final[dict[Dialect, Callable[[bytes], Envelope | None]] | None] = (
    None
    if _compiled is None
    else {
        each: _compiled.BodyReader(Envelope, each, each in _STREAMED, _FIGURES[each], _wants_usage, _weigh).read
        for each in Dialect
    }
)
