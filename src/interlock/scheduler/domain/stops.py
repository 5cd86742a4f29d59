"""Stop words in a stream: text is held back while it could still become one.

Ends nothing; who streams looks at `is_found`.
"""

from collections.abc import Sequence


class StopWatch:
    """Fed with the pieces of one answer; returns what may be shown of them."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_found = False

    def feed(self, piece: str) -> str:
        """Return the text that can be no part of a stop word; from one on nothing is returned."""
        if self.is_found:
            return ""
        text = self._held + piece
        at = min((found for stop in self._stops if (found := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.is_found, self._held = True, ""
            return text[:at]
        keep = self._prefix_at_end(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """Return what was held back when the answer ends by itself."""
        held, self._held = self._held, ""
        return held

    def _prefix_at_end(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop word."""
        longest = max((len(each) for each in self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - size :]) for stop in self._stops):
                return size
        return 0
