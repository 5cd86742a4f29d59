-- name: find
-- why: one envelope by its name
SELECT id, organization_id, ciphertext, wrapped_key, kek_id, last4, version, created_at, updated_at
FROM secrets_envelopes WHERE organization_id = $1 AND workspace_id = $2 AND name = $3;

-- name: lock
-- why: the id of a secret is part of what seals it, so it is fixed before the new value is sealed
SELECT id FROM secrets_envelopes WHERE organization_id = $1 AND workspace_id = $2 AND name = $3 FOR UPDATE;

-- name: add
-- why: the first value of a name; no row when somebody else was first, who is waited for
INSERT INTO secrets_envelopes (organization_id, workspace_id, name, id, ciphertext, wrapped_key, kek_id, last4)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING version, created_at, updated_at;

-- name: replace
-- why: a new value of a name that is there
UPDATE secrets_envelopes
SET ciphertext = $4, wrapped_key = $5, kek_id = $6, last4 = $7, version = version + 1, updated_at = now()
WHERE organization_id = $1 AND workspace_id = $2 AND name = $3
RETURNING version, created_at, updated_at;

-- name: names
-- why: what is set, never its value
SELECT workspace_id, name, id, last4, kek_id, version, created_at, updated_at FROM secrets_envelopes
WHERE organization_id = $1 AND (workspace_id, name) > ($2, $3)
ORDER BY workspace_id, name LIMIT $4;

-- name: remove
-- why: a secret that is no longer needed
DELETE FROM secrets_envelopes WHERE organization_id = $1 AND workspace_id = $2 AND name = $3;

-- name: stale
-- why: the next envelopes that are not under the current key; rows that a caller holds come in a later round
SELECT organization_id, workspace_id, name, id, ciphertext, wrapped_key, kek_id FROM secrets_envelopes
WHERE kek_id <> $1 AND (organization_id, workspace_id, name) > ($3, $4, $5)
ORDER BY organization_id, workspace_id, name LIMIT $2 FOR UPDATE SKIP LOCKED;

-- name: rewrapped
-- why: only the wrapped key changes; the version is the value's and stays
UPDATE secrets_envelopes SET wrapped_key = $4, kek_id = $5
WHERE organization_id = $1 AND workspace_id = $2 AND name = $3;

-- name: stale_count
-- why: what a rotation has left to do
SELECT count(*) FROM secrets_envelopes WHERE kek_id <> $1;

-- name: keks_in_use
-- why: an old key leaves the ring only when nothing needs it
SELECT DISTINCT kek_id FROM secrets_envelopes;

-- name: want_rotation
-- why: control asks, a process with the master key does it; one at a time
INSERT INTO secrets_rotations (organization_id, id) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: last_rotation
-- why: how far the newest rotation is
SELECT id, state, kek_id, rewrapped, requested_at, finished_at FROM secrets_rotations
WHERE organization_id = $1 ORDER BY requested_at DESC LIMIT 1;

-- name: any_rotation
-- why: a question of the lookout; it locks nothing
SELECT FROM secrets_rotations WHERE state <> 'done';

-- name: open_rotation
-- why: the rotation to begin or to go on with; held for one batch, so two workers do not add two keys
SELECT organization_id, id, state, kek_id FROM secrets_rotations WHERE state <> 'done' LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: begin_rotation
-- why: from here on a restarted worker goes on with this key instead of adding another
UPDATE secrets_rotations SET state = 'running', kek_id = $3 WHERE organization_id = $1 AND id = $2;

-- name: advance_rotation
-- why: progress commits with the rows it counts; the last batch ends the rotation
UPDATE secrets_rotations
SET rewrapped = rewrapped + $3, state = CASE WHEN $4 THEN 'done' ELSE state END,
  finished_at = CASE WHEN $4 THEN now() END
WHERE organization_id = $1 AND id = $2;
