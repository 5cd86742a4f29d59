"""The byte boundary: what a program wrote becomes text without secrets, piece by piece.

Keeps nothing of what it let through, and no secret in what it holds back: see `RedactorStream`.
"""

import codecs
from typing import Final

from interlock.foundation.redaction import Redactor

MODEL_CHARS_MAX: Final = 32 << 10
_MARK: Final = "[redacted:"


class CleanText:
    """Turns bytes in pieces into redacted text in pieces; any way to cut gives the same text."""

    def __init__(self, redactor: Redactor) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stream = redactor.stream()
        self.redactions = 0

    def feed(self, piece: bytes) -> str:
        """Take bytes and return what can be shown by now."""
        raw = self._decoder.decode(piece)
        return self._counted(self._stream.feed(raw)) if raw else ""

    def finish(self) -> str:
        """Return the rest."""
        raw = self._decoder.decode(b"", final=True)
        return self._counted(self._stream.feed(raw) + self._stream.finish())

    def _counted(self, text: str) -> str:
        self.redactions += text.count(_MARK)
        return text


def clean(redactor: Redactor, content: bytes) -> tuple[str, int]:
    """Redact a whole text; return it with the number of marks in it."""
    text = redactor.text(content.decode("utf-8", "replace"))
    return text, text.count(_MARK)


def shortened(text: str, chars_max: int = MODEL_CHARS_MAX) -> str:
    """Leave out the middle of a long text: errors stand at the end, what was run stands at the beginning."""
    if len(text) <= chars_max:
        return text
    head = chars_max // 4
    tail = chars_max - head
    return f"{text[:head]}\n[... {len(text) - chars_max} characters left out ...]\n{text[-tail:]}"
