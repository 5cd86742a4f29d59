-- name: append
-- why: one round trip and no wait; the trigger of the table chains the event when the transaction commits
SELECT audit_leave($1);

-- name: listed
-- why: the newest events first, filtered, for the API and the console
SELECT organization_id, seq, at_us, actor::text, action, target_kind, target_id, outcome, reason, request_id,
  detail::text, prev_hash, hash
FROM audit_events
WHERE organization_id = $1
  AND ($2::bigint IS NULL OR seq < $2)
  AND ($3::text IS NULL OR action = $3)
  AND ($4::text IS NULL OR target_id = $4)
  AND ($5::text IS NULL OR actor ->> 'id' = $5 OR actor ->> 'key_id' = $5)
  AND ($6::bigint IS NULL OR at_us >= $6)
  AND ($7::bigint IS NULL OR at_us < $7)
ORDER BY seq DESC
LIMIT $8;

-- name: walked
-- why: the chain in its own order, for verification and export
SELECT organization_id, seq, at_us, actor::text, action, target_kind, target_id, outcome, reason, request_id,
  detail::text, prev_hash, hash
FROM audit_events
WHERE organization_id = $1 AND (seq, at_us) > ($2, $3) AND seq <= $4
ORDER BY seq, at_us
LIMIT $5;

-- name: chain_end
-- why: head and last row in one snapshot, so that an append in between is no finding
SELECT h.seq AS head_seq, h.hash AS head_hash,
  (SELECT max(e.seq) FROM audit_events e WHERE e.organization_id = $1) AS last_seq
FROM (SELECT $1::uuid AS organization_id) o LEFT JOIN audit_heads h USING (organization_id);

-- name: organizations
-- why: every organization that rows, heads or checkpoints know; rows are found by a loose walk of the key
WITH RECURSIVE seen AS (
  (SELECT organization_id FROM audit_events ORDER BY organization_id LIMIT 1)
  UNION ALL
  SELECT (SELECT e.organization_id FROM audit_events e WHERE e.organization_id > seen.organization_id
          ORDER BY e.organization_id LIMIT 1)
  FROM seen WHERE seen.organization_id IS NOT NULL
)
SELECT organization_id FROM seen WHERE organization_id IS NOT NULL
UNION SELECT organization_id FROM audit_heads
UNION SELECT organization_id FROM audit_checkpoints
ORDER BY 1;

-- name: checkpoints
-- why: what was signed for one organization, oldest first
SELECT organization_id, seq, hash, at_us, key_id, signature FROM audit_checkpoints
WHERE organization_id = $1 ORDER BY seq;

-- name: newest_checkpoints
-- why: what was signed last for one organization, for the console
SELECT organization_id, seq, hash, at_us, key_id, signature FROM audit_checkpoints
WHERE organization_id = $1 ORDER BY seq DESC LIMIT $2;

-- name: heads_due
-- why: chains that grew since their last checkpoint, by age or by count; a null limit means all that grew
SELECT h.organization_id, h.seq, h.hash
FROM audit_heads h
LEFT JOIN LATERAL (
  SELECT c.seq, c.at_us FROM audit_checkpoints c WHERE c.organization_id = h.organization_id
  ORDER BY c.seq DESC LIMIT 1
) last ON true
WHERE h.seq > coalesce(last.seq, 0)
  AND ($1::uuid IS NULL OR h.organization_id = $1)
  AND ($2::bigint IS NULL OR coalesce(last.at_us, 0) <= $2 OR h.seq - coalesce(last.seq, 0) >= $3)
ORDER BY h.organization_id;

-- name: keep_checkpoint
-- why: the store's own copy of a signature; two processes that sign the same head agree
INSERT INTO audit_checkpoints (organization_id, seq, hash, at_us, key_id, signature)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING;

-- name: checkpoint_age
-- why: the oldest unsigned growth in microseconds, for the metric and its alert
SELECT max($1::bigint - coalesce(last.at_us, (
  SELECT e.at_us FROM audit_events e WHERE e.organization_id = h.organization_id AND e.seq = 1 LIMIT 1
), $1))
FROM audit_heads h
LEFT JOIN LATERAL (
  SELECT c.seq, c.at_us FROM audit_checkpoints c WHERE c.organization_id = h.organization_id
  ORDER BY c.seq DESC LIMIT 1
) last ON true
WHERE h.seq > coalesce(last.seq, 0);
