"""From the bytes of a document to its text with headings: plain text, Markdown, HTML, PDF.

Runs inside a process that may be killed; keeps nothing and dials nothing.
"""

import io
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser

from interlock.retrieval.domain.analyzer import index_terms
from interlock.retrieval.domain.chunks import Heading, cut
from interlock.retrieval.domain.types import Extracted, IndexedPiece

_BLOCK_TAGS: Final = """
address article aside blockquote dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr li main
nav ol p pre section table tbody td th thead tr ul
"""
_BLOCKS: Final = frozenset(_BLOCK_TAGS.split())
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_HIDDEN: Final = "script, style, noscript, template, svg, iframe, object, head"
_BLANKS: Final = re.compile(r"[ \t\r\f\v\u00a0]*\n\s*|[ \t\r\f\v\u00a0]+")
_TEXTUAL: Final = frozenset({"text/plain", "text/markdown", "text/x-markdown", "text/html", "application/xhtml+xml"})
_PDF: Final = "application/pdf"
MEDIA_TYPES: Final = _TEXTUAL | {_PDF}


class UnreadableTextError(Exception):
    """The document cannot be read; `code` is `text_unextractable`, `document_too_large` or `media_type_unsupported`."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True, slots=True)
class ReadWanted:
    """A document to read: its text, or its bytes; `title` None takes that of the text."""

    media_type: str
    title: str | None
    text: str | None = None
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one document may be: its text in code points, and the lengths of its passages."""

    text_chars_max: int
    chunk_chars: int
    chunk_chars_max: int


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document as text, cut into passages with their words."""

    extracted: Extracted
    title: str
    pieces: tuple[IndexedPiece, ...]


def read(wanted: ReadWanted, limits: ReadLimits) -> ReadDocument:
    """Read one document. Raises `UnreadableTextError`."""
    kind = wanted.media_type.partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        raise UnreadableTextError("media_type_unsupported")
    text, title, headings = _READERS[kind](_source(wanted, kind), limits)
    text = storable(text)
    if len(text) > limits.text_chars_max:
        raise UnreadableTextError("document_too_large")
    named = storable(wanted.title or title or "")
    spans = cut(text, headings, limits.chunk_chars, limits.chunk_chars_max)
    pieces = []
    for piece in spans:
        terms, tokens = index_terms(named, piece.heading, text[piece.start : piece.end])
        pieces.append(IndexedPiece(piece, terms, tokens))
    return ReadDocument(Extracted(text, title, tuple(headings), tuple(spans)), named, tuple(pieces))


def storable(text: str) -> str:
    """Return the text as PostgreSQL can hold it, code point for code point: NUL and lone surrogates become U+FFFD."""
    if text.isascii() and "\x00" not in text:
        return text
    return "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)


def _source(wanted: ReadWanted, kind: str) -> Any:
    if kind == _PDF:
        if wanted.content is None:
            raise UnreadableTextError("text_unextractable")
        return wanted.content
    if wanted.text is not None:
        return wanted.text
    try:
        return (wanted.content or b"").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableTextError("text_unextractable") from None


def _plain(text: str, _limits: ReadLimits) -> tuple[str, str | None, list[Heading]]:
    return text, None, []


def _markdown(text: str, limits: ReadLimits) -> tuple[str, str | None, list[Heading]]:
    """Keep the source as it is: its headings are places in it, so every span is a place in what the author wrote."""
    if len(text) > limits.text_chars_max:
        raise UnreadableTextError("document_too_large")
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    tokens = MarkdownIt("commonmark", {"maxNesting": 20}).parse(_same_lines(text))
    headings: list[Heading] = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open" and opening.map is not None and opening.level == 0:
            headings.append((offsets[opening.map[0]], int(opening.tag[1:]), inline.content.strip()[:300]))
    title = next((name for _, level, name in headings if level == 1), None)
    return text, title, headings


def _same_lines(text: str) -> str:
    """Return the text with one kind of line end, so that the parser counts the lines that `splitlines` counts."""
    return "\n".join(text.splitlines())


def _html(text: str, limits: ReadLimits) -> tuple[str, str | None, list[Heading]]:
    if len(text) > limits.text_chars_max * 8:
        raise UnreadableTextError("document_too_large")
    tree = LexborHTMLParser(text)
    found = tree.css_first("title")
    title = None if found is None else " ".join(found.text().split())[:300] or None
    for node in tree.css(_HIDDEN):
        node.decompose()
    out = _Text()
    if tree.body is not None:
        _walk(tree.body, out)
    return out.text(), title, out.headings


class _Text:
    """Text that grows: blocks apart by an empty line, blanks inside them as one."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self.headings: list[Heading] = []

    def add(self, words: str) -> None:
        if not self._size or (self._parts and self._parts[-1].endswith("\n")):
            words = words.lstrip()
        if words:
            self._parts.append(words)
            self._size += len(words)

    def block(self) -> None:
        if self._size and not self._parts[-1].endswith("\n\n"):
            self.add_raw("\n\n")

    def add_raw(self, words: str) -> None:
        self._parts.append(words)
        self._size += len(words)

    def heading(self, level: int, title: str) -> None:
        if title:
            self.headings.append((self._size, level, title[:300]))

    def text(self) -> str:
        return "".join(self._parts).rstrip()


def _walk(root: Any, out: _Text) -> None:
    """Walk without recursion: a page may nest deeper than Python does."""
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, is_closing = stack.pop()
        tag = node.tag
        if is_closing:
            out.block()
            continue
        if tag == "-text":
            out.add(_BLANKS.sub(" ", node.text_content or ""))
            continue
        if tag == "br":
            out.add_raw("\n")
            continue
        if tag in _BLOCKS:
            out.block()
            stack.append((node, True))
        if tag in _HEADINGS:
            out.heading(_HEADINGS[tag], " ".join(node.text().split()))
        children = list(node.iter(include_text=True))
        stack += [(child, False) for child in reversed(children)]


def _pdf(content: bytes, limits: ReadLimits) -> tuple[str, str | None, list[Heading]]:
    # Half a second of importing that only the processes that read PDFs should pay for.
    from pypdf import PdfReader  # noqa: PLC0415
    from pypdf.errors import PyPdfError  # noqa: PLC0415

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted:
            raise UnreadableTextError("text_unextractable")
        pages, size = [], 0
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            size += len(pages[-1])
            if size > limits.text_chars_max:
                raise UnreadableTextError("document_too_large")
        title = reader.metadata.title if reader.metadata else None
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        # The library raises what its parser ran into; a hostile file reaches all of these.
        raise UnreadableTextError("text_unextractable") from error
    text = "\n\n".join(pages)
    if not text.strip():
        raise UnreadableTextError("text_unextractable")
    return text, title if isinstance(title, str) and title.strip() else None, []


_READERS: Final[dict[str, Callable[[Any, ReadLimits], tuple[str, str | None, list[Heading]]]]] = {
    "text/plain": _plain,
    "text/markdown": _markdown,
    "text/x-markdown": _markdown,
    "text/html": _html,
    "application/xhtml+xml": _html,
    _PDF: _pdf,
}
