"""A crawl from its first seed to its last document, over the real store and a real socket."""

from tests.crawler.world import world


async def test_a_site_is_crawled_once_and_whole(store, scope, tmp_path):
    async with world(store, tmp_path, pages=40) as w:
        crawl = await w.start(scope, w.url())
        async with w.running():
            shown = await w.until(scope, crawl)
        counts = shown["counts"]
        assert counts["queued"] == counts["leased"] == 0
        assert sum(counts[name] for name in ("done", "duplicate", "refused", "dead", "gone")) == counts["discovered"]
        assert counts["documents"] == len(w.sink.documents) == 40
        assert max(w.sink.puts.values()) == 1
        paths = [each.path for each in w.web.log if each.path != "/robots.txt"]
        assert len(paths) == len(set(paths))
