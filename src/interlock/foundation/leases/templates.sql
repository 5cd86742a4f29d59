-- Statements of one table of work; {table}, {shares}, {key}, {tenant}, {due} and {dead} come from its LeaseSpec, never from a caller.

-- name: claim
-- why: the fair claim in one statement: tenants by virtual time, one row each; who was idle starts where the last active ones started
WITH tenants AS (
  SELECT s.organization_id, s.{tenant}
  FROM {shares} s
  WHERE s.running < s.running_max
    AND EXISTS (SELECT FROM {table} w WHERE w.organization_id = s.organization_id
                AND w.{tenant} = s.{tenant} AND w.lease_owner IS NULL AND w.due_at <= now() AND {due})
  ORDER BY greatest(s.vtime, CASE WHEN s.is_active THEN s.vtime ELSE
             (SELECT min(a.vtime - $4 / a.weight) FROM {shares} a WHERE a.is_active) END), s.organization_id, s.{tenant}
  LIMIT $2
  FOR UPDATE OF s SKIP LOCKED
), picked AS (
  SELECT w.* FROM tenants t CROSS JOIN LATERAL (
    SELECT w.organization_id, w.{tenant}, w.{key} AS key FROM {table} w
    WHERE w.organization_id = t.organization_id AND w.{tenant} = t.{tenant}
      AND w.lease_owner IS NULL AND w.due_at <= now() AND {due}
    ORDER BY w.priority DESC, w.due_at, w.{key}
    LIMIT 1
    FOR UPDATE SKIP LOCKED) w
), charged AS (
  UPDATE {shares} s SET
    running = s.running + 1,
    is_active = true,
    vtime = $4 / s.weight + CASE WHEN s.is_active THEN s.vtime
              ELSE greatest(s.vtime, coalesce((SELECT min(a.vtime - $4 / a.weight) FROM {shares} a WHERE a.is_active), s.vtime)) END
  FROM picked p
  WHERE s.organization_id = p.organization_id AND s.{tenant} = p.{tenant}
)
UPDATE {table} w SET
  lease_owner = $1, lease_expires_at = now() + make_interval(secs => $3),
  lease_token = w.lease_token + 1, attempts = w.attempts + 1
FROM picked p
WHERE w.organization_id = p.organization_id AND w.{tenant} = p.{tenant} AND w.{key} = p.key
RETURNING w.organization_id, w.{tenant} AS workspace_id, w.{key} AS key, w.lease_token, w.attempts

-- name: any_due
-- why: a question of the lookout: whether a claim would find anything, asked together with those of other tables
SELECT FROM {shares} s WHERE s.running < s.running_max
  AND EXISTS (SELECT FROM {table} w WHERE w.organization_id = s.organization_id
              AND w.{tenant} = s.{tenant} AND w.lease_owner IS NULL AND w.due_at <= now() AND {due})

-- name: renew
-- why: one heartbeat for all leases of a worker; a row that is missing from the answer is lost
UPDATE {table} w SET lease_expires_at = now() + make_interval(secs => $4)
FROM unnest($2::uuid[], $3::bigint[]) AS held(key, token)
WHERE w.{key} = held.key AND w.lease_token = held.token AND w.lease_owner = $1 AND w.lease_expires_at > now()
RETURNING w.{key} AS key

-- name: finish
-- why: the end of good work, in the transaction of its result; no row means that the lease was lost
UPDATE {table} w SET lease_owner = NULL, lease_expires_at = NULL, attempts = 0, last_error = NULL,
  due_at = CASE WHEN $3::float8 IS NULL THEN 'infinity'::timestamptz ELSE now() + make_interval(secs => $3) END
WHERE w.{key} = $1 AND w.lease_token = $2 AND w.lease_owner IS NOT NULL AND w.lease_expires_at > now()
RETURNING w.organization_id, w.{tenant} AS workspace_id

-- name: release
-- why: gives a row back unfinished, with the reason, so that somebody else can try
UPDATE {table} w SET lease_owner = NULL, lease_expires_at = NULL, last_error = coalesce($3, w.last_error),
  due_at = now() + make_interval(secs => $4)
WHERE w.{key} = $1 AND w.lease_token = $2 AND w.lease_owner IS NOT NULL
RETURNING w.organization_id, w.{tenant} AS workspace_id

-- name: unshare
-- why: the tenant's room is free again; a tenant with nothing due and nothing running saves up no credit
UPDATE {shares} s SET running = greatest(s.running - 1, 0),
  is_active = s.running > 1 OR EXISTS (SELECT FROM {table} w WHERE w.organization_id = s.organization_id
    AND w.{tenant} = s.{tenant} AND w.lease_owner IS NULL AND w.due_at <= now() AND {due})
WHERE s.organization_id = $1 AND s.{tenant} = $2

-- name: any_expired
-- why: there is hardly ever a row of the dead, and a look costs less than the transaction of a reap
SELECT FROM {table} w WHERE w.lease_expires_at <= now() AND w.lease_owner IS NOT NULL LIMIT 1

-- name: reap
-- why: rows of the dead become due again after a backoff with jitter, or die after too many tries
WITH expired AS (
  SELECT w.organization_id, w.{tenant}, w.{key} AS key, w.attempts >= $1 AS is_dead FROM {table} w
  WHERE w.lease_expires_at <= now() AND w.lease_owner IS NOT NULL
  ORDER BY w.lease_expires_at LIMIT $2
  FOR UPDATE SKIP LOCKED
), revived AS (
  UPDATE {table} w SET lease_owner = NULL, lease_expires_at = NULL,
    last_error = coalesce(w.last_error, 'the worker that held this died'),
    due_at = now() + make_interval(secs => least(60, power(2, w.attempts)) * (0.75 + random() / 2))
  FROM expired e WHERE w.{key} = e.key AND w.organization_id = e.organization_id AND NOT e.is_dead
), buried AS (
  UPDATE {table} w SET lease_owner = NULL, lease_expires_at = NULL,
    last_error = coalesce(w.last_error, 'the workers that held this died'), {dead}
  FROM expired e WHERE w.{key} = e.key AND w.organization_id = e.organization_id AND e.is_dead
)
SELECT organization_id, {tenant} AS workspace_id, key FROM expired

-- name: recount
-- why: the running figure is a count of rows, checked each minute so that an error in it cannot last
UPDATE {shares} s SET running = c.held
FROM (SELECT s.organization_id, s.{tenant}, count(w.*) FILTER (WHERE w.lease_owner IS NOT NULL) AS held
      FROM {shares} s LEFT JOIN {table} w USING (organization_id, {tenant})
      GROUP BY 1, 2) c
WHERE s.organization_id = c.organization_id AND s.{tenant} = c.{tenant} AND s.running <> c.held

-- name: figures
-- why: what the console and the metrics show of a table of work
SELECT count(*) FILTER (WHERE lease_owner IS NULL AND due_at <= now()) AS due,
  count(*) FILTER (WHERE lease_owner IS NOT NULL) AS held,
  coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE lease_owner IS NULL AND due_at <= now())), 0)::float8
    AS oldest_due_s
FROM {table} w
WHERE {due}
