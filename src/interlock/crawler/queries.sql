-- name: lease_hosts
-- why: due hosts that nobody holds, and URLs of theirs, in one round trip
SELECT host_hash, due_in_s FROM crawler_lease($1, $2, $3, $4, $5, $6, $7);

-- name: leased
-- why: all that the loop needs to know of what it took
SELECT h.host_hash, h.authority, h.host, h.registered_domain, h.fence, h.cap, h.crawl_delay_ms, h.adaptive_ms,
    h.ewma_latency_ms, h.ewma_bytes, h.pushbacks, h.fail_streak, h.circuit, h.circuit_opened, h.window_bits,
    h.window_size, h.robots_tries, h.rule,
    r.status_class, r.http_status AS robots_status, r.fetched_at AS robots_at,
    extract(epoch FROM r.expires_at - clock_timestamp())::double precision AS robots_in_s,
    u.organization_id, u.workspace_id, u.crawl_id, u.url_key, u.url, u.kind, u.priority, u.depth, u.hops, u.attempt,
    u.misses, u.visits, u.etag, u.last_modified, u.has_document, u.document_version, u.first_seen,
    NOT q.has_sitemaps AS needs_sitemaps,
    max(q.floor_ms) OVER (PARTITION BY h.host_hash) AS floor_ms,
    min(q.concurrency) OVER (PARTITION BY h.host_hash) AS concurrency
FROM crawler_hosts AS h
JOIN crawler_urls AS u ON u.host_hash = h.host_hash AND u.state = 'leased' AND u.fence = h.fence
JOIN crawler_queues AS q ON q.host_hash = u.host_hash AND q.crawl_id = u.crawl_id
LEFT JOIN crawler_robots_files AS r ON r.host_hash = h.host_hash
WHERE h.host_hash = ANY ($1::bigint[]) AND u.host_hash = ANY ($1::bigint[]) AND h.lease_owner = $2
ORDER BY h.host_hash, u.priority DESC, u.not_before;

-- name: renew_hosts
-- why: leases are extended while their fence is current
UPDATE crawler_hosts AS h
SET lease_until = clock_timestamp() + make_interval(secs => $4),
    next_at = clock_timestamp() + make_interval(secs => $4 + h.delay_ms / 1000.0)
FROM unnest($2::bigint[], $3::bigint[]) AS p (host_hash, fence)
WHERE h.host_hash = p.host_hash AND h.fence = p.fence AND h.lease_owner = $1 AND h.host_hash = ANY ($2::bigint[])
RETURNING h.host_hash;

-- name: reap_hosts
-- why: a worker that was lost with its machine; `next_at` already lies beyond the lease and one delay
UPDATE crawler_hosts SET lease_owner = NULL, lease_until = NULL
WHERE lease_owner IS NOT NULL AND lease_until < clock_timestamp();

-- name: end_owner
-- why: the process that this one replaces was reaped by the supervisor: its hosts are free after one delay
UPDATE crawler_hosts
SET lease_owner = NULL, lease_until = NULL,
    next_at = greatest(clock_timestamp() + make_interval(secs => delay_ms / 1000.0), blocked_until)
WHERE lease_owner LIKE $1 || '%' AND lease_owner <> $2;

-- name: adopt_queues
-- why: calls of the API make queues, which belong to a tenant; hosts belong to none and are made here
WITH fresh AS (
    UPDATE crawler_queues SET is_adopted = true
    WHERE host_hash IN (SELECT host_hash FROM crawler_queues WHERE NOT is_adopted LIMIT 2000) AND NOT is_adopted
    RETURNING host_hash, authority, pending
)
SELECT host_hash, authority, sum(pending)::bigint AS pending FROM fresh GROUP BY 1, 2 ORDER BY 1;

-- name: add_hosts
-- why: a host enters the frontier once, with the rule that an operator may have made for its name
INSERT INTO crawler_hosts (host_hash, authority, host, registered_domain, is_blocked, rule)
SELECT p.host_hash, p.authority, p.host, p.registered_domain, coalesce(r.is_blocked, false),
    CASE WHEN r.host IS NULL THEN NULL
        ELSE jsonb_build_object('delay_ms', r.delay_ms, 'concurrency', r.concurrency, 'reason', r.reason) END
FROM jsonb_to_recordset($1::jsonb) AS p (host_hash bigint, authority text, host text, registered_domain text)
LEFT JOIN LATERAL (
    SELECT * FROM crawler_host_rules AS x
    WHERE x.host = p.host OR (x.host LIKE '*.%' AND right('.' || p.host, length(x.host) - 1) = substr(x.host, 2))
    ORDER BY length(x.host) DESC LIMIT 1
) AS r ON true
ORDER BY p.host_hash
ON CONFLICT DO NOTHING;

-- name: wake_hosts
-- why: a host with something to fetch is in the ready set
UPDATE crawler_hosts SET has_pending = true WHERE host_hash = ANY ($1::bigint[]) AND NOT has_pending;

-- name: lock_hosts
-- why: whoever writes URLs of a host holds its row, always in this order; the fence decides who may write outcomes
SELECT host_hash, fence, lease_owner FROM crawler_hosts WHERE host_hash = ANY ($1::bigint[])
ORDER BY host_hash FOR UPDATE;

-- name: lock_crawls
-- why: counts and budgets of a crawl are exact over all workers
SELECT crawl_id, state, discovered, refused, documents, bytes_wire, (spec->'budgets'->>'pages')::bigint AS pages_max,
    (spec->'budgets'->>'bytes')::bigint AS bytes_max,
    (spec->'budgets'->>'pages_per_host')::bigint AS pages_per_host
FROM crawler_crawls WHERE crawl_id = ANY ($1::uuid[]) ORDER BY crawl_id FOR UPDATE;

-- name: with_documents
-- why: a page's document may have come up since its URL was leased, and has to go all the same
SELECT u.crawl_id, u.url_key FROM crawler_urls AS u
JOIN jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid)
ON u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
    AND u.host_hash = p.host_hash AND u.url_key = p.url_key
WHERE u.has_document;

-- name: write_outcomes
-- why: what became of leased URLs; a row whose fence has moved on stays as it is
UPDATE crawler_urls AS u
SET state = p.state, reason = CASE WHEN p.state = 'queued' AND NOT p.is_visit THEN u.reason ELSE p.reason END,
    attempt = p.attempt, misses = p.misses,
    not_before = CASE WHEN p.state = 'queued' THEN clock_timestamp() + make_interval(secs => p.retry_in_s)
        ELSE u.not_before END,
    visits = u.visits + p.is_visit::integer,
    http_status = CASE WHEN p.is_visit THEN p.http_status ELSE u.http_status END,
    fetched_at = CASE WHEN p.is_visit THEN to_timestamp(p.at_us / 1e6) ELSE u.fetched_at END,
    etag = coalesce(p.etag, u.etag), last_modified = coalesce(p.last_modified, u.last_modified),
    body_digest = coalesce(decode(p.body_digest, 'hex'), u.body_digest),
    signals = coalesce(p.signals, u.signals),
    has_document = u.has_document AND p.withdraw IS NULL
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid, fence bigint, state text,
    reason text, attempt integer, misses integer, retry_in_s double precision, is_visit boolean, http_status integer,
    at_us bigint, etag text, last_modified text, body_digest text, signals jsonb, withdraw text)
WHERE u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
    AND u.host_hash = p.host_hash AND u.url_key = p.url_key AND u.state = 'leased' AND u.fence = p.fence
RETURNING u.host_hash, u.crawl_id, u.url_key;

-- name: add_urls
-- why: a URL is in a crawl once; who loses the race to add it changes nothing
INSERT INTO crawler_urls (
    organization_id, workspace_id, crawl_id, host_hash, url_key, url, kind, state, reason, priority, depth, hops,
    parent_key, template)
SELECT p.organization_id, p.workspace_id, p.crawl_id, p.host_hash, p.url_key, p.url, p.kind,
    CASE WHEN p.refused IS NULL THEN 'queued' ELSE 'refused' END, p.refused, p.priority, p.depth, p.hops, p.parent_key,
    p.template
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid, url text, kind text,
    refused text, priority integer, depth integer, hops integer, parent_key uuid, template text)
JOIN crawler_crawls AS c ON c.organization_id = p.organization_id AND c.workspace_id = p.workspace_id
    AND c.crawl_id = p.crawl_id
ORDER BY p.host_hash, p.crawl_id, p.url_key
ON CONFLICT DO NOTHING
RETURNING host_hash, crawl_id, url_key, kind, state;

-- name: refuse_urls
-- why: what a budget or a trap refuses after it was added
UPDATE crawler_urls AS u SET state = 'refused', reason = p.reason
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid, reason text)
WHERE u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
    AND u.host_hash = p.host_hash AND u.url_key = p.url_key AND u.state = 'queued'
RETURNING u.host_hash, u.crawl_id, u.url_key, u.kind;

-- name: refuse_queued
-- why: a crawl whose bytes are used up, or a host that nobody waits for any more, leaves no URL behind
WITH ended AS (
    UPDATE crawler_urls SET state = $3, reason = $4
    WHERE organization_id = $1 AND crawl_id = $2 AND state = 'queued' AND ($5::bigint IS NULL OR host_hash = $5)
    RETURNING host_hash, kind
)
SELECT host_hash, count(*)::bigint AS urls, count(*) FILTER (WHERE kind = 'page')::bigint AS pages
FROM ended GROUP BY 1 ORDER BY 1;

-- name: change_queues
-- why: one row a crawl and host counts what is pending, so that nothing has to be counted again
INSERT INTO crawler_queues AS q (
    organization_id, workspace_id, crawl_id, host_hash, authority, pending, weight, floor_ms, concurrency, admitted,
    done, dead, is_adopted, has_sitemaps)
SELECT p.organization_id, p.workspace_id, p.crawl_id, p.host_hash, p.authority, p.pending, p.weight, p.floor_ms,
    p.concurrency, p.admitted, p.done, p.dead, p.is_adopted, p.has_sitemaps
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, authority text, pending bigint,
    weight double precision, floor_ms integer, concurrency integer, admitted bigint, done bigint, dead bigint,
    is_adopted boolean, has_sitemaps boolean)
JOIN crawler_crawls AS c ON c.organization_id = p.organization_id AND c.workspace_id = p.workspace_id
    AND c.crawl_id = p.crawl_id
ORDER BY p.host_hash, p.crawl_id
ON CONFLICT (host_hash, crawl_id) DO UPDATE
SET pending = greatest(0, q.pending + excluded.pending),
    admitted = q.admitted + excluded.admitted, done = q.done + excluded.done, dead = q.dead + excluded.dead,
    has_sitemaps = q.has_sitemaps OR excluded.has_sitemaps, is_adopted = q.is_adopted AND excluded.is_adopted
RETURNING host_hash, crawl_id, admitted;

-- name: count_templates
-- why: a shape of URL that brings nothing new is closed
INSERT INTO crawler_templates AS t (organization_id, workspace_id, crawl_id, host_hash, template, pages)
SELECT p.organization_id, p.workspace_id, p.crawl_id, p.host_hash, p.template, p.pages
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, template text, pages bigint)
ORDER BY p.host_hash, p.crawl_id, p.template
ON CONFLICT (organization_id, workspace_id, crawl_id, host_hash, template) DO UPDATE SET pages = t.pages + excluded.pages
RETURNING host_hash, crawl_id, template, pages, judged, recent;

-- name: judge_template
-- why: whether the text of one more page of a shape was new
UPDATE crawler_templates
SET recent = ((recent << 1) & ((1::bigint << 50) - 1)) | $6::bigint, judged = judged + 1, novel = novel + $6::bigint
WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3 AND host_hash = $4 AND template = $5;

-- name: change_counts
-- why: the counts of a crawl move with its URLs, in the same transaction
UPDATE crawler_crawls AS c
SET discovered = c.discovered + p.discovered, done = c.done + p.done, duplicate = c.duplicate + p.duplicate,
    refused = c.refused + p.refused, dead = c.dead + p.dead, gone = c.gone + p.gone,
    documents = c.documents + p.documents, tombstones = c.tombstones + p.tombstones,
    bytes_wire = c.bytes_wire + p.bytes_wire, bytes_body = c.bytes_body + p.bytes_body,
    authorities = CASE WHEN p.authority IS NULL OR p.authority = ANY (c.authorities) THEN c.authorities
        ELSE c.authorities || p.authority END
FROM jsonb_to_recordset($1::jsonb) AS p (
    crawl_id uuid, discovered bigint, done bigint, duplicate bigint, refused bigint, dead bigint, gone bigint,
    documents bigint, tombstones bigint, bytes_wire bigint, bytes_body bigint, authority text)
WHERE c.crawl_id = p.crawl_id;

-- name: add_fetches
-- why: every request that was made, with its times
INSERT INTO crawler_fetches (
    organization_id, workspace_id, crawl_id, url_key, attempt, at, ip, status, error, dns_ms, connect_ms, ttfb_ms,
    total_ms, bytes_wire, bytes_body, robots_line)
SELECT p.organization_id, p.workspace_id, p.crawl_id, p.url_key, p.attempt, to_timestamp(p.at_us / 1e6), p.ip, p.status,
    p.error, p.dns_ms, p.connect_ms, p.ttfb_ms, p.total_ms, p.bytes_wire, p.bytes_body, p.robots_line
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, url_key uuid, attempt integer, at_us bigint, ip text,
    status integer, error text, dns_ms real, connect_ms real, ttfb_ms real, total_ms real, bytes_wire bigint,
    bytes_body bigint, robots_line integer)
ON CONFLICT DO NOTHING;

-- name: add_decisions
-- why: why a URL is as it is; whole for what was refused or failed, one row for what went well
INSERT INTO crawler_decisions (
    organization_id, workspace_id, crawl_id, url_key, seq, at, step, verdict, rule, detail)
SELECT p.organization_id, p.workspace_id, p.crawl_id, p.url_key, p.seq, to_timestamp(p.at_us / 1e6), p.step, p.verdict,
    p.rule, p.detail
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, url_key uuid, seq integer, at_us bigint, step text,
    verdict text, rule text, detail jsonb)
ON CONFLICT DO NOTHING;

-- name: write_hosts
-- why: pace, circuit and blocks of hosts; a final one ends its lease, and the host is due when it may be visited
UPDATE crawler_hosts AS h
SET delay_ms = p.delay_ms, delay_source = p.delay_source, crawl_delay_ms = p.crawl_delay_ms,
    adaptive_ms = p.adaptive_ms, ewma_latency_ms = p.ewma_latency_ms, ewma_bytes = p.ewma_bytes, cap = p.cap,
    pushbacks = p.pushbacks, robots_tries = p.robots_tries, fail_streak = p.fail_streak, circuit = p.circuit,
    circuit_opened = p.circuit_opened, window_bits = p.window_bits, window_size = p.window_size,
    blocked_until = CASE WHEN p.blocked_in_s > 0
        THEN greatest(h.blocked_until, clock_timestamp() + make_interval(secs => p.blocked_in_s))
        ELSE h.blocked_until END,
    blocked_reason = CASE WHEN p.blocked_in_s > 0 THEN p.blocked_reason ELSE h.blocked_reason END,
    loop_errors = 0,
    next_at = CASE WHEN p.is_final
        THEN greatest(clock_timestamp() + make_interval(secs => greatest(p.next_in_s, p.blocked_in_s)),
            h.blocked_until)
        ELSE h.next_at END,
    lease_owner = CASE WHEN p.is_final THEN NULL ELSE h.lease_owner END,
    lease_until = CASE WHEN p.is_final THEN NULL ELSE h.lease_until END,
    has_pending = CASE WHEN p.is_final THEN EXISTS (
            SELECT FROM crawler_queues AS q WHERE q.host_hash = h.host_hash AND q.pending > 0)
        ELSE h.has_pending END
FROM jsonb_to_recordset($2::jsonb) AS p (
    host_hash bigint, fence bigint, delay_ms integer, delay_source text, crawl_delay_ms integer,
    adaptive_ms double precision, ewma_latency_ms double precision, ewma_bytes double precision, cap integer,
    pushbacks integer, robots_tries integer, fail_streak integer, circuit text, circuit_opened integer,
    window_bits integer, window_size integer, blocked_in_s double precision, blocked_reason text,
    next_in_s double precision, is_final boolean)
WHERE h.host_hash = p.host_hash AND h.fence = p.fence AND h.lease_owner = $1;

-- name: put_aside
-- why: bodies that wait for extraction, held at once by the worker that has them in its spool
INSERT INTO crawler_outbox_items (
    organization_id, workspace_id, outbox_id, crawl_id, host_hash, url_key, kind, stage, bytes, spool, headers,
    observed_at, lease_owner, lease_expires_at)
SELECT p.organization_id, p.workspace_id, p.outbox_id, p.crawl_id, p.host_hash, p.url_key, 'put', 'extract', p.bytes,
    p.spool, p.headers, to_timestamp(p.at_us / 1e6), $2, clock_timestamp() + make_interval(secs => $3)
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, outbox_id uuid, crawl_id uuid, host_hash bigint, url_key uuid,
    bytes bigint, spool text, headers jsonb, at_us bigint);

-- name: drop_superseded
-- why: a document that waits and is overtaken by a newer one or by its withdrawal is never sent
DELETE FROM crawler_outbox_items AS o
USING jsonb_to_recordset($1::jsonb) AS p (crawl_id uuid, url_key uuid)
WHERE o.crawl_id = p.crawl_id AND o.url_key = p.url_key AND o.kind = 'put' AND o.lease_owner IS NULL;

-- name: withdraw
-- why: a document that has to leave the index waits here until the index has heard of it
INSERT INTO crawler_outbox_items (
    organization_id, workspace_id, outbox_id, crawl_id, host_hash, url_key, kind, stage, reason, observed_at)
SELECT p.organization_id, p.workspace_id, p.outbox_id, p.crawl_id, p.host_hash, p.url_key, 'tombstone', 'deliver',
    p.reason, to_timestamp(p.at_us / 1e6)
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, outbox_id uuid, crawl_id uuid, host_hash bigint, url_key uuid,
    reason text, at_us bigint);

-- name: refuse_newest
-- why: the URLs of a host beyond its page budget, the least wanted first
UPDATE crawler_urls SET state = 'refused', reason = $5
WHERE organization_id = $1 AND crawl_id = $2 AND host_hash = $3 AND state = 'queued' AND url_key IN (
    SELECT url_key FROM crawler_urls
    WHERE organization_id = $1 AND crawl_id = $2 AND host_hash = $3 AND state = 'queued' AND kind = 'page'
    ORDER BY priority, first_seen DESC LIMIT $4)
RETURNING url_key;

-- name: active_crawls
-- why: what may be worked on now, and what it already has on its way to the index
SELECT c.organization_id, c.workspace_id, c.crawl_id, c.config_version, c.state, c.source_id, c.authorities,
    c.discovered, c.done, c.duplicate, c.refused, c.dead, c.gone, c.documents, c.tombstones, c.bytes_wire,
    coalesce(q.pending, 0)::bigint AS pending, coalesce(o.extract_bytes, 0)::bigint AS extract_bytes,
    coalesce(o.outbox_bytes, 0)::bigint AS outbox_bytes, coalesce(o.items, 0)::bigint AS outbox_items,
    coalesce(o.lag_s, 0)::double precision AS lag_s
FROM crawler_crawls AS c
LEFT JOIN LATERAL (
    SELECT sum(x.pending) AS pending FROM crawler_queues AS x
    WHERE x.organization_id = c.organization_id AND x.workspace_id = c.workspace_id AND x.crawl_id = c.crawl_id
) AS q ON true
LEFT JOIN LATERAL (
    SELECT sum(x.bytes) FILTER (WHERE x.stage = 'extract') AS extract_bytes,
        sum(x.bytes) FILTER (WHERE x.stage = 'deliver') AS outbox_bytes, count(*) AS items,
        extract(epoch FROM clock_timestamp() - min(x.discovered_at)) AS lag_s
    FROM crawler_outbox_items AS x WHERE x.crawl_id = c.crawl_id
) AS o ON true
WHERE c.state IN ('running', 'throttled')
ORDER BY c.crawl_id;

-- name: any_to_keep
-- why: a question of the lookout: a crawl that is under way or to be deleted, or a queue that has no host yet
SELECT WHERE EXISTS (SELECT FROM crawler_crawls WHERE state IN ('running', 'throttled', 'deleting'))
    OR EXISTS (SELECT FROM crawler_queues WHERE NOT is_adopted);

-- name: crawl_specs
-- why: the specs of crawls that a worker does not know yet, or that were changed
SELECT crawl_id, spec FROM crawler_crawls WHERE crawl_id = ANY ($1::uuid[]);

-- name: claim_outbox
-- why: what waits, by stage and kind; a withdrawal waits for a document of the same URL that is on its way
UPDATE crawler_outbox_items AS o
SET lease_owner = $1, lease_expires_at = clock_timestamp() + make_interval(secs => $5),
    lease_token = o.lease_token + 1, attempts = o.attempts + 1
FROM (
    SELECT x.organization_id, x.workspace_id, x.outbox_id FROM crawler_outbox_items AS x
    WHERE x.stage = $2 AND x.kind = $3 AND x.due_at <= clock_timestamp()
        AND (x.lease_owner IS NULL OR x.lease_expires_at < clock_timestamp())
        AND ($6::uuid[] IS NULL OR NOT x.crawl_id = ANY ($6))
        AND (x.kind = 'put' OR NOT EXISTS (
            SELECT FROM crawler_outbox_items AS p WHERE p.crawl_id = x.crawl_id AND p.url_key = x.url_key
                AND p.kind = 'put' AND p.lease_owner IS NOT NULL AND p.lease_expires_at > clock_timestamp()))
    ORDER BY x.due_at, x.outbox_id LIMIT $4 FOR UPDATE SKIP LOCKED
) AS d
WHERE o.organization_id = d.organization_id AND o.workspace_id = d.workspace_id AND o.outbox_id = d.outbox_id
RETURNING o.organization_id, o.workspace_id, o.outbox_id, o.crawl_id, o.host_hash, o.url_key, o.version, o.bytes,
    o.spool, o.headers, o.artifact, o.document, o.reason, o.observed_at, o.lease_token, o.attempts;

-- name: any_to_extract
-- why: a question of the lookout: bodies that nobody holds, such as those of a worker that died
SELECT FROM crawler_outbox_items
WHERE stage = 'extract' AND kind = 'put' AND due_at <= clock_timestamp()
    AND (lease_owner IS NULL OR lease_expires_at < clock_timestamp());

-- name: any_to_deliver
-- why: a question of the lookout: documents and withdrawals, due or not, of which each source is asked for its room
SELECT FROM crawler_outbox_items WHERE stage = 'deliver';

-- name: extend_outbox
-- why: work that takes long keeps its rows
UPDATE crawler_outbox_items SET lease_expires_at = clock_timestamp() + make_interval(secs => $3)
WHERE lease_owner = $1 AND outbox_id = ANY ($2::uuid[]);

-- name: free_outbox
-- why: the process that held these rows was replaced, or gives them back
UPDATE crawler_outbox_items SET lease_owner = NULL, lease_expires_at = NULL, due_at = greatest(due_at, clock_timestamp())
WHERE lease_owner LIKE $1 || '%' AND lease_owner <> $2;

-- name: extracted_urls
-- why: what the extracted pages are now, and which document they had
SELECT u.organization_id, u.workspace_id, u.crawl_id, u.host_hash, u.url_key, u.url, u.state, u.text_digest, u.has_document,
    u.is_delivered, u.document_version, u.template
FROM crawler_urls AS u
JOIN jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid)
ON u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
    AND u.host_hash = p.host_hash AND u.url_key = p.url_key
ORDER BY u.host_hash, u.crawl_id, u.url_key FOR UPDATE OF u;

-- name: claim_digests
-- why: the first URL of a text keeps it; the row that is there already says who that is
INSERT INTO crawler_digests (organization_id, workspace_id, crawl_id, text_digest, url_key, host_hash)
SELECT p.organization_id, p.workspace_id, p.crawl_id, decode(p.text_digest, 'hex'), p.url_key, p.host_hash
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, text_digest text, url_key uuid, host_hash bigint)
ORDER BY p.crawl_id, p.text_digest
ON CONFLICT (organization_id, workspace_id, crawl_id, text_digest) DO UPDATE SET host_hash = crawler_digests.host_hash
RETURNING crawl_id, encode(text_digest, 'hex') AS text_digest, url_key;

-- name: drop_digests
-- why: a text whose first URL is gone or changed is nobody's
DELETE FROM crawler_digests AS d
USING jsonb_to_recordset($1::jsonb) AS p (organization_id uuid, workspace_id uuid, crawl_id uuid, url_key uuid)
WHERE d.organization_id = p.organization_id AND d.workspace_id = p.workspace_id AND d.crawl_id = p.crawl_id
    AND d.url_key = p.url_key;

-- name: promote_duplicates
-- why: when the first URL of a text goes, the oldest that had the same text is fetched and takes its place
UPDATE crawler_urls AS u SET state = 'queued', reason = 'promoted', duplicate_of = NULL, not_before = clock_timestamp(),
    priority = 1000
FROM (
    SELECT DISTINCT ON (x.crawl_id, x.duplicate_of) x.organization_id, x.workspace_id, x.crawl_id, x.host_hash, x.url_key
    FROM crawler_urls AS x
    JOIN jsonb_to_recordset($1::jsonb) AS p (organization_id uuid, workspace_id uuid, crawl_id uuid, url_key uuid)
    ON x.organization_id = p.organization_id AND x.workspace_id = p.workspace_id AND x.crawl_id = p.crawl_id
        AND x.duplicate_of = p.url_key AND x.state = 'duplicate'
    ORDER BY x.crawl_id, x.duplicate_of, x.first_seen
) AS d
WHERE u.organization_id = d.organization_id AND u.workspace_id = d.workspace_id AND u.crawl_id = d.crawl_id
    AND u.host_hash = d.host_hash AND u.url_key = d.url_key AND u.state = 'duplicate'
RETURNING u.organization_id, u.workspace_id, u.crawl_id, u.host_hash;

-- name: write_extracted
-- why: title, language and text of a page, and whether it is a document of its own
UPDATE crawler_urls AS u
SET state = coalesce(p.state, u.state), reason = coalesce(p.reason, u.reason), duplicate_of = p.duplicate_of,
    text_digest = decode(p.text_digest, 'hex'), title = p.title, language = p.language,
    changes = u.changes + p.is_changed::integer, document_version = p.version, has_document = p.has_document
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid, state text, reason text,
    duplicate_of uuid, text_digest text, title text, language text, is_changed boolean, version integer,
    has_document boolean)
WHERE u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
    AND u.host_hash = p.host_hash AND u.url_key = p.url_key;

-- name: offer
-- why: an extracted page becomes a document that waits for the index
UPDATE crawler_outbox_items AS o
SET stage = 'deliver', version = p.version, bytes = p.bytes, spool = NULL, headers = NULL, artifact = p.artifact,
    document = p.document, lease_owner = NULL, lease_expires_at = NULL, due_at = clock_timestamp()
FROM jsonb_to_recordset($2::jsonb) AS p (
    outbox_id uuid, version integer, bytes bigint, artifact text, document jsonb)
WHERE o.outbox_id = p.outbox_id AND o.lease_owner = $1;

-- name: drop_outbox
-- why: what was delivered, or will never be
DELETE FROM crawler_outbox_items WHERE lease_owner = $1 AND outbox_id = ANY ($2::uuid[]) RETURNING outbox_id;

-- name: postpone_outbox
-- why: the index has no room, or is away
UPDATE crawler_outbox_items
SET lease_owner = NULL, lease_expires_at = NULL, due_at = clock_timestamp() + make_interval(secs => $3)
WHERE lease_owner = $1 AND outbox_id = ANY ($2::uuid[]);

-- name: mark_delivered
-- why: the index has the document
UPDATE crawler_urls AS u SET is_delivered = true, delivered_at = clock_timestamp()
FROM crawler_urls AS was
JOIN jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid)
ON was.organization_id = p.organization_id AND was.workspace_id = p.workspace_id AND was.crawl_id = p.crawl_id
    AND was.host_hash = p.host_hash AND was.url_key = p.url_key
WHERE u.organization_id = was.organization_id AND u.workspace_id = was.workspace_id AND u.crawl_id = was.crawl_id
    AND u.host_hash = was.host_hash AND u.url_key = was.url_key
RETURNING u.organization_id, u.workspace_id, u.crawl_id, u.url, was.is_delivered AS was_delivered;

-- name: mark_withdrawn
-- why: the index no longer has the document
UPDATE crawler_urls AS u SET is_delivered = false
FROM crawler_urls AS was
JOIN jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid)
ON was.organization_id = p.organization_id AND was.workspace_id = p.workspace_id AND was.crawl_id = p.crawl_id
    AND was.host_hash = p.host_hash AND was.url_key = p.url_key
WHERE u.organization_id = was.organization_id AND u.workspace_id = was.workspace_id AND u.crawl_id = was.crawl_id
    AND u.host_hash = was.host_hash AND u.url_key = was.url_key
RETURNING u.organization_id, u.workspace_id, u.crawl_id, u.url, was.is_delivered AS was_delivered;

-- name: refuse_delivered
-- why: the index will not have this document, whatever is tried
UPDATE crawler_urls SET state = 'refused', reason = $6, has_document = false
WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3 AND host_hash = $4 AND url_key = $5
    AND state = 'done'
RETURNING url;

-- name: refetch
-- why: a body that was lost before its text was taken is fetched again
UPDATE crawler_urls AS u SET state = 'queued', not_before = clock_timestamp()
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid)
WHERE u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
    AND u.host_hash = p.host_hash AND u.url_key = p.url_key AND u.state = 'done'
RETURNING u.organization_id, u.workspace_id, u.crawl_id, u.host_hash;

-- name: requeue_pending
-- why: URLs that came back count as pending again; the loop adopts their hosts anew
UPDATE crawler_queues AS q SET pending = q.pending + p.urls, is_adopted = false
FROM jsonb_to_recordset($1::jsonb) AS p (crawl_id uuid, host_hash bigint, urls bigint)
WHERE q.host_hash = p.host_hash AND q.crawl_id = p.crawl_id;

-- name: set_source
-- why: each crawl has one source in the index, opened when its first document comes
UPDATE crawler_crawls SET source_id = $2 WHERE crawl_id = $1 AND source_id IS NULL;

-- name: outbox_sources
-- why: whose documents wait, so that each source is asked for its room, also of crawls that ended
SELECT DISTINCT c.organization_id, c.workspace_id, c.crawl_id, c.source_id, c.spec->'audience' AS audience
FROM crawler_outbox_items AS o JOIN crawler_crawls AS c ON c.organization_id = o.organization_id
    AND c.workspace_id = o.workspace_id AND c.crawl_id = o.crawl_id
WHERE o.stage = 'deliver';

-- name: robots_bodies
-- why: rules that a worker has not compiled yet
SELECT host_hash, fetched_at, body FROM crawler_robots_files WHERE host_hash = ANY ($1::bigint[]);

-- name: save_robots
-- why: one robots.txt a host for all tenants and workers
INSERT INTO crawler_robots_files (host_hash, status_class, http_status, fetched_at, expires_at, body, sha256)
VALUES ($1, $2, $3, to_timestamp($4::bigint / 1e6), clock_timestamp() + make_interval(secs => $5), $6, $7)
ON CONFLICT (host_hash) DO UPDATE SET status_class = excluded.status_class, http_status = excluded.http_status,
    fetched_at = excluded.fetched_at, expires_at = excluded.expires_at,
    body = coalesce(excluded.body, crawler_robots_files.body), sha256 = coalesce(excluded.sha256, crawler_robots_files.sha256);

-- name: take_host
-- why: a redirect of a robots.txt to another host keeps that host's spacing, blocks and owner as any request does
UPDATE crawler_hosts SET next_at = clock_timestamp() + make_interval(secs => $2 + delay_ms / 1000.0)
WHERE host_hash = $1 AND lease_owner IS NULL AND NOT is_blocked AND next_at <= clock_timestamp()
RETURNING host_hash;

-- name: leave_host
-- why: what a host asks for in answer to another's robots.txt holds as if its own had been asked for
UPDATE crawler_hosts
SET next_at = clock_timestamp() + make_interval(secs => greatest($2::double precision, delay_ms / 1000.0)),
    blocked_until = CASE WHEN $2 > 0 THEN clock_timestamp() + make_interval(secs => $2) ELSE blocked_until END,
    blocked_reason = CASE WHEN $2 > 0 THEN $3 ELSE blocked_reason END
WHERE host_hash = $1 AND lease_owner IS NULL;

-- name: host_queues
-- why: which crawls wait for a host
SELECT organization_id, workspace_id, crawl_id FROM crawler_queues WHERE host_hash = $1 ORDER BY crawl_id;

-- name: blocked_hosts
-- why: a block that an operator sets acts on hosts that are leased already
SELECT host_hash FROM crawler_hosts WHERE host_hash = ANY ($1::bigint[]) AND is_blocked;

-- name: finish_crawls
-- why: a crawl that runs once ends when nothing is queued, leased, in extraction or on its way to the index
UPDATE crawler_crawls AS c SET state = 'finished', reason = NULL, finished_at = clock_timestamp(),
    backpressure = '{}'
WHERE c.state IN ('running', 'throttled')
    AND NOT EXISTS (SELECT FROM crawler_queues AS q WHERE q.organization_id = c.organization_id
        AND q.workspace_id = c.workspace_id AND q.crawl_id = c.crawl_id AND q.pending > 0)
    AND NOT EXISTS (SELECT FROM crawler_outbox_items AS o WHERE o.crawl_id = c.crawl_id)
RETURNING c.organization_id, c.workspace_id, c.crawl_id, c.discovered, c.done, c.duplicate, c.refused, c.dead, c.gone,
    c.documents, c.tombstones;

-- name: publish_valve
-- why: what slows a crawl down is shown with it
UPDATE crawler_crawls SET backpressure = $2, state = $3 WHERE crawl_id = $1 AND state IN ('running', 'throttled')
    AND (backpressure IS DISTINCT FROM $2::jsonb OR state <> $3)
RETURNING state;

-- name: watch_lock
-- why: of several workers one tells the progress
SELECT pg_try_advisory_xact_lock(7710251, 77) AS is_mine;

-- name: count_stale
-- why: documents that are kept because their page fails, which is no word that it is gone
SELECT count(*) FROM crawler_urls
WHERE (state = 'dead' OR (state = 'queued' AND attempt > 0)) AND has_document;

-- name: host_figures
-- why: how many hosts are due and how many wait, for the progress
SELECT q.crawl_id, count(*) FILTER (WHERE h.next_at <= clock_timestamp() OR h.lease_owner IS NOT NULL)::bigint AS due,
    count(*) FILTER (WHERE h.next_at > clock_timestamp() AND h.lease_owner IS NULL)::bigint AS waiting
FROM crawler_queues AS q JOIN crawler_hosts AS h ON h.host_hash = q.host_hash
WHERE q.crawl_id = ANY ($1::uuid[]) AND q.pending > 0
GROUP BY 1;

-- name: lower_pending
-- why: URLs that came to rest without a visit no longer count as pending
UPDATE crawler_queues AS q SET pending = greatest(0, q.pending + p.urls)
FROM jsonb_to_recordset($1::jsonb) AS p (crawl_id uuid, host_hash bigint, urls bigint)
WHERE q.host_hash = p.host_hash AND q.crawl_id = p.crawl_id;

-- name: url_of_item
-- why: a body that another process left behind is extracted for the URL that it belongs to
SELECT url, signals FROM crawler_urls
WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3 AND host_hash = $4 AND url_key = $5;

-- name: deleting_crawls
-- why: crawls whose rows still have to go; one worker at a time each
SELECT organization_id, workspace_id, crawl_id, reason FROM crawler_crawls WHERE state = 'deleting'
ORDER BY crawl_id LIMIT 8 FOR UPDATE SKIP LOCKED;

-- name: documents_left
-- why: documents that the index may have and that a deleted crawl has to take back
SELECT host_hash, url_key, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint AS now_us FROM crawler_urls
WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3 AND has_document LIMIT $4;

-- name: documents_leave
-- why: each document is withdrawn once
UPDATE crawler_urls AS u SET has_document = false
FROM jsonb_to_recordset($1::jsonb) AS p (
    organization_id uuid, workspace_id uuid, crawl_id uuid, host_hash bigint, url_key uuid)
WHERE u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
    AND u.host_hash = p.host_hash AND u.url_key = p.url_key;

-- name: drop_waiting_puts
-- why: documents of a deleted crawl that were not sent yet never are
DELETE FROM crawler_outbox_items WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3 AND kind = 'put'
    AND (lease_owner IS NULL OR lease_expires_at < clock_timestamp());

-- name: has_outbox
-- why: the rows of a crawl stay until the index has heard of every withdrawal
SELECT EXISTS (SELECT FROM crawler_outbox_items
    WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3);

-- name: delete_urls
-- why: nothing of a deleted crawl stays
DELETE FROM crawler_urls WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3;

-- name: delete_queues
-- why: nothing of a deleted crawl stays
DELETE FROM crawler_queues WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3;

-- name: delete_digests
-- why: nothing of a deleted crawl stays
DELETE FROM crawler_digests WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3;

-- name: delete_templates
-- why: nothing of a deleted crawl stays
DELETE FROM crawler_templates WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3;

-- name: delete_fetches
-- why: nothing of a deleted crawl stays
DELETE FROM crawler_fetches WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3;

-- name: delete_decisions
-- why: nothing of a deleted crawl stays
DELETE FROM crawler_decisions WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3;

-- name: delete_crawl
-- why: the crawl itself goes last
DELETE FROM crawler_crawls WHERE organization_id = $1 AND workspace_id = $2 AND crawl_id = $3;

-- name: live_crawls
-- why: a workspace has a bounded number of crawls that are not over
SELECT count(*) FROM crawler_crawls WHERE organization_id = $1 AND workspace_id = $2
    AND state IN ('running', 'throttled', 'paused');

-- name: add_crawl
-- why: a crawl begins with its spec as it was understood
INSERT INTO crawler_crawls (organization_id, workspace_id, crawl_id, name, spec, weight, created_by, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: get_crawl
-- why: one crawl with what is pending, as its page shows it
SELECT c.organization_id, c.workspace_id, c.crawl_id, c.name, c.spec, c.config_version, c.state, c.reason,
    c.created_at, c.finished_at, c.request_id, c.source_id, c.authorities, c.discovered, c.done, c.duplicate, c.refused,
    c.dead, c.gone, c.documents, c.tombstones, c.bytes_wire, c.bytes_body, c.backpressure,
    (SELECT count(*) FROM crawler_urls AS u WHERE u.organization_id = c.organization_id
        AND u.workspace_id = c.workspace_id AND u.crawl_id = c.crawl_id AND u.state = 'leased' AND u.kind = 'page') AS leased,
    (SELECT min(u.not_before) FROM crawler_urls AS u WHERE u.organization_id = c.organization_id
        AND u.workspace_id = c.workspace_id AND u.crawl_id = c.crawl_id AND u.state = 'queued') AS next_due_at
FROM crawler_crawls AS c WHERE c.organization_id = $1 AND c.crawl_id = $2;

-- name: lock_crawl
-- why: calls that change a crawl take turns with the loop
SELECT organization_id, workspace_id, crawl_id, name, spec, config_version, state, reason, authorities, discovered,
    refused, documents
FROM crawler_crawls WHERE organization_id = $1 AND crawl_id = $2 FOR UPDATE;

-- name: list_crawls
-- why: a page of crawls, the newest first
SELECT c.organization_id, c.workspace_id, c.crawl_id, c.name, c.spec, c.config_version, c.state, c.reason,
    c.created_at, c.finished_at, c.request_id, c.source_id, c.authorities, c.discovered, c.done, c.duplicate, c.refused,
    c.dead, c.gone, c.documents, c.tombstones, c.bytes_wire, c.bytes_body, c.backpressure,
    (SELECT count(*) FROM crawler_urls AS u WHERE u.organization_id = c.organization_id
        AND u.workspace_id = c.workspace_id AND u.crawl_id = c.crawl_id AND u.state = 'leased' AND u.kind = 'page') AS leased,
    NULL::timestamptz AS next_due_at
FROM crawler_crawls AS c
WHERE c.organization_id = $1 AND ($2::uuid IS NULL OR c.crawl_id < $2)
ORDER BY c.crawl_id DESC LIMIT $3;

-- name: set_crawl_state
-- why: pause, resume, cancel and delete
UPDATE crawler_crawls SET state = $3, reason = $4,
    finished_at = CASE WHEN $3 IN ('canceled', 'finished') THEN clock_timestamp() ELSE NULL END
WHERE organization_id = $1 AND crawl_id = $2;

-- name: change_crawl
-- why: a crawl's spec changes while it runs; its version tells workers
UPDATE crawler_crawls SET spec = $3, weight = $4, config_version = config_version + 1
WHERE organization_id = $1 AND crawl_id = $2 RETURNING config_version;

-- name: change_politeness
-- why: what a crawl asks of its hosts changes with its spec
UPDATE crawler_queues SET floor_ms = $4, concurrency = $5, weight = $6
WHERE organization_id = $1 AND crawl_id = $2 AND host_hash = ANY ($3::bigint[]);

-- name: crawl_queues
-- why: the hosts of a crawl, with this crawl's own counts
SELECT host_hash, authority, pending, done, dead, floor_ms FROM crawler_queues
WHERE organization_id = $1 AND crawl_id = $2 AND host_hash > $3 ORDER BY host_hash LIMIT $4;

-- name: wake_queues
-- why: the loop looks anew at the hosts of a crawl that goes on
UPDATE crawler_queues SET is_adopted = false WHERE organization_id = $1 AND crawl_id = $2 AND pending > 0;

-- name: leased_by_host
-- why: how many URLs of a crawl are in work at each host
SELECT host_hash, count(*) AS leased FROM crawler_urls
WHERE organization_id = $1 AND crawl_id = $2 AND state = 'leased' GROUP BY 1;

-- name: again_urls
-- why: URLs that are to be visited again, by their keys or all that rest in some states
WITH chosen AS (
    SELECT organization_id, workspace_id, crawl_id, host_hash, url_key, state, kind FROM crawler_urls
    WHERE organization_id = $1 AND crawl_id = $2 AND state = ANY ($3::text[])
        AND ($4::uuid[] IS NULL OR url_key = ANY ($4)) AND ($5::text IS NULL OR reason = $5)
        AND ($4::uuid[] IS NOT NULL OR kind = 'page')
    FOR UPDATE
), again AS (
    UPDATE crawler_urls AS u
    SET state = 'queued', attempt = 0, not_before = clock_timestamp(), duplicate_of = NULL
    FROM chosen AS c
    WHERE u.organization_id = c.organization_id AND u.workspace_id = c.workspace_id AND u.crawl_id = c.crawl_id
        AND u.host_hash = c.host_hash AND u.url_key = c.url_key
    RETURNING u.host_hash, u.url_key
)
SELECT c.host_hash, c.state, c.kind, count(*) AS urls FROM chosen AS c JOIN again AS a
    ON a.host_hash = c.host_hash AND a.url_key = c.url_key
GROUP BY 1, 2, 3 ORDER BY 1;

-- name: list_urls
-- why: a page of a crawl's URLs
SELECT url, url_key, host_hash, state, reason, depth, priority, attempt, http_status, not_before, fetched_at, text_digest,
    duplicate_of, signals
FROM crawler_urls
WHERE organization_id = $1 AND crawl_id = $2 AND kind = 'page' AND ($3::text IS NULL OR state = $3)
    AND ($4::text IS NULL OR reason = $4) AND ($5::bigint[] IS NULL OR host_hash = ANY ($5))
    AND (host_hash, url_key) > ($6, $7)
ORDER BY host_hash, url_key LIMIT $8;

-- name: reasons_of
-- why: how many URLs of a crawl each rule refused, or gave up
SELECT state, reason, count(*) AS urls FROM crawler_urls
WHERE organization_id = $1 AND crawl_id = $2 AND kind = 'page' AND state IN ('refused', 'dead', 'gone', 'duplicate')
GROUP BY state, reason ORDER BY urls DESC, reason LIMIT 40;

-- name: hosts_named
-- why: the hosts of a crawl that a filter names
SELECT host_hash FROM crawler_queues
WHERE organization_id = $1 AND crawl_id = $2 AND (authority = $3 OR split_part(split_part(authority, '://', 2), ':', 1) = $3
    OR split_part(authority, '://', 2) = $3);

-- name: list_documents
-- why: what of a crawl is in the index
SELECT url, url_key, host_hash, document_version, title, language, text_digest, duplicate_of, signals, fetched_at, delivered_at
FROM crawler_urls
WHERE organization_id = $1 AND crawl_id = $2 AND is_delivered AND ($3::timestamptz IS NULL OR delivered_at > $3)
    AND (host_hash, url_key) > ($4, $5)
ORDER BY host_hash, url_key LIMIT $6;

-- name: find_url
-- why: one URL of a crawl, for its explanation
SELECT url, url_key, host_hash, kind, state, reason, priority, depth, hops, parent_key, attempt, not_before, http_status,
    text_digest, visits, first_seen, fetched_at, duplicate_of, has_document, is_delivered, delivered_at, signals
FROM crawler_urls WHERE organization_id = $1 AND crawl_id = $2 AND host_hash = $3 AND url_key = $4;

-- name: url_by_key
-- why: the parent or the first of a duplicate, by its key
SELECT url FROM crawler_urls WHERE organization_id = $1 AND crawl_id = $2 AND url_key = $3 LIMIT 1;

-- name: ahead_of
-- why: how many of a crawl's own URLs go before one at its host
SELECT count(*) FROM crawler_urls WHERE organization_id = $1 AND crawl_id = $2 AND host_hash = $3
    AND (state = 'leased' OR state = 'queued' AND (priority > $4 OR priority = $4 AND not_before < $5));

-- name: decisions_of
-- why: what was decided about a URL, in order
SELECT seq, at, step, verdict, rule, detail FROM crawler_decisions
WHERE organization_id = $1 AND crawl_id = $2 AND url_key = $3 ORDER BY at, seq LIMIT 200;

-- name: fetches_of
-- why: the requests that were made for a URL
SELECT at, ip, status, error, dns_ms, connect_ms, ttfb_ms, total_ms, bytes_wire, bytes_body, robots_line
FROM crawler_fetches WHERE organization_id = $1 AND crawl_id = $2 AND url_key = $3 ORDER BY at LIMIT 50;

-- name: outbox_of
-- why: whether a URL's document waits, and for what
SELECT kind, stage, due_at, attempts FROM crawler_outbox_items WHERE organization_id = $1 AND crawl_id = $2
    AND url_key = $3 ORDER BY observed_at DESC LIMIT 1;

-- name: forget_fetches
-- why: requests are told for so many days
DELETE FROM crawler_fetches WHERE at < now() - make_interval(days => $1);

-- name: forget_decisions
-- why: as long; why a URL is not in the index stays with it
DELETE FROM crawler_decisions
WHERE at < now() - make_interval(days => $1) AND verdict NOT IN ('refused', 'dead', 'gone');

-- name: host_states
-- why: the shared state of hosts, without anything of any tenant
SELECT h.host_hash, h.authority, h.host, h.next_at, h.delay_ms, h.delay_source, h.ewma_latency_ms, h.cap, h.blocked_until,
    h.blocked_reason, h.fail_streak, h.circuit, h.circuit_opened, h.lease_owner, h.lease_until, h.is_blocked, h.rule,
    h.has_pending, clock_timestamp() AS now,
    r.status_class AS robots_class, r.http_status AS robots_status, r.fetched_at AS robots_at,
    r.expires_at AS robots_expires, r.sha256 AS robots_sha, r.body AS robots_body
FROM crawler_hosts AS h LEFT JOIN crawler_robots_files AS r ON r.host_hash = h.host_hash
WHERE h.host_hash = ANY ($1::bigint[]) ORDER BY h.host_hash;

-- name: list_hosts
-- why: all hosts for the platform's operator
SELECT h.host_hash, h.authority, h.host, h.next_at, h.delay_ms, h.delay_source, h.ewma_latency_ms, h.cap, h.blocked_until,
    h.blocked_reason, h.fail_streak, h.circuit, h.circuit_opened, h.lease_owner, h.lease_until, h.is_blocked, h.rule,
    h.has_pending, clock_timestamp() AS now,
    r.status_class AS robots_class, r.http_status AS robots_status, r.fetched_at AS robots_at,
    r.expires_at AS robots_expires, r.sha256 AS robots_sha, NULL::bytea AS robots_body
FROM crawler_hosts AS h LEFT JOIN crawler_robots_files AS r ON r.host_hash = h.host_hash
WHERE ($1::text IS NULL OR h.host = $1 OR h.authority = $1) AND h.authority > $2
ORDER BY h.authority LIMIT $3;

-- name: find_rule
-- why: what an operator decided for a name
SELECT host, delay_ms, concurrency, is_blocked, reason, updated_at FROM crawler_host_rules WHERE host = $1;

-- name: put_rule
-- why: an operator's decision about a name, known before any host of it is
INSERT INTO crawler_host_rules (host, delay_ms, concurrency, is_blocked, reason) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (host) DO UPDATE SET delay_ms = excluded.delay_ms, concurrency = excluded.concurrency,
    is_blocked = excluded.is_blocked, reason = excluded.reason, updated_at = now()
RETURNING host, delay_ms, concurrency, is_blocked, reason, updated_at;

-- name: apply_rule
-- why: hosts that are there already follow a new rule at once
UPDATE crawler_hosts AS h SET is_blocked = $2,
    rule = jsonb_build_object('delay_ms', $3::integer, 'concurrency', $4::integer, 'reason', $5::text)
WHERE h.host = $1 OR ($1 LIKE '*.%' AND right('.' || h.host, length($1) - 1) = substr($1, 2))
RETURNING h.host_hash;
