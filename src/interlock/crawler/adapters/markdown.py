"""A page's main content as markdown, with title, language and date; and its plain text, when nothing else works.

Runs in processes of its own: a page may take its parser's time, memory or life. Does not fetch and keeps nothing.
"""

import hashlib
import re
from html import unescape
from typing import Final

import ada_url
from resiliparse.extract.html2text import extract_plain_text
from selectolax.lexbor import LexborHTMLParser, LexborNode

from interlock.crawler.adapters.scanner import TEXT_TYPES, media_type_of
from interlock.crawler.domain.charset import decoded
from interlock.crawler.domain.sitemap import when_us
from interlock.crawler.domain.types import Extracted, Headers

TITLE_CHARS_MAX: Final = 300
PLAIN_CHARS_MAX: Final = 1_000_000
_DEPTH_MAX: Final = 24
_SKIPPED: Final = ["body > header", "body > footer", "body > nav", "noscript", "template"]
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")
_SPACES: Final = re.compile(r"\s+")
_FORGED: Final = re.compile(r"^(#{1,6}\s|>|```|~~~)")
_DATE_NAMES: Final = ("article:modified_time", "og:updated_time", "dcterms.modified", "last-modified")
_PUBLISHED_NAMES: Final = ("article:published_time", "dcterms.date", "date")
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}
_TEXT: Final = "-text"


def document_of(url: str, headers: Headers, body: bytes) -> Extracted:
    """Return the document in a page. Raises whatever a parser raises."""
    named = dict(headers)
    text, _ = decoded(body, named.get("content-type"))
    if media_type_of(headers, body) in TEXT_TYPES:
        return _extracted(
            url.rpartition("/")[2], text.strip(), text, named.get("content-language"), _header_date(named)
        )
    page = LexborHTMLParser(text)
    meta = {_value(tag, "property") or _value(tag, "name"): _value(tag, "content") for tag in page.tags("meta")}
    main = _main(text)
    tree = LexborHTMLParser(main)
    root = tree.body
    title = _title(page, meta) or url
    markdown = "" if root is None else "\n\n".join(_blocks(root, _base(page, url), 0))
    read = "" if root is None else root.text(separator=" ")
    language = _language(page) or named.get("content-language")
    return _extracted(title, markdown, read, language, _date(meta, named))


def plain_document(url: str, headers: Headers, body: bytes) -> Extracted:
    """Return the bare text of a page: one pass over its characters, no parser, no end of time."""
    named = dict(headers)
    text, _ = decoded(body[:PLAIN_CHARS_MAX], named.get("content-type"))
    title = _between(text, "<title", "</title")
    read = "\n".join(line for line in (_flat(line) for line in _stripped(text).splitlines()) if line)
    found = _extracted(title or url, read, read, named.get("content-language"), _header_date(named))
    return Extracted(
        found.title, found.markdown, found.text_digest, found.language, found.modified_at_us, is_plain=True
    )


def text_digest(text: str) -> str:
    """Return the hex sha-256 of a text whose white space is flattened: what two pages must share to be one."""
    return hashlib.sha256(_flat(text).encode("utf-8", "replace")).hexdigest()


def _extracted(title: str, markdown: str, read: str, language: str | None, modified_at_us: int | None) -> Extracted:
    named = (language or "").partition(",")[0].strip()
    return Extracted(
        title=_flat(title)[:TITLE_CHARS_MAX],
        # No store takes a NUL or half a surrogate pair.
        markdown=markdown.replace("\x00", "").encode("utf-8", "replace").decode(),
        text_digest=text_digest(read),
        language=named.lower() if _LANGUAGE.fullmatch(named) else None,
        modified_at_us=modified_at_us,
    )


def _main(text: str) -> str:
    """Return minimal HTML of the main content, of the whole page where none stands out."""
    for is_main in (True, False):
        found: str = extract_plain_text(
            text, main_content=is_main, preserve_formatting="minimal_html", links=True, skip_elements=_SKIPPED
        )
        if found.strip():
            return found
    return ""


def _title(page: LexborHTMLParser, meta: dict[str, str]) -> str:
    head = page.css_first("title")
    heading = page.css_first("h1")
    written = "" if head is None else head.text()
    return written.strip() or meta.get("og:title", "") or ("" if heading is None else heading.text())


def _language(page: LexborHTMLParser) -> str:
    root = page.css_first("html")
    return "" if root is None else _value(root, "lang")


def _base(page: LexborHTMLParser, url: str) -> str:
    tag = page.css_first("base[href]")
    joined = None if tag is None else _joined(url, _value(tag, "href"))
    return joined or url


def _date(meta: dict[str, str], named: dict[str, str]) -> int | None:
    dates = [when_us(meta[name]) for name in _DATE_NAMES if name in meta]
    dates.append(_header_date(named))
    dates += [when_us(meta[name]) for name in _PUBLISHED_NAMES if name in meta]
    return next((each for each in dates if each is not None), None)


def _header_date(named: dict[str, str]) -> int | None:
    return when_us(named.get("last-modified"))


def _blocks(parent: LexborNode, base: str, depth: int) -> list[str]:
    """Return the blocks of markdown under a node."""
    blocks: list[str] = []
    loose: list[str] = []
    node = parent.child
    while node is not None:
        block = _block(node, base, depth)
        if block is None:
            loose.append(_inline(node, base))
        else:
            blocks += _lines(loose)
            blocks += block
            loose = []
        node = node.next
    return [*blocks, *_lines(loose)]


def _block(node: LexborNode, base: str, depth: int) -> list[str] | None:
    """Return the markdown of a block element, None for what stands in a line."""
    tag = node.tag
    if tag in _HEADINGS:
        text = _flat(_inline_all(node, base))
        return [f"{_HEADINGS[tag]} {text}"] if text else []
    if tag == "p":
        return _lines([_inline_all(node, base)])
    if tag in {"ul", "ol"}:
        listed = _list(node, base, depth, is_numbered=tag == "ol")
        return [listed] if listed else []
    if tag == "pre":
        return [f"```\n{node.text().rstrip().replace('```', '` ` `')}\n```"]
    return None


def _list(node: LexborNode, base: str, depth: int, *, is_numbered: bool) -> str:
    if depth >= _DEPTH_MAX:
        return _flat(node.text(separator=" "))
    items: list[str] = []
    item = node.child
    while item is not None:
        if item.tag == "li":
            mark = f"{len(items) + 1}." if is_numbered else "-"
            # What goes on in an item stands under its text, or it would begin a list of its own.
            within = "\n".join(_blocks(item, base, depth + 1)).replace("\n", "\n" + " " * (len(mark) + 1))
            items += [f"{mark} {within}"] if within else []
        item = item.next
    return "\n".join(items)


def _lines(loose: list[str]) -> list[str]:
    """Return text that stands in no block, one paragraph a line; cells of a table come with tabs between them."""
    lines = (line.strip("\r\n ") for line in "".join(loose).split("\n"))
    flat = (" | ".join(_flat(cell) for cell in line.split("\t") if cell.strip()) for line in lines)
    return [_FORGED.sub(r"\\\1", line) for line in flat if line]


def _inline_all(node: LexborNode, base: str) -> str:
    parts: list[str] = []
    child = node.child
    while child is not None:
        parts.append(_inline(child, base))
        child = child.next
    return "".join(parts)


def _inline(node: LexborNode, base: str) -> str:
    if node.tag == _TEXT:
        return node.text_content or ""
    if node.tag == "br":
        return "\n"
    text = _flat(node.text(separator=" "))
    target = _joined(base, _value(node, "href")) if node.tag == "a" else None
    if target is None or not text or not target.startswith(("http://", "https://")):
        return text
    shown = text.replace("[", "\\[").replace("]", "\\]")
    return f"[{shown}]({target.replace('(', '%28').replace(')', '%29')})"


def _stripped(text: str) -> str:
    """Return a page without its tags, scripts and styles; an end that is missing ends the page."""
    lowered = text.lower()
    # Lower case may have another length, and then places do not match: the text is taken as it is lowered.
    text = text if len(lowered) == len(text) else lowered
    kept: list[str] = []
    at = 0
    while (start := text.find("<", at)) >= 0:
        kept += [text[at:start], "\n"]
        closing = next((f"</{name}" for name in ("script", "style") if lowered.startswith(f"<{name}", start)), "<")
        closed = lowered.find(closing, start)
        end = -1 if closed < 0 else text.find(">", closed)
        at = len(text) if end < 0 else end + 1
    return unescape("".join([*kept, text[at:]]))


def _between(text: str, opening: str, closing: str) -> str:
    start = text.lower().find(opening)
    begin = text.find(">", start) if start >= 0 else -1
    end = text.lower().find(closing, begin) if begin >= 0 else -1
    return unescape(text[begin + 1 : end]) if end >= 0 else ""


def _joined(base: str, href: str) -> str | None:
    try:
        joined: str = ada_url.join_url(base, href)
    except ValueError:
        return None
    return joined if href else None


def _value(tag: LexborNode, name: str) -> str:
    return tag.attributes.get(name) or ""


def _flat(text: str) -> str:
    return _SPACES.sub(" ", text).strip()
