-- name: all_pools
-- why: a scheduler holds every pool in memory
SELECT name, policy, share_level, objectives::text AS objectives, is_draining, version, created_us
FROM scheduler_pools ORDER BY name;

-- name: all_engines
-- why: a scheduler watches every engine
SELECT pool, engine_id, url, adapter, model, slots, context_tokens, kv_tokens, prefill_tps, tpot_ms, price_usd_hour,
    is_draining
FROM scheduler_engines ORDER BY pool, engine_id;

-- name: all_weights
-- why: shares are divided by weight at every level
SELECT scope, target, weight FROM scheduler_weights ORDER BY scope, target;

-- name: add_pool
-- why: a pool that is declared anew at each start keeps what operators set since
INSERT INTO scheduler_pools (organization_id, name, policy, share_level, objectives, created_us)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6)
ON CONFLICT (organization_id, name) DO NOTHING;

-- name: set_pool
-- why: settings change under a version, so that two operators do not overwrite each other unseen
UPDATE scheduler_pools
SET policy = $3, share_level = $4, objectives = $5::text::jsonb, is_draining = $6, version = version + 1
WHERE organization_id = $1 AND name = $2 AND ($7::integer IS NULL OR version = $7)
RETURNING version;

-- name: remove_pool
-- why: its engines go with it
DELETE FROM scheduler_pools WHERE organization_id = $1 AND name = $2;

-- name: add_engine
-- why: the same URL in a pool is the same engine; declaring it again changes its figures
INSERT INTO scheduler_engines (organization_id, pool, engine_id, url, adapter, model, slots, context_tokens, kv_tokens,
    prefill_tps, tpot_ms, price_usd_hour, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (organization_id, pool, engine_id) DO UPDATE
SET adapter = EXCLUDED.adapter, model = EXCLUDED.model, slots = EXCLUDED.slots,
    context_tokens = EXCLUDED.context_tokens, kv_tokens = EXCLUDED.kv_tokens, prefill_tps = EXCLUDED.prefill_tps,
    tpot_ms = EXCLUDED.tpot_ms, price_usd_hour = EXCLUDED.price_usd_hour;

-- name: remove_engine
-- why: no new grants; what runs on it goes on
DELETE FROM scheduler_engines WHERE organization_id = $1 AND pool = $2 AND engine_id = $3;

-- name: drain_engine
-- why: a drained engine stays declared and takes nothing new
UPDATE scheduler_engines SET is_draining = $4 WHERE organization_id = $1 AND pool = $2 AND engine_id = $3;

-- name: set_weight
-- why: one row a target
INSERT INTO scheduler_weights (organization_id, scope, target, weight) VALUES ($1, $2, $3, $4)
ON CONFLICT (organization_id, scope, target) DO UPDATE SET weight = EXCLUDED.weight;

-- name: take_pools
-- why: who leads a pool is decided here alone. Free is what nobody led, whose leader is late by the store's clock, or
-- whose leader's process has ended ($8); of two that come at once the second waits for nothing
INSERT INTO scheduler_leaders AS known (organization_id, pool, holder, seat, address, fence, since, until)
SELECT $1, pool, $3, $4, $5, 1, clock_timestamp(), clock_timestamp() + make_interval(secs => $6)
FROM unnest($2::text[]) AS pool
WHERE pg_try_advisory_xact_lock(hashtextextended('scheduler_leaders ' || pool, 0))
ON CONFLICT (organization_id, pool) DO UPDATE SET holder = EXCLUDED.holder, seat = EXCLUDED.seat,
    address = EXCLUDED.address, fence = known.fence + 1, since = EXCLUDED.since, until = EXCLUDED.until
WHERE known.holder = ANY($8::text[])
    OR known.until < clock_timestamp() AND ($7 OR known.seat = EXCLUDED.seat)
RETURNING pool, fence;

-- name: renew_pools
-- why: a leader that goes on says so; a fence that was passed renews nothing
UPDATE scheduler_leaders AS known SET until = clock_timestamp() + make_interval(secs => $4)
FROM unnest($2::text[], $3::bigint[]) AS mine (pool, fence)
WHERE known.organization_id = $1 AND known.pool = mine.pool AND known.fence = mine.fence
RETURNING known.pool;

-- name: leave_pools
-- why: a scheduler that ends is not waited for
UPDATE scheduler_leaders AS known SET until = clock_timestamp() - interval '1 second'
FROM unnest($2::text[], $3::bigint[]) AS mine (pool, fence)
WHERE known.organization_id = $1 AND known.pool = mine.pool AND known.fence = mine.fence
RETURNING known.pool;

-- name: all_leaders
-- why: edges ask the leader of a pool, and other schedulers wait for it
SELECT pool, holder, address, fence, extract(epoch FROM until - clock_timestamp())::float8 AS left_s
FROM scheduler_leaders WHERE organization_id = $1;

-- name: keep_checkpoints
-- why: a new leader begins with what the old one learned; one whose fence was passed keeps nothing
INSERT INTO scheduler_checkpoints (organization_id, pool, kept, at_us)
SELECT led.organization_id, led.pool, mine.kept::jsonb, $5
FROM unnest($2::text[], $3::bigint[], $4::text[]) AS mine (pool, fence, kept)
JOIN scheduler_leaders AS led ON led.organization_id = $1 AND led.pool = mine.pool AND led.fence = mine.fence
FOR SHARE OF led
ON CONFLICT (organization_id, pool) DO UPDATE SET kept = EXCLUDED.kept, at_us = EXCLUDED.at_us;

-- name: all_checkpoints
-- why: read once, when a leader begins
SELECT pool, kept::text AS kept FROM scheduler_checkpoints;

-- name: add_decision
-- why: one row a request; a batch that is written twice is written once, one of a passed fence not at all
INSERT INTO scheduler_decisions (organization_id, workspace_id, request_id, created_at, key_id, pool, engine_id, class,
    outcome, code, promise, queue_wait_ms, predicted_ttft_ms, ttft_ms, predicted_tpot_ms, tpot_ms, predicted_output,
    output_tokens, total_ms, debt, demand, share, input_tokens, cached_tokens, charged, wasted, cost_usd, is_in_slo,
    steps)
SELECT $1, $2, $3, to_timestamp($4::bigint / 1e6), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
    $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29::text::jsonb
FROM scheduler_leaders AS led WHERE led.organization_id = $30 AND led.pool = $6 AND led.fence = $31 FOR SHARE OF led
ON CONFLICT DO NOTHING;

-- name: forget_decisions
-- why: decisions are kept for two weeks
DELETE FROM scheduler_decisions WHERE created_at < to_timestamp($1::bigint / 1e6);

-- name: add_usage
-- why: the sums of a minute grow with each batch of what ended in it under a fence that nobody passed
INSERT INTO scheduler_usage_minutes AS known (organization_id, workspace_id, key_id, pool, class, minute, requests,
    successful, refused, tokens, charged, wasted, cost_usd, idle_usd)
SELECT $1, $2, $3, $4, $5, to_timestamp($6::bigint / 1e6), $7, $8, $9::text::jsonb, $10, $11, $12, $13, $14
FROM scheduler_leaders AS led WHERE led.organization_id = $15 AND led.pool = $4 AND led.fence = $16 FOR SHARE OF led
ON CONFLICT (organization_id, workspace_id, key_id, pool, class, minute) DO UPDATE SET
    requests = known.requests + EXCLUDED.requests, successful = known.successful + EXCLUDED.successful,
    refused = (SELECT coalesce(jsonb_object_agg(code, refusals), '{}') FROM (
        SELECT key AS code, sum(value::bigint) AS refusals FROM (
            SELECT * FROM jsonb_each_text(known.refused) UNION ALL SELECT * FROM jsonb_each_text(EXCLUDED.refused)
        ) AS both_counts GROUP BY key) AS counts),
    tokens = known.tokens + EXCLUDED.tokens, charged = known.charged + EXCLUDED.charged,
    wasted = known.wasted + EXCLUDED.wasted, cost_usd = known.cost_usd + EXCLUDED.cost_usd,
    idle_usd = known.idle_usd + EXCLUDED.idle_usd;

-- name: forget_usage
-- why: usage is kept for a year and a month
DELETE FROM scheduler_usage_minutes WHERE minute < to_timestamp($1::bigint / 1e6);

-- name: costs
-- why: what a useful answer costs, and whose work was wasted; idle engines belong to no tenant
SELECT CASE $2::text WHEN 'organization' THEN organization_id WHEN 'workspace' THEN workspace_id
        ELSE nullif(key_id, '00000000-0000-0000-0000-000000000000') END AS target,
    sum(requests)::bigint AS requests, sum(successful)::bigint AS successful, sum(cost_usd) AS cost_usd,
    sum(charged)::bigint AS charged_tokens, sum(wasted)::bigint AS wasted_tokens
FROM scheduler_usage_minutes
WHERE pool = $1 AND requests > 0 AND minute >= date_trunc('minute', to_timestamp($3::bigint / 1e6))
    AND minute < to_timestamp($4::bigint / 1e6)
GROUP BY 1 ORDER BY cost_usd DESC, target LIMIT 1000;

-- name: decision
-- why: what became of one request in its pool, beside its story
SELECT pool, engine_id, class, outcome, code, promise, queue_wait_ms, predicted_ttft_ms, ttft_ms, predicted_tpot_ms,
    tpot_ms, predicted_output, output_tokens, total_ms, debt, demand, share, input_tokens, cached_tokens, charged, wasted,
    cost_usd, is_in_slo
FROM scheduler_decisions WHERE organization_id = $1 AND workspace_id = $2 AND request_id = $3
ORDER BY created_at DESC LIMIT 1;

-- name: last_hour
-- why: what was asked of a pool lately is what it is sized by; of who was refused the arrival alone tells the length
SELECT organization_id, class, outcome, (extract(epoch FROM created_at) * 1e6)::bigint AS at_us,
    total_ms, queue_wait_ms, ttft_ms, is_in_slo, output_tokens, cached_tokens, engine_id,
    greatest(input_tokens, (steps -> 0 ->> 'input_tokens')::integer, 1) AS input_tokens
FROM scheduler_decisions WHERE pool = $1 AND created_at >= to_timestamp($2::bigint / 1e6)
ORDER BY created_at DESC LIMIT $3;

-- name: newest_decision
-- why: the list of screens shows a grant that exists
SELECT request_id FROM scheduler_decisions WHERE organization_id = $1 ORDER BY created_at DESC LIMIT 1;

-- name: keep_version
-- why: a change of settings has a number, an author and what differs, so that there is a way back
INSERT INTO scheduler_pool_versions (organization_id, pool, version, policy, share_level, objectives, changed, reason,
    actor, at_us)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::text::jsonb, $8, $9, $10);

-- name: pool_versions
-- why: the history of a pool's settings, newest first
SELECT version, policy, share_level, objectives::text AS objectives, changed::text AS changed, reason, actor, at_us
FROM scheduler_pool_versions WHERE organization_id = $1 AND pool = $2 AND version < $3
ORDER BY version DESC LIMIT $4;

-- name: pool_version
-- why: what a pool goes back to, and whether it was left by going back to one before it, with or without one between
SELECT policy, share_level, objectives::text AS objectives, EXISTS (
    SELECT FROM scheduler_pool_versions later
    WHERE later.organization_id = $1 AND later.pool = $2 AND later.version > $3
        AND substring(later.reason from '^back to version ([0-9]+)$')::integer < $3
) AS was_left
FROM scheduler_pool_versions WHERE organization_id = $1 AND pool = $2 AND version = $3;

-- name: settings_changed_since
-- why: a candidate was tried against the settings of its time; draining is none of them
SELECT max(version) FROM scheduler_pool_versions
WHERE organization_id = $1 AND pool = $2 AND version > $3 AND changed - 'draining' <> '{}'::jsonb;

-- name: open_candidates
-- why: the leader of a pool tries what is to be tried
SELECT pool, number, stage, share_bp, policy, share_level, objectives::text AS objectives
FROM scheduler_pool_candidates WHERE ended_us IS NULL ORDER BY pool;

-- name: pool_candidate
-- why: what is tried of a pool, or was tried last
SELECT number, stage, share_bp, policy, share_level, objectives::text AS objectives, actor, began_us, ended_us,
    base_version, verdict::text AS verdict
FROM scheduler_pool_candidates WHERE organization_id = $1 AND pool = $2;

-- name: held_candidate
-- why: what its leader ends at this moment is not promoted or widened; whoever comes second sees what the first did
SELECT number, policy, share_level, objectives::text AS objectives, base_version
FROM scheduler_pool_candidates WHERE organization_id = $1 AND pool = $2 AND ended_us IS NULL FOR UPDATE;

-- name: try_candidate
-- why: a new candidate begins in the shadow; one that decides for somebody is ended first
INSERT INTO scheduler_pool_candidates AS known (organization_id, pool, stage, policy, share_level, objectives, actor,
    began_us, base_version)
VALUES ($1, $2, 'shadow', $3, $4, $5::text::jsonb, $6, $7, $8)
ON CONFLICT (organization_id, pool) DO UPDATE
SET number = known.number + 1, stage = 'shadow', share_bp = 0, policy = EXCLUDED.policy,
    share_level = EXCLUDED.share_level, objectives = EXCLUDED.objectives, actor = EXCLUDED.actor,
    began_us = EXCLUDED.began_us, base_version = EXCLUDED.base_version, ended_us = NULL, verdict = NULL
WHERE known.stage <> 'canary';

-- name: widen_candidate
-- why: a candidate decides for a share of the workspaces; that is a try of its own, so no older verdict is about it
UPDATE scheduler_pool_candidates SET stage = 'canary', share_bp = $3, number = number + 1
WHERE organization_id = $1 AND pool = $2 AND ended_us IS NULL;

-- name: end_candidate
-- why: of two who end the same try one does, and says why; a leader whose fence was passed ends none ($7, none by hand)
UPDATE scheduler_pool_candidates SET stage = $4, ended_us = $5, verdict = $6::text::jsonb
WHERE organization_id = $1 AND pool = $2 AND number = $3 AND ended_us IS NULL
    AND ($7::bigint IS NULL OR EXISTS (
        SELECT FROM scheduler_leaders AS led
        WHERE led.organization_id = $1 AND led.pool = $2 AND led.fence = $7 FOR SHARE OF led));
