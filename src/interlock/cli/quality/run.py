"""A collection pushed into a platform of its own, and every query asked in every mode.

Tunes nothing: what is measured is what a caller gets.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import click

from interlock.cli.leaks.fuzz import Caller, Told
from interlock.cli.quality.collections import Collection
from interlock.cli.quality.measures import ndcg, recall

MODES: Final = ("lexical", "vector", "hybrid")
_BATCH: Final = 50
_POLL_S: Final = 1.0
_TOLD_EVERY: Final = 15
_HITS: Final = 100
_QUERY_CHARS_MAX: Final = 4_000
_BUSY: Final = frozenset({429, 503, 504})


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over the queries that have judgements, by mode."""

    ndcg10: dict[str, float]
    recall100: dict[str, float]
    queries: int
    documents: int


def measure(call: Caller, collection: Collection, tell: Callable[[str], None], rerank: str = "features") -> Quality:
    """Index a collection, wait for its vectors and ask."""
    return ask(call, collection, index(call, collection, tell), tell, rerank)


def index(call: Caller, collection: Collection, tell: Callable[[str], None]) -> dict[str, str]:
    """Push a collection and wait for its vectors; return which document each id of ours is."""
    source = _must(call(None, "POST", "/v1/retrieval/sources", {"name": "collection", "kind": "push"})).body["id"]
    document_of = _push(call, source, collection, tell)
    told = 0
    while pending := _must(call(None, "GET", f"/v1/retrieval/sources/{source}")).body["backlog"]["vectors_pending"]:
        if told % _TOLD_EVERY == 0:
            tell(f"{pending} vectors to come")
        told += 1
        time.sleep(_POLL_S)
    return document_of


def ask(
    call: Caller, collection: Collection, document_of: Mapping[str, str], tell: Callable[[str], None], rerank: str
) -> Quality:
    """Ask every query that has judgements, in every mode."""
    found: dict[str, tuple[float, float]] = {}
    asked = {number: text for number, text in collection.queries.items() if collection.judged.get(number)}
    for mode in MODES:
        figures = []
        for number, text in asked.items():
            ranking = [document_of[each] for each in _search(call, text, mode, rerank)]
            grades = collection.judged[number]
            figures.append((ndcg(ranking, grades), recall(ranking, grades)))
        found[mode] = (fmean(each for each, _ in figures), fmean(each for _, each in figures))
        tell(f"{mode}, rerank {rerank}: nDCG@10 {found[mode][0]:.4f} recall@100 {found[mode][1]:.4f}")
    return Quality(
        {mode: round(each, 4) for mode, (each, _) in found.items()},
        {mode: round(each, 4) for mode, (_, each) in found.items()},
        len(asked),
        len(collection.papers),
    )


def _push(call: Caller, source: str, collection: Collection, tell: Callable[[str], None]) -> dict[str, str]:
    document_of: dict[str, str] = {}
    papers = [each for each in collection.papers if each.text.strip() or each.title.strip()]
    for start in range(0, len(papers), _BATCH):
        items = [
            {"external_id": each.id, "title": each.title, "text": each.text or each.title,
             "acl": {"allow": ["everyone"]}}
            for each in papers[start : start + _BATCH]
        ]  # fmt: skip
        body = {"source": source, "documents": items}
        told = call(None, "POST", "/v1/retrieval/documents", body)
        while told.status == 429:
            time.sleep(_POLL_S)
            told = call(None, "POST", "/v1/retrieval/documents", body)
        document_of |= {each["id"]: each["external_id"] for each in _must(told).body["results"]}
    tell(f"{len(document_of)} documents pushed")
    return document_of


def _search(call: Caller, text: str, mode: str, rerank: str) -> list[str]:
    body = {"query": text[:_QUERY_CHARS_MAX], "k": _HITS, "mode": mode, "passages_per_document": 1, "rerank": rerank}
    told = call(None, "POST", "/v1/retrieval/search", body)
    while told.status in _BUSY or (told.status == 200 and "deadline" in told.body["degraded"]):
        time.sleep(_POLL_S)
        told = call(None, "POST", "/v1/retrieval/search", body)
    return [hit["document_id"] for hit in _must(told).body["hits"]]


def _must(told: Told) -> Told:
    if told.status >= 300:
        raise click.ClickException(f"the platform answered {told.status}: {told.content[:300]!r}")
    return told
