"""Scripted upstreams of both families, by http or https, and how an edge comes to know them.

Answers by what is asked: a tool where one must be used, words else. It keeps what it was sent.
"""

import asyncio
import datetime as dt
import json
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from interlock.foundation.flags import bump
from interlock.foundation.wire import Server, WireLimits, encode_event
from interlock.gateway.domain.directory import Deployment, Provider, RouteSpec, Target, Weight
from interlock.gateway.domain.versions import canonical_spec, digest_of
from interlock.gateway.service.register import SQL
from interlock.gateway.store import routes as rows
from tests.gateway.worlds import CLOCK, IDS

WORDS = ["Your ", "order ", "is ", "on ", "its ", "way."]
ARGUMENTS = ['{"loc', 'ation": "San ', 'Francisco"}']
JSON = [(b"content-type", b"application/json")]
STREAM = [(b"content-type", b"text/event-stream")]


@dataclass
class Vendor:
    """One upstream that speaks both dialects. `script` replaces what it would say."""

    url: str = ""
    seen: list = field(default_factory=list)
    script: list = field(default_factory=list)
    status: int = 200

    @property
    def last(self):
        return self.seen[-1]

    async def handle(self, exchange):
        request = exchange.request
        body = json.loads(await request.body(1 << 24))
        headers = {name.decode(): value.decode() for name, value in request.headers.items}
        self.seen.append((request.path, body, headers))
        if self.status != 200:
            return await exchange.respond(self.status, JSON, self.script[0])
        if request.path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
            usage = {"prompt_tokens": 7, "total_tokens": 7}
            told = {"object": "list", "data": [vector], "model": body["model"], "usage": usage}
            return await exchange.respond(200, JSON, json.dumps(told).encode())
        if request.path.endswith("/count_tokens"):
            return await exchange.respond(200, JSON, b'{"input_tokens": 42}')
        if not isinstance(body.get("messages"), list) or not all(isinstance(each, dict) for each in body["messages"]):
            return await exchange.respond(400, JSON, b'{"error":{"message":"messages is a list of objects"}}')
        is_messages = request.path.endswith("/messages")
        if body.get("stream"):
            events = self.script or (_messages_events(body) if is_messages else _chat_events(body))
            await exchange.start(200, STREAM)
            for event in events:
                await exchange.write(event)
            return await exchange.finish()
        whole = _message(body) if is_messages else _completion(body)
        return await exchange.respond(200, JSON, json.dumps(whole).encode())


def _uses_tool(body):
    choice = body.get("tool_choice") or {}
    forced = choice == "required" or (isinstance(choice, dict) and choice.get("type") in ("any", "tool", "function"))
    answered = any(each.get("role") == "tool" or "tool_result" in json.dumps(each) for each in body["messages"])
    return bool(body.get("tools")) and not answered and (forced or body.get("tool_choice") != "none")


def _completion(body):
    message = {"role": "assistant", "content": "".join(WORDS), "refusal": None, "annotations": []}
    finish = "stop"
    if _uses_tool(body):
        function = {"name": "get_weather", "arguments": "".join(ARGUMENTS)}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        finish = "tool_calls"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17},
    }  # fmt: skip


def _chat_events(body):
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

    def chunk(delta, finish=None):
        return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    chunks = [chunk({"role": "assistant", "content": ""})]
    if _uses_tool(body):
        start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        chunks.append(chunk({"tool_calls": [start]}))
        chunks += [chunk({"tool_calls": [{"index": 0, "function": {"arguments": each}}]}) for each in ARGUMENTS]
        chunks.append(chunk({}, "tool_calls"))
    else:
        chunks += [chunk({"content": word}) for word in WORDS]
        chunks.append(chunk({}, "stop"))
    chunks.append(head | {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17}})
    return [encode_event(json.dumps(each)) for each in chunks] + [encode_event("[DONE]")]


def _message(body):
    content, reason = [{"type": "text", "text": "".join(WORDS), "citations": None}], "end_turn"
    if _uses_tool(body):
        told = json.loads("".join(ARGUMENTS))
        content, reason = [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": told}], "tool_use"
        content[0]["caller"] = {"type": "direct"}
    return {
        "id": "msg_up", "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": reason, "stop_sequence": None, "stop_details": None, "container": None,
        "usage": {
            "input_tokens": 8, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0, "output_tokens": 6,
            "cache_creation": None, "output_tokens_details": None, "server_tool_use": None, "service_tier": "standard",
            "inference_geo": None,
        },
    }  # fmt: skip


def _messages_events(body):
    message = _message(body)
    start = message | {"content": [], "stop_reason": None, "usage": message["usage"] | {"output_tokens": 1}}
    events = [{"type": "message_start", "message": start}]
    block = message["content"][0]
    if block["type"] == "tool_use":
        events.append({"type": "content_block_start", "index": 0, "content_block": block | {"input": {}}})
        deltas = [{"type": "input_json_delta", "partial_json": each} for each in ARGUMENTS]
    else:
        events.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        deltas = [{"type": "text_delta", "text": each} for each in WORDS]
    events.append({"type": "ping"})
    events += [{"type": "content_block_delta", "index": 0, "delta": each} for each in deltas]
    events.append({"type": "content_block_stop", "index": 0})
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 6}})
    events.append({"type": "message_stop"})
    return [encode_event(json.dumps(each), event=each["type"]) for each in events]


@asynccontextmanager
async def vendor(tls=None):
    """Yield a running upstream; with a context, behind TLS."""
    made = Vendor()
    server = Server(made.handle, WireLimits(), mint=lambda: "req_upstream0000", clock=CLOCK)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await server.listen(sock)
    made.url = f"http://127.0.0.1:{port}"
    front = None
    if tls is not None:
        front = await asyncio.start_server(lambda *ends: _pipe(port, *ends), "127.0.0.1", 0, ssl=tls)
        made.url = f"https://localhost:{front.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        if front is not None:
            front.close()
        await server.drain(0.5)


async def _pipe(port, reader, writer):
    """Carry bytes between a TLS connection and the plain server."""
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

    async def carry(source, target):
        try:
            while piece := await source.read(65_536):
                target.write(piece)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))


def authority():
    """A certificate of `localhost` signed by nobody else: the context of a server, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=365))
        .not_valid_after(now + dt.timedelta(days=3_650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, made


def contexts(folder):
    """Return the TLS contexts of a server, and of a client that trusts it."""
    key, certificate = authority()
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=folder / "cert.pem")


async def lead(edge, alias, kind, base_url, *, secret=None):
    """Lead an alias of the edge's organization to an upstream."""
    owner = edge.scope.organization_id
    provider = Provider(owner, f"{alias}-vendor", kind, base_url, secret=secret)
    spec = RouteSpec(targets=(Target(alias),))
    deployment = Deployment(owner, alias, provider.name, "upstream-model")
    async with edge.store.transaction(edge.scope) as tx:
        address = (provider.kind, provider.base_url, None, secret)
        await tx.execute(SQL.put_provider, owner, provider.name, IDS.new(), *address)
        await tx.execute(SQL.put_deployment, owner, alias, IDS.new(), provider.name, "upstream-model")
        content = (canonical_spec(spec), digest_of(spec, [deployment]))
        await rows.add_version(tx, (owner, alias), IDS.new(), content, CLOCK.now_us())
        await rows.put_weight(tx, Weight(owner, alias, 1))
        await bump(tx, "routes")
    # By the feed alone: it reads in order, where a second reader could put back what it read before.
    await edge.until(lambda: edge.process.memory.directory.find(owner, alias) is not None)
