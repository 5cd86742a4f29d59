-- why: the frontier of the crawler: hosts that queue, the URLs of each crawl behind them, and what waits for the index
-- phase: expand

CREATE TABLE crawler_crawls (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    name text NOT NULL,
    spec jsonb NOT NULL,
    config_version integer NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'running'
        CHECK (state IN ('running', 'throttled', 'paused', 'finished', 'canceled', 'deleting')),
    reason text,
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    created_by uuid NOT NULL,
    request_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    source_id uuid,
    -- Authorities that redirects of seeds added to a scope of hosts.
    authorities text[] NOT NULL DEFAULT '{}',
    discovered bigint NOT NULL DEFAULT 0,
    done bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    gone bigint NOT NULL DEFAULT 0,
    documents bigint NOT NULL DEFAULT 0,
    tombstones bigint NOT NULL DEFAULT 0,
    bytes_wire bigint NOT NULL DEFAULT 0,
    bytes_body bigint NOT NULL DEFAULT 0,
    backpressure jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (organization_id, workspace_id, crawl_id)
);
CREATE UNIQUE INDEX crawler_crawls_by_id ON crawler_crawls (crawl_id);
CREATE INDEX crawler_crawls_by_state ON crawler_crawls (state);
ALTER TABLE crawler_crawls ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_crawls FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_crawls_tenant ON crawler_crawls TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_crawls_ops ON crawler_crawls TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_crawls TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_crawls TO interlock_ops;

-- One row a host for all tenants: this is what makes ten crawls of one host share one delay.
-- `next_at` is compared with the store's clock only. While a host is leased it lies beyond the lease, so that a host
-- whose worker died is not visited before the lease and one delay have passed.
CREATE TABLE crawler_hosts (
    host_hash bigint NOT NULL,
    authority text NOT NULL,
    host text NOT NULL,
    registered_domain text NOT NULL,
    has_pending boolean NOT NULL DEFAULT false,
    next_at timestamptz NOT NULL DEFAULT now(),
    delay_ms integer NOT NULL DEFAULT 1000,
    delay_source text NOT NULL DEFAULT 'floor',
    crawl_delay_ms integer NOT NULL DEFAULT 0,
    adaptive_ms double precision NOT NULL DEFAULT 0,
    ewma_latency_ms double precision NOT NULL DEFAULT 0,
    ewma_bytes double precision NOT NULL DEFAULT 0,
    cap integer NOT NULL DEFAULT 1,
    blocked_until timestamptz,
    blocked_reason text,
    pushbacks integer NOT NULL DEFAULT 0,
    fail_streak integer NOT NULL DEFAULT 0,
    circuit text NOT NULL DEFAULT 'closed' CHECK (circuit IN ('closed', 'open', 'half_open')),
    circuit_opened integer NOT NULL DEFAULT 0,
    window_bits integer NOT NULL DEFAULT 0,
    window_size integer NOT NULL DEFAULT 0,
    robots_tries integer NOT NULL DEFAULT 0,
    loop_errors integer NOT NULL DEFAULT 0,
    lease_owner text,
    lease_until timestamptz,
    fence bigint NOT NULL DEFAULT 0,
    verified_at timestamptz,
    is_blocked boolean NOT NULL DEFAULT false,
    rule jsonb,
    PRIMARY KEY (host_hash)
) PARTITION BY HASH (host_hash);
CREATE INDEX crawler_hosts_due ON crawler_hosts (next_at) WHERE has_pending AND lease_owner IS NULL AND NOT is_blocked;
CREATE INDEX crawler_hosts_leased ON crawler_hosts (lease_until) WHERE lease_owner IS NOT NULL;
CREATE INDEX crawler_hosts_by_name ON crawler_hosts (host);
ALTER TABLE crawler_hosts ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_hosts FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_hosts_ops ON crawler_hosts TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_hosts TO interlock_ops;

-- What an operator decided for a host name or `*.domain`, also for hosts that nobody has seen yet.
CREATE TABLE crawler_host_rules (
    host text NOT NULL,
    delay_ms integer CHECK (delay_ms >= 0),
    concurrency integer CHECK (concurrency > 0),
    is_blocked boolean NOT NULL DEFAULT false,
    reason text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (host)
);
ALTER TABLE crawler_host_rules ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_host_rules FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_host_rules_ops ON crawler_host_rules TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_host_rules TO interlock_ops;

-- `pending` counts URLs that are queued or leased. A call of the API makes queues only; the loop adopts them, since
-- hosts belong to no tenant.
CREATE TABLE crawler_queues (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    host_hash bigint NOT NULL,
    authority text NOT NULL,
    pending bigint NOT NULL DEFAULT 0,
    deficit double precision NOT NULL DEFAULT 0,
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    floor_ms integer NOT NULL DEFAULT 1000,
    concurrency integer NOT NULL DEFAULT 1,
    admitted bigint NOT NULL DEFAULT 0,
    done bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    is_adopted boolean NOT NULL DEFAULT false,
    has_sitemaps boolean NOT NULL DEFAULT false,
    PRIMARY KEY (organization_id, workspace_id, crawl_id, host_hash)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX crawler_queues_by_host ON crawler_queues (host_hash, crawl_id);
CREATE INDEX crawler_queues_to_adopt ON crawler_queues (host_hash) WHERE NOT is_adopted;
ALTER TABLE crawler_queues ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_queues FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_queues_tenant ON crawler_queues TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_queues_ops ON crawler_queues TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_queues TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_queues TO interlock_ops;

-- The states and their transitions are `crawler/domain/states.py`.
CREATE TABLE crawler_urls (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    host_hash bigint NOT NULL,
    url_key uuid NOT NULL,
    url text NOT NULL,
    kind text NOT NULL DEFAULT 'page' CHECK (kind IN ('page', 'sitemap')),
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'leased', 'done', 'duplicate', 'refused', 'dead', 'gone')),
    reason text,
    priority integer NOT NULL DEFAULT 0,
    depth integer NOT NULL DEFAULT 0,
    hops integer NOT NULL DEFAULT 0,
    parent_key uuid,
    attempt integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    fence bigint NOT NULL DEFAULT 0,
    http_status integer,
    etag text,
    last_modified text,
    body_digest bytea,
    text_digest bytea,
    visits integer NOT NULL DEFAULT 0,
    changes integer NOT NULL DEFAULT 0,
    misses integer NOT NULL DEFAULT 0,
    first_seen timestamptz NOT NULL DEFAULT now(),
    fetched_at timestamptz,
    duplicate_of uuid,
    document_version integer NOT NULL DEFAULT 0,
    has_document boolean NOT NULL DEFAULT false,
    is_delivered boolean NOT NULL DEFAULT false,
    delivered_at timestamptz,
    template text,
    title text,
    language text,
    signals jsonb,
    PRIMARY KEY (organization_id, workspace_id, crawl_id, host_hash, url_key)
) PARTITION BY HASH (host_hash);
CREATE INDEX crawler_urls_queued ON crawler_urls (host_hash, crawl_id, priority DESC, not_before)
    WHERE state = 'queued';
CREATE INDEX crawler_urls_leased ON crawler_urls (host_hash, crawl_id) WHERE state = 'leased';
ALTER TABLE crawler_urls ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_urls FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_urls_tenant ON crawler_urls TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_urls_ops ON crawler_urls TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_urls TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_urls TO interlock_ops;

CREATE TABLE crawler_fetches (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    url_key uuid NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL,
    ip text,
    status integer,
    error text,
    dns_ms real NOT NULL,
    connect_ms real NOT NULL,
    ttfb_ms real NOT NULL,
    total_ms real NOT NULL,
    bytes_wire bigint NOT NULL,
    bytes_body bigint NOT NULL,
    robots_line integer,
    PRIMARY KEY (organization_id, workspace_id, crawl_id, url_key, attempt, at)
) PARTITION BY RANGE (at);
ALTER TABLE crawler_fetches ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_fetches FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_fetches_tenant ON crawler_fetches TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_fetches_ops ON crawler_fetches TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_fetches TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_fetches TO interlock_ops;

CREATE TABLE crawler_decisions (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    url_key uuid NOT NULL,
    seq integer NOT NULL,
    at timestamptz NOT NULL,
    step text NOT NULL,
    verdict text NOT NULL,
    rule text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (organization_id, workspace_id, crawl_id, url_key, at, seq)
) PARTITION BY RANGE (at);
ALTER TABLE crawler_decisions ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_decisions FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_decisions_tenant ON crawler_decisions TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_decisions_ops ON crawler_decisions TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_decisions TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_decisions TO interlock_ops;

CREATE TABLE crawler_robots_files (
    host_hash bigint NOT NULL,
    status_class text NOT NULL CHECK (status_class IN ('rules', 'allow', 'unreachable')),
    http_status integer,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    body bytea,
    sha256 bytea,
    PRIMARY KEY (host_hash)
);
ALTER TABLE crawler_robots_files ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_robots_files FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_robots_files_ops ON crawler_robots_files TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_robots_files TO interlock_ops;

CREATE TABLE crawler_digests (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    text_digest bytea NOT NULL,
    url_key uuid NOT NULL,
    host_hash bigint NOT NULL,
    PRIMARY KEY (organization_id, workspace_id, crawl_id, text_digest)
);
ALTER TABLE crawler_digests ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_digests FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_digests_tenant ON crawler_digests TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_digests_ops ON crawler_digests TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_digests TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_digests TO interlock_ops;

-- `recent` holds the last 50 pages of a template, newest in the lowest bit: 1 where the text was new.
CREATE TABLE crawler_templates (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    host_hash bigint NOT NULL,
    template text NOT NULL,
    pages bigint NOT NULL DEFAULT 0,
    recent bigint NOT NULL DEFAULT 0,
    novel bigint NOT NULL DEFAULT 0,
    judged bigint NOT NULL DEFAULT 0,
    closed_reason text,
    PRIMARY KEY (organization_id, workspace_id, crawl_id, host_hash, template)
);
ALTER TABLE crawler_templates ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_templates FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_templates_tenant ON crawler_templates TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_templates_ops ON crawler_templates TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_templates TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_templates TO interlock_ops;

-- A page waits here for its extraction, then its document for the index; withdrawals wait here too and go first.
CREATE TABLE crawler_outbox_items (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    outbox_id uuid NOT NULL,
    crawl_id uuid NOT NULL,
    host_hash bigint NOT NULL,
    url_key uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('put', 'tombstone')),
    stage text NOT NULL CHECK (stage IN ('extract', 'deliver')),
    version integer NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    spool text,
    headers jsonb,
    artifact text,
    document jsonb,
    reason text,
    observed_at timestamptz NOT NULL,
    discovered_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now(),
    lease_owner text,
    lease_expires_at timestamptz,
    lease_token bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (organization_id, workspace_id, outbox_id)
);
CREATE INDEX crawler_outbox_items_due ON crawler_outbox_items (stage, due_at);
CREATE INDEX crawler_outbox_items_by_url ON crawler_outbox_items (crawl_id, url_key);
ALTER TABLE crawler_outbox_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_outbox_items FORCE ROW LEVEL SECURITY;
CREATE POLICY crawler_outbox_items_tenant ON crawler_outbox_items TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY crawler_outbox_items_ops ON crawler_outbox_items TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_outbox_items TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON crawler_outbox_items TO interlock_ops;

-- Nobody but the owner may read a partition directly, where the policy of its parent would not apply.
DO $$
BEGIN
    FOR i IN 0 .. 15 LOOP
        EXECUTE format('CREATE TABLE crawler_hosts_p%s PARTITION OF crawler_hosts FOR VALUES WITH (MODULUS 16, REMAINDER %s)'
            ' WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01)', i, i);
        EXECUTE format('CREATE TABLE crawler_urls_p%s PARTITION OF crawler_urls FOR VALUES WITH (MODULUS 16, REMAINDER %s)'
            ' WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)', i, i);
        EXECUTE format('ALTER TABLE crawler_hosts_p%s ENABLE ROW LEVEL SECURITY', i);
        EXECUTE format('ALTER TABLE crawler_hosts_p%s FORCE ROW LEVEL SECURITY', i);
        EXECUTE format('ALTER TABLE crawler_urls_p%s ENABLE ROW LEVEL SECURITY', i);
        EXECUTE format('ALTER TABLE crawler_urls_p%s FORCE ROW LEVEL SECURITY', i);
    END LOOP;
END $$;
CREATE TABLE crawler_fetches_default PARTITION OF crawler_fetches DEFAULT;
ALTER TABLE crawler_fetches_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_fetches_default FORCE ROW LEVEL SECURITY;
CREATE TABLE crawler_decisions_default PARTITION OF crawler_decisions DEFAULT;
ALTER TABLE crawler_decisions_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE crawler_decisions_default FORCE ROW LEVEL SECURITY;

-- Leases due hosts and picks their URLs in one round trip. `p_caps` holds how many URLs each crawl may take now; a
-- crawl that is not named takes none. Within a host, URLs are ordered by what their queue is owed: the k-th URL of a
-- queue counts as (k - deficit) / weight, and each queue's deficit then grows by its share of what was taken and falls
-- by what it took itself, so shares follow weights over time even when one URL is taken a round.
CREATE FUNCTION crawler_lease(
    p_owner text, p_hosts_max integer, p_lease_s double precision, p_ahead_s double precision,
    p_batch_s double precision, p_crawls uuid[], p_caps integer[]
) RETURNS TABLE (host_hash bigint, due_in_s double precision) LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    v_until timestamptz := v_now + make_interval(secs => p_ahead_s);
    v_hosts bigint[];
    v_due timestamptz[];
    v_taken bigint[];
BEGIN
    SELECT array_agg(due.host_hash), array_agg(due.next_at) INTO v_hosts, v_due FROM (
        SELECT h.host_hash, h.next_at FROM crawler_hosts AS h
        WHERE h.has_pending AND h.lease_owner IS NULL AND NOT h.is_blocked AND h.next_at <= v_until
            AND EXISTS (
                SELECT FROM crawler_queues AS q JOIN unnest(p_crawls, p_caps) AS c (crawl_id, cap)
                    ON c.crawl_id = q.crawl_id AND c.cap > 0
                WHERE q.host_hash = h.host_hash AND q.pending > 0)
        ORDER BY h.next_at LIMIT p_hosts_max FOR UPDATE OF h SKIP LOCKED
    ) AS due;
    IF v_hosts IS NULL THEN
        RETURN;
    END IF;
    -- What a worker held that did not come back.
    UPDATE crawler_urls AS u SET state = 'queued' WHERE u.host_hash = ANY (v_hosts) AND u.state = 'leased';
    WITH asked AS (
        SELECT h.host_hash, h.next_at, h.fence + 1 AS fence, q.crawl_id, q.weight, q.deficit, c.cap,
            CASE WHEN h.circuit <> 'closed' THEN 1
                ELSE greatest(1, least(16, floor(p_batch_s * h.cap / greatest(h.delay_ms / 1000.0, 0.05))))
            END::integer AS k
        FROM crawler_hosts AS h
        JOIN crawler_queues AS q ON q.host_hash = h.host_hash AND q.pending > 0
        JOIN unnest(p_crawls, p_caps) AS c (crawl_id, cap) ON c.crawl_id = q.crawl_id AND c.cap > 0
        WHERE h.host_hash = ANY (v_hosts)
    ), offered AS (
        SELECT a.host_hash, a.next_at, a.fence, a.crawl_id, a.cap, a.k, a.weight, a.deficit, u.organization_id,
            u.workspace_id, u.url_key, u.rank,
            row_number() OVER (
                PARTITION BY a.host_hash ORDER BY (u.rank - a.deficit) / a.weight, a.crawl_id) AS place
        FROM asked AS a CROSS JOIN LATERAL (
            SELECT x.organization_id, x.workspace_id, x.url_key,
                row_number() OVER (ORDER BY x.priority DESC, x.not_before) AS rank
            FROM crawler_urls AS x
            WHERE x.host_hash = a.host_hash AND x.crawl_id = a.crawl_id AND x.state = 'queued'
                AND x.not_before <= v_until
            ORDER BY x.priority DESC, x.not_before LIMIT a.k
        ) AS u
    ), capped AS (
        SELECT o.*, row_number() OVER (PARTITION BY o.crawl_id ORDER BY o.rank, o.next_at, o.host_hash) AS turn
        FROM offered AS o WHERE o.place <= o.k
    ), picked AS (
        SELECT * FROM capped WHERE turn <= cap
    ), taken AS (
        UPDATE crawler_urls AS u SET state = 'leased', fence = p.fence FROM picked AS p
        WHERE u.organization_id = p.organization_id AND u.workspace_id = p.workspace_id AND u.crawl_id = p.crawl_id
            AND u.host_hash = p.host_hash AND u.url_key = p.url_key
        RETURNING u.host_hash
    ), owed AS (
        SELECT o.host_hash, o.crawl_id, o.weight, o.deficit,
            (SELECT count(*) FROM picked AS p WHERE p.host_hash = o.host_hash AND p.crawl_id = o.crawl_id) AS took
        FROM offered AS o GROUP BY 1, 2, 3, 4
    ), shares AS (
        SELECT w.host_hash, w.crawl_id, w.deficit, w.took,
            sum(w.took) OVER by_host * w.weight / sum(w.weight) OVER by_host AS share,
            count(*) OVER by_host AS queues
        FROM owed AS w WINDOW by_host AS (PARTITION BY w.host_hash)
    ), balanced AS (
        UPDATE crawler_queues AS q SET deficit = greatest(-16, least(16, s.deficit + s.share - s.took))
        FROM shares AS s
        WHERE q.host_hash = s.host_hash AND q.crawl_id = s.crawl_id AND s.queues > 1
    ), leased AS (
        UPDATE crawler_hosts AS h
        SET lease_owner = p_owner, fence = h.fence + 1, lease_until = v_now + make_interval(secs => p_lease_s),
            next_at = v_now + make_interval(secs => p_lease_s + h.delay_ms / 1000.0),
            circuit = CASE h.circuit WHEN 'open' THEN 'half_open' ELSE h.circuit END
        WHERE h.host_hash = ANY (v_hosts) AND h.host_hash IN (SELECT p.host_hash FROM picked AS p)
    ), idle AS (
        -- Nothing of it may be taken now: it comes back when its next URL may, or leaves the ready set.
        UPDATE crawler_hosts AS h
        SET next_at = greatest(h.next_at, coalesce(n.not_before, v_now + make_interval(secs => 1))),
            has_pending = n.has_any
        FROM unnest(v_hosts) AS d (host_hash) CROSS JOIN LATERAL (
            SELECT count(*) > 0 AS has_any,
                min(x.not_before) FILTER (WHERE x.crawl_id = ANY (p_crawls)) AS not_before
            FROM crawler_urls AS x WHERE x.host_hash = d.host_hash AND x.state = 'queued'
        ) AS n
        WHERE h.host_hash = d.host_hash AND h.host_hash NOT IN (SELECT o.host_hash FROM offered AS o)
    )
    SELECT array_agg(DISTINCT t.host_hash) INTO v_taken FROM taken AS t;
    RETURN QUERY SELECT d.host_hash, extract(epoch FROM d.next_at - v_now)::double precision
        FROM unnest(v_hosts, v_due) AS d (host_hash, next_at) WHERE d.host_hash = ANY (v_taken);
END $$;
