"""The fetcher over real sockets: limits, encodings, faults, phases. Every row of the bad-input table it answers for."""

import asyncio
import gzip
import ssl
import time
import zlib
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import brotli
import pytest
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from interlock.crawler.adapters.egress import EgressGuard, parse_allow
from interlock.crawler.adapters.fetcher import AiohttpFetcher, Patience
from interlock.crawler.adapters.resolver import Answer, LookupFailedError, Resolver
from interlock.crawler.domain.types import Fault, FetchRequest
from interlock.foundation.clock import SystemClock
from tests.crawler.adapters.rawsite import ok, raw_site

SHORT = Patience(connect_s=240.0, head_s=0.4, total_s=1_800.0)
DRIPS = Patience(connect_s=240.0, head_s=240.0, total_s=1_800.0, slow_s=0.5, slow_bytes=400)
PATIENT = Patience(connect_s=240.0, head_s=600.0, total_s=1_800.0, slow_s=600.0)
PAGE = b"<html>" + b"<p>some words of a page</p>" * 400


class Names:
    """A look-up that answers from a table; each answer of a list is given once, the last one for ever."""

    def __init__(self, table: dict[str, list[Answer]]) -> None:
        self.table, self.asked = table, []

    async def ask(self, host: str) -> Answer:
        self.asked.append(host)
        if host not in self.table:
            raise LookupFailedError(host)
        answers = self.table[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def fetching(allow: str = "127.0.0.0/8", names: Names | None = None, patience: Patience | None = None):
    resolver = Resolver(names or Names({}), SystemClock())
    fetcher = AiohttpFetcher(
        "InterlockBot/1 (+mailto:ops@shop.example)", EgressGuard(parse_allow(allow)), resolver, patience or PATIENT
    )
    try:
        yield fetcher
    finally:
        await fetcher.close()


async def _get(reply, patience: Patience | None = None, **limits):
    async with raw_site({"/": reply}) as site, fetching(patience=patience) as fetcher:
        found = await fetcher.fetch(FetchRequest(f"http://127.0.0.1:{site.port}/", **limits))
        return found, site


async def test_a_page_its_headers_its_address_and_its_phases():
    found, site = await _get(ok(PAGE, "Content-Type: text/html", "X-Twice: a", "X-Twice: b"))
    assert (found.status, found.fault, found.body, found.ip) == (200, None, PAGE, "127.0.0.1")
    assert found.headers[-2:] == (("x-twice", "a"), ("x-twice", "b"))
    assert found.header("content-type") == "text/html"
    assert found.wire_bytes == len(PAGE)
    assert 0 < found.timings.connect_ms <= found.timings.total_ms
    head = site.heads[0].lower()
    assert b"user-agent: interlockbot/1 (+mailto:ops@shop.example)" in head
    assert b"accept-encoding: gzip, br, zstd" in head and b"cookie" not in head


async def test_validators_make_the_request_conditional():
    async with raw_site({"/": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"}) as site, fetching() as fetcher:
        url = f"http://127.0.0.1:{site.port}/"
        found = await fetcher.fetch(FetchRequest(url, etag='"x"', last_modified="Fri, 02 Jan 2026 00:00:00 GMT"))
    assert (found.status, found.fault, found.body) == (304, None, b"")
    assert b'if-none-match: "x"' in site.heads[0].lower()
    assert b"if-modified-since: Fri" in site.heads[0] or b"If-Modified-Since: Fri" in site.heads[0]


async def test_one_connection_carries_many_requests():
    async with raw_site({"/": ok(PAGE), "/404": ok(b"no", status="404 Not Found")}) as site, fetching() as fetcher:
        for path in ("/", "/404", "/"):
            await fetcher.fetch(FetchRequest(f"http://127.0.0.1:{site.port}{path}"))
    assert site.connections == 1
    assert len(site.heads) == 3


async def test_a_request_that_dies_on_a_reused_connection_is_not_sent_again():
    async def die(writer):
        writer.transport.abort()

    async with raw_site({"/": ok(PAGE), "/die": die}) as site, fetching() as fetcher:
        url = f"http://127.0.0.1:{site.port}"
        await fetcher.fetch(FetchRequest(f"{url}/"))
        found = await fetcher.fetch(FetchRequest(f"{url}/die"))
    assert found.fault is Fault.RESET
    assert [head.split()[1] for head in site.heads] == [b"/", b"/die"]


async def test_a_redirect_is_told_and_never_followed():
    found, site = await _get(ok(b"", "Location: /next", status="302 Found"))
    assert (found.status, found.header("location"), len(site.heads)) == (302, "/next", 1)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("GZIP", lambda body: gzip.compress(body[:99]) + gzip.compress(body[99:]) + b"trailing"),
        ("br", brotli.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("gzip, br", lambda body: brotli.compress(gzip.compress(body))),
        ("identity", bytes),
    ],
)
async def test_encodings(encoding, encode):
    found, _ = await _get(ok(encode(PAGE), f"Content-Encoding: {encoding}"))
    assert (found.fault, found.body) == (None, PAGE)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "compress", "aws-chunked"])
async def test_a_body_that_is_not_what_its_encoding_says(encoding):
    found, _ = await _get(ok(b"\xff plain words, no such thing" * 9, f"Content-Encoding: {encoding}"))
    assert (found.status, found.fault, found.body) == (200, Fault.BAD_ENCODING, b"")


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("br", brotli.compress)])
async def test_an_encoded_body_that_ends_early(encoding, encode):
    found, _ = await _get(ok(encode(PAGE)[:-9], f"Content-Encoding: {encoding}"))
    assert found.fault is Fault.BAD_ENCODING


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("br", brotli.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
        ("gzip, gzip, gzip", bytes),
    ],
)
async def test_a_bomb_is_stopped_before_it_is_held(encoding, encode):
    found, _ = await _get(ok(encode(b"\0" * (20 << 20)), f"Content-Encoding: {encoding}"))
    assert (found.fault, found.body) == (Fault.DECOMPRESSION_BOMB, b"")
    assert found.detail["body_bytes"] < 8 << 20


async def test_a_body_past_the_wire_limit_or_the_decoded_limit():
    found, _ = await _get(ok(b"x" * 5_000), wire_bytes_max=4_999)
    assert (found.fault, found.body) == (Fault.BODY_TOO_LARGE, b"")
    found, _ = await _get(ok(b"x" * 5_000), wire_bytes_max=5_000, body_bytes_max=5_000)
    assert (found.fault, len(found.body)) == (None, 5_000)
    packed = gzip.compress(bytes(range(256)) * 40)
    found, _ = await _get(ok(packed, "Content-Encoding: gzip"), body_bytes_max=10_239)
    assert found.fault is Fault.BODY_TOO_LARGE


async def test_the_head_of_an_endless_robots_file_is_kept_and_the_connection_closed():
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"# words\n" * 1_000)
            await writer.drain()

    found, _ = await _get(endless, body_bytes_max=512_000, truncate=True)
    assert (found.fault, len(found.body)) == (None, 512_000)


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("X-Long: " + "a" * 70_000, Fault.HEADER_OVERFLOW),
        ("\r\n".join(f"X-{number}: 1" for number in range(200)), Fault.HEADER_OVERFLOW),
        ("\r\n".join(f"X-{number}: {'a' * 1_000}" for number in range(100)), Fault.HEADER_OVERFLOW),
        ("Location: /a\rSet-Cookie: b", Fault.HEADER_OVERFLOW),
        ("Content-Length: 3\r\nContent-Length: 4", Fault.BAD_LENGTH),
        ("Content-Length: -1", Fault.BAD_LENGTH),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", Fault.BAD_LENGTH),
    ],
)
async def test_heads_that_no_client_should_accept(head, fault):
    found, _ = await _get(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\nbody".encode())
    assert (found.fault, found.body) == (fault, b"")


async def test_octets_that_are_no_http():
    found, _ = await _get(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    assert found.fault is Fault.HEADER_OVERFLOW


async def test_a_body_shorter_than_its_length_and_a_broken_chunk():
    found, _ = await _get(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\nshort")
    assert (found.status, found.fault) == (200, Fault.BAD_LENGTH)
    found, _ = await _get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nx")
    assert found.fault is Fault.BAD_LENGTH


def _dripping(head: bytes, piece: bytes, each_s: float):
    async def drip(writer):
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(each_s)

    return drip


async def test_a_head_that_drips_and_a_silent_server_are_read_timeouts():
    found, _ = await _get(_dripping(b"HTTP/1.1 200 OK\r\n", b"a: 1\r\n", 0.05), SHORT)
    assert (found.status, found.fault) == (None, Fault.READ_TIMEOUT)
    found, _ = await _get(_dripping(b"", b"", 0.05), SHORT)
    assert found.fault is Fault.READ_TIMEOUT


async def test_a_body_that_drips_is_too_slow_and_one_that_flows_past_its_window_is_not():
    found, _ = await _get(_dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"a", 0.02), DRIPS)
    assert (found.status, found.fault) == (200, Fault.TOO_SLOW)

    # A window that a machine which stands still may miss is followed by one that it does not.
    for window_s in (1.0, 20.0):
        found, _ = await _get(_flowing(window_s / 10), replace(DRIPS, head_s=240.0, slow_s=window_s))
        if found.fault is None:
            break
    assert (found.fault, len(found.body)) == (None, 24_000)


def _flowing(each_s: float):
    async def flow(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(12):
            writer.write(b"a" * 2_000)
            await writer.drain()
            await asyncio.sleep(each_s)

    return flow


async def test_a_page_that_never_ends_in_time_is_too_slow():
    found, _ = await _get(_dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 4_000, 0.05), Patience(total_s=0.5))
    assert found.fault is Fault.TOO_SLOW


async def test_a_refused_connection_a_missing_name_and_a_silent_resolver():
    names = Names({"gone.example": [Answer((), 0)]})
    async with fetching(names=names) as fetcher:
        found = [
            await fetcher.fetch(FetchRequest(url))
            for url in ("http://127.0.0.1:9/", "http://gone.example:80/", "http://silent.example/")
        ]
    assert [each.fault for each in found] == [Fault.CONNECT_REFUSED, Fault.DNS_NXDOMAIN, Fault.DNS_TIMEOUT]


async def test_a_certificate_that_nobody_signed_is_invalid(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    async with raw_site({"/": ok(PAGE)}, tls=context) as site, fetching() as fetcher:
        found = await fetcher.fetch(FetchRequest(f"https://127.0.0.1:{site.port}/"))
    assert (found.fault, site.heads) == (Fault.TLS_INVALID, [])


async def test_a_cancelled_fetch_cuts_its_connection():
    gone = asyncio.Event()

    async def wait(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nx")
        await writer.drain()
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        gone.set()

    async with raw_site({"/": wait}) as site, fetching() as fetcher:
        task = asyncio.create_task(fetcher.fetch(FetchRequest(f"http://127.0.0.1:{site.port}/")))
        while not site.heads:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 240)


def _self_signed(folder):

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.fromtimestamp(time.time() - 3_600, tz=UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=1))
    certificate = made.sign(key, hashes.SHA256())
    path = folder / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
