"""An upstream is asked once, in time, at a permitted address, and never costs more than was allowed."""

import asyncio
import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import (
    AddressRefused,
    Client,
    ClientLimits,
    ForwardProxy,
    Server,
    Timeouts,
    UpstreamBroken,
    UpstreamConnectError,
    UpstreamTimeout,
    WireLimits,
)
from tests.foundation.wire.harness import HandClock, story, until

# However long the loop stands still; tests of what hangs give their own.
PATIENT = Timeouts(connect_s=240.0, first_byte_s=240.0, idle_s=240.0)


class Upstream:
    """Answers each connection with scripted bytes; counts connections and keeps what it was sent."""

    def __init__(self, *scripts: bytes, closes: bool = False) -> None:
        self.scripts = list(scripts)
        self.closes = closes
        self.connections = 0
        self.requests: list[bytes] = []
        self.left = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await asyncio.sleep(0.01)

    async def _serve(self, reader, writer) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                for piece in self.scripts.pop(0).split(b"|") if self.scripts else []:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.005)
                if self.closes:
                    writer.close()
                    return
        self.left += 1
        writer.close()


@contextlib.asynccontextmanager
async def opened(clock=None, policy=None, tls=None, resolve=None, proxy=None, **bounds):
    limits = ClientLimits(**{"tick_s": 0.01, **bounds})
    client = Client(limits, clock or SystemClock(), policy, tls=tls, resolve=resolve, proxy=proxy)
    try:
        yield client
    finally:
        await client.close()
        assert client.statistics().connections_busy == client.statistics().connections_idle == 0


async def get(client: Client, url: str, timeouts: Timeouts = PATIENT) -> tuple[int, bytes]:
    async with client.request("GET", url, timeouts=timeouts) as answer:
        return answer.status, await answer.read(1_000_000)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@story
async def test_a_connection_is_used_again(stage):
    async with Upstream(OK, OK, OK) as upstream, opened() as client:
        for _ in range(3):
            assert await get(client, upstream.url) == (200, b"ok")
        assert upstream.connections == 1
        assert client.statistics().connections_idle == 1


@story
async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_unseen(stage):
    async with Upstream(OK, OK, closes=True) as upstream, opened() as client:
        assert await get(client, upstream.url) == (200, b"ok")
        await until(lambda: client.statistics().connections_idle == 0)
        assert await get(client, upstream.url) == (200, b"ok")
        assert (upstream.connections, len(upstream.requests)) == (2, 2)


@story
async def test_a_close_that_the_loop_has_not_yet_seen_is_found_before_anything_is_sent(stage):
    async with Upstream(OK, OK) as upstream, opened() as client:
        assert await get(client, upstream.url) == (200, b"ok")
        upstream.writers[0].transport.abort()
        # On asyncio the socket closes in the next turn; our side then runs before the loop polls again.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await get(client, upstream.url) == (200, b"ok")
        assert len(upstream.requests) == 2


@story
async def test_a_request_that_was_sent_is_never_sent_twice(stage):
    async with Upstream(OK, b"", OK) as upstream, opened() as client:
        assert await get(client, upstream.url) == (200, b"ok")
        await asyncio.sleep(0.05)
        upstream.closes = True
        with pytest.raises(UpstreamBroken) as broken:
            await get(client, upstream.url)
        assert not broken.value.head_received
        assert len(upstream.requests) == 2


@story
async def test_leaving_early_closes_the_socket(stage):
    script = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    async with Upstream(script) as upstream, opened() as client:
        async with client.request("GET", upstream.url) as answer:
            async for piece in answer.chunks():
                assert piece == b"first"
                break
        await until(lambda: upstream.left == 1)
        assert client.statistics().connections_idle == 0


@story
async def test_an_answer_cannot_be_read_after_its_block(stage):
    async with Upstream(OK) as upstream, opened() as client:
        async with client.request("GET", upstream.url) as answer:
            pass
        with pytest.raises(RuntimeError, match="has ended"):
            await answer.read(10)


@story
async def test_a_cancelled_caller_closes_the_socket(stage):
    async with Upstream(b"") as upstream, opened() as client:
        asking = asyncio.ensure_future(get(client, upstream.url))
        await until(lambda: upstream.requests)
        asking.cancel()
        await until(lambda: upstream.left == 1)
        with pytest.raises(asyncio.CancelledError):
            await asking


ANSWERS = {
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n|3;x=y\r\nay!\r\n0\r\nT: v\r\n\r\n",
        b"okay!",
    ),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nall |of it", b"all of it"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
    "interim answers": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n|" + OK, b"ok"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "in single bytes": (b"|".join(bytes([each]) for each in OK), b"ok"),
}


@pytest.mark.parametrize("name", ANSWERS)
@story
async def test_answers_of_every_framing_are_read(stage, name):
    script, body = ANSWERS[name]
    async with Upstream(script, closes=True) as upstream, opened() as client:
        async with client.request("GET", upstream.url) as answer:
            assert answer.headers.get(b"link") is None
            assert await answer.read(100) == body


BROKEN = {
    "no answer": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "not http": b"SSH-2.0-OpenSSH\r\n\r\n",
    "length and coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "a bare line feed": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 201 + b"\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
@story
async def test_an_answer_that_is_broken_is_never_taken_for_a_short_one(stage, name):
    async with Upstream(BROKEN[name], closes=True) as upstream, opened() as client:
        with pytest.raises(UpstreamBroken):
            await get(client, upstream.url)
        assert client.statistics().connections_idle == 0


@story
async def test_bytes_behind_an_answer_spoil_the_connection(stage):
    async with Upstream(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK) as upstream, opened() as client:
        assert await get(client, upstream.url) == (200, b"ok")
        assert await get(client, upstream.url) == (200, b"ok")
        assert upstream.connections == 2


@story
async def test_head_has_no_body_whatever_the_length_says(stage):
    async with Upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as upstream, opened() as client:
        async with client.request("HEAD", upstream.url) as answer:
            assert (answer.headers.get(b"content-length"), await answer.read(0)) == (b"9", b"")


@story
async def test_a_redirect_is_an_answer_like_any_other(stage):
    async with (
        Upstream(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n") as upstream,
        opened() as client,
    ):
        assert await get(client, upstream.url) == (302, b"")
        assert len(upstream.requests) == 1


@story
async def test_an_answer_is_bounded_by_its_reader(stage):
    async with Upstream(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000) as upstream, opened() as client:
        with pytest.raises(UpstreamBroken, match="longer than 4000"):
            async with client.request("GET", upstream.url) as answer:
                await answer.read(4_000)


@story
async def test_a_reader_that_waits_makes_the_upstream_wait(stage):
    written = []

    async def handler(exchange):
        await exchange.start(200, [])
        for _ in range(2_000):
            await exchange.write(b"x" * 10_000)
            written.append(1)
        await exchange.finish()

    scene = await stage.serve(handler)
    async with opened(buffer_bytes=65_536) as client, client.request("GET", scene.url) as answer:
        await asyncio.sleep(0.2)
        assert len(written) < 1_500
        assert answer._connection._buffered_bytes < 65_536 + 300_000
        assert sum([len(piece) async for piece in answer.chunks()]) == 20_000_000


@pytest.mark.parametrize(
    ("phase", "script"),
    [
        ("first_byte", b""),
        ("first_byte", b"HTTP/1.1 200 OK\r\nX:"),
        ("idle", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("idle", b"HTTP/1.1 200 OK\r\n\r\nabc"),
        ("total", b"HTTP/1.1 200 OK\r\n\r\nabc"),
    ],
)
@story
async def test_each_phase_has_its_time(stage, phase, script):
    clock = HandClock()
    limits = {"first_byte": 10.0, "idle": 10.0, "total": 10.0}
    times = Timeouts(**{f"{name}_s": seconds if name == phase else 100.0 for name, seconds in limits.items()})
    async with Upstream(script) as upstream, opened(clock) as client:

        async def late() -> None:
            await until(lambda: upstream.requests)
            await asyncio.sleep(0.05)
            clock.move(9.9)
            await asyncio.sleep(0.05)
            assert client.statistics().connections_busy == 1
            clock.move(0.2)

        async with asyncio.TaskGroup() as group:
            group.create_task(late())
            with pytest.raises(UpstreamTimeout) as told:
                await get(client, upstream.url, timeouts=times)
        assert told.value.phase == phase
        await until(lambda: upstream.left == 1)


@story
async def test_a_connect_that_hangs_is_given_up(stage):
    # The kernel accepts, but nobody ever answers the TLS hello.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with opened() as client:
            with pytest.raises(UpstreamTimeout) as told:
                await get(client, f"https://127.0.0.1:{mute.getsockname()[1]}/", timeouts=Timeouts(connect_s=0.1))
    assert told.value.phase == "connect"


@story
async def test_nobody_listening_is_a_connect_error(stage):
    with socket.socket() as deaf:
        # Held, so that nobody else gets it meanwhile; nobody listens.
        deaf.bind(("127.0.0.1", 0))
        async with opened() as client:
            with pytest.raises(UpstreamConnectError):
                await get(client, f"http://127.0.0.1:{deaf.getsockname()[1]}/")
    async with opened() as client:
        with pytest.raises(UpstreamConnectError):
            await get(client, "unix:/nowhere/at.sock:/x")


@story
async def test_an_idle_connection_is_not_kept_for_ever_nor_are_too_many(stage):
    clock = HandClock()
    async with Upstream(*[OK] * 5) as upstream, opened(clock, idle_connections_max=2, idle_s=60.0) as client:
        await asyncio.gather(*(get(client, upstream.url) for _ in range(4)))
        await until(lambda: client.statistics().connections_busy == 0)
        assert client.statistics().connections_idle == 2
        clock.move(61)
        await until(lambda: client.statistics().connections_idle == 0)


class Names:
    """Resolves names as the test says, and counts how often it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def resolve(self, _host, _port):
        self.asked += 1
        if not self.addresses:
            raise OSError("the resolver is away")
        return self.addresses


@story
async def test_a_kept_connection_is_used_only_while_its_name_leads_there(stage):
    clock, names = HandClock(), Names("127.0.0.1")
    async with Upstream(*[OK] * 9) as upstream, opened(clock, resolve=names.resolve, idle_s=600.0) as client:
        moved = await asyncio.start_server(answer_once, "127.0.0.2", int(upstream.url.rpartition(":")[2]))
        url = upstream.url.replace("127.0.0.1", "many.example")
        for _ in range(3):
            assert await get(client, url) == (200, b"ok")
        assert (names.asked, upstream.connections) == (1, 1)
        clock.move(29)
        await get(client, url)
        assert names.asked == 1
        clock.move(2)
        await get(client, url)
        assert (names.asked, upstream.connections) == (2, 1)
        names.addresses = []
        clock.move(31)
        assert await get(client, url) == (200, b"ok"), "a resolver that is away takes no connection from anybody"
        names.addresses = ["127.0.0.2"]
        await get(client, url)
        assert names.asked == 3
        clock.move(31)
        assert await get(client, url) == (200, b"ok")
        assert (len(upstream.requests), upstream.connections) == (7, 1)
        await until(lambda: upstream.left == 1)
        moved.close()


@story
async def test_a_policy_that_permits_no_more_ends_what_is_kept(stage):
    clock, names, policy = HandClock(), Names("127.0.0.1"), Only("127.0.0.1")
    async with Upstream(*[OK] * 4) as upstream, opened(clock, policy, resolve=names.resolve, idle_s=600.0) as client:
        url = upstream.url.replace("127.0.0.1", "many.example")
        await asyncio.gather(get(client, url), get(client, url))
        policy.permitted = ()
        clock.move(31)
        with pytest.raises(AddressRefused):
            await get(client, url)
        await until(lambda: client.statistics().connections_idle == 0)
        assert len(upstream.requests) == 2


@story
async def test_a_caller_that_leaves_while_a_name_is_resolved_anew_leaves_no_connection_behind(stage):
    clock, names, silent = HandClock(), Names("127.0.0.1"), asyncio.Event()
    async with Upstream(*[OK] * 2) as upstream, opened(clock, resolve=names.resolve, idle_s=600.0) as client:
        url = upstream.url.replace("127.0.0.1", "many.example")
        await get(client, url)

        async def hang(_host, _port):
            await silent.wait()
            return ["127.0.0.1"]

        client._resolve = hang
        clock.move(31)
        caller = asyncio.create_task(get(client, url))
        await until(lambda: client._looking)
        caller.cancel()
        await until(lambda: upstream.left == 1)
        silent.set()
        await until(lambda: not client._looking)


@story
async def test_a_silent_resolver_makes_one_request_wait_and_once(stage):
    clock, names, silent, asked = HandClock(), Names("127.0.0.1"), asyncio.Event(), []
    async with Upstream(*[OK] * 4) as upstream, opened(clock, resolve=names.resolve, idle_s=600.0) as client:
        url = upstream.url.replace("127.0.0.1", "many.example")
        await asyncio.gather(get(client, url), get(client, url))

        async def hang(host, _port):
            asked.append(host)
            await silent.wait()
            return ["127.0.0.1"]

        client._resolve = hang
        clock.move(31)
        hurried = Timeouts(connect_s=0.05, first_byte_s=240.0, idle_s=240.0)
        assert await get(client, url, hurried) == (200, b"ok")
        kept = [each for held in client._idle.values() for each in held]
        assert {each.believed_until for each in kept} == {clock.monotonic() + client.limits.resolve_s}
        assert (len(kept), asked) == (2, ["many.example"])
        silent.set()
        await until(lambda: not client._looking)


class Only:
    """Permits a fixed set of addresses and remembers what it was asked."""

    def __init__(self, *permitted: str) -> None:
        self.permitted = permitted
        self.asked: list[tuple[str, str, int]] = []

    def permits(self, host: str, address: str, port: int) -> bool:
        self.asked.append((host, address, port))
        return address in self.permitted


@story
async def test_the_address_policy_sees_what_is_really_dialled(stage):
    async with Upstream(OK) as upstream:
        by_name = upstream.url.replace("127.0.0.1", "localhost")
        policy = Only("127.0.0.1")
        async with opened(policy=policy) as client:
            assert await get(client, by_name) == (200, b"ok")
        assert ("localhost", "127.0.0.1", int(by_name.rpartition(":")[2])) in policy.asked
        refuser = Only()
        async with opened(policy=refuser) as client:
            for url in (by_name, upstream.url, "unix:/run/x.sock:/", upstream.url.replace("127.0.0.1", "2130706433")):
                with pytest.raises(AddressRefused):
                    await get(client, url)
        assert upstream.connections == 1


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a/",
        "http://",
        "http://u:p@a/",
        "http://a/ b",
        "http://a/\r\nX: y",
        "unix:relative:/x",
        "unix:/a.sock",
        "http://ä/",
    ],
)
def test_a_url_that_is_none_is_refused_before_anything_happens(url):
    client = Client(ClientLimits(), SystemClock())
    with pytest.raises(ValueError):
        client.request("GET", url)


@pytest.mark.parametrize(
    ("method", "field"), [("GET", (b"x", b"a\r\nb: c")), ("GET", (b"x\n", b"a")), ("G\r\nET", (b"x", b"y"))]
)
def test_nothing_given_can_split_the_request(method, field):
    client = Client(ClientLimits(), SystemClock())
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        client.request(method, "http://a/", [field])


@story
async def test_the_request_is_framed_by_the_client_alone(stage):
    async with Upstream(OK, OK) as upstream, opened() as client:
        forged = [
            (b"Content-Length", b"99"),
            (b"transfer-encoding", b"chunked"),
            (b"host", b"shop.example"),
            (b"a", b"b"),
        ]
        async with client.request("POST", upstream.url + "/x?y", forged, b"") as answer:
            await answer.read(10)
        assert upstream.requests == [b"POST /x?y HTTP/1.1\r\nhost: shop.example\r\na: b\r\ncontent-length: 0\r\n\r\n"]


@story
async def test_a_unix_socket_is_asked_by_its_path(stage, tmp_path):
    async def handler(exchange):
        await exchange.respond(200, [], exchange.request.target + exchange.request.headers.get(b"host"))

    server = Server(handler, WireLimits(), mint=lambda: "req_1", clock=SystemClock())
    await server.listen_unix(tmp_path / "a.sock")
    async with opened() as client:
        for _ in range(2):
            assert await get(client, f"unix:{tmp_path}/a.sock:/v1/x?y=:/z") == (200, b"/v1/x?y=:/zlocalhost")
        assert client.statistics().connections_opened_total == 1
    await server.drain(1.0)


def certificate(tmp_path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somewhere")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "cert.pem"
    pem.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


async def secured(tmp_path):
    """A server with a certificate for 127.0.0.1, its address, and a context that trusts it."""
    pem = certificate(tmp_path)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(pem)

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    return server, url, ssl.create_default_context(cafile=pem)


@story
async def test_https_is_verified_by_name_and_by_issuer(stage, tmp_path):
    server, url, trusting = await secured(tmp_path)
    async with opened(tls=trusting) as client:
        for _ in range(3):
            assert await get(client, url) == (200, b"ok")
        assert client.statistics().connections_opened_total == 1
        with pytest.raises(UpstreamConnectError):
            await get(client, url.replace("127.0.0.1", "localhost"))
    async with opened() as stranger:
        with pytest.raises(UpstreamConnectError):
            await get(stranger, url)
    server.close()
    await asyncio.sleep(0.05)


# A busy machine is no proxy that hangs.
PATIENT = Timeouts(connect_s=60.0)


class Proxy:
    """Opens tunnels, or answers as it is told; keeps the heads that it was sent."""

    def __init__(self, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
        self.answer = answer
        self.heads: list[bytes] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await asyncio.sleep(0.01)

    async def _serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        writer.write(self.answer)
        if b" 200 " not in self.answer:
            writer.close()
            return
        # Where the tunnel leads says its port: names are the proxy's own to resolve.
        port = int(head.split(b" ")[1].rpartition(b":")[2])
        there, beyond = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(self._pump(reader, beyond), self._pump(there, writer))

    async def _pump(self, source, sink):
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                sink.write(data)
        sink.close()


@story
async def test_https_goes_through_the_proxy_and_is_verified_behind_it(stage, tmp_path):
    server, url, trusting = await secured(tmp_path)
    async with Proxy() as proxy, Upstream(OK) as plain:
        way = ForwardProxy("127.0.0.1", proxy.port, authorization="dTpw")
        async with opened(tls=trusting, proxy=way) as client:
            for _ in range(2):
                assert await get(client, url, timeouts=PATIENT) == (200, b"ok")
            (head,) = proxy.heads
            place = url[8:-1]
            wanted = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
            assert head == wanted.encode()
            with pytest.raises(UpstreamConnectError):
                await get(client, url.replace("127.0.0.1", "elsewhere.example"), timeouts=PATIENT)
            assert proxy.heads[1].startswith(b"CONNECT elsewhere.example:"), "the name is not resolved here"
            assert await get(client, plain.url, timeouts=PATIENT) == (200, b"ok")
            assert len(proxy.heads) == 2, "what is no https goes past it"
        past = ForwardProxy("127.0.0.1", 1, without=("127.0.0.0/8",))
        async with opened(tls=trusting, proxy=past) as client:
            assert await get(client, url, timeouts=PATIENT) == (200, b"ok")
    server.close()
    await asyncio.sleep(0.05)


@story
async def test_a_policy_sees_where_the_tunnel_leads(stage):
    class Nowhere:
        def permits(self, _host, address, _port):
            return address != "10.0.0.1"

    async def resolve(_host, _port):
        return [found]

    async with Proxy(b"HTTP/1.1 403 Forbidden\r\n\r\n") as proxy:
        way = ForwardProxy("127.0.0.1", proxy.port)
        async with opened(policy=Nowhere(), resolve=resolve, proxy=way) as client:
            found = "10.0.0.1"
            with pytest.raises(AddressRefused):
                await get(client, "https://inside.example/", timeouts=PATIENT)
            assert proxy.heads == []
            found = "2001:db8::1"
            with pytest.raises(UpstreamConnectError, match="answered 'HTTP/1"):
                await get(client, "https://outside.example/", timeouts=PATIENT)
            assert proxy.heads[0].startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n")


@story
async def test_a_proxy_that_says_nothing_or_too_much_gives_no_connection(stage):
    for answer in (b"HTTP/1.1 200 OK\r\n\r\nmore", b"HTTP/1.1 502 \r\n\r\n", b"x" * 20_000, b"220 ready\r\n\r\n"):
        async with Proxy(answer) as proxy, opened(proxy=ForwardProxy("127.0.0.1", proxy.port)) as client:
            with pytest.raises(UpstreamConnectError):
                await get(client, "https://shop.example/", timeouts=PATIENT)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        way = ForwardProxy("127.0.0.1", silent.getsockname()[1])
        async with opened(proxy=way) as client:
            with pytest.raises(UpstreamTimeout):
                await get(client, "https://shop.example/", timeouts=Timeouts(connect_s=0.05))


def test_the_environment_names_the_proxy_and_what_goes_past_it():
    assert ForwardProxy.of({}) is None
    way = ForwardProxy.of({"HTTPS_PROXY": "http://u:p%40@proxy.example:3128", "NO_PROXY": " .Shop.example, 10.0.0.0/8"})
    assert (way.host, way.port, way.authorization) == ("proxy.example", 3128, "dTpwQA==")
    assert "dTpwQA" not in repr(way)
    led = {host: way.leads_to("https", host) for host in ("a.shop.example", "shop.example", "10.1.2.3", "11.1.2.3")}
    assert led == {"a.shop.example": False, "shop.example": False, "10.1.2.3": False, "11.1.2.3": True}
    assert way.leads_to("https", "workshop.example")
    assert not way.leads_to("http", "other.example")
    assert not way.leads_to("unix", "/run/x.sock")
    assert not ForwardProxy.of({"https_proxy": "proxy:1", "no_proxy": "*"}).leads_to("https", "a.example")
    for wrong in ("https://proxy:1", "http://", "http://proxy/path", "socks5://proxy:1"):
        with pytest.raises(ValueError, match="HTTPS_PROXY is"):
            ForwardProxy.of({"HTTPS_PROXY": wrong})


@story
async def test_of_several_addresses_the_first_that_answers_wins(stage):
    async def resolve(_host, _port):
        return ["127.0.0.2", "127.0.0.3", "127.0.0.1"]

    async with Upstream(OK) as upstream, opened(connect_stagger_s=0.05, resolve=resolve) as client:
        port = upstream.url.rpartition(":")[2]
        assert await get(client, f"http://many.example:{port}/") == (200, b"ok")
        assert upstream.connections == 1
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            with pytest.raises(UpstreamConnectError):
                await get(client, f"http://many.example:{deaf.getsockname()[1]}/")


@story
async def test_an_address_that_hangs_gives_way_to_the_next(stage):
    async def resolve(_host, _port):
        return ["127.0.0.1", "127.0.0.2"]

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        stuffing = [socket.socket() for _ in range(4)]
        for sock in stuffing:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        other = await asyncio.start_server(answer_once, "127.0.0.2", port)
        async with opened(connect_stagger_s=0.02, resolve=resolve) as client:
            assert await get(client, f"http://many.example:{port}/") == (200, b"ok")
        other.close()
        for sock in stuffing:
            sock.close()


async def answer_once(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK)
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


SCRIPT = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n|one|two|three|"


@story
async def test_a_pumped_body_comes_in_order_and_keeps_its_connection(stage):
    async with Upstream(SCRIPT + b"4", OK) as upstream, opened() as client:
        pieces = []
        async with client.request("GET", upstream.url) as answer:
            await answer.pump(lambda piece: pieces.append(piece) is None)
            assert await anext(answer.chunks(), b"") == b""
        assert b"".join(pieces) == b"onetwothree4"
        assert await get(client, upstream.url) == (200, b"ok")
        assert upstream.connections == 1


async def read_on(answer):
    while await answer.within(240.0):
        pass


@story
async def test_who_waits_for_a_piece_is_told_of_the_silence_and_may_go_on_waiting(stage):
    async with Upstream(SCRIPT) as upstream, opened() as client:
        async with client.request("GET", upstream.url, timeouts=PATIENT) as answer:
            taken = b""
            while taken != b"onetwothree":
                piece = await answer.within(240.0)
                assert piece
                taken += piece
            assert await answer.within(0.05) is None
            assert await answer.within(0.0) is None
            upstream.writers[-1].write(b"4")
            assert await answer.within(240.0) == b"4"
            assert await answer.within(0.05) == b""


@story
async def test_a_wait_for_a_piece_ends_with_a_broken_or_silent_upstream(stage):
    async with Upstream(SCRIPT, closes=True) as upstream, opened() as client:
        with pytest.raises(UpstreamBroken):
            async with client.request("GET", upstream.url) as answer:
                await read_on(answer)
    async with Upstream(SCRIPT) as upstream, opened() as client:
        with pytest.raises(UpstreamTimeout, match="idle"):
            async with client.request("GET", upstream.url, timeouts=Timeouts(idle_s=0.05)) as answer:
                await read_on(answer)


@story
async def test_who_stops_a_pump_reads_the_rest_himself(stage):
    async with Upstream(SCRIPT + b"4") as upstream, opened() as client:
        taken = b""

        def take(piece):
            nonlocal taken
            taken += piece
            return False

        async with client.request("GET", upstream.url) as answer:
            await answer.pump(take)
            await answer.pump(take)
            assert taken + await answer.read(100) == b"onetwothree4"


@story
async def test_a_fault_of_who_takes_is_raised_where_he_pumps(stage):
    async with Upstream(SCRIPT) as upstream, opened() as client:
        with pytest.raises(ZeroDivisionError):
            async with client.request("GET", upstream.url) as answer:
                await answer.pump(lambda _: 1 / 0)


@story
@pytest.mark.parametrize("trailer", [b"a: b\r\n" * 300, b"a: " + b"b" * 70_000], ids=["lines", "one"])
async def test_a_trailer_without_an_end_is_no_memory_of_a_pump(stage, trailer):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n|0\r\n" + trailer
    async with Upstream(chunked) as upstream, opened() as client:
        with pytest.raises(UpstreamBroken, match="too long"):
            async with client.request("GET", upstream.url, timeouts=PATIENT) as answer:
                await asyncio.wait_for(answer.pump(lambda _: True), 60)


@story
async def test_a_pump_ends_with_a_broken_or_silent_upstream(stage):
    async with Upstream(SCRIPT, closes=True) as upstream, opened() as client:
        pieces = []
        with pytest.raises(UpstreamBroken):
            async with client.request("GET", upstream.url) as answer:
                await answer.pump(lambda piece: pieces.append(piece) is None)
        assert b"".join(pieces) == b"onetwothree"
    async with Upstream(SCRIPT) as upstream, opened() as client:
        with pytest.raises(UpstreamTimeout, match="idle"):
            async with client.request("GET", upstream.url, timeouts=Timeouts(idle_s=0.05)) as answer:
                await answer.pump(lambda _: True)


@story
async def test_a_silence_behind_a_read_of_many_pieces_is_seen_by_a_pump(stage):
    three = b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n"
    script = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n-\r\n|" + three
    async with Upstream(script) as upstream, opened() as client:
        pieces = []
        with pytest.raises(UpstreamTimeout, match="idle"):
            async with client.request("GET", upstream.url, timeouts=Timeouts(idle_s=0.5, total_s=240.0)) as answer:
                await answer.pump(lambda piece: pieces.append(piece) is None)
        assert pieces == [b"-", b"abc"]


@story
@pytest.mark.parametrize("rest", [b"", b"\0", b"HTTP/1.1 200"])
@pytest.mark.parametrize("is_pumped", [True, False])
async def test_what_stands_behind_an_answer_in_one_read_is_no_part_of_it(stage, is_pumped, rest):
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n|2\r\nok\r\n0\r\n\r\n"
    behind = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with Upstream(whole + behind + rest, OK) as upstream, opened() as client:
        pieces = []
        async with client.request("GET", upstream.url) as answer:
            if is_pumped:
                await answer.pump(lambda piece: pieces.append(piece) is None)
            pieces.append(await answer.read(100))
        assert b"".join(pieces) == b"ok"
        assert await get(client, upstream.url) == (200, b"ok")
        assert upstream.connections == 2
