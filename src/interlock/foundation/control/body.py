"""The body of a call: received with a limit, then strictly decoded into the struct of its route.

Does not look at who sent it; nothing is read before the caller is known.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive

from interlock.foundation.control.strict_json import StrictJsonError, decode
from interlock.foundation.errors import InterlockError

FORM_TYPE: Final = "application/x-www-form-urlencoded"
_FIELDS_MAX: Final = 200
# curl and urllib send JSON under the type of a form unless they are told otherwise; a browser's form cannot get here,
# since a session's mutation needs the token of a page.
_JSON_TYPES: Final = frozenset({"", "application/json", FORM_TYPE})


class ClientGoneError(Exception):
    """The caller closed the connection before the body was complete."""


async def receive_body(receive: Receive, headers: Mapping[str, str], limit: int, idle_s: float) -> bytes:
    """Return the whole body. Raises `body_too_large`, `request_timeout`, or `ClientGoneError`."""
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise InterlockError("body_too_large", detail={"limit_bytes": limit})
    pieces: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(idle_s):
                message = await receive()
        except TimeoutError as error:
            raise InterlockError("request_timeout") from error
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise InterlockError("body_too_large", detail={"limit_bytes": limit})
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def media_type(headers: Mapping[str, str]) -> str:
    """Return the type of the body without its parameters. Raises `unsupported_media_type` for an encoded body."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise InterlockError("unsupported_media_type", detail={"content_encoding": headers["content-encoding"][:64]})
    kind, _, rest = headers.get("content-type", "").partition(";")
    charset = rest.strip().lower()
    if charset.startswith("charset=") and charset.removeprefix("charset=").strip('"') not in {"utf-8", "utf8"}:
        raise InterlockError("unsupported_media_type", detail={"charset": charset[:64]})
    return kind.strip().lower()


def parse_json(raw: bytes, kind: str, body_type: type[msgspec.Struct] | None, depth_max: int) -> Any:
    """Return the struct of a JSON body; None for a route that takes none. Raises the 400s and the 415."""
    if not raw and body_type is None:
        return None
    if kind not in _JSON_TYPES:
        raise InterlockError(
            "unsupported_media_type", detail={"content_type": kind[:64], "expected": "application/json"}
        )
    if not raw and not _is_optional(body_type):
        raise InterlockError("invalid_request", "The body is empty.", detail={"position": 0})
    try:
        value = decode(raw or b"{}", depth_max)
    except StrictJsonError as error:
        raise InterlockError(
            "invalid_request", f"{error.reason}.", detail={"position": error.position, "reason": error.reason}
        ) from error
    if not isinstance(value, dict):
        raise InterlockError("invalid_request", "The body is not a JSON object.", detail={"position": 0})
    for name in unknown_fields(value, body_type):
        raise InterlockError("unknown_field", detail={"field": name})
    if body_type is None:
        return None
    try:
        return msgspec.convert(value, body_type)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        field_name = path.strip("`").removeprefix("$").removeprefix(".")
        raise InterlockError(
            "invalid_request", f"{reason}.", detail={"field": field_name or "$", "reason": reason}
        ) from error


def parse_form(raw: bytes) -> dict[str, str]:
    """Return the fields of a form post; the last one of a name counts. Raises `invalid_request`."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=_FIELDS_MAX,
            errors="strict",
        )  # fmt: skip
    except (ValueError, UnicodeDecodeError) as error:
        raise InterlockError("invalid_request", "The form is not well formed.") from error
    if any("\x00" in name + value for name, value in pairs):
        raise InterlockError("invalid_request", "A field holds a NUL character.")
    return dict(pairs)


def unknown_fields(value: Mapping[str, Any], body_type: type[msgspec.Struct] | None) -> Iterator[str]:
    """Yield the dotted names of fields that the struct, or a struct inside it, does not have."""
    if body_type is None:
        yield from value
    else:
        yield from _unknown(value, _type_info(body_type), "")


@cache
def _is_optional(body_type: type[msgspec.Struct] | None) -> bool:
    """Tell whether no body means an empty object: none of its fields has to be there."""
    return body_type is None or not any(each.required for each in msgspec.structs.fields(body_type))


@cache
def _type_info(body_type: type[msgspec.Struct]) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(body_type)


def _unknown(value: Any, kind: msgspec.inspect.Type, path: str) -> Iterator[str]:
    check = _CHECKS.get(type(kind))
    if check is not None:
        yield from check(value, kind, path)


def _unknown_in_struct(value: Any, kind: msgspec.inspect.StructType, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    known = {each.encode_name: each.type for each in kind.fields}
    tag = kind.tag_field
    for name, inner in value.items():
        if name in known:
            yield from _unknown(inner, known[name], f"{path}{name}.")
        elif name != tag:
            yield f"{path}{name}"


def _unknown_in_list(value: Any, kind: msgspec.inspect.ListType, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _unknown(inner, kind.item_type, f"{path}{position}.")


def _unknown_in_dict(value: Any, kind: msgspec.inspect.DictType, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _unknown(inner, kind.value_type, f"{path}{name}.")


def _unknown_in_union(value: Any, kind: msgspec.inspect.UnionType, path: str) -> Iterator[str]:
    structs = [each for each in kind.types if isinstance(each, msgspec.inspect.StructType)]
    # Of several structs the tag decides, which is the decoder's business.
    for each in kind.types:
        if len(structs) <= 1 or not isinstance(each, msgspec.inspect.StructType):
            yield from _unknown(value, each, path)


_CHECKS: Final[dict[type[msgspec.inspect.Type], Callable[[Any, Any, str], Iterator[str]]]] = {
    msgspec.inspect.StructType: _unknown_in_struct,
    msgspec.inspect.ListType: _unknown_in_list,
    msgspec.inspect.VarTupleType: _unknown_in_list,
    msgspec.inspect.DictType: _unknown_in_dict,
    msgspec.inspect.UnionType: _unknown_in_union,
}
