-- why: credentials of providers, sealed so that neither the store nor control can read them back
-- phase: expand

-- A secret of the whole organization has the zero uuid as its workspace.
CREATE TABLE secrets_envelopes (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  id uuid NOT NULL,
  ciphertext bytea NOT NULL,
  wrapped_key bytea NOT NULL,
  kek_id text NOT NULL,
  last4 text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, workspace_id, name)
);
CREATE INDEX secrets_envelopes_by_kek ON secrets_envelopes (kek_id);
ALTER TABLE secrets_envelopes ENABLE ROW LEVEL SECURITY;
ALTER TABLE secrets_envelopes FORCE ROW LEVEL SECURITY;
CREATE POLICY secrets_envelopes_tenant ON secrets_envelopes TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY secrets_envelopes_ops ON secrets_envelopes TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON secrets_envelopes TO interlock_app;
GRANT SELECT, UPDATE ON secrets_envelopes TO interlock_ops;

-- Control cannot open an envelope, so it writes down that a rotation is wanted; a process with the master key does it.
CREATE TABLE secrets_rotations (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  state text NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'running', 'done')),
  kek_id text,
  rewrapped bigint NOT NULL DEFAULT 0,
  requested_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  PRIMARY KEY (organization_id, id)
);
CREATE UNIQUE INDEX secrets_rotations_open ON secrets_rotations ((true)) WHERE state <> 'done';
ALTER TABLE secrets_rotations ENABLE ROW LEVEL SECURITY;
ALTER TABLE secrets_rotations FORCE ROW LEVEL SECURITY;
CREATE POLICY secrets_rotations_tenant ON secrets_rotations TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY secrets_rotations_ops ON secrets_rotations TO interlock_ops USING (true);
GRANT SELECT, INSERT ON secrets_rotations TO interlock_app;
GRANT SELECT, INSERT, UPDATE ON secrets_rotations TO interlock_ops;
