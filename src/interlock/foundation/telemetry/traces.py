"""The context of a trace on the wire: what a caller says of its span, and what a server of ours is told of one of ours.

Source: https://www.w3.org/TR/trace-context/. Keeps no span; `spans.py` makes them of stories, under the same ids.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

# Version `ff` is none, and behind the flags of version 00 nothing stands.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.DOTALL
)
_TRACESTATE: Final = re.compile(rb"[ -~]{1,512}")
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_SAMPLED: Final = 1
_MASK: Final = (1 << 64) - 1
# Odd, so that the numbers of one request lead to as many ids; its bits are spread (the golden ratio, of 64 bits).
_SPREAD: Final = 0x9E3779B97F4A7C15
# Where no caller said that it records nothing.
_RECORDED: Final = b"-01\r\n"


@dataclass(frozen=True, slots=True)
class CallersSpan:
    """The span from which a request came; `is_sampled` where its owner may have recorded it."""

    trace_id: str
    span_id: str
    is_sampled: bool


def parse_traceparent(value: bytes | None) -> CallersSpan | None:
    """Return what a `traceparent` says; None where it says nothing, as without a trace or a span in it (3.2.2)."""
    match = None if value is None else _TRACEPARENT.fullmatch(value)
    if match is None or match[1] == _NO_TRACE or match[2] == _NO_SPAN:
        return None
    return CallersSpan(match[1].decode(), match[2].decode(), bool(int(match[3], 16) & _SAMPLED))


def span_id_of(request_id: UUID, number: int) -> int:
    """Return the id of a span of a request: 0 is its own, the others those of its calls of upstreams."""
    # Zero means that there is no span.
    return request_id.int & _MASK ^ number * _SPREAD & _MASK or 1


def end_of_lines(traceparent: bytes | None, states: Sequence[bytes]) -> bytes:
    """Return what `parent_lines` ends with: the caller's own flag of sampling, and its `tracestate` as it came.

    A state without a trace that it belongs to goes no further, nor one that is longer than all have to carry (3.3.1.5).
    """
    caller = parse_traceparent(traceparent)
    if caller is None:
        return _RECORDED
    flags = b"-%02x\r\n" % caller.is_sampled
    state = b",".join(states)
    return flags + b"tracestate: " + state + b"\r\n" if _TRACESTATE.fullmatch(state) else flags


def parent_lines(request_id: UUID, number: int, trace_id: str | None, end: bytes) -> bytes:
    """Return the header lines by which a server hangs its spans below call `number` of a request."""
    trace = b"%032x" % request_id.int if trace_id is None else trace_id.encode()
    return b"traceparent: 00-%b-%016x%b" % (trace, span_id_of(request_id, number), end)
