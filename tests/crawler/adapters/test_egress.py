"""The guard alone, and the proof over real sockets: nothing reaches an address that is refused.

A trap listens on loopback and every connect of the process is recorded below the guard, in the loop itself.
"""

import asyncio
import socket
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.crawler.adapters.egress import EgressBlockedError, EgressGuard, is_global, parse_allow
from interlock.crawler.adapters.fetcher import AiohttpFetcher
from interlock.crawler.adapters.resolver import Answer, Resolver
from interlock.crawler.domain.types import CanonicalUrl, EgressRefused, Fault, FetchRequest
from interlock.crawler.domain.urls import canonicalise
from interlock.foundation.clock import SystemClock
from tests.crawler.adapters.rawsite import ok, raw_site
from tests.crawler.adapters.test_fetcher import Names
from tests.crawler.adapters.test_resolver import HandClock

REFUSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.1.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::8.8.8.8",
    "2002:0a00:0001::",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "100::1",
    "5f00::1",
]

SPELLINGS = [
    "http://127.0.0.1/", "http://127.1/", "http://127.0.1/", "http://2130706433/", "http://0x7f.1/", "http://0x7f000001/",
    "http://0177.0.0.1/", "http://017700000001/", "http://127.0.0.1./", "http://%31%32%37.0.0.1/", "http://0/",
    "http://\uff11\uff12\uff17.0.0.1/", "http://127\u30020\u30020\u30021/", "http://[::1]/", "http://[::]/",
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::ffff:10.0.0.1]/", "http://[0:0:0:0:0:ffff:7f00:1]/",
    "http://[64:ff9b::127.0.0.1]/", "http://[2002:7f00:1::]/", "http://[::127.0.0.1]/", "http://[fe80::1]/",
    "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://a.localhost/", "http://loc\u00adalhost/",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/", "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/", "http://metadata/", "http://metadata.google.internal./",
    "http:\\\\127.0.0.1\\", "http:127.0.0.1", "http://10.0.0.1/", "http://192.168.1.1/", "http://100.64.0.1/",
]  # fmt: skip


@pytest.fixture
def connects(monkeypatch):
    """Every address that the process asks the machine to connect to, written down before it does."""
    seen = []
    real_loop = asyncio.selector_events.BaseSelectorEventLoop.sock_connect

    async def sock_connect(loop, sock, address):
        seen.append(address[:2])
        return await real_loop(loop, sock, address)

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", sock_connect)
    return seen


@asynccontextmanager
async def fetching(names: Names, allow: str = "", clock=None):
    fetcher = AiohttpFetcher("InterlockBot/1", EgressGuard(parse_allow(allow)), Resolver(names, clock or SystemClock()))
    try:
        yield fetcher
    finally:
        await fetcher.close()


def _url(raw: str, base: str | None = None) -> CanonicalUrl:
    found = canonicalise(raw, base)
    assert isinstance(found, CanonicalUrl), found
    return found


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_that_is_not_global_unicast_is_refused(text):
    assert not is_global(ip_address(text)) or text == "168.63.129.16"
    refused = EgressGuard().judge_address(ip_address(text), 80)
    assert refused is not None and refused.reason in {"address", "metadata"}


@pytest.mark.parametrize("text", [
    "8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "223.255.255.255",
                                  "2606:4700::1", "2a00:1450::1", "64:ff9b::8.8.8.8"])  # fmt: skip
def test_a_global_address_passes(text):
    assert EgressGuard().judge_address(ip_address(text), 443) is None


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_passes(address):
    if not address.is_global and not (address.version == 6 and address in _nat64()):
        assert EgressGuard().judge_address(address, 80) is not None


def _nat64():
    return ip_network("64:ff9b::/96")


@pytest.mark.parametrize(
    ("port", "reason"), [(80, None), (443, None), (8080, None), (8443, None), (22, "port"), (6379, "port")]
)
def test_ports(port, reason):
    refused = EgressGuard().judge("site.example", port)
    assert (refused and refused.reason) == reason
    refused = EgressGuard().judge("8.8.8.8", port)
    assert (refused and refused.reason) == reason


def test_the_allow_list_opens_what_it_names_and_nothing_beside_it():
    guard = EgressGuard(parse_allow("127.20.0.0/16:7001, [fd00:1::/32]:9000,10.1.2.3"))
    assert guard.judge("127.20.3.4", 7001) is None
    assert guard.judge("127.20.3.4", 7002) == EgressRefused("address", "127.20.3.4")
    assert guard.judge("127.21.0.1", 7001) is not None
    assert guard.judge("[::ffff:127.20.3.4]", 7001) is not None
    assert guard.judge("[fd00:1::5]", 9000) is None
    assert guard.judge("[fd00:1::5]", 80) is not None
    assert guard.judge("10.1.2.3", 4_000) is None
    assert guard.is_allow_listed("127.20.0.1", 7001) and not guard.is_allow_listed("127.20.0.1", 80)
    assert not guard.is_allow_listed("site.example", 7001)
    # A name may lead to an allow-listed address, so a port of the list needs the look-up.
    assert guard.judge("site.example", 7001) is None
    assert guard.judge_answer(["127.20.0.1"], 7001) is None
    assert guard.judge("localhost", 7001) is not None


def test_no_entry_opens_the_metadata_services():
    guard = EgressGuard(parse_allow("0.0.0.0/0,::/0"))
    for host in (
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "metadata.",
    ):
        refused = guard.judge(host, 80)
        assert refused is not None and refused.reason == "metadata", host
    assert guard.judge("127.0.0.1", 80) is None


@pytest.mark.parametrize("text", ["nonsense", "10.0.0.1/33", "10.0.0.0/8:0", "10.0.0.0/8:70000", "10.0.0.0/8:x",
                                  "[::1]80", "10.0.0.1/8", "site.example"])  # fmt: skip
def test_a_bad_entry_is_named(text):
    with pytest.raises(ValueError, match=text.replace("[", r"\[")):
        parse_allow(f"127.0.0.1, {text}")


@pytest.mark.parametrize("raw", SPELLINGS)
async def test_no_spelling_of_an_inner_address_is_dialled(raw, connects):
    names = Names({"localhost": [Answer(("127.0.0.1",), 60)], "a.localhost": [Answer(("127.0.0.1",), 60)],
                   "metadata": [Answer(("169.254.169.254",), 60)]})  # fmt: skip
    async with fetching(names) as fetcher:
        found = await fetcher.fetch(FetchRequest(_url(raw).url))
    assert (found.status, found.fault) == (None, Fault.EGRESS_BLOCKED)
    assert found.detail["reason"] in {"address", "metadata"}
    assert connects == [] and names.asked == []


@pytest.mark.parametrize("inner", ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "fe80::1", "64:ff9b::7f00:1"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_name_with_one_inner_address_is_not_dialled_at_all(inner, is_first, connects):
    addresses = (inner, "8.8.8.8") if is_first else ("8.8.8.8", inner)
    async with fetching(Names({"mixed.example": [Answer(addresses, 60)]})) as fetcher:
        found = await fetcher.fetch(FetchRequest("http://mixed.example/"))
    assert found.fault is Fault.EGRESS_BLOCKED
    assert ip_address(found.detail["address"]) == ip_address(inner)
    assert connects == []


async def test_the_dialled_address_is_the_checked_one(connects):
    """A resolver that turns to an inner address: each dial asks, checks and dials its own answer."""
    clock = HandClock()
    async with raw_site({"/": ok(b"x", "Connection: close")}) as site:
        names = Names({"turn.example": [Answer(("127.0.0.1",), 0), Answer(("127.0.0.2",), 0)]})
        async with fetching(names, f"127.0.0.1:{site.port}", clock) as fetcher:
            first = await fetcher.fetch(FetchRequest(f"http://turn.example:{site.port}/"))
            clock.now += 1_000
            second = await fetcher.fetch(FetchRequest(f"http://turn.example:{site.port}/"))
    assert (first.status, second.fault) == (200, Fault.EGRESS_BLOCKED)
    assert connects == [("127.0.0.1", site.port)]
    assert b"Host: turn.example" in site.heads[0]


async def test_a_resolver_that_lies_after_the_check_meets_the_guard_of_the_socket(connects):
    """Were the check of answers to fail, every dial still passes through the guard."""
    guard = EgressGuard()
    fetcher = AiohttpFetcher(
        "InterlockBot/1", guard, Resolver(Names({"t.example": [Answer(("127.0.0.1",), 0)]}), SystemClock())
    )
    guard.judge_answer = lambda addresses, port: None
    found = await fetcher.fetch(FetchRequest("http://t.example/"))
    await fetcher.close()
    assert found.fault is Fault.EGRESS_BLOCKED
    assert found.detail == {"reason": "address", "address": "127.0.0.1"}
    assert connects == []


async def test_an_address_literal_meets_the_guard_of_the_socket(connects):
    """The connector asks no resolver for a literal: only the socket sees it."""
    guard = EgressGuard()
    fetcher = AiohttpFetcher("InterlockBot/1", guard, Resolver(Names({}), SystemClock()))
    guard.judge = lambda host, port: None
    for url in ("http://127.0.0.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/"):
        found = await fetcher.fetch(FetchRequest(url))
        assert found.fault is Fault.EGRESS_BLOCKED, url
    await fetcher.close()
    assert connects == []


def test_a_socket_of_another_family_is_refused():
    with pytest.raises(EgressBlockedError):
        EgressGuard().open_socket((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/run/x", 0)))
    with pytest.raises(EgressBlockedError):
        EgressGuard().open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("localhost", 80)))


@pytest.mark.parametrize("raw", [raw for raw in SPELLINGS if raw != "http:127.0.0.1"])  # Relative there: a path.
async def test_a_redirect_to_an_inner_address_is_told_and_its_target_refused(raw, connects):
    """The redirect itself comes from an allowed site; its target is judged like any other URL."""
    async with raw_site(
        {"/": ok(b"", f"Location: {raw.encode('ascii', 'ignore').decode()}", status="302 Found")}
    ) as site:
        async with fetching(Names({}), f"127.0.0.1:{site.port}") as fetcher:
            base = f"http://127.0.0.1:{site.port}/"
            found = await fetcher.fetch(FetchRequest(base))
            target = canonicalise(raw, base)
            assert isinstance(target, CanonicalUrl)
            after = await fetcher.fetch(FetchRequest(target.url))
    assert found.status == 302
    assert after.fault is Fault.EGRESS_BLOCKED
    assert connects == [("127.0.0.1", site.port)]
    assert len(site.heads) == 1
