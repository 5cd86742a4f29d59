-- name: store_now_us
-- why: how long ago a key was revoked is told by the clock of the store
SELECT (extract(epoch FROM now()) * 1000000)::bigint;

-- name: key_states
-- why: a page of what memory compares itself with; a key that was revoked long ago is asked for like an unknown one
SELECT k.lookup, k.organization_id, k.owner_id, k.version, coalesce(k.revoked_us, o.closing_us) AS revoked_us
FROM identity_api_keys k JOIN identity_organizations o ON o.id = k.organization_id
WHERE k.lookup > $1 AND (k.revoked_us IS NULL OR k.revoked_us > $2) ORDER BY k.lookup LIMIT $3;

-- name: keys_at
-- why: the keys that memory does not have as they are
SELECT k.organization_id, k.workspace_id, k.id, k.lookup, k.kind, k.hmac, k.last4, k.name, k.owner_id, k.owner_kind,
  k.scopes, k.models, k.cidrs, k.class_max, k.expires_us, coalesce(k.revoked_us, o.closing_us) AS revoked_us, k.version
FROM identity_api_keys k JOIN identity_organizations o ON o.id = k.organization_id
WHERE k.lookup = ANY ($1::text[]);

-- name: all_memberships
-- why: what the owners of keys may do, by themselves and through their groups; of all principals where $1 is null
SELECT organization_id, workspace_id, principal_id, role FROM identity_memberships
WHERE $1::uuid[] IS NULL OR principal_id = ANY ($1);

-- name: groups_above
-- why: every group of those who own keys, of one owner where $1 is not null; UNION ends cycles
WITH RECURSIVE above AS (
  SELECT o.organization_id, o.owner_id, e.group_id
  FROM (SELECT DISTINCT organization_id, owner_id FROM identity_api_keys WHERE $1::uuid IS NULL OR owner_id = $1) o
  JOIN identity_group_edges e
    ON e.organization_id = o.organization_id AND e.member_id = o.owner_id AND e.to_epoch IS NULL
  UNION
  SELECT a.organization_id, a.owner_id, e.group_id FROM above a
  JOIN identity_group_edges e
    ON e.organization_id = a.organization_id AND e.member_id = a.group_id AND e.to_epoch IS NULL
)
SELECT owner_id, group_id FROM above;

-- name: mark_used
-- why: when keys were last used, many at a time; a key still under the old pepper is kept under the new one from now on
UPDATE identity_api_keys SET last_used_us = greatest(coalesce(last_used_us, 0), used.at_us),
  hmac = coalesce(used.hmac, identity_api_keys.hmac)
FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS used (lookup, at_us, hmac)
WHERE identity_api_keys.lookup = used.lookup;

-- name: add_session
-- why: the cookie's hash and the key that signed in
INSERT INTO identity_sessions (organization_id, token_hash, id, key_lookup, created_us, seen_us)
VALUES ($1, $2, $3, $4, $5, $5);

-- name: find_session
-- why: a session lives while it is used, and never longer than its bound
SELECT organization_id, id, key_lookup, seen_us FROM identity_sessions
WHERE token_hash = $1 AND ended_us IS NULL AND seen_us > $2 AND created_us > $3;

-- name: touch_session
-- why: that it was used, by the minute and not by the request
UPDATE identity_sessions SET seen_us = $2 WHERE token_hash = $1;

-- name: end_session
-- why: signing out ends the session for everybody who holds the cookie
UPDATE identity_sessions SET ended_us = $2 WHERE token_hash = $1 AND ended_us IS NULL
RETURNING organization_id, id, key_lookup;

-- name: forget_sessions
-- why: ended sessions are kept a week for questions, then nobody needs them
DELETE FROM identity_sessions WHERE greatest(seen_us, coalesce(ended_us, 0)) < $1;

-- name: forget_login_tokens
-- why: a link that nobody used in its time
DELETE FROM identity_login_tokens WHERE expires_us < $1;

-- name: add_login_token
-- why: a one-time link signs in as the owner of a key
INSERT INTO identity_login_tokens (organization_id, token_hash, key_lookup, expires_us) VALUES ($1, $2, $3, $4);

-- name: use_login_token
-- why: used once, whoever comes first
DELETE FROM identity_login_tokens WHERE token_hash = $1 RETURNING key_lookup, expires_us;

-- name: set_tenant
-- why: the platform's operator acts in another organization, inside the transaction of the call
SELECT set_config('interlock.organization_id', $1, true), set_config('interlock.workspace_id', $2, true);

-- name: add_organization
-- why: made in the scope of the new organization itself
INSERT INTO identity_organizations (id, name, tier, created_us) VALUES ($1, $2, $3, $4) RETURNING *;

-- name: raise_epoch
-- why: the last statement of every transaction that changes who may see what
INSERT INTO identity_authz_epochs AS e (organization_id, epoch) VALUES ($1, 1)
ON CONFLICT (organization_id) DO UPDATE SET epoch = e.epoch + 1
RETURNING epoch;

-- name: all_organizations
-- why: the platform's operator sees every organization
SELECT * FROM identity_organizations WHERE id > $1 ORDER BY id LIMIT $2;

-- name: organization_by_name
-- why: names are accepted wherever an object is named
SELECT id FROM identity_organizations WHERE name = $1;

-- name: get_organization
-- why: by id or by name
SELECT * FROM identity_organizations WHERE id = $1 OR name = $2;

-- name: lock_organization
-- why: two owners who leave at once leave one after the other
SELECT id FROM identity_organizations WHERE id = $1 FOR UPDATE;

-- name: close_organization
-- why: given up, and not gone: what it has stays until it is purged
UPDATE identity_organizations SET closing_us = coalesce(closing_us, $2), version = version + 1
WHERE id = $1 RETURNING *;

-- name: reopen_organization
-- why: giving up can be taken back until the purge
UPDATE identity_organizations SET closing_us = NULL, version = version + 1
WHERE id = $1 AND ($2::bigint IS NULL OR version = $2) RETURNING *;

-- name: change_organization
-- why: a change that was read before, by its version
UPDATE identity_organizations SET name = coalesce($3, name), tier = coalesce($4, tier), version = version + 1
WHERE id = $1 AND ($2::bigint IS NULL OR version = $2) RETURNING *;

-- name: add_workspace
-- why: a part of an organization
INSERT INTO identity_workspaces (organization_id, id, name, created_us) VALUES ($1, $2, $3, $4) RETURNING *;

-- name: list_workspaces
-- why: a page along the primary key
SELECT * FROM identity_workspaces WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: get_workspace
-- why: by id or by name
SELECT * FROM identity_workspaces WHERE organization_id = $1 AND (id = $2 OR name = $3);

-- name: change_workspace
-- why: a change that was read before, by its version
UPDATE identity_workspaces SET name = coalesce($4, name), version = version + 1
WHERE organization_id = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) RETURNING *;

-- name: delete_workspace
-- why: refused by the references of keys and accounts while it is in use
DELETE FROM identity_workspaces WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: add_user
-- why: a person
INSERT INTO identity_users (organization_id, id, email, name, created_us) VALUES ($1, $2, $3, $4, $5) RETURNING *;

-- name: list_users
-- why: a page along the primary key
SELECT * FROM identity_users WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: get_user
-- why: by id or by address
SELECT * FROM identity_users WHERE organization_id = $1 AND (id = $2 OR lower(email) = lower($3));

-- name: change_user
-- why: a change that was read before, by its version
UPDATE identity_users SET name = coalesce($4, name), version = version + 1
WHERE organization_id = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) RETURNING *;

-- name: delete_user
-- why: with its memberships and keys, in one transaction
DELETE FROM identity_users WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: add_service_account
-- why: a program, and the person behind it: what a program makes is its maker's
INSERT INTO identity_service_accounts (organization_id, id, workspace_id, name, created_us, made_by)
VALUES ($1, $2, $3, $4, $5, coalesce((SELECT a.made_by FROM identity_service_accounts a
                                      WHERE a.organization_id = $1 AND a.id = $6), $6)) RETURNING *;

-- name: person_behind
-- why: where two people are wanted, a person and their programs are one
SELECT made_by FROM identity_service_accounts WHERE organization_id = $1 AND id = $2;

-- name: list_service_accounts
-- why: a page along the primary key
SELECT * FROM identity_service_accounts WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: get_service_account
-- why: by id or by name
SELECT * FROM identity_service_accounts WHERE organization_id = $1 AND (id = $2 OR name = $3) ORDER BY id LIMIT 1;

-- name: change_service_account
-- why: a change that was read before, by its version
UPDATE identity_service_accounts SET name = coalesce($4, name), version = version + 1
WHERE organization_id = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) RETURNING *;

-- name: delete_service_account
-- why: with its memberships and keys, in one transaction
DELETE FROM identity_service_accounts WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: hold_principal
-- why: whoever is given a role, a group or a key stays until that is written, and its removal finds it; the organization first, as removals lock it
WITH tenant AS MATERIALIZED (SELECT id FROM identity_organizations WHERE id = $1 FOR KEY SHARE),
users AS MATERIALIZED (SELECT p.id FROM tenant t JOIN identity_users p ON p.organization_id = t.id
  WHERE p.id = $2 FOR KEY SHARE OF p),
accounts AS MATERIALIZED (SELECT p.id FROM tenant t JOIN identity_service_accounts p ON p.organization_id = t.id
  WHERE p.id = $2 FOR KEY SHARE OF p),
groups AS MATERIALIZED (SELECT p.id FROM tenant t JOIN identity_groups p ON p.organization_id = t.id
  WHERE p.id = $2 FOR KEY SHARE OF p)
SELECT id FROM users UNION ALL SELECT id FROM accounts UNION ALL SELECT id FROM groups;

-- name: add_membership
-- why: a role, once
INSERT INTO identity_memberships (organization_id, id, workspace_id, principal_id, principal_kind, role, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *;

-- name: list_memberships
-- why: a page along the primary key
SELECT * FROM identity_memberships WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: memberships_of
-- why: what principals may do: one, or one and its groups
SELECT * FROM identity_memberships WHERE organization_id = $1 AND principal_id = ANY ($2::uuid[]) ORDER BY id;

-- name: change_membership
-- why: a change that was read before, by its version
UPDATE identity_memberships SET role = $4, version = version + 1
WHERE organization_id = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) RETURNING *;

-- name: other_owners
-- why: an organization keeps one; a group is none, since it may be empty
SELECT count(DISTINCT principal_id) FROM identity_memberships
WHERE organization_id = $1 AND role = 'owner' AND workspace_id IS NULL AND principal_kind <> 'group'
  AND principal_id <> $2;

-- name: get_membership
-- why: before it is deleted, to see whether it is the last owner's
SELECT * FROM identity_memberships WHERE organization_id = $1 AND id = $2;

-- name: delete_membership
-- why: the deleted object is the answer
DELETE FROM identity_memberships WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: delete_memberships_of
-- why: a removed principal has no roles left
DELETE FROM identity_memberships WHERE organization_id = $1 AND principal_id = $2;

-- name: add_group
-- why: a set of people, programs and other groups
INSERT INTO identity_groups (organization_id, id, name, created_us) VALUES ($1, $2, $3, $4) RETURNING *;

-- name: list_groups
-- why: a page along the primary key
SELECT * FROM identity_groups WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: get_group
-- why: by id or by name
SELECT * FROM identity_groups WHERE organization_id = $1 AND (id = $2 OR name = $3);

-- name: change_group
-- why: a change that was read before, by its version
UPDATE identity_groups SET name = coalesce($4, name), version = version + 1
WHERE organization_id = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) RETURNING *;

-- name: lock_group
-- why: two changes of one group's members come one after the other
SELECT id FROM identity_groups WHERE organization_id = $1 AND id = $2 FOR UPDATE;

-- name: delete_group
-- why: its edges end with it, and stay
DELETE FROM identity_groups WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: group_state
-- why: the epoch that an answer without a change names, and how many edges are live
SELECT epoch, live_edges FROM identity_authz_epochs WHERE organization_id = $1;

-- name: live_edge
-- why: the same member twice is one edge
SELECT from_epoch FROM identity_group_edges
WHERE organization_id = $1 AND group_id = $2 AND member_id = $3 AND to_epoch IS NULL;

-- name: add_edge
-- why: the last statement: the edge begins with the epoch that it raises
WITH raised AS (
  INSERT INTO identity_authz_epochs AS e (organization_id, epoch, live_edges) VALUES ($1, 1, 1)
  ON CONFLICT (organization_id) DO UPDATE SET epoch = e.epoch + 1, live_edges = e.live_edges + 1
  RETURNING epoch
)
INSERT INTO identity_group_edges (organization_id, group_id, member_id, member_kind, from_epoch)
SELECT $1, $2, $3, $4, raised.epoch FROM raised RETURNING from_epoch;

-- name: end_edge
-- why: the last statement: the edge ends with the epoch that it raises, and stays
WITH raised AS (
  UPDATE identity_authz_epochs SET epoch = epoch + 1, live_edges = live_edges - 1 WHERE organization_id = $1
  RETURNING epoch
)
UPDATE identity_group_edges SET to_epoch = raised.epoch FROM raised
WHERE organization_id = $1 AND group_id = $2 AND member_id = $3 AND to_epoch IS NULL RETURNING to_epoch;

-- name: end_edges_of
-- why: the last statement where a principal or group goes: it is in nothing and holds nobody from this epoch on
WITH gone AS (
  SELECT count(*) AS edges FROM identity_group_edges
  WHERE organization_id = $1 AND to_epoch IS NULL AND (member_id = $2 OR group_id = $2)
), raised AS (
  INSERT INTO identity_authz_epochs AS e (organization_id, epoch) VALUES ($1, 1)
  ON CONFLICT (organization_id) DO UPDATE
    SET epoch = e.epoch + 1, live_edges = e.live_edges - (SELECT edges FROM gone)
  RETURNING epoch
), ended AS (
  UPDATE identity_group_edges SET to_epoch = raised.epoch FROM raised
  WHERE organization_id = $1 AND to_epoch IS NULL AND (member_id = $2 OR group_id = $2)
)
SELECT epoch FROM raised;

-- name: add_key
-- why: its HMAC, never its text
INSERT INTO identity_api_keys (organization_id, workspace_id, id, lookup, kind, hmac, last4, name, owner_id, owner_kind,
  scopes, models, cidrs, class_max, expires_us, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING *;

-- name: list_keys
-- why: a page along the ids, inside the scope, of one workspace where $4 is not null; lent keys are their work's, not shown
SELECT k.*, w.name AS workspace_name FROM identity_api_keys k
JOIN identity_workspaces w ON w.organization_id = k.organization_id AND w.id = k.workspace_id
WHERE k.organization_id = $1 AND k.id > $2 AND k.kind <> 'task' AND ($4::uuid IS NULL OR k.workspace_id = $4)
ORDER BY k.id LIMIT $3;

-- name: get_key
-- why: by id or by its look-up part
SELECT * FROM identity_api_keys WHERE organization_id = $1 AND (id = $2 OR lookup = $3);

-- name: revoke_key
-- why: a revoked row is kept, so that its stories still name it
UPDATE identity_api_keys SET revoked_us = coalesce(revoked_us, $3), version = version + 1
WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: retire_key
-- why: rotation leaves the old key working for the overlap; one that was revoked or rotated meanwhile is not rotated
UPDATE identity_api_keys SET expires_us = least(coalesce(expires_us, $3), $3), replaced_by = $4, version = version + 1
WHERE organization_id = $1 AND id = $2 AND revoked_us IS NULL AND replaced_by IS NULL RETURNING *;

-- name: change_key
-- why: a change that was read before, by its version; what is null stays, but for the end, which $8 says to change
UPDATE identity_api_keys SET name = coalesce($4, name), models = coalesce($5, models), cidrs = coalesce($6, cidrs),
  class_max = coalesce($7, class_max), expires_us = CASE WHEN $8 THEN $9 ELSE expires_us END, version = version + 1
WHERE organization_id = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) RETURNING *;

-- name: lender_of
-- why: what a lent key keeps of the key that its borrower came with, by itself or by the session it opened
SELECT k.models, k.class_max FROM identity_api_keys k
WHERE k.organization_id = $1 AND (k.id = $2 OR k.lookup = (
  SELECT s.key_lookup FROM identity_sessions s WHERE s.organization_id = $1 AND s.id = $3));

-- name: extend_task_key
-- why: a lent key lives as long as the work it was lent to says, from now; one that was ended stays ended
UPDATE identity_api_keys SET expires_us = $3, version = version + 1
WHERE organization_id = $1 AND id = $2 AND kind = 'task' AND revoked_us IS NULL RETURNING expires_us;

-- name: revoke_task_key
-- why: once; the row that is ended already is not returned
UPDATE identity_api_keys SET revoked_us = $3, version = version + 1
WHERE organization_id = $1 AND id = $2 AND kind = 'task' AND revoked_us IS NULL RETURNING id;

-- name: forget_task_keys
-- why: lent keys are many and short-lived; what they did is told by stories and audit
DELETE FROM identity_api_keys WHERE kind = 'task' AND (expires_us < $1 OR revoked_us < $1);

-- name: revoke_keys_of
-- why: a removed principal holds no key
UPDATE identity_api_keys SET revoked_us = coalesce(revoked_us, $3), version = version + 1
WHERE organization_id = $1 AND owner_id = $2;

-- name: tenant_of
-- why: the platform's operator names an object of any organization by its id alone
SELECT organization_id FROM identity_workspaces WHERE id = $1
UNION ALL SELECT organization_id FROM identity_groups WHERE id = $1
UNION ALL SELECT organization_id FROM identity_users WHERE id = $1
UNION ALL SELECT organization_id FROM identity_service_accounts WHERE id = $1
UNION ALL SELECT organization_id FROM identity_memberships WHERE id = $1
UNION ALL SELECT organization_id FROM identity_api_keys WHERE id = $1
LIMIT 1;

-- name: edges_above
-- why: the groups of one principal and how they hold each other; UNION ends cycles
WITH RECURSIVE above AS (
  SELECT group_id, member_id FROM identity_group_edges
  WHERE organization_id = $1 AND member_id = $2 AND to_epoch IS NULL
  UNION
  SELECT e.group_id, e.member_id FROM identity_group_edges e JOIN above a ON e.member_id = a.group_id
  WHERE e.organization_id = $1 AND e.to_epoch IS NULL
)
SELECT above.group_id, above.member_id, g.name FROM above
JOIN identity_groups g ON g.organization_id = $1 AND g.id = above.group_id;

-- name: roles_told
-- why: roles by the names of who has them and where: those of some holders, or those in one workspace
SELECT m.id, m.role, m.workspace_id, m.principal_id, m.principal_kind, w.name AS workspace_name,
  coalesce(u.name, a.name, g.name) AS principal_name
FROM identity_memberships m
LEFT JOIN identity_workspaces w ON w.organization_id = m.organization_id AND w.id = m.workspace_id
LEFT JOIN identity_users u ON u.organization_id = m.organization_id AND u.id = m.principal_id
LEFT JOIN identity_service_accounts a ON a.organization_id = m.organization_id AND a.id = m.principal_id
LEFT JOIN identity_groups g ON g.organization_id = m.organization_id AND g.id = m.principal_id
WHERE m.organization_id = $1 AND ($2::uuid[] IS NULL OR m.principal_id = ANY ($2))
  AND ($3::uuid IS NULL OR m.workspace_id = $3)
ORDER BY m.workspace_id NULLS FIRST, m.id LIMIT $4;

-- name: group_sizes
-- why: how many are in each of some groups, directly
SELECT group_id, count(*) FILTER (WHERE member_kind <> 'group') AS principals,
  count(*) FILTER (WHERE member_kind = 'group') AS groups
FROM identity_group_edges WHERE organization_id = $1 AND group_id = ANY ($2::uuid[]) AND to_epoch IS NULL
GROUP BY group_id;

-- name: members_of
-- why: a page of who is in a group directly, by name
SELECT e.member_id, e.member_kind, coalesce(u.name, a.name, g.name) AS name, u.email
FROM identity_group_edges e
LEFT JOIN identity_users u ON u.organization_id = e.organization_id AND u.id = e.member_id
LEFT JOIN identity_service_accounts a ON a.organization_id = e.organization_id AND a.id = e.member_id
LEFT JOIN identity_groups g ON g.organization_id = e.organization_id AND g.id = e.member_id
WHERE e.organization_id = $1 AND e.group_id = $2 AND e.to_epoch IS NULL AND e.member_id > $3
ORDER BY e.member_id LIMIT $4;

-- name: edges_below
-- why: whom a group reaches through the groups in it; UNION ends cycles, the bound ends the walk of a large one
WITH RECURSIVE below AS (
  SELECT group_id, member_id, member_kind FROM identity_group_edges
  WHERE organization_id = $1 AND group_id = $2 AND to_epoch IS NULL
  UNION
  SELECT e.group_id, e.member_id, e.member_kind FROM identity_group_edges e JOIN below b ON e.group_id = b.member_id
  WHERE e.organization_id = $1 AND e.to_epoch IS NULL
)
SELECT b.group_id, b.member_id, b.member_kind, coalesce(u.name, a.name, g.name) AS name
FROM (SELECT * FROM below LIMIT $3) b
LEFT JOIN identity_users u ON u.organization_id = $1 AND u.id = b.member_id
LEFT JOIN identity_service_accounts a ON a.organization_id = $1 AND a.id = b.member_id
LEFT JOIN identity_groups g ON g.organization_id = $1 AND g.id = b.member_id;

-- name: programs_of
-- why: the programs of one workspace
SELECT * FROM identity_service_accounts WHERE organization_id = $1 AND workspace_id = $2 ORDER BY id LIMIT $3;
