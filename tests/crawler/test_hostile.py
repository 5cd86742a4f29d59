"""Sites that mean harm, live: each is stopped at its limit under its rule, and the one beside them is crawled whole."""

import asyncio
import gzip
from collections import Counter
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

from interlock.foundation.errors import InterlockError
from tests.crawler.world import CLOCK, MemorySink, World, tools_of

MIB = 1 << 20
OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: "
HTML = OK + b"text/html\r\n\r\n"
BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
ENTITIES = BOMB + b"<urlset><url><loc>&b;</loc></url></urlset>"
LINKS = b"".join(b'<a href="/p%d">page</a>' % number for number in range(1, 5))
# host -> path -> (rule of the URL in the end, None for done)
WANTED = {
    1: {"/": None, "/p1": None, "/p4": None},
    2: {"/": None, "/closed": "robots_denied"},
    3: {"/bomb.xml.gz": "sitemap_invalid", "/laughs.xml": "sitemap_invalid", "/": None},
    4: {"/": None, "/r5": "redirect_loop"},
    5: {"/": "body_too_large"},
    6: {"/": "decompression_bomb"},
    7: {"/many.xml": None, "/": None},
}
# Made before any loop runs: a store whose client stands still for a second is taken for gone.
ZEROS = gzip.compress(bytes(64 * MIB), 1)
SENT_MAX = {2: 8 * MIB, 5: 40 * MIB}


class Hostile:
    """One server on every address of 127.20.0.0/16: what it does depends on the host that it is asked as."""

    def __init__(self):
        self.sent = Counter()

    async def answer(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            host = int(head.lower().split("host: ")[1].split(":")[0].rpartition(".")[2])
            async for piece in self.pieces(host, path):
                self.sent[host] += len(piece)
                writer.write(piece)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def pieces(self, host, path):
        if path == "/robots.txt":
            yield OK + b"text/plain\r\n\r\n" + self.robots(host)
            while host == 2:
                yield b"# endless\n" * 6_000
        elif path == "/bomb.xml.gz":
            yield OK + b"application/gzip\r\n\r\n" + ZEROS
        elif path == "/laughs.xml":
            yield OK + b"application/xml\r\n\r\n" + ENTITIES
        elif path == "/many.xml":
            yield OK + b"application/xml\r\n\r\n<urlset>"
            for number in range(5_000):
                yield b"<url><loc>http://127.20.0.7:%d/m/%d</loc></url>" % (self.port, number)
            yield b"</urlset>"
        elif host == 4:
            number = int("".join(filter(str.isdigit, path)) or 0)
            yield b"HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: /r%d\r\ncontent-length: 0\r\n\r\n" % (
                number + 1
            )
        elif host == 5:
            yield HTML
            while True:
                yield b"<p>more</p>" * 6_000
        elif host == 6:
            yield OK + b"text/html\r\ncontent-encoding: gzip\r\n\r\n" + ZEROS
        elif path in {"/sitemap.xml", "/favicon.ico"}:
            yield b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        else:
            yield HTML + f"<p>page {path} of {host}</p>".encode() + LINKS

    def robots(self, host):
        site = b"http://127.20.0.%d:%d" % (host, self.port)
        named = {
            2: b"User-agent: *\nDisallow: /closed\n",
            3: b"Sitemap: %s/bomb.xml.gz\nSitemap: %s/laughs.xml\n" % (site, site),
            7: b"Sitemap: %s/many.xml\n" % site,
        }
        return named.get(host, b"")


@asynccontextmanager
async def hostile():
    site = Hostile()
    server = await asyncio.start_server(site.answer, "0.0.0.0", 0)  # every address of loopback
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


async def strike_out(world, scope, crawl, missing):
    """Strike out what came to its end; a store that is away on a busy machine is asked again."""
    for (host, path), rule in list(missing.items()):
        told = await world.explained(scope, crawl, world.url(path, host))
        if told["state"] == ("done" if rule is None else "refused"):
            assert rule is None or told["rule"] == rule, told
            del missing[host, path]


async def test_hostile_sites_are_stopped_by_name_and_hold_up_nobody(store, scope, tmp_path):
    async with hostile() as site:
        allow = f"127.20.0.0/16:{site.port}"
        world = World(store, tools_of(store, allow), MemorySink(), tmp_path, allow, SimpleNamespace(port=site.port))
        seeds = [world.url(host=host) for host in WANTED] + [world.url("/closed", 2)]
        crawl = await world.start(scope, *seeds, budgets={"pages_per_host": 40})
        async with world.running():
            missing = {(host, path): rule for host, paths in WANTED.items() for path, rule in paths.items()}
            deadline = CLOCK.monotonic() + 480
            while missing:
                assert CLOCK.monotonic() < deadline, missing
                await asyncio.sleep(0.5)
                with suppress(InterlockError):
                    await strike_out(world, scope, crawl, missing)
    over = {host: site.sent[host] for host, most in SENT_MAX.items() if site.sent[host] > most}
    assert over == {}
