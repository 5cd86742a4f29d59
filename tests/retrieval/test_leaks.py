"""The leak gate: a short walk finds nothing, and a build that ignores deny is found out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.cli.leaks.oracle import Folder, Note, Oracle
from tests.support.store import short_directory

ROOT = Path(__file__).parents[2]
STEPS = 30
PLANTED_STEPS = 60
# A build in which no list denies anybody, on both paths: what is loaded before any role runs.
PLANTED = """
import dataclasses
import interlock.retrieval.domain.access as access
import interlock.retrieval.store.ingest.access as ingest
import interlock.retrieval.store.reading.guard as guard
import interlock.retrieval.store.reading.history as history
right = access.effective
def without_deny(own, folders):
    return dataclasses.replace(right(own, folders), deny=())
access.effective = ingest.effective = guard.effective = history.effective = without_deny
"""
# A build whose first path alone ignores deny: the second must hold everything back.
HALF = """
import dataclasses
import interlock.retrieval.store.reading.search as search
query = search.SQL.resolve
search.SQL._loaded["resolve"] = dataclasses.replace(
    query, sql=query.sql.replace("(SELECT d.set_id FROM hit d WHERE d.effect = 'deny')", "(SELECT -1)")
)
"""


def walk(tmp_path, planted, seed=1, steps=STEPS):
    (tmp_path / "sitecustomize.py").write_text(planted)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"}
    place = short_directory()
    command = [sys.executable, "-m", "interlock", "sources", "leaktest", "--seed", str(seed), "--steps", str(steps)]
    try:
        return subprocess.run(
            [*command, "--data", str(place)], capture_output=True, text=True, timeout=850, check=False, env=environment
        )
    finally:
        shutil.rmtree(place)


@pytest.mark.real
def test_a_walk_through_every_surface_finds_no_leak(tmp_path):
    done = walk(tmp_path, "")
    assert done.stdout.splitlines()[-1] == f"leaks: 0 steps: {STEPS} seed: 1", done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.real
@pytest.mark.parametrize("planted", [PLANTED, HALF], ids=["both paths", "the first path"])
def test_a_build_that_ignores_deny_is_found_out(tmp_path, planted):
    done = walk(tmp_path, planted, steps=PLANTED_STEPS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert not done.stdout.splitlines()[-1].startswith("leaks: 0 ")


def test_the_oracle_knows_deny_clauses_folders_and_cycles():
    oracle = Oracle(edges={("u", "g"), ("g", "h"), ("h", "g")}, folders={("s", "/a"): Folder({"allow": ["h"]})})

    def note(acl, container=None):
        return Note("d", "e", "s", container, acl, "canary")

    assert oracle.held_by("u") == {"u", "g", "h", "everyone"}
    assert oracle.may_read("u", note({"allow": [["g", "h"]]}))
    assert not oracle.may_read("u", note({"allow": [["g", "x"]]}))
    assert not oracle.may_read("u", note({"allow": ["everyone"], "deny": ["h"]}))
    assert not oracle.may_read("u", note({"allow": []}))
    assert not oracle.may_read("u", note(None))
    assert oracle.may_read("u", note({"allow": [], "inherit": True}, "/a/b"))
    assert not oracle.may_read("u", note({"allow": [], "inherit": False}, "/a/b"))
    oracle.folders["s", "/a/b"] = Folder(None, inherit=False)
    assert not oracle.may_read("u", note({"allow": [], "inherit": True}, "/a/b"))
    oracle.dark.add("s")
    assert not oracle.may_read("u", note({"allow": ["everyone"]}))
