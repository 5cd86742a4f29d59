"""The first quarter of an hour of a newcomer: up, a key, the official client, the story, down."""

import json
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import openai
import pytest

from tests.journeys.processes import listening_sockets, lives, pids, tree, until
from tests.support.platform import ROOT, remove, start

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
ROLES = {"supervisor", "store-0", "control-0", "scheduler-0", "engine-0", "edge-0", "edge-1", "worker-0"}
QUESTION = [{"role": "user", "content": "In one short sentence: what is a warehouse?"}]


@pytest.fixture(scope="module")
def newcomer(embedded):
    """A key made the way the first page of the documentation says."""
    made = embedded.cli("keys", "create", "--workspace", "default", "--scopes", "inference,requests:read", "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)
    limit = ("--scope", "key", "--target", key["id"], "--dimension", "tokens_per_minute", "--model", "*")
    limited = embedded.cli("limits", "set", *limit, "--limit", "6000", "--json")
    assert limited.returncode == 0, limited.stderr
    return key


def test_the_official_client_streams_an_answer_and_its_id_opens_the_whole_story(embedded, newcomer):
    client = openai.OpenAI(base_url=f"{embedded.url}/v1", api_key=newcomer["key"], max_retries=0, timeout=300)
    with (
        client,
        client.chat.completions.create(
            model="default",
            messages=QUESTION,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream,
    ):
        request_id = stream.response.headers["x-request-id"]
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert len(text.split()) > 2
    assert usage.completion_tokens > 2
    story = embedded.story(request_id, embedded.as_key(newcomer["key"]))
    assert (story["outcome"], story["status"], story["complete"]) == ("ok_stream", 200, True)
    assert story["rule"]
    assert story["key_id"] == newcomer["id"]
    assert story["usage"]["output_tokens"] == usage.completion_tokens
    steps = [decision["step"] for decision in story["decisions"]]
    for step in ("received", "authenticated", "parsed", "limits", "route", "grant", "attempt", "settle", "finished"):
        assert step in steps, steps
    assert [decision["seq"] for decision in story["decisions"]] == list(range(len(steps)))
    told = embedded.cli("trace", request_id)
    assert told.returncode == 0
    assert story["rule"] in told.stdout
    assert "ok_stream" in told.stdout


def test_a_whole_answer_says_what_the_stream_would(embedded, newcomer):
    with openai.OpenAI(base_url=f"{embedded.url}/v1", api_key=newcomer["key"], max_retries=0, timeout=300) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="default", messages=QUESTION, max_tokens=8, temperature=0
        )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert raw.headers["x-request-id"] == raw.headers["request-id"]
    assert embedded.story(raw.headers["x-request-id"])["outcome"] == "ok"


def test_exactly_one_tcp_socket_listens_and_it_is_not_the_engines(embedded):
    named = pids(embedded.directory)
    assert set(named) == ROLES
    everyone = tree(named["supervisor"]) | tree(named["store-0"])
    held = {pid: listening_sockets(pid) for pid in everyone}
    ports = {inode: port for sockets in held.values() for inode, port in sockets.items()}
    assert list(ports.values()) == [int(embedded.url.rpartition(":")[2])]
    engine = tree(named["engine-0"])
    assert not [pid for pid in engine if held[pid]]
    assert {name for name, pid in named.items() if held[pid]} == {"supervisor", "edge-0", "edge-1"}


def test_nobody_else_may_read_the_data_directory(embedded):
    root = embedded.directory
    assert stat.S_IMODE(root.stat().st_mode) in {0o700, 0o711}
    open_folders, open_files = [], []
    for path, found in everything_below(root):
        # The sandbox's own program is there for users who may do nothing else; it holds no data.
        if path.is_relative_to(root / "agents" / "bin"):
            continue
        if stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) not in {0o700, 0o711}:
            open_folders.append((oct(found.st_mode), str(path)))
        if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) != 0o600 and "bin-" not in str(path):
            open_files.append((oct(found.st_mode), str(path)))
    assert open_folders == []
    assert open_files == []


def everything_below(root):
    """Yield path and status of all that is there; what goes away meanwhile is passed over."""
    for folder, names, others in os.walk(root):
        for path in (Path(folder) / name for name in (*names, *others)):
            with suppress(FileNotFoundError):
                yield path, path.lstat()


def test_a_second_up_names_the_first_one(embedded):
    command = [sys.executable, "-m", "interlock", "up", "--data", str(embedded.directory), "--port", "0"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=ROOT)
    assert second.returncode == 1
    assert "data_directory_in_use" in second.stderr
    assert str(embedded.pid("supervisor")) in second.stderr
    embedded.await_ready()


def test_down_ends_everything_and_the_next_up_keeps_what_was_there():
    running = start("--engine", "none", "--edge-workers", "1")
    try:
        key = running.owner_key
        named = pids(running.directory)
        everyone = tree(named["supervisor"]) | tree(named["store-0"])
        down = running.cli("down")
        assert (down.returncode, running.process.wait(240)) == (0, 0), down.stderr
        until(lambda: not [pid for pid in everyone if lives(pid)], what="the end of everyone")
        running = start("--engine", "none", "--edge-workers", "1", directory=running.directory)
        assert running.owner_key == key
        assert running.owner.call("GET", "/admin/v1/workspaces").status == 200
    finally:
        remove(running)
