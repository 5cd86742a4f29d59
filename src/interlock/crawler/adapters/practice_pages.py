"""What the practice web shows: pages, links, traps and robots files, made from a seed and a path.

Does not serve. The same seed gives the same web, on every machine.
"""

import gzip
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

import xxhash

TRAPS: Final = ("calendar", "session", "repeat", "facets", "soft404", "loop")
ROBOTS: Final = ("allow", "deny", "partial", "missing", "5xx", "timeout", "huge")
LABEL: Final = b"{practice-host}"
LABEL_CHARS: Final = 6
FANOUT: Final = 8

_WORDS: Final = tuple(
    "parcel order return label carrier depot invoice refund window courier gift card account address delivery stock "  # noqa: SIM905 # prose reads better than a list
    "supplier warranty receipt tracking pickup customs payment voucher season catalogue review basket shelf weight "
    "box signature morning evening island bridge harbour village station market garden kitchen summer winter copper "
    "linen walnut paper silver bottle lantern kettle blanket mirror ladder engine saddle anchor compass".split()
)
_BOMB_BYTES: Final = 64 * 1024 * 1024
_SENTENCE_WORDS: Final = 14


@dataclass(frozen=True, slots=True)
class Knobs:
    """How the practice web behaves. Shares lie between 0 and 1 and pick the same hosts or pages for one seed."""

    hosts: int = 1
    pages: int = 50
    page_kb: int = 4
    links: int = 12
    seed: int = 1
    latency_ms: float = 0.0
    slow_share: float = 0.0
    slow_ms: float = 3_000.0
    error_share: float = 0.0
    error: int = 503
    error_every: int = 5
    retry_after: str = "none"
    retry_after_s: int = 2
    clock_skew_s: int = 0
    robots: str = "allow"
    traps: tuple[str, ...] = ()
    duplicates: float = 0.0
    redirects: float = 0.0
    noindex_share: float = 0.0
    gone_share: float = 0.0
    changes_per_visit: float = 0.0
    bombs: bool = False
    slow_loris: bool = False
    sitemap: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """One answer: `body` may hold the label of the host, which has a fixed width."""

    status: int
    body: bytes = b""
    headers: tuple[str, ...] = ()
    media_type: str = "text/html; charset=utf-8"


def draw(seed: int, *parts: object) -> float:
    """Return a number in [0, 1) that depends on nothing but its arguments."""
    text = "/".join(map(str, parts))
    return float(xxhash.xxh3_64_intdigest(text.encode(), seed=seed)) / 2.0**64


def is_slow(knobs: Knobs, host: int) -> bool:
    """Tell whether a host is one of the slow ones."""
    return host <= round(knobs.hosts * knobs.slow_share)


def is_failing(knobs: Knobs, host: int) -> bool:
    """Tell whether a host is one of those that fail; they are taken from the other end than the slow ones."""
    return host > knobs.hosts - round(knobs.hosts * knobs.error_share)


def label_of(host: int) -> bytes:
    """Return the name of a host in its texts, of a fixed width."""
    return f"h{host:05d}".encode()


def has_path(knobs: Knobs, path: str) -> bool:
    """Tell whether the path is a page of the tree."""
    number = number_of(path)
    return number is not None and number < knobs.pages


def number_of(path: str) -> int | None:
    """Return the number of a tree page: 0 for `/`, n for `/p/n`."""
    if path == "/":
        return 0
    digits = path.removeprefix("/p/")
    return int(digits) if digits != path and digits.isdecimal() and digits[0] != "0" else None


def is_gone(knobs: Knobs, host: int, number: int, visits: int) -> bool:
    """Tell whether a page answers 410: those of the share do from their second visit on, the start page never."""
    return number > 0 and visits > 1 and draw(knobs.seed, "gone", host, number) < knobs.gone_share


def is_changed(knobs: Knobs, host: int, number: int, visits: int) -> bool:
    """Tell whether this visit finds another text than the one before."""
    return visits > 1 and draw(knobs.seed, "change", host, number, visits) < knobs.changes_per_visit


@lru_cache(maxsize=4_096)
def tree_page(knobs: Knobs, number: int, revision: int) -> Page:
    """Return a page of the tree: text, its children, links to others, and the doors of the traps on the start page."""
    is_copy = number > 1 and draw(knobs.seed, "duplicate", number) < knobs.duplicates
    shown = number - 1 if is_copy else number
    robots = draw(knobs.seed, "noindex", number) < knobs.noindex_share and number > 0
    head = '<meta name="robots" content="noindex">' if robots else ""
    title = f"Page {shown} of {LABEL.decode()}"
    words = "".join(f"<p>{text}</p>\n" for text in _paragraphs(knobs, shown, revision))
    links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in _links(knobs, number))
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}</head><body>'
        f"<nav><ul>{links}</ul></nav><main><article><h1>{title}</h1>\n{words}</article></main></body></html>"
    )
    return Page(200, html.encode())


def robots_page(knobs: Knobs) -> Page:
    """Return robots.txt; `timeout` is the server's to play."""
    kind, _, delay = knobs.robots.partition("=")
    if kind == "missing":
        return Page(404)
    if kind == "5xx":
        return Page(503)
    rules = {"deny": "Disallow: /\n", "partial": "Disallow: /private/\n"}.get(kind, "Allow: /\n")
    lines = f"User-agent: *\n{rules}"
    if kind == "delay":
        lines += f"Crawl-delay: {delay}\n"
    if knobs.sitemap:
        lines += "Sitemap: http://{practice-authority}/sitemap.xml\n"
    body = lines.encode()
    if kind == "huge":
        body += b"# " + b"words " * 9_000_000 + b"\nUser-agent: *\nDisallow: /\n"
    return Page(200, body, media_type="text/plain")


def sitemap_page(knobs: Knobs, authority: str) -> Page:
    """Return a sitemap of every page of the tree."""
    urls = "".join(f"<url><loc>http://{authority}{_path(number)}</loc></url>" for number in range(knobs.pages))
    body = f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>'
    return Page(200, body.encode(), media_type="application/xml")


def odd_page(knobs: Knobs, path: str) -> Page:
    """Return the answer for a path that is no page of the tree: redirects, traps, bombs, or 404."""
    kind = path.split("/")[1].partition("?")[0]
    if kind == "r" and (target := number_of(path.replace("/r/", "/p/", 1))) is not None and target < knobs.pages:
        return Page(301, headers=(f"location: {_path(target)}",))
    if kind == "bomb" and knobs.bombs:
        return Page(200, _bomb(), ("content-encoding: gzip",))
    if kind == "private" and knobs.robots == "partial":
        return _door("A private page", [])
    made = _TRAP_PAGES.get(kind)
    if made is not None and kind in knobs.traps:
        return made(path)
    if "soft404" in knobs.traps:
        return _door("Sorry, this page was not found", [])
    return Page(404, b"<title>Not found</title>")


def _calendar(path: str) -> Page:
    try:
        day = date.fromisoformat(path.rpartition("/")[2])
    except ValueError:
        day = date(2026, 1, 1)
    after = day + timedelta(days=31)
    return _door(f"Events of {day.isoformat()}", [f"/calendar/{after.isoformat()}"])


def _session(path: str) -> Page:
    token = xxhash.xxh3_128_hexdigest(path.encode())
    return _door(
        "Welcome back", [f"/session/page?sid={token}", f"/session/page;jsessionid={token}", f"/session/{token}"]
    )


def _repeat(path: str) -> Page:
    return _door("Deeper", [f"{path.rstrip('/')}/deep/er/"])


def _facets(path: str) -> Page:
    keys = path.partition("?")[2]
    names = ("color", "size", "brand", "sort", "page", "view", "price", "stock", "rating", "store")
    more = [f"/facets?{keys}&{name}={len(keys)}".replace("?&", "?") for name in names if f"{name}=" not in keys]
    return _door(f"Goods {keys}", more)


def _loop(path: str) -> Page:
    after = {"/loop/a": "/loop/b", "/loop/b": "/loop/a"}.get(path, "/loop/a")
    return Page(302, headers=(f"location: {after}",))


_TRAP_PAGES: Final = {
    "calendar": _calendar, "session": _session, "repeat": _repeat, "facets": _facets, "loop": _loop,
}  # fmt: skip


def _door(title: str, paths: list[str]) -> Page:
    links = "".join(f'<a href="{path.replace("&", "&amp;")}">{title}</a> ' for path in paths)
    html = f"<!doctype html><title>{title} {LABEL.decode()}</title><main><p>{title}.</p></main><p>{links}</p>"
    return Page(200, html.encode())


def _links(knobs: Knobs, number: int) -> list[str]:
    """Return the children in the tree, by way of a redirect for the share, then others until there are enough."""
    first = number * FANOUT + 1
    paths = [_way(knobs, child) for child in range(first, min(first + FANOUT, knobs.pages))]
    while len(paths) < knobs.links and knobs.pages > 1:
        paths.append(_path(int(draw(knobs.seed, "link", number, len(paths)) * knobs.pages)))
    return [*paths, *(_doors(knobs) if number == 0 else [])]


def _way(knobs: Knobs, number: int) -> str:
    is_moved = draw(knobs.seed, "redirect", number) < knobs.redirects
    return f"/r/{number}" if is_moved else _path(number)


def _doors(knobs: Knobs) -> list[str]:
    doors = [f"/{trap}/a" if trap == "loop" else f"/{trap}/" for trap in knobs.traps if trap != "soft404"]
    doors += ["/lost-and-not-found"] if "soft404" in knobs.traps else []
    doors += ["/bomb"] if knobs.bombs else []
    doors += ["/loris"] if knobs.slow_loris else []
    return doors + (["/private/1", "/private/2"] if knobs.robots == "partial" else [])


def _path(number: int) -> str:
    return f"/p/{number}" if number else "/"


def _paragraphs(knobs: Knobs, number: int, revision: int) -> list[str]:
    """Return sentences, by fives, until the page has its size."""
    sentences: list[str] = [f"This is page {number}, revision {revision}."]
    size = 0
    while size < knobs.page_kb * 1024:
        words = (
            _WORDS[int(draw(knobs.seed, number, len(sentences), place) * len(_WORDS))]
            for place in range(_SENTENCE_WORDS)
        )
        sentences.append(" ".join(words).capitalize() + ".")
        size += len(sentences[-1])
    return [" ".join(sentences[start : start + 5]) for start in range(0, len(sentences), 5)]


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    return gzip.compress(bytes(_BOMB_BYTES), compresslevel=1)
