"""How fast documents become searchable by words while their vectors are made, beside how fast vectors are made alone.

Over HTTP of a platform that a user would start, with paragraphs of this repository's own pages. Does not measure the
quality of a search.
"""

import random
import sys
import time
from pathlib import Path
from typing import Any

from examples.shop.client import Platform

from benchmarks.idle import platform
from benchmarks.record import record

DOCUMENTS, BATCH, PARAGRAPHS = 240, 20, 24
PARAGRAPH_CHARS = range(200, 1_200)
WATCHED_S, POLL_S = 60.0, 5.0
GOAL = 5.0


def paragraphs() -> list[str]:
    """Return what the pages of this repository say, paragraph by paragraph."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(Path().glob("**/*.md")) if ".venv" not in path.parts]
    return [each.strip() for page in pages for each in page.split("\n\n") if len(each) in PARAGRAPH_CHARS]


def documents() -> list[dict[str, Any]]:
    dice, known = random.Random(7), paragraphs()
    return [
        {"external_id": f"d{number}", "title": f"Page {number}", "uri": f"bench://{number}",
         "text": "\n\n".join([f"The mark of this page is walnut{number}.", *dice.sample(known, PARAGRAPHS)]),
         "acl": {"allow": ["everyone"], "deny": []}}
        for number in range(DOCUMENTS)
    ]  # fmt: skip


def pushed(owner: Platform, source: str) -> float:
    """Push all documents, look for a word of each batch as soon as it is answered, and return the seconds of it all."""
    made, took_s = documents(), 0.0
    for first in range(0, DOCUMENTS, BATCH):
        batch = made[first : first + BATCH]
        began_s = time.perf_counter()
        answer = owner.call("POST", "/v1/retrieval/documents", {"source": source, "documents": batch})
        took_s += time.perf_counter() - began_s
        if answer.status != 200:
            raise SystemExit(f"the push failed: {answer.body}")
        asked = {"query": f"walnut{first + BATCH - 1}", "mode": "lexical"}
        if not owner.call("POST", "/v1/retrieval/search", asked).body["hits"]:
            raise SystemExit("a document that was accepted is not found by its words")
    return took_s


def pending(owner: Platform, source: str) -> int:
    return int(owner.call("GET", f"/v1/retrieval/sources/{source}").body["backlog"]["vectors_pending"])


def embedded(owner: Platform, source: str) -> tuple[float, int]:
    """Return how many vectors a second are made while nothing else is done, and how many passages waited at first."""
    began_s, first = time.perf_counter(), pending(owner, source)
    left = first
    while left and time.perf_counter() - began_s < WATCHED_S:
        time.sleep(POLL_S)
        left = pending(owner, source)
        print(f"  {left} passages wait for their vectors", flush=True)
    return (first - left) / (time.perf_counter() - began_s), first


def passages_of(owner: Platform, source: str) -> int:
    """Return how many passages the documents of a source have."""
    count, cursor = 0, ""
    while True:
        page = owner.call("GET", f"/v1/retrieval/documents?source={source}&limit=100{cursor}").body
        count += sum(each["chunks"] for each in page["data"])
        if page["next_cursor"] is None:
            return count
        cursor = f"&cursor={page['next_cursor']}"


def main() -> int:
    with platform("--engine", "none", "--roles", "edge,control,worker", "--edge-workers", "1") as (data, _):
        owner = Platform((data / "run" / "url").read_text().strip(), (data / "owner.key").read_text().strip())
        source = owner.call("POST", "/v1/retrieval/sources", {"name": "bench", "kind": "push"}).body["id"]
        took_s = pushed(owner, source)
        rate, waiting = embedded(owner, source)
        passages = passages_of(owner, source)
    words = passages / took_s
    print(f"{passages} passages: words {words:.0f} a second while vectors are made, vectors alone {rate:.0f} a second")
    print(f"{waiting} of them had no vector when the last word could be searched")
    record("retrieval_ingest words", words, "passages/s", "higher")
    record("retrieval_ingest vectors", rate, "passages/s", "higher")
    return 0 if record("retrieval_ingest words over vectors", words / rate, "ratio", "higher", GOAL) else 1


if __name__ == "__main__":
    sys.exit(main())
