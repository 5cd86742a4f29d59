"""What a page's tags say, in one pass: links, base, canonical, refresh, signals; and whether it is a page at all.

Does not extract text: that is done apart, in processes that may die of a page.
"""

import re
from functools import lru_cache
from html import unescape
from typing import Final
from urllib.parse import urlsplit

import ada_url

from interlock.crawler.domain.charset import decoded
from interlock.crawler.domain.signals import page_signals
from interlock.crawler.domain.types import Headers, Link, Scanned, Unsupported

HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
TEXT_TYPES: Final = frozenset({"text/plain", "text/markdown"})
LINKS_MAX: Final = 20_000
HREF_CHARS_MAX: Final = 4_096
_SNIFFED_BYTES: Final = 512
_MAGIC: Final = (
    (b"%PDF-", "application/pdf"), (b"PK\x03\x04", "application/zip"), (b"\x1f\x8b", "application/gzip"),
    (b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "application/riff"),
    (b"\x7fELF", "application/x-elf"), (b"MZ\x90", "application/x-dosexec"), (b"BZh", "application/x-bzip2"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"), (b"7z\xbc\xaf", "application/x-7z-compressed"),
    (b"OggS", "application/ogg"), (b"ID3", "audio/mpeg"), (b"wOF", "font/woff"),
    (b"\xd0\xcf\x11\xe0", "application/x-ole-storage"),
)  # fmt: skip
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_REFRESH: Final = re.compile(r"""\s*[\d.]*\s*[;,]?\s*(?:url\s*=\s*)?["']?([^"'\s]+)""", re.IGNORECASE)
NAMES: Final = ("a", "link", "meta", "base")
Tags = dict[str, list[dict[str, str]]]
_PATHS_KEPT: Final = 16_384

# The tokenizer of the HTML standard (13.2.5) for start tags. Every repetition is possessive and every quote and tag may
# end with the text, so that no octets make it look at the same place twice.
_ATTRIBUTE_FORM: Final = r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s"'>][^\s>]*+|))?+"""
_TAG: Final = re.compile(rf"<(?:(!--|[!?]|/(?![A-Za-z]))|([A-Za-z][^\s/>]*+)((?:[\s/]++|{_ATTRIBUTE_FORM})*+)(>?))")
_ATTRIBUTE: Final = re.compile(
    r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)(?:"|\Z)|'([^']*+)(?:'|\Z)|([^\s"'>][^\s>]*+)|))?+"""
)
# What most links are: one target, quoted, without a character reference.
_PLAIN_HREF: Final = re.compile(r'\s++href="([^"&]*+)"\s*+', re.IGNORECASE)
_COMMENT_END: Final = re.compile(r"--!?>")
_BOGUS_END: Final = re.compile(r"-?>")
_RAW_NAMES: Final = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
_RAW_ENDS: Final = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW_NAMES}
_SKIPPED: Final = ("javascript:", "mailto:", "tel:", "data:", "#")
_SKIPPED_CHARS: Final = max(map(len, _SKIPPED))


def media_type_of(headers: Headers, body: bytes) -> str:
    """Return what a body is: its first octets win over a type that they contradict; no type at all is HTML."""
    declared = next((value for name, value in headers if name == "content-type"), "")
    named = declared.partition(";")[0].strip().lower()
    head = body[:_SNIFFED_BYTES]
    for magic, sniffed in _MAGIC:
        if head.startswith(magic):
            return sniffed
    if b"\x00" in head and not head.startswith(_UTF16_MARKS):
        return "application/octet-stream"
    return named or "text/html"


class TagScanner:
    """The `PageScanner` over a tokenizer of tags.

    No tree is built: a tree builder looks through all open elements at each block, and through all attributes at each
    attribute, so that a page of 200,000 nested elements, or of one element with as many attributes, takes minutes.
    """

    def scan(self, url: str, headers: Headers, body: bytes) -> Scanned | Unsupported:
        """Return links and signals of an HTML, XHTML or plain-text body."""
        media_type = media_type_of(headers, body)
        if media_type in TEXT_TYPES:
            return Scanned(signals=page_signals(headers, ()))
        if media_type not in HTML_TYPES:
            return Unsupported(media_type)
        content_type = next((value for name, value in headers if name == "content-type"), None)
        text, _ = decoded(body, content_type)
        return _scanned(url, headers, tags_of(text))


def tags_of(text: str) -> Tags:
    """Return the attributes of every tag of `NAMES`, in one pass; comments, scripts, styles and titles hold none."""
    found: Tags = {name: [] for name in NAMES}
    at = 0
    while (tag := _TAG.search(text, at)) is not None:
        at = tag.end()
        if tag[1] is not None:
            is_comment = tag[1] == "!--" and _BOGUS_END.match(text, at) is None
            at = _past(_COMMENT_END if is_comment else _BOGUS_END, text, at)
            continue
        name = tag[2].lower()
        if name in found:
            if tag[4] and len(found[name]) < LINKS_MAX:
                found[name].append(_attributes(tag[3]))
        elif name in _RAW_ENDS:
            at = _past(_RAW_ENDS[name], text, at)
    return found


def _past(end: re.Pattern[str], text: str, at: int) -> int:
    """Return where the text goes on after what only an end closes; without one, nowhere."""
    closed = end.search(text, at)
    return len(text) if closed is None else closed.end()


def _scanned(url: str, headers: Headers, tags: Tags) -> Scanned:
    base = _base(tags, url)
    links, canonical = _links(tags, base)
    named = [(tag.get("name", ""), tag.get("content", "")) for tag in tags["meta"]]
    refreshes = (tag.get("content", "") for tag in tags["meta"] if tag.get("http-equiv", "").lower() == "refresh")
    return Scanned(
        links=links,
        signals=page_signals(headers, [(name, content) for name, content in named if name]),
        canonical=canonical,
        refresh=_refreshed(base, next(refreshes, "")),
    )


def _base(tags: Tags, url: str) -> str:
    """Return the first usable base, which must be of the web: another scheme would turn every link into it."""
    for tag in tags["base"]:
        joined = _joined(url, tag.get("href", ""))
        if joined is not None and urlsplit(joined).scheme in {"http", "https"}:
            return joined
    return url


def _links(tags: Tags, base: str) -> tuple[tuple[Link, ...], str | None]:
    found: dict[str, bool] = {}
    canonical: str | None = None
    for tag in tags["a"]:
        href = tag.get("href", "").strip()
        if href and len(href) <= HREF_CHARS_MAX and not href[:_SKIPPED_CHARS].lower().startswith(_SKIPPED):
            is_nofollow = "rel" in tag and "nofollow" in tag["rel"].lower().split()
            # A target that some link of the page recommends is not one to keep away from.
            found[href] = found.get(href, True) and is_nofollow
    for tag in tags["link"]:
        relations = tag.get("rel", "").lower().split()
        href = tag.get("href", "").strip()
        if "canonical" in relations and canonical is None:
            canonical = _joined(base, href)
        # An alternate with a type is a feed or another format; one without is the page in another language.
        elif "alternate" in relations and "type" not in tag and href:
            found.setdefault(href, False)
    links: dict[str, bool] = {}
    site = base[: base.find("/", base.find("//") + 2)]
    for href, is_nofollow in found.items():
        joined = _at_site(site, href) if href[0] == "/" else _joined(base, href)
        if joined is not None:
            links[joined] = links.get(joined, True) and is_nofollow
    return tuple(Link(url, is_nofollow) for url, is_nofollow in links.items()), canonical


def _refreshed(base: str, content: str) -> str | None:
    if not re.search(r"url\s*=", content, re.IGNORECASE):
        return None
    found = _REFRESH.match(content)
    return None if found is None else _joined(base, found[1])


@lru_cache(maxsize=_PATHS_KEPT)
def _at_site(site: str, href: str) -> str | None:
    """Join what begins with a slash, whose meaning no page of a site changes; sites repeat such links on every page."""
    return _joined(f"{site}/", href)


def _joined(base: str, href: str) -> str | None:
    if not href:
        return None
    try:
        joined: str = ada_url.join_url(base, href)
    except ValueError:
        return None
    return joined


def _attributes(text: str) -> dict[str, str]:
    """Return the attributes of a tag as it stands, the first of each name."""
    plain = _PLAIN_HREF.fullmatch(text)
    if plain is not None:
        return {"href": plain[1]}
    found: dict[str, str] = {}
    for each in _ATTRIBUTE.finditer(text):
        found.setdefault(each[1].lower(), unescape(each[2] or each[3] or each[4] or ""))
    return found
