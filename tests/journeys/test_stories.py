"""Whatever happens to a request, the id of its answer opens a story that says what and by which rule.

The matrix of all outcome classes is held next to the gateway; here a caller meets the platform as it was started.
"""

import http.client
import json
import os
import signal
import socket
import time
from urllib.parse import urlsplit

import pytest

from interlock.scheduler import Fault, Script
from tests.journeys.processes import edge_behind, pids, until
from tests.support.collector import attributes

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
PATIENCE_S = 180.0
CHAT = "/v1/chat/completions"
# Nobody reads it to its end, however long a test takes to leave it.
SLOW = Script(tokens=400, token_s=5.0)
HELLO = {"model": "default", "messages": [{"role": "user", "content": "Where is my order?"}]}


@pytest.fixture(scope="module")
def key(scripted):
    return scripted.key("stories")


def raw(running, content):
    """Send bytes as they are; return status and headers of the answer."""
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as connection:
        connection.sendall(content)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def posted(running, key, body, **more):
    """One call with a body of bytes, and more headers."""
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=PATIENCE_S)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", CHAT, body, headers | more)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def asked(platform, method, path, body=None):
    answer = platform.call(method, path, body)
    return answer.status, answer.headers


def head(key, *lines):
    fields = ["POST /v1/chat/completions HTTP/1.1", "host: interlock", f"authorization: Bearer {key}", *lines]
    return "\r\n".join([*fields, "", ""]).encode()


def broken_json(running, key):
    return posted(running, key["key"], b'{"model": "default", "messages": [}')


def wrong_field(running, key):
    return asked(running.as_key(key["key"]), "POST", CHAT, {**HELLO, "max_tokens": -1})


def smuggled(running, key):
    return raw(running, head(key["key"], "content-length: 4", "transfer-encoding: chunked") + b"0\r\n\r\n")


def malformed(running, _):
    return raw(running, b"GET / HTTP/1.1\r\nhost: a\r\nbroken header\r\n\r\n")


def stranger(running, _):
    return asked(running.as_key("il_live_nobody"), "POST", CHAT, HELLO)


def keyless(running, _):
    return asked(running.as_key(""), "POST", CHAT, HELLO)


def without_scope(running, _):
    reader = running.key("reader", scopes=["requests:read"])
    return asked(running.as_key(reader["key"]), "POST", CHAT, HELLO)


def other_model(running, _):
    narrow = running.key("narrow", models=["something-else"])
    return asked(running.as_key(narrow["key"]), "POST", CHAT, HELLO)


def low_role(running, key):
    return asked(running.as_key(key["key"]), "POST", "/admin/v1/workspaces", {"name": "not-mine"})


def unknown_path(running, key):
    return asked(running.as_key(key["key"]), "POST", "/v1/audio/speech", {"model": "default"})


def unknown_model(running, key):
    return asked(running.as_key(key["key"]), "POST", CHAT, {**HELLO, "model": "gpt-unknown"})


def wrong_method(running, key):
    return asked(running.as_key(key["key"]), "GET", CHAT)


def too_large(running, key):
    return raw(running, head(key["key"], "content-type: application/json", "content-length: 30000000"))


def compressed(running, key):
    return raw(running, head(key["key"], "content-encoding: gzip", "content-length: 2") + b"{}")


def over_the_limit(running, _):
    limited = running.key("limited")
    body = {"scope": "key", "target": limited["id"], "dimension": "requests_per_minute", "limit": 1}
    assert running.owner.call("POST", "/admin/v1/limits", body).status == 201
    caller = running.as_key(limited["key"])
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = caller.call("POST", CHAT, {**HELLO, "max_tokens": 1})
        if answer.status == 429 or time.monotonic() > deadline:
            return answer.status, answer.headers


def killed(running, _):
    doomed = running.key("doomed")
    body = {"scope": "key", "target": doomed["id"], "mode": "reject", "reason": "a test of stories"}
    switch = running.owner.call("POST", "/admin/v1/kill-switches", body)
    assert switch.status == 201, switch
    caller = running.as_key(doomed["key"])
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = caller.call("POST", CHAT, HELLO)
        if answer.status == 503 or time.monotonic() > deadline:
            return answer.status, answer.headers


CASES = {
    broken_json: (400, "bad_request", "body.json"),
    wrong_field: (400, "bad_request", "body.max_tokens"),
    smuggled: (400, "bad_request", "http.bad_http"),
    malformed: (400, "bad_request", "http.bad_http"),
    stranger: (401, "unauthenticated", "key."),
    keyless: (401, "unauthenticated", "key."),
    without_scope: (403, "scope_denied", "key.scopes.inference"),
    other_model: (403, "model_denied", "key.models"),
    low_role: (403, "scope_denied", ""),
    unknown_path: (404, "bad_request", "http.not_found"),
    unknown_model: (404, "model_not_found", "model.alias"),
    wrong_method: (405, "bad_request", "http.method_not_allowed"),
    too_large: (413, "too_large", "http.body_too_large"),
    compressed: (415, "bad_request", "http.unsupported_media_type"),
    over_the_limit: (429, "limited_requests", "limit"),
    killed: (503, "killed", "kill"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_every_refusal_has_a_story_with_its_rule(scripted, key, case):
    expected_status, outcome, rule = CASES[case]
    status, headers = case(scripted, key)
    assert status == expected_status, headers
    assert headers["x-request-id"] == headers["request-id"]
    story = scripted.story(headers["x-request-id"])
    assert (story["outcome"], story["status"]) == (outcome, expected_status)
    assert story["rule"]
    assert story["rule"].startswith(rule)
    assert story["rule"] in {decision["rule"] for decision in story["decisions"]}
    told = scripted.cli("trace", headers["x-request-id"])
    assert told.returncode == 0, told.stderr
    assert story["rule"] in told.stdout
    assert outcome in told.stdout


def test_an_upstream_that_breaks_off_ends_the_stream_with_an_error_and_a_story(scripted, engine, key):
    with engine.playing(Script(tokens=6, fault=Fault.CUT, fault_after_events=3)):
        answer, events = scripted.as_key(key["key"]).stream(CHAT, {**HELLO, "stream": True})
    assert answer.status == 200
    assert json.loads(events[-1].text)["error"]["code"] == "upstream_stream_cut"
    story = scripted.story(answer.request_id)
    assert (story["outcome"], story["error_code"]) == ("stream_cut", "upstream_stream_cut")
    assert story["rule"].startswith("upstream.")


def test_a_caller_who_leaves_in_mid_stream_has_a_story_and_the_upstream_is_left_too(scripted, engine, key):
    before = engine.fake.statistics().disconnects
    with engine.playing(SLOW):
        connection, request_id, _ = begin_stream(scripted, key["key"])
        connection.close()
        story = scripted.story(request_id)
    assert (story["outcome"], story["status"], story["rule"]) == ("client_gone", 499, "client.disconnected")
    deadline = time.monotonic() + PATIENCE_S
    while engine.fake.statistics().disconnects == before:
        assert time.monotonic() < deadline, "the model server still answers nobody"
        time.sleep(0.02)


def test_the_story_of_a_killed_edge_process_says_that_it_was_lost(scripted, engine, key):
    with engine.playing(SLOW):
        connection, request_id, edge = begin_stream(scripted, key["key"])
        killed_pid = pids(scripted.directory)[edge]
        os.kill(killed_pid, signal.SIGKILL)
        assert not last_bytes(connection).endswith(b"0\r\n\r\n"), "the stream looks whole"
        story = scripted.story(request_id, scripted.as_key(key["key"]))
    assert (story["outcome"], story["rule"]) == ("worker_lost", "edge.worker_lost")
    assert story["key_id"] == key["id"]
    assert "worker_lost" in scripted.cli("trace", request_id).stdout
    # Who comes next looks at both edges; whether requests are served is told each second, and says nothing of this one.
    until(lambda: pids(scripted.directory).get(edge) not in {None, killed_pid}, PATIENCE_S, "a new edge")
    scripted.await_ready()


def test_a_request_becomes_a_span_of_the_callers_trace(scripted, spans, key):
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    status, headers = posted(scripted, key["key"], json.dumps(HELLO).encode(), traceparent=f"00-{trace}-{parent}-01")
    assert status == 200
    deadline = time.monotonic() + PATIENCE_S
    while not (found := spans.of_trace(trace)):
        assert time.monotonic() < deadline, "no span came"
        time.sleep(0.05)
    request, call = found
    said = attributes(request)
    assert said["interlock.request_id"] == headers["x-request-id"]
    assert (request.name, request.parent_span_id.hex()) == ("chat default", parent)
    assert (said["gen_ai.operation.name"], said["gen_ai.request.model"]) == ("chat", "default")
    assert said["gen_ai.usage.output_tokens"] > 0
    assert (call.parent_span_id, attributes(call)["http.response.status_code"]) == (request.span_id, 200)
    assert "Where is my order?" not in str(found), "what a caller wrote is in no span"


def last_bytes(connection):
    """What still comes until the other side is gone."""
    received = b""
    try:
        while more := connection.sock.recv(65_536):
            received += more
    except OSError:
        pass
    connection.close()
    return received


def begin_stream(running, key):
    """Read the first bytes of a stream; return the connection, the id and the edge that serves it."""
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=PATIENCE_S)
    connection.connect()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", CHAT, json.dumps({**HELLO, "stream": True}), headers)
    edges = {name: pid for name, pid in pids(running.directory).items() if name.startswith("edge-")}
    answer = connection.getresponse()
    # Only now has a process accepted the connection for sure.
    edge = edge_behind(connection, edges)
    assert answer.status == 200
    assert answer.read(20)
    return connection, answer.headers["x-request-id"], edge
