"""Relevance on collections with judgements: words against `ts_rank` and tantivy, both legs together against each.

Cranfield, and NPL with `--npl`; skipped with a word where the folder is not there. Ours is asked through the public API
of a platform of its own; the peers index the same texts with their own English analysis in the same run.
"""

import asyncio
import re
import sys
from pathlib import Path
from statistics import fmean

import asyncpg
import tantivy
from tests.support.store import running_store

from benchmarks.record import record
from interlock.cli.leaks.platform import scratch_platform
from interlock.cli.quality.collections import Collection, load
from interlock.cli.quality.measures import ndcg
from interlock.cli.quality.run import Quality, ask, index

DATA = Path(__file__).parents[2] / "shared" / "data"
COLLECTIONS = {"cranfield": "cranfield", "npl": "trec"}
WORD = re.compile(r"[a-z0-9]+")


def mean_ndcg(collection: Collection, rankings: dict[str, list[str]]) -> float:
    return fmean(ndcg(rankings[number], grades) for number, grades in collection.judged.items() if number in rankings)


async def ts_rank(collection: Collection) -> float:
    """Rank by `ts_rank` over title and text, any word of the query."""
    rankings = {}
    async with running_store() as (_, urls):
        connection = await asyncpg.connect(urls.superuser, database="interlock")
        await connection.execute("CREATE TABLE bench_papers (id text, words tsvector)")
        await connection.executemany(
            "INSERT INTO bench_papers VALUES ($1, setweight(to_tsvector('english', $2), 'A')"
            " || setweight(to_tsvector('english', $3), 'D'))",
            [(each.id, each.title, each.text) for each in collection.papers],
        )
        for number, text in collection.queries.items():
            wanted = " | ".join(sorted(set(WORD.findall(text.lower()))))
            rows = await connection.fetch(
                "SELECT id FROM bench_papers, to_tsquery('english', $1) q WHERE words @@ q"
                " ORDER BY ts_rank(words, q) DESC, id LIMIT 10",
                wanted,
            )
            rankings[number] = [row["id"] for row in rows]
        await connection.close()
    return mean_ndcg(collection, rankings)


def tantivy_bm25(collection: Collection) -> float:
    """Rank by tantivy's BM25 over title and text, English stems, any word of the query."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_text_field("title", tokenizer_name="en_stem")
    builder.add_text_field("body", tokenizer_name="en_stem")
    found = tantivy.Index(builder.build())
    writer = found.writer(heap_size=64 << 20, num_threads=1)
    for each in collection.papers:
        writer.add_document(tantivy.Document(id=each.id, title=each.title, body=each.text))
    writer.commit()
    found.reload()
    searcher = found.searcher()
    rankings = {}
    for number, text in collection.queries.items():
        query = found.parse_query(" ".join(WORD.findall(text.lower())), ["title", "body"])
        hits = searcher.search(query, 10).hits
        rankings[number] = [searcher.doc(address)["id"][0] for _, address in hits]
    return mean_ndcg(collection, rankings)


def ours(collection: Collection) -> tuple[Quality, Quality]:
    """Return the quality with the feature reranker and without."""
    with scratch_platform(None) as (line, _):
        documents = index(line, collection, print)
        return (
            ask(line, collection, documents, print, "features"),
            ask(line, collection, documents, print, "none"),
        )


def judge(name: str, collection: Collection) -> bool:
    ranked, tantivy_ndcg = asyncio.run(ts_rank(collection)), tantivy_bm25(collection)
    features, plain = ours(collection)
    words, meaning, both = (plain.ndcg10[mode] for mode in ("lexical", "vector", "hybrid"))
    best = max(words, meaning)
    print(f"{name}: ts_rank {ranked:.4f}  tantivy {tantivy_ndcg:.4f}  words {words:.4f}  meaning {meaning:.4f}")
    print(f"  both {both:.4f}, reranked by features {features.ndcg10['hybrid']:.4f}")
    met = record(f"retrieval_quality {name} words over ts_rank", words / ranked, "ratio", "higher", 1.2)
    met &= record(f"retrieval_quality {name} words less tantivy", words - tantivy_ndcg, "nDCG@10", "higher", -0.01)
    met &= record(f"retrieval_quality {name} both less the better leg", both - best, "nDCG@10", "higher", -0.003)
    gained = features.ndcg10["hybrid"] - both
    met &= record(f"retrieval_quality {name} reranked less both", gained, "nDCG@10", "higher", -0.003)
    record(f"retrieval_quality {name} both over the better leg", both / best, "ratio", "higher")
    return met


def main() -> int:
    met = True
    for name in ["cranfield", *(["npl"] if "--npl" in sys.argv else [])]:
        if not (DATA / name).is_dir():
            print(f"{name}: skipped, {DATA / name} is not there")
            continue
        met &= judge(name, load(DATA / name, COLLECTIONS[name]))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
