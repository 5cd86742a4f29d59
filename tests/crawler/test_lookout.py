"""What a crawler's worker has to do of which no notice came: the lookout sees it, and the right loop is woken."""

from interlock.foundation.store import Query
from interlock.foundation.store.lookout import Lookout
from tests.crawler.world import CLOCK, world
from tests.support.store import make_tenant, scope_of

ADD = Query(
    "add", "a row of the outbox that nobody holds", "INSERT INTO crawler_outbox_items (organization_id, workspace_id,"
    " outbox_id, crawl_id, host_hash, url_key, kind, stage, bytes, observed_at)"
    " SELECT organization_id, workspace_id, gen_random_uuid(), crawl_id, host_hash, url_key, 'put', $2, 1, now()"
    " FROM crawler_urls WHERE crawl_id = $1 LIMIT 1",
)  # fmt: skip
END = Query("end", "as above", "UPDATE crawler_crawls SET state = 'canceled' WHERE crawl_id = $1")
DROP = Query("drop", "leave nothing to other tests", "DELETE FROM crawler_outbox_items WHERE crawl_id = $1")


async def test_what_no_notice_told_of_wakes_the_loop_that_it_waits_for(store, tmp_path):
    async with world(store, tmp_path) as w:
        worker, lookout, scope = w.worker(), Lookout(store, CLOCK), scope_of(*await make_tenant(store))
        # The turns of all looks are others': only what waits can wake a loop.
        for _ in range(4):
            lookout.watch(Query("nothing", "nothing waits", "SELECT WHERE false"), lambda: None)
        worker.told_by(lookout)
        crawl = await w.start(scope, w.url())
        wakes = worker.keeper._wake, worker.extraction._left, worker.deliverer._wake
        await lookout.run_once()
        assert wakes[0].is_set()
        for number, stage in ((1, "extract"), (2, "deliver")):
            async with store.ops("outbox of a test") as tx:
                await tx.execute(ADD, crawl.crawl_id, stage)
            await lookout.run_once()
            assert wakes[number].is_set()
        assert worker.deliverer._ask.is_set()
        # Who rests since before there was a crawl is woken though there is one now.
        await worker.keeper.look()
        assert worker.book.active
        worker.deliverer._wake.clear()
        await lookout.run_once()
        assert worker.deliverer._wake.is_set()
        async with store.ops("outbox of a test") as tx:
            await tx.execute(DROP, crawl.crawl_id)
            await tx.execute(END, crawl.crawl_id)
        await worker._leave()
