"""The shop's own public web site on loopback: 25 pages of its policies and its catalog, robots.txt and sitemap.

Knows no crawler; it writes down who came when, as any web server does.
"""

import html
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from examples.shop.catalog import products
from examples.shop.documents import documents

PAGES: Final = 25
SEED: Final = 7
DISALLOWED: Final = "/staff/"
ROBOTS: Final = "# Fernway Outfitters\nUser-agent: *\nAllow: /\nDisallow: /staff/\n\nSitemap: {base}/sitemap.xml\n"
ROBOTS_LINE: Final = 4


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, `at_s` on the monotonic clock of this process."""

    at_s: float
    path: str
    status: int


class ShopSite:
    """Serves until the process ends or `close`. A path in `gone` answers 410."""

    def __init__(self) -> None:
        self.visits: list[Visit] = []
        self.gone: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.base = f"http://127.0.0.1:{self.port}"
        self._pages = _pages(self.base)
        threading.Thread(target=self._server.serve_forever, name="shop site", daemon=True).start()

    @property
    def allow(self) -> str:
        """What the operator lists, so that this one loopback port may be crawled."""
        return f"127.0.0.1/32:{self.port}"

    @property
    def paths(self) -> list[str]:
        """The public pages."""
        return [path for path in self._pages if not path.startswith(DISALLOWED) and "." not in path]

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, str]:
        """Return status, type and body of a path."""
        if path in self.gone:
            return 410, "text/html; charset=utf-8", "<h1>Gone</h1>"
        if path not in self._pages:
            return 404, "text/html; charset=utf-8", "<h1>Not here</h1>"
        kind, body = self._pages[path]
        return 200, kind, body

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            """One connection; HTTP/1.1, so that a visitor may keep it."""

            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                came_s = time.monotonic()
                status, kind, body = site.answer(self.path.partition("?")[0])
                site.visits.append(Visit(came_s, self.path, status))
                content = body.encode()
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                return

        return Handler


def _pages(base: str) -> dict[str, tuple[str, str]]:
    public = [each for each in documents(SEED) if "public" in each.readers and each.path.startswith("policies/")]
    help_pages = {f"/help/{each.path.removeprefix('policies/').removesuffix('.md')}": each for each in public}
    shelf = products(SEED)[: PAGES - len(help_pages) - 3]
    shop_pages = {f"/products/{each.sku.lower()}": each for each in shelf}
    pages = {
        "/": _page("Fernway Outfitters", "Gear for people who walk, paddle and sleep outside.", ["/help", "/products"]),
        "/help": _page("Help for customers", "How we deliver, take back and repair.", list(help_pages)),
        "/products": _page("Our shelf", "A part of what we keep in stock.", list(shop_pages)),
        f"{DISALLOWED}rota": _page("Rota", "Who opens the depot this week.", ["/"]),
    }
    for path, document in help_pages.items():
        pages[path] = _page(document.title, document.text, ["/help", f"{DISALLOWED}rota"])
    for path, product in shop_pages.items():
        pages[path] = _page(product.name, product.text, ["/products", "/help"])
    listed = "".join(f"<url><loc>{base}{path}</loc></url>" for path in pages if not path.startswith(DISALLOWED))
    sitemap = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{listed}</urlset>'
    return {path: ("text/html; charset=utf-8", body) for path, body in pages.items()} | {
        "/robots.txt": ("text/plain", ROBOTS.format(base=base)),
        "/sitemap.xml": ("application/xml", sitemap),
    }


def _page(title: str, text: str, links: list[str]) -> str:
    paragraphs = [line for line in text.split("\n\n") if line.strip() and not line.startswith("# ")]
    body = "".join(f"<p>{html.escape(each)}</p>" for each in paragraphs)
    listed = "".join(f'<li><a href="{each}">{each.rsplit("/", 1)[-1] or "home"}</a></li>' for each in links)
    return (
        f'<!doctype html><html lang="en"><head><title>{html.escape(title)}</title></head><body>'
        f"<nav><ul>{listed}</ul></nav><main><h1>{html.escape(title)}</h1>{body}</main></body></html>"
    )
