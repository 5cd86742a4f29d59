"""gateway_stories: a story by its id over a million of them, through the front door, as support asks for it.

The rows are copies of one real story under new ids of the last hours, written past the service: filling is not what is
measured. Goal: p99 <= 100 ms. Run: `make bench B=gateway_stories`; ROWS and ASKED set how many.
"""

import asyncio
import json
import os
import random
import sys
import time
import urllib.request
from pathlib import Path

import asyncpg

from benchmarks.record import record
from benchmarks.worlds.gateway import Front, front, scripted, share
from interlock.foundation.ids import format_id, parse_id
from interlock.foundation.store.roles import DATABASE, SUPERUSER

ROWS = int(os.environ.get("ROWS", "1000000"))
ASKED = int(os.environ.get("ASKED", "500"))
GOAL_MS = 100.0
PATIENCE_S = 60.0
# Ids of an hour back: 48 bits of milliseconds, then version 7 and the number of the row.
COPIES = """
INSERT INTO telemetry_requests
SELECT organization_id,
    (lpad(to_hex($2::bigint - (n * 3600000 / $3)), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
    workspace_id, created_at, key_id, NULL, NULL, endpoint, alias, outcome, status, is_complete, story
FROM telemetry_requests, generate_series(1, $3::bigint) AS n
WHERE id = $1
RETURNING 1
"""


def one_request(made: Front, key: str) -> str:
    """Make one request and return its id."""
    body = json.dumps({"model": "default", "messages": [{"role": "user", "content": "hello"}]}).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    url = f"http://127.0.0.1:{made.port}/v1/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        return str(answer.headers["x-request-id"])


def told(made: Front, request_id: str) -> float | None:
    """Return the seconds that a story took, None when it is not there."""
    answer = made.owner.call("GET", f"/v1/requests/{request_id}")
    return answer.seconds if answer.status == 200 and answer.body["complete"] else None


async def fill(data: Path, request_id: str) -> list[str]:
    """Copy a story and return the ids of some of the copies."""
    roles = json.loads((data / "pg" / "roles.json").read_text())
    socket = (data / "pg" / "socket").read_text().strip() if (data / "pg" / "socket").exists() else data / "pg" / "s"
    connection = await asyncpg.connect(host=str(socket), user=SUPERUSER, password=roles[SUPERUSER], database=DATABASE)
    now_ms = time.time_ns() // 1_000_000
    await connection.execute("SET statement_timeout = 0")
    await connection.fetch(
        f"WITH made AS ({COPIES}) SELECT count(*) FROM made", parse_id("req", request_id), now_ms, ROWS
    )
    await connection.execute("ANALYZE telemetry_requests")
    count = await connection.fetchval("SELECT count(*) FROM telemetry_requests")
    rows = await connection.fetch("SELECT id FROM telemetry_requests TABLESAMPLE BERNOULLI (1) LIMIT $1", ASKED * 4)
    await connection.close()
    print(f"  {count} stories")
    return [format_id("req", row["id"]) for row in random.Random(1).sample(rows, min(ASKED, len(rows)))]


def main() -> int:
    with scripted() as (upstream, _), front(upstream) as made:
        key = made.key("bench")["key"]
        time.sleep(1.5)
        request_id, deadline = one_request(made, key), time.monotonic() + PATIENCE_S
        while told(made, request_id) is None:
            if time.monotonic() > deadline:
                raise SystemExit("the story never came")
            time.sleep(0.1)
        ids = asyncio.run(fill(made.data, request_id))
        took = [told(made, each) for each in ids]
    if None in took:
        raise SystemExit("a story is not found")
    seconds = [each for each in took if each is not None]
    p50, p99 = share(seconds, 0.5) * 1_000, share(seconds, 0.99) * 1_000
    met = record("gateway_stories p99", p99, "ms", "lower", GOAL_MS)
    print(f"gateway_stories: {len(seconds)} of {ROWS} by id: p50 {p50:.1f} ms, p99 {p99:.1f} ms (goal <= {GOAL_MS:g})")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
