-- name: all_keys
-- why: every process holds all keys in memory
SELECT organization_id, workspace_id, id, lookup, kind, hmac, last4, name, owner_id, owner_kind, scopes, models, cidrs,
  class_max, expires_us, revoked_us
FROM identity_api_keys ORDER BY created_us DESC LIMIT $1;

-- name: find_key
-- why: a key that memory does not know yet
SELECT organization_id, workspace_id, id, lookup, kind, hmac, last4, name, owner_id, owner_kind, scopes, models, cidrs,
  class_max, expires_us, revoked_us
FROM identity_api_keys WHERE lookup = $1;

-- name: all_memberships
-- why: what the owners of keys may do
SELECT organization_id, workspace_id, principal_id, role FROM identity_memberships;

-- name: all_edges
-- why: the closure of groups is walked in memory, once for each epoch
SELECT organization_id, group_id, member_id FROM identity_group_edges WHERE to_epoch IS NULL;

-- name: mark_used
-- why: when keys were last used, many at a time
UPDATE identity_api_keys SET last_used_us = greatest(coalesce(last_used_us, 0), used.at_us)
FROM unnest($1::text[], $2::bigint[]) AS used(lookup, at_us)
WHERE identity_api_keys.lookup = used.lookup;

-- name: add_session
-- why: the cookie's hash and the key that signed in
INSERT INTO identity_sessions (organization_id, token_hash, id, key_lookup, created_us, seen_us)
VALUES ($1, $2, $3, $4, $5, $5);

-- name: touch_session
-- why: a session lives while it is used, and never longer than its bound
UPDATE identity_sessions SET seen_us = $2
WHERE token_hash = $1 AND ended_us IS NULL AND seen_us > $3 AND created_us > $4
RETURNING organization_id, id, key_lookup;

-- name: end_session
-- why: signing out ends the session for everybody who holds the cookie
UPDATE identity_sessions SET ended_us = $2 WHERE token_hash = $1 AND ended_us IS NULL RETURNING organization_id, id;

-- name: forget_sessions
-- why: ended sessions are kept a week for questions, then nobody needs them
DELETE FROM identity_sessions WHERE greatest(seen_us, coalesce(ended_us, 0)) < $1;

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

-- name: start_epoch
-- why: every organization has an epoch from its first moment
INSERT INTO identity_authz_epochs (organization_id, epoch) VALUES ($1, 1) ON CONFLICT DO NOTHING;

-- name: raise_epoch
-- why: the last statement of every transaction that changes who may see what
UPDATE identity_authz_epochs SET epoch = epoch + 1 WHERE organization_id = $1 RETURNING epoch;

-- name: all_organizations
-- why: the platform's operator sees every organization
SELECT * FROM identity_organizations WHERE id > $1 ORDER BY id LIMIT $2;

-- name: organization_by_name
-- why: names are accepted wherever an object is named
SELECT id FROM identity_organizations WHERE name = $1;

-- name: get_organization
-- why: the caller's own
SELECT * FROM identity_organizations WHERE id = $1;

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
-- why: a program
INSERT INTO identity_service_accounts (organization_id, id, workspace_id, name, created_us)
VALUES ($1, $2, $3, $4, $5) RETURNING *;

-- name: list_service_accounts
-- why: a page along the primary key
SELECT * FROM identity_service_accounts WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: get_service_account
-- why: by id or by name
SELECT * FROM identity_service_accounts WHERE organization_id = $1 AND (id = $2 OR name = $3) ORDER BY id LIMIT 1;

-- name: delete_service_account
-- why: with its memberships and keys, in one transaction
DELETE FROM identity_service_accounts WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: add_membership
-- why: a role, once
INSERT INTO identity_memberships (organization_id, id, workspace_id, principal_id, role, created_us)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING *;

-- name: list_memberships
-- why: a page along the primary key
SELECT * FROM identity_memberships WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: memberships_of
-- why: what one principal may do
SELECT * FROM identity_memberships WHERE organization_id = $1 AND principal_id = $2;

-- name: owners
-- why: an organization keeps one
SELECT count(DISTINCT principal_id) FROM identity_memberships
WHERE organization_id = $1 AND role = 'owner' AND workspace_id IS NULL AND principal_id <> $2;

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

-- name: delete_group
-- why: its edges go with it
DELETE FROM identity_groups WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: count_edges
-- why: an organization has a bound
SELECT count(*) FROM identity_group_edges WHERE organization_id = $1 AND to_epoch IS NULL;

-- name: add_edge
-- why: the same member twice is one edge
INSERT INTO identity_group_edges (organization_id, group_id, member_id, member_kind, from_epoch)
SELECT $1, $2, $3, $4, epoch + 1 FROM identity_authz_epochs WHERE organization_id = $1
ON CONFLICT (organization_id, group_id, member_id) WHERE to_epoch IS NULL DO NOTHING;

-- name: end_edge
-- why: an edge ends and stays
UPDATE identity_group_edges SET to_epoch = (SELECT epoch + 1 FROM identity_authz_epochs WHERE organization_id = $1)
WHERE organization_id = $1 AND group_id = $2 AND member_id = $3 AND to_epoch IS NULL;

-- name: end_edges_of
-- why: a removed principal is in no group
UPDATE identity_group_edges SET to_epoch = (SELECT epoch + 1 FROM identity_authz_epochs WHERE organization_id = $1)
WHERE organization_id = $1 AND member_id = $2 AND to_epoch IS NULL;

-- name: edges
-- why: the closure of one organization
SELECT group_id, member_id FROM identity_group_edges WHERE organization_id = $1 AND to_epoch IS NULL;

-- name: group_names
-- why: an effective view names groups
SELECT id, name FROM identity_groups WHERE organization_id = $1;

-- name: current_epoch
-- why: an answer without a change names the epoch that it saw
SELECT epoch FROM identity_authz_epochs WHERE organization_id = $1;

-- name: add_key
-- why: its HMAC, never its text
INSERT INTO identity_api_keys (organization_id, workspace_id, id, lookup, kind, hmac, last4, name, owner_id, owner_kind,
  scopes, models, cidrs, class_max, expires_us, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING *;

-- name: list_keys
-- why: a page along the primary key, inside the scope
SELECT k.*, w.name AS workspace_name FROM identity_api_keys k
JOIN identity_workspaces w ON w.organization_id = k.organization_id AND w.id = k.workspace_id
WHERE k.organization_id = $1 AND k.id > $2 ORDER BY k.id LIMIT $3;

-- name: get_key
-- why: by id or by its look-up part
SELECT * FROM identity_api_keys WHERE organization_id = $1 AND (id = $2 OR lookup = $3);

-- name: revoke_key
-- why: a revoked row is kept, so that its stories still name it
UPDATE identity_api_keys SET revoked_us = coalesce(revoked_us, $3), version = version + 1
WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: retire_key
-- why: rotation leaves the old key working for the overlap
UPDATE identity_api_keys SET expires_us = least(coalesce(expires_us, $3), $3), replaced_by = $4, version = version + 1
WHERE organization_id = $1 AND id = $2 RETURNING *;

-- name: change_key
-- why: a change that was read before, by its version
UPDATE identity_api_keys SET name = coalesce($4, name), version = version + 1
WHERE organization_id = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) RETURNING *;

-- name: revoke_keys_of
-- why: a removed principal holds no key
UPDATE identity_api_keys SET revoked_us = coalesce(revoked_us, $3) WHERE organization_id = $1 AND owner_id = $2;

-- name: tenant_of
-- why: the platform's operator names a workspace or group of any organization by its id alone
SELECT organization_id FROM identity_workspaces WHERE id = $1
UNION ALL SELECT organization_id FROM identity_groups WHERE id = $1
UNION ALL SELECT organization_id FROM identity_api_keys WHERE id = $1
LIMIT 1;
