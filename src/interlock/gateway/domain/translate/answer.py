"""A whole answer as its blocks: what all dialects are written from when nothing is streamed.

Knows no dialect.
"""

from dataclasses import dataclass, field
from typing import Literal

from interlock.gateway.domain.translate.events import (
    Event,
    Finish,
    Reason,
    Start,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolStart,
    Usage,
)


@dataclass(slots=True)
class Block:
    """One block; `text` is its words, its thoughts, or the text of a tool's arguments."""

    kind: Literal["text", "thinking", "tool"]
    text: str = ""
    signature: str = ""
    id: str = ""
    name: str = ""


@dataclass(slots=True)
class Whole:
    """All of an answer."""

    model: str = ""
    blocks: list[Block] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    finish: Finish = field(default_factory=lambda: Finish(Reason.STOP))


class Gathering:
    """Folds events into a whole answer, one by one."""

    def __init__(self) -> None:
        self.whole = Whole()
        self._open: Block | None = None

    def add(self, event: Event) -> Block | None:
        """Take an event; return the block that it belongs to."""
        match event:
            case TextDelta():
                self._in("text").text += event.text
            case ThinkingDelta():
                block = self._in("thinking")
                block.text += event.text
                block.signature += event.signature
            case ToolStart():
                self._open = Block("tool", id=event.id, name=event.name)
                self.whole.blocks.append(self._open)
            case ToolArgsDelta():
                self._in("tool").text += event.text
            case Start():
                self.whole.model = event.model
            case Usage():
                self.whole.usage = event
            case Finish():
                self.whole.finish = event
            case _:
                ended, self._open = self._open, None
                return ended
        return self._open

    def _in(self, kind: Literal["text", "thinking", "tool"]) -> Block:
        if self._open is None or self._open.kind != kind:
            self._open = Block(kind)
            self.whole.blocks.append(self._open)
        return self._open


def gathered(events: list[Event]) -> Whole:
    """Return the whole answer that events tell."""
    gathering = Gathering()
    for event in events:
        gathering.add(event)
    return gathering.whole
