"""The order of blocks: one open at a time, each closed once, the text of a tool's arguments unchanged.

Knows no dialect. An upstream may send two tools' arguments in turns; the later tool waits until the earlier one is
whole, so that a reader who runs a tool when its block ends runs it once and with all it needs.
"""

import msgspec

from interlock.gateway.domain.translate.events import (
    BlockEnd,
    Event,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolStart,
)

_decode = msgspec.json.Decoder(msgspec.Raw).decode


class MixedToolsError(ValueError):
    """Arguments came for a tool whose block is over."""


class _Tool:
    __slots__ = ("args", "is_over", "key", "start")

    def __init__(self, key: object, start: ToolStart) -> None:
        self.key = key
        self.start = start
        self.args: list[str] = []
        self.is_over = False


class Blocks:
    """Turns what an upstream says, by its own numbering, into blocks one after the other."""

    __slots__ = ("_held", "_open", "_out", "_tools", "tools")

    def __init__(self, out: list[Event]) -> None:
        self._out = out
        self._open: str | _Tool | None = None
        self._tools: dict[object, _Tool] = {}
        self._held: list[_Tool] = []
        self.tools = 0

    def text(self, text: str) -> None:
        """Add text."""
        if text:
            self._enter("text")
            self._out.append(TextDelta(text))

    def thinking(self, text: str, signature: str = "") -> None:
        """Add thinking."""
        if text or signature:
            self._enter("thinking")
            self._out.append(ThinkingDelta(text, signature))

    def knows(self, key: object) -> bool:
        """Tell whether a tool was started under this key."""
        return key in self._tools

    def tool(self, key: object, start: ToolStart) -> None:
        """Start a tool; it waits while the arguments of an earlier one are not whole."""
        tool = self._tools[key] = _Tool(key, start)
        self.tools += 1
        if self._held or (isinstance(self._open, _Tool) and not _is_whole(self._open)):
            self._held.append(tool)
        else:
            self._begin(tool)

    def arguments(self, key: object, text: str) -> None:
        """Add to a tool's arguments. Raises `MixedToolsError`."""
        tool = self._tools[key]
        if tool.is_over:
            if text.strip():
                raise MixedToolsError("arguments came for a tool whose block is over")
            return
        if not text:
            return
        tool.args.append(text)
        if tool is self._open:
            self._out.append(ToolArgsDelta(text))
            if self._held and text.rstrip()[-1:] == "}" and _is_whole(tool):
                self._next()

    def end(self, key: object = None) -> None:
        """Close what is open; with the key of a tool, that one only."""
        if key is not None and self._tools.get(key) is not self._open:
            return
        if self._open is None:
            return
        if isinstance(self._open, _Tool):
            self._open.is_over = True
        self._open = None
        self._out.append(BlockEnd())
        if self._held and key is not None:
            self._next()

    def end_all(self) -> None:
        """Close what is open and give out what waits."""
        self.end()
        while self._held:
            self._next()
            self.end()

    def _enter(self, kind: str) -> None:
        if self._open == kind:
            return
        self.end_all()
        self._open = kind

    def _begin(self, tool: _Tool) -> None:
        self.end()
        self._open = tool
        self._out.append(tool.start)
        if tool.args:
            self._out.append(ToolArgsDelta("".join(tool.args)))

    def _next(self) -> None:
        """Give out those that waited; all but the last one that is not whole yet."""
        while self._held and (not isinstance(self._open, _Tool) or _is_whole(self._open)):
            self._begin(self._held.pop(0))


def _is_whole(tool: _Tool) -> bool:
    try:
        _decode("".join(tool.args))
    except msgspec.DecodeError:
        return False
    return True
