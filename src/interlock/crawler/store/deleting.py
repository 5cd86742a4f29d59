"""The end of a crawl that is deleted: its documents are withdrawn first, then its rows go.

A batch a call; what is left is found again by the state of the crawl.
"""

from typing import Final

from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.store import SQL
from interlock.crawler.store.acks import as_json
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Store, Transaction

_BATCH: Final = 500


async def delete_some(store: Store, ids: IdFactory) -> int:
    """Go on with every crawl that is being deleted; return how many rows of withdrawals were made."""
    async with store.ops("crawls deleted") as tx:
        rows = await tx.fetch(SQL.deleting_crawls)
        made = 0
        for row in rows:
            crawl = CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])
            made += await _one(tx, crawl, ids, keeps=row["reason"] == "keep")
    return made


async def _one(tx: Transaction, crawl: CrawlRef, ids: IdFactory, *, keeps: bool) -> int:
    if not keeps:
        left = await tx.fetch(SQL.documents_left, *crawl, _BATCH)
        if left:
            await tx.execute(
                SQL.withdraw,
                as_json(
                    {**crawl._asdict(), "host_hash": row["host_hash"], "url_key": row["url_key"],
                     "outbox_id": ids.new(), "reason": "crawl_deleted", "at_us": row["now_us"]}
                    for row in left
                ),
            )  # fmt: skip
            await tx.execute(
                SQL.documents_leave,
                as_json({**crawl._asdict(), "host_hash": row["host_hash"], "url_key": row["url_key"]} for row in left),
            )
            return len(left)
    await tx.execute(SQL.drop_waiting_puts, *crawl)
    if await tx.fetchval(SQL.has_outbox, *crawl):
        return 0
    for query in (
        SQL.delete_urls, SQL.delete_queues, SQL.delete_digests, SQL.delete_templates, SQL.delete_fetches,
        SQL.delete_decisions, SQL.delete_crawl,
    ):  # fmt: skip
        await tx.execute(query, *crawl)
    return 0
