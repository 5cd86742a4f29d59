"""A worker that dies in the middle of a listing: the listing ends after all, with every document once."""

import os
import signal
import time

import pytest

from tests.support import platform as running

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("source-crash")]

FILES = 160
SETTINGS = {
    "INTERLOCK_RETRIEVAL__LEASE_TTL_S": "5",
    # A listing of many steps: whoever looks for its middle may be slower than the worker.
    "INTERLOCK_RETRIEVAL__SYNC_BATCH_DOCUMENTS": "1",
    "INTERLOCK_RETRIEVAL__EMBEDDER": "none",
}


@pytest.fixture
def platform():
    started = running.start("--roles", "edge,control,worker", env=SETTINGS)
    yield started
    running.remove(started)


def test_a_worker_killed_in_mid_sync_costs_no_document_and_doubles_none(platform):
    wiki = platform.directory / "import" / "wiki"
    for number in range(FILES):
        path = wiki / f"team-{number % 7}" / f"page-{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Page {number}\n\nThe walnut of page {number}.\n\n" + "More words follow here. " * 40)
    (wiki / "OWNERS").write_text("approvers: [alice]\n")
    owner = platform.owner
    body = {"name": "wiki", "kind": "folder", "config": {"path": str(wiki)}}
    source = owner.call("POST", "/v1/retrieval/sources", body).body["id"]
    asked = owner.call("POST", f"/v1/retrieval/sources/{source}/sync", {})
    assert asked.status == 202, asked
    kills = 0
    for wanted in (20, 40):
        wait(lambda wanted=wanted: run_of(owner, source)["added"] >= wanted or run_of(owner, source)["finished_at"])
        run = run_of(owner, source)
        if run["finished_at"] is None:
            pid = platform.pid("worker")
            os.kill(pid, signal.SIGKILL)
            kills += 1
            wait(lambda dead=pid: platform.pid("worker") not in {None, dead})
    assert kills, "the listing was over before anybody could kill its worker"
    wait(lambda: run_of(owner, source)["finished_at"] is not None, within_s=400)
    run = run_of(owner, source)
    assert (run["state"], run["errors"]) == ("done", []), run
    names = external_ids(owner, source)
    assert len(names) == len(set(names)) == FILES
    figures = owner.call("GET", f"/v1/retrieval/sources/{source}").body
    assert (figures["documents"]["live"], figures["state"]) == (FILES, "idle")
    question = {"query": "walnut", "k": 100, "principal": f"ext:{source}:user:alice"}
    hits = owner.call("POST", "/v1/retrieval/search", question).body["hits"]
    assert len({hit["document_id"] for hit in hits}) == 100

    pages_tell_of(owner, source)


def pages_tell_of(owner, source):
    """The console's pages of it, as HTML and without a word of the text."""
    document = owner.call("GET", f"/v1/retrieval/documents?source={source}&limit=1").body["data"][0]["id"]
    told = {
        "/console/sources": "wiki",
        f"/console/sources/{source}": "team-0",
        f"/console/sources/{source}?state=deleted": "No document here",
        f"/console/documents/{document}": "History",
    }
    for path, word in told.items():
        answer = owner.call("GET", path)
        page = answer.body.decode()
        assert answer.status == 200, (path, page[-400:])
        assert word in page, path
        assert "walnut" not in page
    missing = owner.call("GET", f"/console/documents/{document[:-4]}zzzz")
    assert missing.status == 404


def run_of(owner, source):
    return owner.call("GET", f"/v1/retrieval/sources/{source}").body["last_sync"]


def external_ids(owner, source):
    names, cursor = [], ""
    while True:
        page = owner.call("GET", f"/v1/retrieval/documents?source={source}&limit=200{cursor}").body
        names += [each["external_id"] for each in page["data"] if each["state"] == "live"]
        if page["next_cursor"] is None:
            return names
        cursor = f"&cursor={page['next_cursor']}"


def wait(condition, within_s=240.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.03)
