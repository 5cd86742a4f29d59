"""Sitemaps: XML of sitemaps.org, RSS, Atom and plain text, gzipped or not, read within limits.

Resolves no entity, loads nothing, and does not judge the URLs that it finds.
"""

import io
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from isal import isal_zlib
from isal.igzip_lib import IsalError
from lxml import etree

from interlock.crawler.domain.types import Sitemap, SitemapEntry, SitemapInvalid

DECODED_BYTES_MAX: Final = 50 * 1024 * 1024
ENTRIES_MAX: Final = 50_000
LOC_CHARS_MAX: Final = 2_048
# Of a file at its limit in octets and entries a tenth; what has more is made to be long in reading.
TAGS_MAX: Final = 2_000_000
BOMB_RATIO: Final = 100
BOMB_BYTES_MIN: Final = 1024 * 1024

_GZIP: Final = b"\x1f\x8b"
_GZIP_OR_ZLIB: Final = 47
_MEMBERS_MAX: Final = 64
_BOM: Final = b"\xef\xbb\xbf"
_DATE_CHARS_MAX: Final = 40
_DATE: Final = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
_ENTRY_TAGS: Final = frozenset({"url", "item", "entry"})
_ENTRY_NAMES: Final = tuple(f"{{*}}{name}" for name in (*sorted(_ENTRY_TAGS), "sitemap"))
_DATE_TAGS: Final = frozenset({"lastmod", "pubdate", "updated", "published"})


class _BrokenError(Exception):
    """The file breaks the limit or the form that `rule` names."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        super().__init__(rule)


def parse_sitemap(body: bytes) -> Sitemap | SitemapInvalid:
    """Return what a sitemap names: at most 50,000 entries or children of at most 50 MB decoded.

    The rules of a refusal are `too_large`, `too_many`, `bomb`, `dtd`, `bad_gzip`, `bad_xml` and `empty`.
    """
    try:
        return _parsed(body)
    except _BrokenError as error:
        return SitemapInvalid(error.rule)


def when_us(text: str | None) -> int | None:
    """Return the time of a W3C date or an RFC 5322 one, None for what is neither; a bare date is its midnight, UTC."""
    if text is None or not (stripped := text.strip()) or len(stripped) > _DATE_CHARS_MAX:
        return None
    try:
        moment = _moment(stripped)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1_000_000)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def _parsed(body: bytes) -> Sitemap:
    plain = _inflated(body) if body.startswith(_GZIP) else body
    if len(plain) > DECODED_BYTES_MAX:
        raise _BrokenError("too_large")
    text = plain.removeprefix(_BOM).lstrip()
    if not text:
        raise _BrokenError("empty")
    if text.startswith(b"<") or plain.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _from_xml(plain)
    return _from_text(text)


def _inflated(body: bytes) -> bytes:
    """Return the members of a gzip file, never more than one byte past the limit."""
    kept: list[bytes] = []
    most = min(DECODED_BYTES_MAX, max(BOMB_BYTES_MIN, BOMB_RATIO * len(body)))
    left = most + 1
    for _ in range(_MEMBERS_MAX):
        inflater = isal_zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        try:
            piece = inflater.decompress(body, max_length=left)
        except IsalError as error:  # type: ignore[misc] # its stub does not name the base
            raise _BrokenError("bad_gzip") from error
        kept.append(piece)
        left -= len(piece)
        if left <= 0:
            raise _BrokenError("too_large" if most == DECODED_BYTES_MAX else "bomb")
        if not inflater.eof:
            raise _BrokenError("bad_gzip")
        body = inflater.unused_data
        if not body.startswith(_GZIP):
            return b"".join(kept)
    raise _BrokenError("too_large")


def _from_text(text: bytes) -> Sitemap:
    lines = (line.strip() for line in text.decode("utf-8", "replace").splitlines())
    entries = [SitemapEntry(line) for line in lines if line.startswith(("http://", "https://")) and _fits(line)]
    if not entries:
        raise _BrokenError("bad_xml")
    if len(entries) > ENTRIES_MAX:
        raise _BrokenError("too_many")
    return Sitemap(entries=tuple(entries))


def _from_xml(body: bytes) -> Sitemap:
    if body.count(b"<") > TAGS_MAX:
        raise _BrokenError("too_many")
    entries: list[SitemapEntry] = []
    children: list[str] = []
    is_known = False
    for name, element in _elements(body):
        is_known = True
        loc = _loc(element)
        if loc is None:
            continue
        if name == "sitemap":
            children.append(loc)
        else:
            entries.append(SitemapEntry(loc, when_us(_child_text(element, _DATE_TAGS))))
        if len(entries) > ENTRIES_MAX or len(children) > ENTRIES_MAX:
            raise _BrokenError("too_many")
    if not is_known:
        raise _BrokenError("bad_xml")
    return Sitemap(tuple(entries), tuple(children))


def _elements(body: bytes) -> Iterator[tuple[str, etree._Element]]:
    """Yield each entry as soon as it is closed, and free it; the root of a known kind comes first, without a loc."""
    try:
        _, root = next(_walk(body, "start"))
        _check_root(root)
        yield "root", root
        for _, element in _walk(body, "end", tag=_ENTRY_NAMES):
            yield _name(element), element
            _free(element)
    except (etree.LxmlError, StopIteration) as error:
        raise _BrokenError("bad_xml") from error


def _walk(body: bytes, event: str, tag: Sequence[str] | None = None) -> etree.iterparse:
    """Tell of elements of these names alone: of every element, a file of nothing but tags would take minutes."""
    return etree.iterparse(
        io.BytesIO(body), events=(event,), tag=tag, resolve_entities=False, load_dtd=False, no_network=True,
        huge_tree=False, remove_comments=True, remove_pis=True,
    )  # fmt: skip


def _check_root(root: etree._Element) -> None:
    if root.getroottree().docinfo.doctype:
        raise _BrokenError("dtd")
    if _name(root) not in {"urlset", "sitemapindex", "rss", "feed", "rdf"}:
        raise _BrokenError("bad_xml")


def _free(element: etree._Element) -> None:
    """Drop what was read, so that memory does not grow with the file."""
    element.clear()
    while element.getprevious() is not None:
        del element.getparent()[0]


def _loc(element: etree._Element) -> str | None:
    for child in element:
        name = _name(child)
        if name == "loc" or (name == "link" and not child.get("href")):
            text = (child.text or "").strip()
        elif name == "link" and child.get("rel", "alternate") == "alternate":
            text = child.get("href").strip()
        else:
            continue
        if text and _fits(text):
            return text
    return None


def _child_text(element: etree._Element, names: frozenset[str]) -> str | None:
    return next((child.text for child in element if _name(child) in names), None)


def _name(element: etree._Element) -> str:
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def _fits(loc: str) -> bool:
    return len(loc) <= LOC_CHARS_MAX


def _moment(text: str) -> datetime:
    bare = _DATE.fullmatch(text)
    if bare is not None:
        return datetime(int(bare[1]), int(bare[2] or 1), int(bare[3] or 1), tzinfo=UTC)
    return datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
