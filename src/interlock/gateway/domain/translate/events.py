"""What a model's answer consists of, whichever dialect told it.

An answer is `Start`, then blocks one after the other, then `Usage` where it is known, then one `Finish`; or a
`Failure` at any point. A block is text, thinking, or a tool with its arguments, and ends with one `BlockEnd`.
Knows no dialect.
"""

from enum import StrEnum

import msgspec

from interlock.foundation import telemetry


class Reason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    STOP_SEQUENCE = "stop_sequence"
    LENGTH = "length"
    TOOLS = "tools"
    REFUSAL = "refusal"


class Start(msgspec.Struct, frozen=True):
    """The first event; both names are the upstream's."""

    id: str
    model: str


class TextDelta(msgspec.Struct, frozen=True):
    """More of a text block; the first one opens it."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True):
    """More of a thinking block; `signature` is what its maker wants to see again."""

    text: str
    signature: str = ""


class ToolStart(msgspec.Struct, frozen=True):
    """The model wants to use a tool; opens its block."""

    id: str
    name: str


class ToolArgsDelta(msgspec.Struct, frozen=True):
    """More of the text of the open tool's arguments, as the model wrote it."""

    text: str


class BlockEnd(msgspec.Struct, frozen=True):
    """The open block is complete."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens. `input` counts those read from a cache and written to one, too; both stand beside it as well."""

    input: int = 0
    output: int = 0
    cached: int | None = None
    cache_written: int | None = None
    reasoning: int | None = None


class Finish(msgspec.Struct, frozen=True):
    """The last event of a whole answer; `stop_sequence` is the text that ended it, where it is known."""

    reason: Reason
    stop_sequence: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """The upstream gave up; nothing follows."""

    message: str


Event = Start | TextDelta | ThinkingDelta | ToolStart | ToolArgsDelta | BlockEnd | Usage | Finish | Failure


def recorded(usage: Usage) -> telemetry.Usage:
    """Return usage as stories and bills have it."""
    return telemetry.Usage(
        input_tokens=usage.input,
        cached_input_tokens=usage.cached,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
    )
