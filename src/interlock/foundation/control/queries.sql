-- name: lock_idempotency_key
-- why: twins of a call line up here; the bounded wait is the server's, so that it holds for a lost client too
WITH bounded AS MATERIALIZED (SELECT set_config('lock_timeout', $1, true))
SELECT pg_advisory_xact_lock(hashtextextended($2, 0)) FROM bounded;

-- name: find_idempotency_key
-- why: after the lock, in a snapshot of its own, so that a reply that was just committed is seen
SELECT fingerprint, reply_status, reply, set_config('lock_timeout', '0', true)
FROM (SELECT 1) one
LEFT JOIN LATERAL (
  SELECT fingerprint, reply_status, reply FROM store_idempotency_keys
  WHERE organization_id = $1 AND workspace_id = $2 AND endpoint = $3 AND key = $4 AND expires_at > now()
  ORDER BY created_at DESC LIMIT 1
) kept ON true;

-- name: keep_reply
-- why: the reply commits with the work, so a reply lost on the wire can be given again
INSERT INTO store_idempotency_keys
  (organization_id, workspace_id, endpoint, key, fingerprint, state, owner, reply_status, reply, expires_at)
VALUES ($1, $2, $3, $4, $5, 'done', $6, $7, $8, now() + make_interval(secs => $9));
