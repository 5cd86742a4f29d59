-- name: add_rollout
-- why: a rollout begins as a draft that nobody works on
INSERT INTO evals_rollouts (organization_id, workspace_id, id, route, from_version, to_version, artifact_digest, state,
  stages, dwell_s, metrics, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'draft', $8, $9, $10::text::jsonb, $11);

-- name: add_rollout_share
-- why: a workspace takes turns with the others once it has a rollout
INSERT INTO evals_rollout_shares (organization_id, workspace_id) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: get_rollout
-- why: one rollout inside the scope
SELECT * FROM evals_rollouts WHERE organization_id = $1 AND id = $2;

-- name: lock_rollout
-- why: of two acts on one rollout the second sees what the first did
SELECT id FROM evals_rollouts WHERE organization_id = $1 AND id = $2 FOR UPDATE;

-- name: list_rollouts
-- why: a page, newest first
SELECT * FROM evals_rollouts
WHERE organization_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::text IS NULL OR state = $3)
ORDER BY id DESC LIMIT $4;

-- name: active_rollout
-- why: a route has at most one version that is tried
SELECT id FROM evals_rollouts WHERE organization_id = $1 AND route = $2 AND state IN ('canary', 'paused');

-- name: start_rollout
-- why: the first stage is in force; from now on a worker looks at it, and its looks go on from the last number
UPDATE evals_rollouts SET state = 'canary', from_version = $3, stage = 0, weight = $4, lease_until_us = $5,
  gate = $6::text::jsonb, stage_started_us = $7::bigint, counted_second = $7::bigint / 1000000, monitor = NULL, decision = NULL,
  reasons = '[]', reason = $8, ended_us = NULL, due_at = now()
WHERE organization_id = $1 AND id = $2;

-- name: move_rollout
-- why: a state that a person or the monitor moved it to; one that has ended is due no more
UPDATE evals_rollouts SET state = $3, reason = $4, weight = coalesce($5, weight), ended_us = $6, unkill_by = $7,
  due_at = CASE WHEN $6::bigint IS NULL AND $3 IN ('canary', 'paused') THEN now() ELSE 'infinity' END
WHERE organization_id = $1 AND id = $2;

-- name: note_look
-- why: the result of a look, by whoever holds the rollout's lease; no row means that the lease was lost
UPDATE evals_rollouts SET look = $4, decision = $5, reasons = $6::text::jsonb, monitor = $7::text::jsonb,
  counted_second = $8
WHERE organization_id = $1 AND id = $2 AND lease_token = $3 AND lease_owner IS NOT NULL AND lease_expires_at > now()
  AND state IN ('canary', 'paused')
RETURNING id;

-- name: note_weight
-- why: what holds after a look was acted on, and which stage it is
UPDATE evals_rollouts SET stage = $3, weight = $4, lease_until_us = $5, stage_started_us = $6
WHERE organization_id = $1 AND id = $2 AND state IN ('canary', 'paused');

-- name: rollout_monitors
-- why: what the monitor of a rollout remembers
SELECT metric, state, reading, bad_units, stage_bad_units
FROM evals_rollout_monitors WHERE organization_id = $1 AND rollout_id = $2 ORDER BY metric;

-- name: monitors_of
-- why: the readings of a page of rollouts
SELECT rollout_id, metric, reading
FROM evals_rollout_monitors WHERE organization_id = $1 AND rollout_id = ANY ($2::uuid[]) AND reading IS NOT NULL;

-- name: put_rollout_monitor
-- why: what one metric came to
INSERT INTO evals_rollout_monitors
  (organization_id, workspace_id, rollout_id, metric, state, reading, bad_units, stage_bad_units)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7, $8)
ON CONFLICT (organization_id, workspace_id, rollout_id, metric) DO UPDATE
SET state = EXCLUDED.state, reading = EXCLUDED.reading, bad_units = EXCLUDED.bad_units,
  stage_bad_units = EXCLUDED.stage_bad_units;

-- name: forget_rollout_monitors
-- why: a rollout that starts again has seen nothing
DELETE FROM evals_rollout_monitors WHERE organization_id = $1 AND rollout_id = $2;

-- name: add_rollout_look
-- why: every look with its counts, its readings and its reasons
INSERT INTO evals_rollout_looks
  (organization_id, workspace_id, rollout_id, look, at_us, stage, weight, counts, readings, decision, reasons)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9::text::jsonb, $10, $11::text::jsonb);

-- name: rollout_looks
-- why: a page of looks, newest first
SELECT look, at_us, stage, weight, counts, readings, decision, reasons
FROM evals_rollout_looks
WHERE organization_id = $1 AND rollout_id = $2 AND ($3::integer IS NULL OR look < $3)
ORDER BY look DESC LIMIT $4;

-- name: forget_rollout_looks
-- why: looks are kept for ninety days
DELETE FROM evals_rollout_looks WHERE at_us < $1;
