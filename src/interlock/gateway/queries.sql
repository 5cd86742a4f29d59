-- name: lease
-- why: all that a machine asks and tells of one organization's limits is decided at once; the function sets the scope
SELECT levels_micro, leased_micro, is_short
FROM gateway_lease($1, $2, $3, $4, $5::text::uuid[], $6::text::bigint[], $7::text::bigint[], $8::text::bigint[],
    $9::text::text[], $10::text::bigint[], $11::text::bigint[], $12::text::bigint[], $13::text::bigint[],
    $14::text::integer[], $15::text::integer[], $16::text::bigint[], $17::text::boolean[]);

-- name: limit_heartbeat
-- why: how many machines there are decides each one's share while the store is away
SELECT gateway_limit_heartbeat($1, $2, $3) AS machines;

-- name: forget_leases
-- why: a machine that was started again leases under a new name; the old one's rows are empty by then
DELETE FROM gateway_limit_leases WHERE expires_us < gateway_now_us() - $1::bigint;

-- name: all_providers
-- why: every edge holds all providers in memory
SELECT organization_id, name, kind, base_url, pool, secret, may_be_private FROM gateway_providers;

-- name: all_deployments
-- why: every edge holds all deployments in memory
SELECT organization_id, name, provider, upstream_model, input_price_micro, output_price_micro,
    cached_input_price_micro, price_version, max_concurrent, capabilities::text AS capabilities
FROM gateway_deployments;

-- name: all_routes
-- why: every edge holds the versions of each route that answer, and the newest, which may be asked for by number
SELECT r.organization_id, r.alias, v.version, r.created_us, v.spec::text AS spec, v.digest
FROM gateway_routes AS r
JOIN gateway_route_versions AS v ON v.organization_id = r.organization_id AND v.alias = r.alias
LEFT JOIN gateway_route_weights AS w ON w.organization_id = r.organization_id AND w.alias = r.alias
WHERE v.version IN (coalesce(w.stable_version, r.stable_version), w.candidate_version)
    OR v.version > (
        SELECT max(n.version) - $1::integer FROM gateway_route_versions AS n
        WHERE n.organization_id = r.organization_id AND n.alias = r.alias
    );

-- name: all_weights
-- why: every edge holds what each route gives to whom; one without a row gives all to the version it was born with
SELECT r.organization_id, r.alias, coalesce(w.stable_version, r.stable_version) AS stable_version,
    w.candidate_version, w.mode, coalesce(w.weight_bp, 0) AS weight_bp, w.verdict_id, w.verdict_token,
    w.verdict_expires_us, w.expires_us, coalesce(w.rose_us, 0) AS rose_us, coalesce(w.epoch, 0) AS epoch
FROM gateway_routes AS r
LEFT JOIN gateway_route_weights AS w ON w.organization_id = r.organization_id AND w.alias = r.alias;

-- name: add_provider
-- why: a provider of an administrator; a name that is taken is refused by the key
INSERT INTO gateway_providers
    (organization_id, name, id, kind, base_url, secret, may_be_private, created_us, pool)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: list_providers
-- why: a page by name; the operator's holds the platform's as well, where no own one goes before it
SELECT organization_id, name, id, kind, base_url, pool, secret, may_be_private, created_us
FROM gateway_providers AS p
WHERE name > $2 AND (organization_id = $1 OR organization_id = $4::uuid AND NOT EXISTS (
    SELECT 1 FROM gateway_providers AS own WHERE own.organization_id = $1 AND own.name = p.name))
ORDER BY name
LIMIT $3;

-- name: find_provider
-- why: by name or id
SELECT organization_id, name, id, kind, base_url, pool, secret, may_be_private, created_us
FROM gateway_providers
WHERE organization_id = $1 AND (name = $2 OR id = $3);

-- name: delete_provider
-- why: refused by the key of deployments that name it
DELETE FROM gateway_providers WHERE organization_id = $1 AND name = $2;

-- name: add_deployment
-- why: a deployment is never changed, so that the digest of a version that names it stays true
INSERT INTO gateway_deployments
    (organization_id, name, id, provider, upstream_model, input_price_micro, output_price_micro,
    cached_input_price_micro, price_version, max_concurrent, capabilities, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::jsonb, $12);

-- name: list_deployments
-- why: a page by name; the operator's holds the platform's as well, where no own one goes before it
SELECT organization_id, name, id, provider, upstream_model, input_price_micro, output_price_micro,
    cached_input_price_micro, price_version, max_concurrent, capabilities::text AS capabilities, created_us
FROM gateway_deployments AS d
WHERE name > $2 AND (organization_id = $1 OR organization_id = $4::uuid AND NOT EXISTS (
    SELECT 1 FROM gateway_deployments AS own WHERE own.organization_id = $1 AND own.name = d.name))
ORDER BY name
LIMIT $3;

-- name: find_deployment
-- why: by name or id; of the own organization before the platform's
SELECT organization_id, name, id, provider, upstream_model, input_price_micro, output_price_micro,
    cached_input_price_micro, price_version, max_concurrent, capabilities::text AS capabilities, created_us
FROM gateway_deployments
WHERE organization_id = $1 AND (name = $2 OR id = $3);

-- name: delete_deployment
-- why: once no version that takes traffic names it
DELETE FROM gateway_deployments WHERE organization_id = $1 AND name = $2;

-- name: prune_deployments
-- why: a model that is not offered any more is not found any more
DELETE FROM gateway_deployments WHERE organization_id = $1 AND provider = $2 AND name <> ALL ($3::text[]);

-- name: deployment_users
-- why: versions that take traffic and name a deployment, in any organization, as all may use the platform's
SELECT v.alias, v.version
FROM gateway_routes AS r
JOIN gateway_route_versions AS v ON v.organization_id = r.organization_id AND v.alias = r.alias
LEFT JOIN gateway_route_weights AS w ON w.organization_id = r.organization_id AND w.alias = r.alias
WHERE v.version IN (coalesce(w.stable_version, r.stable_version), w.candidate_version)
    AND (r.organization_id = $1 OR $3)
    AND (
        v.spec -> 'targets' @> jsonb_build_array(jsonb_build_object('deployment', $2::text))
        OR v.spec -> 'fallbacks' @> jsonb_build_array(jsonb_build_object('deployment', $2::text))
    );

-- name: find_route
-- why: by alias or id, with what it gives to whom
SELECT r.organization_id, r.alias, r.id, r.created_us,
    coalesce(w.stable_version, r.stable_version) AS stable_version,
    w.candidate_version, w.mode, coalesce(w.weight_bp, 0) AS weight_bp, w.verdict_id, w.verdict_token,
    w.verdict_expires_us, w.expires_us, coalesce(w.rose_us, 0) AS rose_us, coalesce(w.epoch, 0) AS epoch
FROM gateway_routes AS r
LEFT JOIN gateway_route_weights AS w ON w.organization_id = r.organization_id AND w.alias = r.alias
WHERE r.organization_id = $1 AND (r.alias = $2 OR r.id = $3);

-- name: lock_route
-- why: of two who change what a route gives to whom, the second waits and sees what the first did
SELECT id FROM gateway_routes WHERE organization_id = $1 AND (alias = $2 OR id = $3) FOR UPDATE;

-- name: list_routes
-- why: a page by alias; the operator's holds the platform's as well, where no own one goes before it
SELECT r.organization_id, r.alias, r.id, r.created_us,
    coalesce(w.stable_version, r.stable_version) AS stable_version,
    w.candidate_version, w.mode, coalesce(w.weight_bp, 0) AS weight_bp, w.verdict_id, w.verdict_token,
    w.verdict_expires_us, w.expires_us, coalesce(w.rose_us, 0) AS rose_us, coalesce(w.epoch, 0) AS epoch
FROM gateway_routes AS r
LEFT JOIN gateway_route_weights AS w ON w.organization_id = r.organization_id AND w.alias = r.alias
WHERE r.alias > $2 AND (r.organization_id = $1 OR r.organization_id = $4::uuid AND NOT EXISTS (
    SELECT 1 FROM gateway_routes AS own WHERE own.organization_id = $1 AND own.alias = r.alias))
ORDER BY r.alias
LIMIT $3;

-- name: versions_of
-- why: all versions of some routes, newest first
SELECT alias, version, digest, spec::text AS spec, created_us
FROM gateway_route_versions
WHERE organization_id = $1 AND alias = ANY ($2::text[])
ORDER BY alias, version DESC;

-- name: put_weight
-- why: one row says what a route gives to whom
INSERT INTO gateway_route_weights
    (organization_id, alias, stable_version, candidate_version, mode, weight_bp, verdict_id, verdict_token,
        verdict_expires_us, expires_us, rose_us, epoch)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (organization_id, alias) DO UPDATE
SET stable_version = EXCLUDED.stable_version, candidate_version = EXCLUDED.candidate_version, mode = EXCLUDED.mode,
    weight_bp = EXCLUDED.weight_bp, verdict_id = EXCLUDED.verdict_id, verdict_token = EXCLUDED.verdict_token,
    verdict_expires_us = EXCLUDED.verdict_expires_us, expires_us = EXCLUDED.expires_us, rose_us = EXCLUDED.rose_us,
    epoch = EXCLUDED.epoch;

-- name: add_arm_counts
-- why: what this process counted; a batch that is sent again counts once
INSERT INTO gateway_route_arm_counts
    (organization_id, alias, version, arm, second, edge, weight_bp, units, requests,
        errors_requests, errors_units, slow_requests, slow_units)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT DO NOTHING;

-- name: arm_counts
-- why: the arms of a route second by second; the reader adds up the edges
SELECT version, arm, second, weight_bp, units, requests, errors_requests, errors_units, slow_requests, slow_units
FROM gateway_route_arm_counts
WHERE organization_id = $1 AND alias = $2 AND second >= $3 AND second < $4
ORDER BY second, version, arm;

-- name: forget_arm_counts
-- why: counts are kept for a week
DELETE FROM gateway_route_arm_counts WHERE second < $1;

-- name: all_limits
-- why: every edge holds all limits in memory
SELECT id, organization_id, scope, target, dimension, model, per_minute, burst, mode, version FROM gateway_limits;

-- name: all_tiers
-- why: a limit of a tier applies to each organization of it
SELECT id, tier FROM identity_organizations WHERE tier IS NOT NULL;

-- name: put_provider
-- why: registering the engine again at the next start changes the address, not the identity
INSERT INTO gateway_providers (organization_id, name, id, kind, base_url, pool, secret)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (organization_id, name) DO UPDATE
SET kind = EXCLUDED.kind, base_url = EXCLUDED.base_url, pool = EXCLUDED.pool, secret = EXCLUDED.secret
WHERE (gateway_providers.kind, gateway_providers.base_url, gateway_providers.pool, gateway_providers.secret)
    IS DISTINCT FROM (EXCLUDED.kind, EXCLUDED.base_url, EXCLUDED.pool, EXCLUDED.secret);

-- name: put_deployment
-- why: the same for what the engine serves
INSERT INTO gateway_deployments (organization_id, name, id, provider, upstream_model)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (organization_id, name) DO UPDATE
SET provider = EXCLUDED.provider, upstream_model = EXCLUDED.upstream_model
WHERE (gateway_deployments.provider, gateway_deployments.upstream_model)
    IS DISTINCT FROM (EXCLUDED.provider, EXCLUDED.upstream_model);

-- name: latest_version
-- why: a route that already leads where it should keeps its version
SELECT version, digest FROM gateway_route_versions
WHERE organization_id = $1 AND alias = $2
ORDER BY version DESC
LIMIT 1;

-- name: put_route
-- why: an alias and the version that it is born with; of two who make it at once, the second waits and adds a version
INSERT INTO gateway_routes (organization_id, alias, id, stable_version, created_us)
VALUES ($1, $2, $3, 1, $4)
ON CONFLICT (organization_id, alias) DO UPDATE SET alias = EXCLUDED.alias
RETURNING id;

-- name: add_version
-- why: versions are added and never changed
INSERT INTO gateway_route_versions (organization_id, alias, version, digest, spec, created_us)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6);

-- name: put_limit
-- why: the same scope, target, dimension and model is the same limit, with a newer version
INSERT INTO gateway_limits (organization_id, id, scope, target, dimension, model, per_minute, burst, mode)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (organization_id, scope, target, dimension, model) DO UPDATE
SET per_minute = EXCLUDED.per_minute, burst = EXCLUDED.burst, mode = EXCLUDED.mode,
    version = gateway_limits.version + 1
RETURNING id, organization_id, scope, target, dimension, model, per_minute, burst, mode, version;

-- name: delete_limit
-- why: the deleted object is the answer
DELETE FROM gateway_limits WHERE organization_id = $1 AND id = $2
RETURNING id, organization_id, scope, target, dimension, model, per_minute, burst, mode, version;

-- name: delete_bucket
-- why: the bucket of a deleted limit is of no use to anybody
DELETE FROM gateway_limit_buckets WHERE organization_id = $1 AND bucket_id = $2;

-- name: list_limits
-- why: a page of limits, along the primary key
SELECT id, organization_id, scope, target, dimension, model, per_minute, burst, mode, version
FROM gateway_limits
WHERE organization_id = $1 AND id > $2
ORDER BY id
LIMIT $3;

-- name: limit_fill
-- why: how full the buckets of some limits are at this moment, by the same rule that refuses; what is leased and not
-- used counts as left, but for slots, which somebody holds, unless the lease has ended: whoever asks next gets those
SELECT bucket_id,
    gateway_level(refill, level_micro, leased_micro - ended_micro, refilled_us, gateway_now_us(), rate_micro, burst_micro)
        + CASE refill WHEN 'slots' THEN 0 ELSE leased_micro END AS level_micro,
    (SELECT coalesce(sum(hourly), 0)
        FROM unnest(gateway_observed(observed_refusals, observed_hour, gateway_now_us() / 3600000000)) AS hourly
    )::bigint AS observed_refusals
FROM gateway_limit_buckets AS b
CROSS JOIN LATERAL (
    SELECT coalesce(sum(l.amount_micro), 0)::bigint AS ended_micro FROM gateway_limit_leases AS l
    WHERE b.refill = 'slots' AND l.organization_id = b.organization_id AND l.bucket_id = b.bucket_id
        AND l.expires_us < gateway_now_us() AND pg_postmaster_start_time() < clock_timestamp() - interval '10 seconds'
) AS ended
WHERE organization_id = $1 AND bucket_id = ANY ($2::uuid[]);

-- name: key_place
-- why: whose limits apply to a key
SELECT id, workspace_id FROM identity_api_keys WHERE organization_id = $1 AND (id = $2 OR lookup = $3);

-- name: story_tenant
-- why: the platform's operator finds a story by its id alone; the time in the id prunes to one partition
SELECT organization_id FROM telemetry_requests WHERE id = $1;

-- name: kill_route
-- why: a switch on what does not exist would be believed to stop something; the platform's operator stops anybody's
SELECT alias AS name, CASE WHEN id = $2 THEN organization_id END AS owner_id FROM gateway_routes
WHERE (alias = $1 OR id = $2) AND ($3::uuid IS NULL OR organization_id IN ($3, $4::uuid))
ORDER BY id IS NOT DISTINCT FROM $2 DESC LIMIT 1;

-- name: kill_deployment
-- why: a switch on what does not exist would be believed to stop something; the platform's operator stops anybody's
SELECT name AS name, CASE WHEN id = $2 THEN organization_id END AS owner_id FROM gateway_deployments
WHERE (name = $1 OR id = $2) AND ($3::uuid IS NULL OR organization_id IN ($3, $4::uuid))
ORDER BY id IS NOT DISTINCT FROM $2 DESC LIMIT 1;

-- name: kill_provider
-- why: a switch on what does not exist would be believed to stop something; the platform's operator stops anybody's
SELECT name AS name, CASE WHEN id = $2 THEN organization_id END AS owner_id FROM gateway_providers
WHERE (name = $1 OR id = $2) AND ($3::uuid IS NULL OR organization_id IN ($3, $4::uuid))
ORDER BY id IS NOT DISTINCT FROM $2 DESC LIMIT 1;

-- name: hold_prices
-- why: of two who add the same version at once the second has to see the first
SELECT pg_advisory_xact_lock(hashtextextended('gateway-prices ' || $1::uuid::text, 0));

-- name: has_prices
-- why: a version of a list is added once
SELECT EXISTS (SELECT 1 FROM gateway_prices WHERE organization_id = $1 AND version = $2);

-- name: price_versions
-- why: how many versions there are, one step of the index each, however long they are
WITH RECURSIVE seen (version) AS (
    SELECT min(version) FROM gateway_prices WHERE organization_id = $1
    UNION ALL
    SELECT (SELECT min(p.version) FROM gateway_prices p WHERE p.organization_id = $1 AND p.version > seen.version)
    FROM seen WHERE seen.version IS NOT NULL
)
SELECT count(version) FROM seen;

-- name: add_prices
-- why: the rows of one version of a list
INSERT INTO gateway_prices (organization_id, provider, model, effective_us, version, input_price_micro,
    output_price_micro, cached_input_price_micro, created_us)
SELECT $1, p.provider, p.model, $2, $3, p.given, p.made, p.cached, $4
FROM unnest($5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[]) AS p (provider, model, given, made, cached);

-- name: find_price
-- why: the price of a model that is in effect; an organization's own lists go before the platform's
SELECT version, input_price_micro, output_price_micro, cached_input_price_micro
FROM gateway_prices
WHERE organization_id IN ($1, $2::uuid) AND provider = $3 AND model = $4 AND effective_us <= $5
ORDER BY organization_id = $1 DESC, effective_us DESC, created_us DESC
LIMIT 1;

-- name: list_prices
-- why: a page of the prices of an organization's lists, by version, provider and model
SELECT version, provider, model, input_price_micro, output_price_micro, cached_input_price_micro, effective_us
FROM gateway_prices
WHERE organization_id = $1 AND ($2::text IS NULL OR version = $2) AND (version, provider, model) > ($3, $4, $5)
ORDER BY version, provider, model
LIMIT $6;

-- name: find_key
-- why: a key by its id or by the part of it that logs show
SELECT id FROM identity_api_keys WHERE ($1::uuid IS NULL OR organization_id = $1) AND (id = $2 OR lookup = $3);

-- name: find_workspace
-- why: whether the caller may see a workspace of this id
SELECT id FROM identity_workspaces WHERE ($1::uuid IS NULL OR organization_id = $1) AND id = $2;

-- name: find_limit
-- why: whether the caller may see a limit of this id
SELECT id FROM gateway_limits WHERE ($1::uuid IS NULL OR organization_id = $1) AND id = $2;

-- name: find_provider_id
-- why: whether the caller may see a provider of this id
SELECT id FROM gateway_providers WHERE ($1::uuid IS NULL OR organization_id = $1) AND id = $2;

-- name: find_deployment_id
-- why: whether the caller may see a deployment of this id
SELECT id FROM gateway_deployments WHERE ($1::uuid IS NULL OR organization_id = $1) AND id = $2;

-- name: find_route_id
-- why: whether the caller may see a route of this id
SELECT id FROM gateway_routes WHERE ($1::uuid IS NULL OR organization_id = $1) AND id = $2;

-- name: find_kill
-- why: whether the caller may see a switch of this id that is on
SELECT id FROM flags_kill_switches
WHERE ($1::uuid IS NULL OR organization_id = $1) AND id = $2 AND lifted_us IS NULL;

-- name: workspace_named
-- why: names are taken wherever ids are
SELECT id FROM identity_workspaces WHERE organization_id = $1 AND (id = $2 OR name = $3);

-- name: limit_tenant
-- why: the platform's operator deletes a limit by its id alone
SELECT organization_id FROM gateway_limits WHERE id = $1;

-- name: page_of_all_limits
-- why: the platform's operator sees the limits of every organization
SELECT id, organization_id, scope, target, dimension, model, per_minute, burst, mode, version
FROM gateway_limits
WHERE id > $1
ORDER BY id
LIMIT $2;

-- name: limits_of_organization
-- why: what may apply to one key: its organization's rows, and the platform's for the tier
SELECT id, organization_id, scope, target, dimension, model, per_minute, burst, mode, version
FROM gateway_limits
WHERE organization_id = $1 OR (organization_id = $2 AND scope = 'tier' AND target = $3);

-- name: organization_tier
-- why: which limits of a tier apply to the organization
SELECT tier FROM identity_organizations WHERE id = $1;

-- name: add_usage
-- why: what new stories used is added, by the minute and by the hour, in the transaction that stores them; rows come in
-- the order of their key, and an hour is what its minutes add
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
        $15::bigint[], $16::bigint[]) AS row (organization_id, bucket_at, workspace_id, key_id, alias, deployment,
        price_version, tag_set, requests, refused, unpriced, input_tokens, cached_input_tokens, output_tokens,
        reasoning_tokens, cost_usd_micros)
), hours AS (
    INSERT INTO gateway_usage_hours AS u (organization_id, bucket_at, workspace_id, key_id, alias, deployment,
        price_version, tag_set, requests, refused, unpriced, input_tokens, cached_input_tokens, output_tokens,
        reasoning_tokens, cost_usd_micros)
    SELECT organization_id, date_trunc('hour', bucket_at, 'UTC') AS hour_at, workspace_id, key_id, alias, deployment,
        price_version, tag_set, sum(requests), sum(refused), sum(unpriced), sum(input_tokens),
        sum(cached_input_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost_usd_micros)
    FROM given
    GROUP BY organization_id, hour_at, workspace_id, key_id, alias, deployment, price_version, tag_set
    ORDER BY organization_id, hour_at, workspace_id, key_id, alias, deployment, price_version, tag_set
    ON CONFLICT (organization_id, bucket_at, workspace_id, key_id, alias, deployment, price_version, tag_set) DO UPDATE
    SET requests = u.requests + EXCLUDED.requests, refused = u.refused + EXCLUDED.refused,
        unpriced = u.unpriced + EXCLUDED.unpriced, input_tokens = u.input_tokens + EXCLUDED.input_tokens,
        cached_input_tokens = u.cached_input_tokens + EXCLUDED.cached_input_tokens,
        output_tokens = u.output_tokens + EXCLUDED.output_tokens,
        reasoning_tokens = u.reasoning_tokens + EXCLUDED.reasoning_tokens,
        cost_usd_micros = u.cost_usd_micros + EXCLUDED.cost_usd_micros
)
INSERT INTO gateway_usage_minutes AS u (organization_id, bucket_at, workspace_id, key_id, alias, deployment,
    price_version, tag_set, requests, refused, unpriced, input_tokens, cached_input_tokens, output_tokens,
    reasoning_tokens, cost_usd_micros)
SELECT * FROM given
ON CONFLICT (organization_id, bucket_at, workspace_id, key_id, alias, deployment, price_version, tag_set) DO UPDATE
SET requests = u.requests + EXCLUDED.requests, refused = u.refused + EXCLUDED.refused,
    unpriced = u.unpriced + EXCLUDED.unpriced, input_tokens = u.input_tokens + EXCLUDED.input_tokens,
    cached_input_tokens = u.cached_input_tokens + EXCLUDED.cached_input_tokens,
    output_tokens = u.output_tokens + EXCLUDED.output_tokens,
    reasoning_tokens = u.reasoning_tokens + EXCLUDED.reasoning_tokens,
    cost_usd_micros = u.cost_usd_micros + EXCLUDED.cost_usd_micros;

-- name: usage_of_minutes
-- why: usage put together by the minute and one of its sides; a request with several tags counts for each of them
SELECT bucket_at, grp, sum(requests) AS requests, sum(refused) AS refused, sum(unpriced) AS unpriced,
    sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
    sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens,
    sum(cost_usd_micros) AS cost_usd_micros
FROM (
    SELECT date_trunc($5::text, u.bucket_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS bucket_at, side.grp,
        u.requests, u.refused, u.unpriced, u.input_tokens, u.cached_input_tokens, u.output_tokens,
        u.reasoning_tokens, u.cost_usd_micros
    FROM gateway_usage_minutes AS u
    CROSS JOIN LATERAL unnest(CASE $6::text
        WHEN 'key' THEN ARRAY[u.key_id::text]
        WHEN 'workspace' THEN ARRAY[u.workspace_id::text]
        WHEN 'model' THEN ARRAY[u.alias]
        ELSE CASE u.tag_set WHEN '' THEN ARRAY[''] ELSE string_to_array(u.tag_set, ',') END
    END) AS side (grp)
    WHERE u.organization_id = $1 AND ($2::uuid IS NULL OR u.workspace_id = $2)
        AND u.bucket_at >= $3::timestamptz AND u.bucket_at < $4::timestamptz
) AS found
WHERE (bucket_at, grp) > ($7::timestamptz, $8::text)
GROUP BY bucket_at, grp
ORDER BY bucket_at, grp
LIMIT $9;

-- name: usage_of_hours
-- why: usage put together by the hour or day and one of its sides; a request with several tags counts for each of them
SELECT bucket_at, grp, sum(requests) AS requests, sum(refused) AS refused, sum(unpriced) AS unpriced,
    sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
    sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens,
    sum(cost_usd_micros) AS cost_usd_micros
FROM (
    SELECT date_trunc($5::text, u.bucket_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS bucket_at, side.grp,
        u.requests, u.refused, u.unpriced, u.input_tokens, u.cached_input_tokens, u.output_tokens,
        u.reasoning_tokens, u.cost_usd_micros
    FROM gateway_usage_hours AS u
    CROSS JOIN LATERAL unnest(CASE $6::text
        WHEN 'key' THEN ARRAY[u.key_id::text]
        WHEN 'workspace' THEN ARRAY[u.workspace_id::text]
        WHEN 'model' THEN ARRAY[u.alias]
        ELSE CASE u.tag_set WHEN '' THEN ARRAY[''] ELSE string_to_array(u.tag_set, ',') END
    END) AS side (grp)
    WHERE u.organization_id = $1 AND ($2::uuid IS NULL OR u.workspace_id = $2)
        AND u.bucket_at >= $3::timestamptz AND u.bucket_at < $4::timestamptz
) AS found
WHERE (bucket_at, grp) > ($7::timestamptz, $8::text)
GROUP BY bucket_at, grp
ORDER BY bucket_at, grp
LIMIT $9;

-- name: claim_reply
-- why: whoever repeats a call gets the answer of the first, in the one round trip that the header costs
SELECT is_mine, is_same, claimed_at, state, owner, reply FROM gateway_claim_reply($1, $2, $3, $4, $5, $6, $7);

-- name: keep_reply
-- why: what was answered is given again for a day; an owner whose lease ended changes nothing
UPDATE store_idempotency_keys
SET state = 'done', reply_status = 200, reply = $7, expires_at = now() + make_interval(secs => $8)
WHERE organization_id = $1 AND workspace_id = $2 AND endpoint = $3 AND key = $4 AND created_at = $5 AND owner = $6
    AND state = 'running' AND expires_at > now();

-- name: release_reply
-- why: a call that failed left nothing to give again and may simply be made once more; who left first knows no moment
DELETE FROM store_idempotency_keys
WHERE organization_id = $1 AND workspace_id = $2 AND endpoint = $3 AND key = $4
    AND ($5::timestamptz IS NULL OR created_at = $5) AND owner = $6 AND state = 'running';

-- name: renew_reply
-- why: a long answer keeps its claim, and that of a dead edge ends by itself
UPDATE store_idempotency_keys SET expires_at = now() + make_interval(secs => $7)
WHERE organization_id = $1 AND workspace_id = $2 AND endpoint = $3 AND key = $4 AND created_at = $5 AND owner = $6
    AND state = 'running' AND expires_at > now();
