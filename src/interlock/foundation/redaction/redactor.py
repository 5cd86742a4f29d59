"""Replaces secrets in text by `[redacted:KIND]`: one Aho-Corasick pass finds known needles and telling prefixes.

Keeps no text and knows no field names; whoever holds a secret tells the redactor its bytes.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

import ahocorasick

from interlock.foundation.redaction.config import RedactionConfig
from interlock.foundation.redaction.patterns import PATTERNS, Pattern

KNOWN_KIND: Final = "secret"
_PATTERN_KINDS: Final = frozenset(pattern.kind for pattern in PATTERNS)
_TOO_DEEP: Final = "[redacted:depth]"
# What a stream holds: span start, span end (exclusive), kind.
Span = tuple[int, int, str]


def forms_of(secret: bytes, chars_min: int) -> set[str]:
    """Return the spellings under which a secret may stand in a text: plain, base64, hex, URL, JSON."""
    forms: set[str] = set()
    for offset in range(3):
        # A secret inside a longer base64 text starts at one of three places; the characters it shares with
        # its neighbours are left out.
        packed = base64.b64encode(b"\0" * offset + secret).decode()
        whole = packed[-(-offset * 8 // 6) : (offset + len(secret)) * 8 // 6]
        forms |= {whole, whole.replace("+", "-").replace("/", "_"), json.dumps(whole.replace("/", "\\/"))[1:-1]}
    forms |= {secret.hex(), secret.hex().upper()}
    text = secret.decode("utf-8", "surrogateescape")
    if text.isprintable() or "\n" in text:
        forms |= {text, quote(secret), quote(secret, safe=""), quote_plus(secret)}
        forms |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return {form for form in forms if len(form) >= chars_min}


class Redactor:
    """Thread-safe after construction, but for `learn`, which swaps the automaton in one assignment."""

    def __init__(
        self,
        known: Iterable[bytes] = (),
        config: RedactionConfig | None = None,
        on_hit: Callable[[str], None] | None = None,
        named: Mapping[str, bytes] | None = None,
    ) -> None:
        """`on_hit` is called with the kind of each hit, for a counter; the kind of a `named` secret is its name."""
        self._config = config or RedactionConfig()
        self._on_hit = on_hit
        self._needles: dict[str, str] = {}
        # What a text was found to be holds for as long as this number does.
        self.generation = 0
        for name, secret in (named or {}).items():
            self._take(secret, name)
        self.learn(known)

    def learn(self, known: Iterable[bytes]) -> None:
        """Look for these secrets too, from the next text on. Shorter ones than `needle_chars_min` are not taken."""
        for secret in known:
            self._take(secret, KNOWN_KIND)
        entries: dict[str, list[Pattern | str]] = {needle: [kind] for needle, kind in self._needles.items()}
        for pattern in PATTERNS:
            for prefix in pattern.prefixes:
                entries.setdefault(prefix, []).append(pattern)
        automaton = ahocorasick.Automaton()
        for key, meanings in entries.items():
            automaton.add_word(key, (len(key), tuple(meanings)))
        automaton.make_automaton()
        self._longest = max(map(len, entries))
        # All that is looked for is longer; a text in which none of them stands holds nothing of it.
        self.starts = frozenset(each[:3] for each in entries)
        self._automaton = automaton
        self.generation += 1

    def _take(self, secret: bytes, kind: str) -> None:
        if len(secret) >= self._config.needle_chars_min:
            for form in forms_of(secret, self._config.needle_chars_min):
                self._needles.setdefault(form, kind)

    def is_suspect(self, text: str) -> bool:
        """Tell whether a text may hold a secret: one pass, and no more where the answer is no."""
        return next(self._automaton.iter(text), None) is not None

    def text(self, text: str) -> str:
        """Return the text with every secret replaced."""
        spans = self.spans(text)
        return self.apply(text, spans) if spans else text

    def value(self, value: Any) -> Any:
        """Return the same structure with every string, key or element, redacted."""
        return self._value(value, 0)

    def stream(self) -> "RedactorStream":
        """Return a redactor of one text that arrives in pieces."""
        return RedactorStream(self, self._config.hold_chars_max)

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "replace"))
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return value
        if depth >= self._config.nesting_max:
            return _TOO_DEEP
        if isinstance(value, Mapping):
            return {self._value(key, depth + 1): self._value(each, depth + 1) for key, each in value.items()}
        items = [self._value(each, depth + 1) for each in value]
        return tuple(items) if isinstance(value, tuple) else items

    @property
    def carry_chars(self) -> int:
        """Characters at the end of a piece in which a needle may have begun."""
        return self._longest - 1

    def holds_known(self, text: str) -> bool:
        """Tell whether a text holds a secret that was told to us, by whatever spelling."""
        return any(isinstance(meaning, str) for _, _, meaning in self.hits(text))

    def hits(self, text: str) -> Iterator[tuple[int, int, Pattern | str]]:
        """Yield start, end and pattern of each needle or prefix; a known secret has a kind and no pattern."""
        for last, (length, meanings) in self._automaton.iter(text):
            for meaning in meanings:
                yield last - length + 1, last + 1, meaning

    def finds(self, text: str) -> Iterator[tuple[int, int, Span]]:
        """Yield start and end of the text that makes a find, and what of it is to be hidden."""
        for start, end, pattern in self.hits(text):
            if isinstance(pattern, str):
                yield start, end, (start, end, pattern)
                continue
            match = pattern.form.match(text, start)
            if match and (pattern.check is None or pattern.check(match.group())):
                group = 1 if pattern.form.groups else 0
                yield start, match.end(), (match.start(group), match.end(group), pattern.kind)

    def spans(self, text: str) -> list[Span]:
        """Return what is to be hidden, sorted, overlaps united."""
        return united([span for _, _, span in self.finds(text)])

    def apply(self, text: str, spans: list[Span]) -> str:
        """Return the text with these spans replaced."""
        parts: list[str] = []
        position = 0
        for start, end, kind in spans:
            parts += (text[position:start], f"[redacted:{kind}]")
            position = end
            if self._on_hit is not None:
                self._on_hit(kind)
        parts.append(text[position:])
        return "".join(parts)


def united(found: list[Span]) -> list[Span]:
    """Join overlapping spans; the longest names the kind, a known secret goes before a look-alike of its length."""
    found.sort(key=lambda span: (span[0], -span[1], span[2] in _PATTERN_KINDS))
    joined: list[Span] = []
    widest = 0
    for start, end, kind in found:
        if joined and start < joined[-1][1]:
            before_start, before_end, before_kind = joined[-1]
            name = kind if end - start > widest else before_kind
            widest = max(widest, end - start)
            joined[-1] = (before_start, max(before_end, end), name)
        else:
            joined.append((start, end, kind))
            widest = end - start
    return joined


class RedactorStream:
    """Redacts a text that arrives in pieces; what comes out is the same for every way to cut it."""

    def __init__(self, redactor: Redactor, hold_chars_max: int) -> None:
        self._redactor = redactor
        self._hold_chars_max = hold_chars_max
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece and return what can be shown by now."""
        self._held += piece
        text = self._held
        cut = max(0, len(text) - self._redactor.carry_chars)
        for start, _, pattern in self._redactor.hits(text):
            if isinstance(pattern, str) or len(text) - start > self._hold_chars_max:
                continue
            run = pattern.run.match(text, start)
            if run is not None and run.end() == len(text):
                cut = min(cut, start)
        finds = sorted(self._redactor.finds(text), reverse=True)
        for start, end, _ in finds:
            if start < cut < end:
                cut = start
        spans = united([span for _, end, span in finds if end <= cut])
        self._held = text[cut:]
        return self._redactor.apply(text[:cut], spans)

    def finish(self) -> str:
        """Return the rest; the stream can be used for another text then."""
        rest, self._held = self._held, ""
        return self._redactor.text(rest)
