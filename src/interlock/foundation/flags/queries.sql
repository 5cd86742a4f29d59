-- name: raise_epoch
-- why: in the transaction of the change, so that no process sees the epoch before the rows; the number is drawn
-- under the topic's lock, so that epochs of a topic rise in the order of their commits
INSERT INTO flags_epochs (topic, epoch) VALUES ($1, nextval('flags_epoch_numbers'))
ON CONFLICT (topic) DO UPDATE SET epoch = nextval('flags_epoch_numbers')
RETURNING epoch;

-- name: all_epochs
-- why: the truth behind every hint
SELECT topic, epoch FROM flags_epochs;

-- name: acknowledge
-- why: a process says up to which epoch it has acted
INSERT INTO flags_acknowledgements (process, epoch, seen_at) VALUES ($1, $2, now())
ON CONFLICT (process) DO UPDATE SET epoch = EXCLUDED.epoch, seen_at = now();

-- name: retire
-- why: a process that ends is not waited for
DELETE FROM flags_acknowledgements WHERE process = $1;

-- name: acknowledgements
-- why: which live processes know of an epoch
SELECT process, epoch >= $1 AS has_seen FROM flags_acknowledgements
WHERE seen_at > now() - make_interval(secs => $2)
ORDER BY process;

-- name: all_kills
-- why: every process holds all switches that are on
SELECT organization_id, id, scope, target, mode, reason, actor, epoch, created_us, is_of_platform
FROM flags_kill_switches WHERE lifted_us IS NULL ORDER BY epoch LIMIT $1;

-- name: turn_on
-- why: one switch for a target; turned on again it keeps its id and takes the new mode and reason, but for one of the
-- platform's operator, which nobody else softens
INSERT INTO flags_kill_switches AS held (organization_id, id, scope, target, mode, reason, actor, epoch, created_us,
    is_of_platform)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (organization_id, scope, target) WHERE lifted_us IS NULL
DO UPDATE SET mode = EXCLUDED.mode, reason = EXCLUDED.reason, actor = EXCLUDED.actor, epoch = EXCLUDED.epoch,
    is_of_platform = EXCLUDED.is_of_platform
WHERE EXCLUDED.is_of_platform OR NOT held.is_of_platform
RETURNING organization_id, id, scope, target, mode, reason, actor, epoch, created_us, is_of_platform;

-- name: is_of_platform
-- why: what the platform's operator set on an organization stays until the operator lifts it
SELECT is_of_platform FROM flags_kill_switches WHERE id = $1 AND lifted_us IS NULL FOR UPDATE;

-- name: lift
-- why: a switch that is off stays as a row: who lifted it is in the audit chain, why is here too
UPDATE flags_kill_switches SET lifted_us = $2, lift_reason = $3
WHERE id = $1 AND lifted_us IS NULL
RETURNING organization_id, id, scope, target, mode, reason, actor, epoch, created_us, is_of_platform;

-- name: every_kill
-- why: the platform's operator sees the switches of all organizations, oldest first
SELECT organization_id, id, scope, target, mode, reason, actor, epoch, created_us, is_of_platform
FROM flags_kill_switches WHERE lifted_us IS NULL AND id > $1 ORDER BY id LIMIT $2;

-- name: kill_owner
-- why: the platform's operator lifts any switch, in the scope of whoever set it
SELECT organization_id FROM flags_kill_switches WHERE id = $1 AND lifted_us IS NULL;

-- name: organization_target
-- why: a switch on what does not exist would be believed to stop something
SELECT id FROM identity_organizations WHERE id = $1 OR name = $2;

-- name: workspace_target
-- why: as for organizations; a name is one of the caller's own organization
SELECT id FROM identity_workspaces WHERE id = $1 OR (organization_id = $3 AND name = $2);

-- name: key_target
-- why: as for organizations; the look-up part names a key as well as its id does
SELECT id FROM identity_api_keys WHERE id = $1 OR lookup = $2;

-- name: beta_target
-- why: as for organizations; a beta is a flag of an organization or of the platform, whose operator stops anybody's
SELECT name, CASE WHEN id = $2 THEN organization_id END AS owner_id FROM flags_definitions
WHERE kind = 'beta' AND (name = $1 OR id = $2) AND ($3::uuid IS NULL OR organization_id IN ($3, $4::uuid))
ORDER BY id IS NOT DISTINCT FROM $2 DESC LIMIT 1;

-- name: list_kills
-- why: the switches of one organization that are on, along the primary key
SELECT organization_id, id, scope, target, mode, reason, actor, epoch, created_us, is_of_platform
FROM flags_kill_switches WHERE organization_id = $1 AND lifted_us IS NULL AND id > $2 ORDER BY id LIMIT $3;

-- name: all_flags
-- why: evaluation is in memory
SELECT organization_id, id, name, kind, spec::text AS spec, owner, reason, until_us, version
FROM flags_definitions ORDER BY organization_id, name LIMIT $1;

-- name: put_flag
-- why: the same name is the same flag, with a newer version
INSERT INTO flags_definitions (organization_id, id, name, kind, spec, owner, reason, until_us)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8)
ON CONFLICT (organization_id, name) DO UPDATE SET kind = EXCLUDED.kind, spec = EXCLUDED.spec, owner = EXCLUDED.owner,
  reason = EXCLUDED.reason, until_us = EXCLUDED.until_us, version = flags_definitions.version + 1
RETURNING organization_id, id, name, kind, spec::text AS spec, owner, reason, until_us, version;

-- name: list_flags
-- why: a page of flags, along the primary key
SELECT organization_id, id, name, kind, spec::text AS spec, owner, reason, until_us, version
FROM flags_definitions WHERE organization_id = $1 AND name > $2 ORDER BY name LIMIT $3;

-- name: get_flag
-- why: by id or by name
SELECT organization_id, id, name, kind, spec::text AS spec, owner, reason, until_us, version
FROM flags_definitions WHERE organization_id = $1 AND (id = $2 OR name = $3) ORDER BY id = $2 DESC LIMIT 1;

-- name: delete_flag
-- why: the deleted object is the answer
DELETE FROM flags_definitions WHERE id = $1
RETURNING organization_id, id, name, kind, spec::text AS spec, owner, reason, until_us, version;
