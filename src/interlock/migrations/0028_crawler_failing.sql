-- why: pages that fail are few among many millions of URLs; counting them must not read the rest
-- phase: expand
CREATE INDEX crawler_urls_failing ON crawler_urls (crawl_id)
  WHERE state = 'dead' OR (state = 'queued' AND attempt > 0);
