"""A secret of a provider: used, rotated under load, and found nowhere; and an audit row that somebody changed.

This part has no call that makes providers, so the test writes the provider's rows as the database's superuser.
"""

import base64
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from tests.journeys.engines import scripted_engine
from tests.journeys.processes import await_each_edge, files_with, until
from tests.support.platform import PATIENT, ROOT, remove, start

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
PLANTED = "planted-7c1e0a94f2b84d50-upstream-credential"
NAME = "upstream-of-the-journey"
CHAT = "/v1/chat/completions"
CALLERS = 4
ROTATIONS = 3
ROWS = """
DELETE FROM gateway_providers WHERE name = 'guarded';
INSERT INTO gateway_providers (organization_id, name, id, kind, base_url, secret)
    VALUES ('{organization}', 'guarded', gen_random_uuid(), 'openai', '{url}/v1', '{secret}');
INSERT INTO gateway_deployments (organization_id, name, id, provider, upstream_model)
    VALUES ('{organization}', 'guarded', gen_random_uuid(), 'guarded', 'fake');
INSERT INTO gateway_routes (organization_id, alias, id, stable_version, created_us)
    VALUES ('{organization}', 'guarded', gen_random_uuid(), 1, 1);
INSERT INTO gateway_route_versions (organization_id, alias, version, digest, spec, created_us)
    SELECT '{organization}', 'guarded', 1, digest, replace(spec::text, '"fake"', '"guarded"')::jsonb, 1
    FROM gateway_route_versions WHERE alias = 'default';
"""


@pytest.fixture(scope="module")
def guarded():
    """A model server that answers only whoever presents the planted secret."""
    with scripted_engine(token=PLANTED) as each:
        yield each


@pytest.fixture(scope="module")
def platform(engine):
    running = start("--engine", engine.url, "--edge-workers", "2")
    yield running
    remove(running)


@pytest.fixture
async def superuser(platform):
    found = platform.cli("store", "url", "--role", "superuser")
    assert found.returncode == 0, found.stderr
    connection = await asyncpg.connect(found.stdout.strip(), database="interlock")
    yield connection
    await connection.close()


def set_secret(platform, value):
    command = [sys.executable, "-m", "interlock", "secrets", "set", NAME, "--data", str(platform.directory)]
    done = subprocess.run(
        command, input=value, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT,
        env=os.environ | PATIENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert value not in done.stdout


def touch(platform, key):
    """Change a limit, so that the edges read their rows anew and open their providers' secrets again."""
    body = {"scope": "key", "target": key["id"], "dimension": "requests_per_minute", "limit": 1_000_000}
    return platform.owner.call("POST", "/admin/v1/limits", body).status == 201


async def test_traffic_with_a_secret_goes_on_while_it_is_rotated_and_the_secret_lies_nowhere(
    platform, guarded, superuser
):
    set_secret(platform, PLANTED)
    organization = await superuser.fetchval("SELECT id FROM identity_organizations WHERE name = 'default'")
    await superuser.execute(ROWS.format(organization=organization, url=guarded.url, secret=NAME))
    key = platform.key("guarded", scopes=["inference", "requests:read"])
    assert touch(platform, key)
    await superuser.execute("UPDATE flags_epochs SET epoch = nextval('flags_epoch_numbers') WHERE topic = 'routes'")
    caller = platform.as_key(key["key"])
    body = {"model": "guarded", "messages": [{"role": "user", "content": f"my password is {PLANTED}"}]}
    await_each_edge(platform, key["key"], body)

    answers, is_over = Counter(), threading.Event()

    def work():
        while not is_over.is_set():
            answers[caller.call("POST", CHAT, body).status] += 1
            # Each call is a connection of its own, and an address may open only so many a second.
            time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    wrapped = await wrapped_by(superuser)
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROTATIONS):
            rotated = platform.cli("secrets", "rotate", "--json")
            assert rotated.returncode == 0, rotated.stderr
            assert json.loads(rotated.stdout)["state"] == "done"
            assert touch(platform, key)
            before, wrapped = wrapped, await wrapped_by(superuser)
            assert wrapped != before
            time.sleep(0.6)
        until(lambda: sum(answers.values()) > 100, what="a hundred answers")
    finally:
        is_over.set()
        for thread in threads:
            thread.join(180)
    print(f"{ROTATIONS} rotations, answers {dict(answers)}")
    assert set(answers) == {200}
    refused = platform.as_key("il_live_" + PLANTED).call("POST", CHAT, body)
    assert refused.status == 401
    assert PLANTED not in json.dumps(story_of_a_loud_call(platform, key["key"]))
    assert platform.story(refused.request_id)["outcome"] == "unauthenticated"
    assert hits(platform.directory, PLANTED) == []


async def wrapped_by(superuser):
    return {row[0] for row in await superuser.fetch("SELECT DISTINCT kek_id FROM secrets_envelopes")}


def story_of_a_loud_call(platform, key):
    """The story of a call that says the secret in its address, a header and its model name."""
    connection = http.client.HTTPConnection(urlsplit(platform.url).netloc, timeout=180)
    headers = {"authorization": f"Bearer {key}", "x-client-request-id": PLANTED, "content-type": "application/json"}
    body = json.dumps({"model": PLANTED, "messages": [{"role": "user", "content": PLANTED}]})
    connection.request("POST", f"{CHAT}?secret={PLANTED}", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return platform.story(answer.headers["x-request-id"])


def hits(directory, secret):
    """Return the files that hold the secret, as it is or in a usual disguise."""
    plain = secret.encode()
    needles = {plain, base64.b64encode(plain)[:-2], plain.hex().encode(), quote(secret).encode()}
    return files_with(directory, needles)


async def test_a_changed_audit_row_is_found_and_named(platform, superuser):
    for number in range(5):
        assert platform.owner.call("POST", "/admin/v1/workspaces", {"name": f"audited {number}"}).status == 201
    for number in range(6):
        made = platform.owner.call("POST", "/admin/v1/workspaces", {"name": f"audited {time.monotonic_ns()} {number}"})
        assert made.status == 201, made
    clean = platform.cli("audit", "verify", "--json")
    assert clean.returncode == 0, clean.stdout
    seqs = [
        row["seq"]
        for row in await superuser.fetch("SELECT seq FROM audit_events ORDER BY organization_id, seq OFFSET 2 LIMIT 3")
    ]
    assert len(seqs) == 3
    row = await superuser.fetchrow("SELECT * FROM audit_events WHERE seq = $1 LIMIT 1", seqs[1])
    await superuser.execute("SET session_replication_role = replica")
    where = "WHERE organization_id = $1 AND seq = $2"
    place = (row["organization_id"], row["seq"])
    await superuser.execute(f"UPDATE audit_events SET action = 'nothing.happened' {where}", *place)
    found = platform.cli("audit", "verify", "--json")
    await superuser.execute(f"UPDATE audit_events SET action = $3 {where}", *place, row["action"])
    told = json.loads(found.stdout)
    assert (found.returncode, told["ok"]) == (1, False)
    assert (told["first_bad_seq"], told["code"]) == (row["seq"], "hash_mismatch")
    assert platform.cli("audit", "verify").returncode == 0
