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
WHERE organization_id = $1 AND name = $2 AND ($7::integer IS NULL OR version = $7);

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

-- name: keep_checkpoint
-- why: a new leader begins with what the old one learned
INSERT INTO scheduler_checkpoints (organization_id, pool, kept, at_us) VALUES ($1, $2, $3::text::jsonb, $4)
ON CONFLICT (organization_id, pool) DO UPDATE SET kept = EXCLUDED.kept, at_us = EXCLUDED.at_us;

-- name: all_checkpoints
-- why: read once, when a leader begins
SELECT pool, kept::text AS kept FROM scheduler_checkpoints;

-- name: add_decision
-- why: one row a request; a batch that is written twice is written once
INSERT INTO scheduler_decisions (organization_id, workspace_id, request_id, created_at, key_id, pool, engine_id, class,
    outcome, code, promise, queue_wait_ms, predicted_ttft_ms, ttft_ms, predicted_tpot_ms, tpot_ms, predicted_output,
    output_tokens, total_ms, debt, demand, share, input_tokens, cached_tokens, charged, wasted, cost_usd, is_in_slo,
    steps)
VALUES ($1, $2, $3, to_timestamp($4::bigint / 1e6), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
    $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29::text::jsonb)
ON CONFLICT DO NOTHING;

-- name: forget_decisions
-- why: decisions are kept for two weeks
DELETE FROM scheduler_decisions WHERE created_at < to_timestamp($1::bigint / 1e6);

-- name: add_usage
-- why: the sums of a minute grow with each batch of what ended in it
INSERT INTO scheduler_usage_minutes AS known (organization_id, workspace_id, key_id, pool, class, minute, requests,
    successful, refused, tokens, charged, wasted, cost_usd, idle_usd)
VALUES ($1, $2, $3, $4, $5, to_timestamp($6::bigint / 1e6), $7, $8, $9::text::jsonb, $10, $11, $12, $13, $14)
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

-- name: newest_decision
-- why: the list of screens shows a grant that exists
SELECT request_id FROM scheduler_decisions WHERE organization_id = $1 ORDER BY created_at DESC LIMIT 1;
