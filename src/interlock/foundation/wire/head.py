"""Reads the heads of requests: the parser's work, the bounds, and the checks that the parser leaves to us.

Does not read bodies and does not answer; what it refuses it raises.
"""

import re
from functools import lru_cache
from typing import Any, Final

import httptools

from interlock.foundation.wire.config import WireLimits
from interlock.foundation.wire.limits import WireRefusal, bad_http, method_refused
from interlock.foundation.wire.message import Headers, Request

# RFC 9112, section 3.2.1: origin-form, without the fragment that no client may send.
_ORIGIN_FORM: Final = re.compile(rb"(/[!-\"$->@-~]*)(?:\?([!-\"$-~]*))?")
_ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?#]+)(.*)", re.DOTALL)
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]{1,255}")
_SINGLE: Final = (b"host", b"content-length", b"transfer-encoding", b"expect", b"content-encoding")
_REFUSED_METHODS: Final = (b"CONNECT", b"TRACE")
_KNOWN_TARGET_BYTES_MAX: Final = 128
_KNOWN_HEAD_BYTES_MAX: Final = 4_096
# As most clients write it, with either case of the two words.
_LENGTH: Final = b"ength: "
_LENGTH_LINE: Final = b"\r\ncontent-length: "
_LENGTH_DIGITS_MAX: Final = 15


class KnownHeads:
    """Heads that were judged, by their bytes, for all connections of a server.

    Clients send the same head again and again: equal bytes mean an equal request, so that such a head is neither
    parsed nor judged a second time, and its requests share their `Headers`. Left out of the comparison are only the
    digits of the one content-length. A head is kept when it comes the second time, as many clients number theirs; where
    there is no more room, all are forgotten.
    """

    __slots__ = ("_bytes_max", "_count_max", "_requests", "_seen_once")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = min(bytes_max, _KNOWN_HEAD_BYTES_MAX) - _LENGTH_DIGITS_MAX
        self._requests: dict[tuple[bytes, bytes], Request] = {}
        self._seen_once: set[int] = set()

    def __len__(self) -> int:
        return len(self._requests)

    def find(self, raw: bytes) -> Request | None:
        """Return a new request for a whole head that is known."""
        place, digits = _without_length(raw)
        like = self._requests.get(place)
        if like is None:
            return None
        return Request.like(like, int(digits) if digits else like.length)

    def keep(self, raw: bytes, request: Request) -> None:
        """Keep a whole head of a connection that goes on, with the request that it was judged to be."""
        place, digits = _without_length(raw)
        if not self._is_seen_again(place):
            return
        if digits and not place[0].lower().endswith(_LENGTH_LINE):
            return
        # Whether a coding is refused hangs on the length.
        if len(raw) > self._bytes_max or b"content-encoding" in request.headers:
            return
        if len(self._requests) >= self._count_max:
            self._requests.clear()
        self._requests[place] = Request.like(request, request.length)

    def _is_seen_again(self, place: tuple[bytes, bytes]) -> bool:
        mark = hash(place)
        if mark in self._seen_once:
            return True
        if len(self._seen_once) >= self._count_max:
            self._seen_once.clear()
        self._seen_once.add(mark)
        return False


def _without_length(raw: bytes) -> tuple[tuple[bytes, bytes], bytes]:
    """Return what stands before and behind the digits of a length, and the digits; nothing behind where there are none.

    What stands behind begins with CR, so that no head without digits is taken for one that had some.
    """
    at = raw.rfind(_LENGTH) + len(_LENGTH)
    end = raw.find(b"\r", at)
    digits = raw[at:end]
    if at < len(_LENGTH) or len(digits) > _LENGTH_DIGITS_MAX or not digits.isdigit():
        return (raw, b""), b""
    return (raw[:at], raw[end:]), digits


class HeadReader:
    """Reads the heads of one connection, split anywhere; `request` is set when one is complete."""

    __slots__ = (
        "_fields", "_is_done", "_known", "_limits", "_parser", "_raw", "_unbounded_bytes", "keeps_alive", "on_header",
        "request", "target",
    )  # fmt: skip

    def __init__(self, limits: WireLimits, known: KnownHeads) -> None:
        self._limits = limits
        self._known = known
        self._unbounded_bytes = min(limits.request_line_bytes_max, limits.header_bytes_max)
        self._raw = b""
        self._fields: list[tuple[bytes, bytes]] = []
        # Called for every field of every request; without `self` it costs a third less.
        take = self._fields.append
        self.on_header = lambda name, value: take((name.lower(), value))
        self._parser: Any = httptools.HttpRequestParser(self)
        self._is_done = False
        self.target = b""
        self.request: Request | None = None
        self.keeps_alive = True

    @property
    def method(self) -> str | None:
        """The method of the latest head, as far as it was read."""
        return self._parser.get_method().decode("ascii") if self.target else None

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_headers_complete(self) -> None:
        self._is_done = True
        # The parser forgets it when the message is complete.
        self.keeps_alive = self._parser.should_keep_alive()

    def close(self) -> None:
        """Part from the parser, which holds this object."""
        self._parser = None

    def feed(self, chunk: bytes, at: int) -> int:
        """Take head bytes from `chunk[at:]`, return where they end. Raises `WireRefusal`."""
        if self._raw:
            return self._feed_on(chunk, at)
        end = chunk.find(b"\r\n\r\n", at) + 4
        if end < 4:
            end = len(chunk)
        piece = chunk[at:end] if at or end != len(chunk) else chunk
        self.request = self._known.find(piece)
        if self.request is not None:
            return end
        self._fields.clear()
        self.target = b""
        self._raw = piece
        self._parse(piece)
        return end

    def _feed_on(self, chunk: bytes, at: int) -> int:
        seam = self._raw[-3:]
        found = (seam + chunk[at : at + 3]).find(b"\r\n\r\n")
        if found >= 0:
            end = at + found + 4 - len(seam)
        else:
            found = chunk.find(b"\r\n\r\n", at)
            end = found + 4 if found >= 0 else len(chunk)
        self._raw += chunk[at:end]
        self._parse(chunk[at:end])
        return end

    def _parse(self, piece: bytes) -> None:
        raw = self._raw
        is_long = len(raw) > self._unbounded_bytes
        if is_long:
            room = self._limits.request_line_bytes_max + self._limits.header_bytes_max - len(raw) + len(piece)
            piece = piece[: max(room, 0)]
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self._check_bounds()
            raise bad_http(str(error)) from error
        if is_long or len(self._fields) > self._limits.headers_max:
            self._check_bounds()
        if self._is_done:
            self._complete(raw)

    def _complete(self, raw: bytes) -> None:
        method, target, fields = self._parser.get_method(), self.target, self._fields[:]
        line = method + b" " + target
        # The parser lets other protocols, old and new versions and double blanks pass in the request line.
        version = "1.1"
        if not raw.startswith(line + b" HTTP/1.1\r\n"):
            if not raw.startswith(line + b" HTTP/1.0\r\n"):
                raise bad_http("the request line is malformed, or its version neither HTTP/1.1 nor HTTP/1.0")
            version = "1.0"
            self.keeps_alive = False
        if not raw.endswith(b"\r\n\r\n"):
            raise bad_http("the head does not end with an empty line")
        if b" \r\n" in raw or b"\t\r\n" in raw:
            # The parser keeps the blanks behind a value.
            fields = [(name, value.rstrip(b" \t")) for name, value in fields]
        self.request = request = judge_head(method, target, version, Headers(fields))
        self._raw = b""
        self._is_done = False
        if not request.is_complete:
            # The body is not the parser's to read; a parser that waits for it has done its work.
            self._parser = httptools.HttpRequestParser(self)
        if self.keeps_alive:
            self._known.keep(raw, request)

    def _check_bounds(self) -> None:
        limits = self._limits
        # METHOD SP target SP HTTP/1.1 CRLF; the parser does not give the line itself.
        line_bytes = len(self.target) + 17
        if line_bytes > limits.request_line_bytes_max:
            raise WireRefusal("target_too_long", detail={"limit_bytes": limits.request_line_bytes_max})
        if len(self._fields) > limits.headers_max or len(self._raw) - line_bytes > limits.header_bytes_max:
            bounds = {"limit_bytes": limits.header_bytes_max, "limit_count": limits.headers_max}
            raise WireRefusal("headers_too_large", detail=bounds)


def judge_head(method: bytes, target: bytes, version: str, headers: Headers) -> "Request":
    """Return the request that a head announces, or raise the `WireRefusal` that it earns (RFC 9112, sections 3, 6)."""
    first = headers.first
    if len(first) != len(headers.items):
        for name in _SINGLE:
            if len(headers.getall(name)) > 1:
                raise bad_http(f"{name.decode()} is given twice")
    host = first.get(b"host", b"")
    if not _is_host(host):
        raise bad_http("host is missing or malformed")
    length = _body_length(first.get(b"content-length"), first.get(b"transfer-encoding"), version)
    if method in _REFUSED_METHODS or b"upgrade" in first:
        raise method_refused()
    request = Request(method.decode("ascii"), target, headers, version, length)
    headers.forget(b"content-length")
    split = _split_known if len(target) <= _KNOWN_TARGET_BYTES_MAX else _split_origin
    request.path, request.query = split(target) or _split_other(method, target, host)
    if b"expect" in first:
        if first[b"expect"].lower() != b"100-continue":
            raise WireRefusal("expectation_failed")
        request.is_continue_expected = version != "1.0"
    if b"content-encoding" in first and length != 0:
        coding = first[b"content-encoding"]
        if coding.lower() != b"identity":
            raise WireRefusal("unsupported_media_type", detail={"content_encoding": coding.decode("latin-1")[:64]})
    return request


def _body_length(length: bytes | None, coding: bytes | None, version: str) -> int | None:
    if coding is None:
        if length is None:
            return 0
        if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX:
            raise bad_http("content-length is not a number")
        return int(length)
    if length is not None:
        raise bad_http("content-length together with transfer-encoding")
    if coding.lower() != b"chunked" or version == "1.0":
        raise bad_http("transfer-encoding is not one final chunked")
    return None


def _split_origin(target: bytes) -> tuple[str, bytes] | None:
    found = _ORIGIN_FORM.fullmatch(target)
    return (found[1].decode("ascii"), found[2] or b"") if found else None


# An API has few paths and a server few names.
_split_known = lru_cache(maxsize=1_024)(_split_origin)


@lru_cache(maxsize=1_024)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _split_other(method: bytes, target: bytes, host: bytes) -> tuple[str, bytes]:
    """Split the forms of RFC 9112, sections 3.2.2 to 3.2.4, that are not the usual one."""
    if target == b"*" and method == b"OPTIONS":
        return "*", b""
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise bad_http("the target is malformed")
    if absolute[1].lower() != host.lower():
        raise bad_http("the absolute target names another host")
    rest = absolute[2]
    found = _split_origin(rest if rest[:1] == b"/" else b"/" + rest)
    if found is None:
        raise bad_http("the target is malformed")
    return found
