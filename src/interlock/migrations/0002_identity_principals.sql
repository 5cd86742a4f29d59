-- why: organizations, people, programs, nested groups, keys and sessions: who may do what, in which tenant
-- phase: expand
CREATE TABLE identity_organizations (
  id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE,
  tier text,
  -- Set when its owner gave it up: its keys are refused from then on.
  closing_us bigint,
  version bigint NOT NULL DEFAULT 1,
  created_us bigint NOT NULL DEFAULT 0
);
ALTER TABLE identity_organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_organizations_tenant ON identity_organizations TO interlock_app
  USING (id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_organizations_ops ON identity_organizations TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON identity_organizations TO interlock_app;
GRANT SELECT, INSERT ON identity_organizations TO interlock_ops;

CREATE TABLE identity_workspaces (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  id uuid NOT NULL,
  name text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  created_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, name)
);
ALTER TABLE identity_workspaces ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_workspaces FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_workspaces_tenant ON identity_workspaces TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_workspaces_ops ON identity_workspaces TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON identity_workspaces TO interlock_app;
GRANT SELECT, INSERT ON identity_workspaces TO interlock_ops;

CREATE TABLE identity_users (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  id uuid NOT NULL,
  email text NOT NULL,
  name text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  created_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, id)
);
CREATE UNIQUE INDEX identity_users_email ON identity_users (organization_id, lower(email));
ALTER TABLE identity_users ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_users FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_users_tenant ON identity_users TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_users_ops ON identity_users TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON identity_users TO interlock_app;
GRANT SELECT ON identity_users TO interlock_ops;

CREATE TABLE identity_service_accounts (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  name text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  created_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, workspace_id, name),
  FOREIGN KEY (organization_id, workspace_id) REFERENCES identity_workspaces (organization_id, id)
);
ALTER TABLE identity_service_accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_service_accounts FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_service_accounts_tenant ON identity_service_accounts TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_service_accounts_ops ON identity_service_accounts TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON identity_service_accounts TO interlock_app;
GRANT SELECT ON identity_service_accounts TO interlock_ops;

CREATE TABLE identity_memberships (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  id uuid NOT NULL,
  workspace_id uuid,
  principal_id uuid NOT NULL,
  principal_kind text NOT NULL CHECK (principal_kind IN ('user', 'sa', 'group')),
  role text NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'support', 'auditor', 'viewer')),
  version bigint NOT NULL DEFAULT 1,
  created_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, id),
  FOREIGN KEY (organization_id, workspace_id) REFERENCES identity_workspaces (organization_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX identity_memberships_once ON identity_memberships
  (organization_id, principal_id, role, coalesce(workspace_id, '00000000-0000-0000-0000-000000000000'));
CREATE INDEX identity_memberships_principal ON identity_memberships (organization_id, principal_id);
ALTER TABLE identity_memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_memberships_tenant ON identity_memberships TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_memberships_ops ON identity_memberships TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON identity_memberships TO interlock_app;
GRANT SELECT ON identity_memberships TO interlock_ops;

CREATE TABLE identity_groups (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  id uuid NOT NULL,
  name text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  created_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, name)
);
ALTER TABLE identity_groups ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_groups FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_groups_tenant ON identity_groups TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_groups_ops ON identity_groups TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON identity_groups TO interlock_app;
GRANT SELECT ON identity_groups TO interlock_ops;

-- An edge ends and stays, also when its group is deleted: membership at any past epoch can be told.
CREATE TABLE identity_group_edges (
  organization_id uuid NOT NULL,
  group_id uuid NOT NULL,
  member_id uuid NOT NULL,
  member_kind text NOT NULL CHECK (member_kind IN ('user', 'sa', 'group')),
  from_epoch bigint NOT NULL,
  to_epoch bigint,
  PRIMARY KEY (organization_id, group_id, member_id, from_epoch)
);
CREATE INDEX identity_group_edges_member ON identity_group_edges (organization_id, member_id) WHERE to_epoch IS NULL;
CREATE UNIQUE INDEX identity_group_edges_live ON identity_group_edges (organization_id, group_id, member_id)
  WHERE to_epoch IS NULL;
ALTER TABLE identity_group_edges ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_group_edges FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_group_edges_tenant ON identity_group_edges TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_group_edges_ops ON identity_group_edges TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON identity_group_edges TO interlock_app;
GRANT SELECT ON identity_group_edges TO interlock_ops;

CREATE TABLE identity_authz_epochs (
  organization_id uuid PRIMARY KEY REFERENCES identity_organizations (id),
  epoch bigint NOT NULL,
  live_edges bigint NOT NULL DEFAULT 0
);
ALTER TABLE identity_authz_epochs ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_authz_epochs FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_authz_epochs_tenant ON identity_authz_epochs TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_authz_epochs_ops ON identity_authz_epochs TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON identity_authz_epochs TO interlock_app, interlock_ops;

CREATE TABLE identity_api_keys (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  lookup text NOT NULL UNIQUE,
  kind text NOT NULL CHECK (kind IN ('live', 'test')),
  hmac bytea NOT NULL,
  last4 text NOT NULL,
  name text NOT NULL,
  owner_id uuid NOT NULL,
  owner_kind text NOT NULL CHECK (owner_kind IN ('user', 'service_account')),
  scopes text[] NOT NULL,
  models text[] NOT NULL,
  cidrs text[] NOT NULL,
  class_max text CHECK (class_max IN ('interactive', 'standard', 'batch')),
  expires_us bigint,
  revoked_us bigint,
  replaced_by uuid,
  last_used_us bigint,
  version bigint NOT NULL DEFAULT 1,
  created_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, workspace_id, id),
  FOREIGN KEY (organization_id, workspace_id) REFERENCES identity_workspaces (organization_id, id)
);
CREATE INDEX identity_api_keys_id ON identity_api_keys (organization_id, id);
CREATE INDEX identity_api_keys_owner ON identity_api_keys (organization_id, owner_id);
ALTER TABLE identity_api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_api_keys_tenant ON identity_api_keys TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY identity_api_keys_ops ON identity_api_keys TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON identity_api_keys TO interlock_app;
GRANT SELECT, DELETE, UPDATE (last_used_us, hmac) ON identity_api_keys TO interlock_ops;

CREATE TABLE identity_sessions (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  token_hash bytea NOT NULL,
  id uuid NOT NULL,
  key_lookup text NOT NULL,
  created_us bigint NOT NULL,
  seen_us bigint NOT NULL,
  ended_us bigint,
  PRIMARY KEY (organization_id, token_hash)
);
CREATE UNIQUE INDEX identity_sessions_token ON identity_sessions (token_hash);
ALTER TABLE identity_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_sessions_tenant ON identity_sessions TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_sessions_ops ON identity_sessions TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON identity_sessions TO interlock_ops;
GRANT SELECT ON identity_sessions TO interlock_app;

CREATE TABLE identity_login_tokens (
  organization_id uuid NOT NULL REFERENCES identity_organizations (id),
  token_hash bytea NOT NULL,
  key_lookup text NOT NULL,
  expires_us bigint NOT NULL,
  PRIMARY KEY (organization_id, token_hash)
);
ALTER TABLE identity_login_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity_login_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY identity_login_tokens_tenant ON identity_login_tokens TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY identity_login_tokens_ops ON identity_login_tokens TO interlock_ops USING (true);
GRANT SELECT, INSERT, DELETE ON identity_login_tokens TO interlock_ops;
GRANT SELECT ON identity_login_tokens TO interlock_app;
