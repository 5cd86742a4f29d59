"""What is told of visits is kept for a while: requests, and decisions that ended well.

Keeps why a URL was refused, died or went, as long as its crawl lives.
"""

from interlock.crawler.store import SQL
from interlock.foundation.store import Store


async def forget(store: Store, days: int) -> int:
    """Drop what is older than so many days; return how many rows."""
    async with store.ops("crawl traces forgotten") as tx:
        return await tx.execute(SQL.forget_fetches, days) + await tx.execute(SQL.forget_decisions, days)
