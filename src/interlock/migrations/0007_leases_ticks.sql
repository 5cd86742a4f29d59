-- why: the platform's own recurring work (partitions, checkpoints, retention) is leased like all other work
-- phase: expand
CREATE TABLE leases_shares (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
  vtime double precision NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  running_max integer NOT NULL DEFAULT 16 CHECK (running_max > 0),
  is_active boolean NOT NULL DEFAULT false,
  PRIMARY KEY (organization_id, workspace_id)
);
ALTER TABLE leases_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE leases_shares FORCE ROW LEVEL SECURITY;
CREATE POLICY leases_shares_tenant ON leases_shares TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY leases_shares_ops ON leases_shares TO interlock_ops USING (true);
GRANT SELECT ON leases_shares TO interlock_app;
GRANT SELECT, INSERT, UPDATE ON leases_shares TO interlock_ops;

CREATE TABLE leases_ticks (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  name text NOT NULL UNIQUE,
  priority integer NOT NULL DEFAULT 0,
  due_at timestamptz NOT NULL DEFAULT now(),
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (organization_id, workspace_id, id)
);
CREATE INDEX leases_ticks_due ON leases_ticks (organization_id, workspace_id, due_at) WHERE lease_owner IS NULL;
CREATE INDEX leases_ticks_expiry ON leases_ticks (lease_expires_at) WHERE lease_owner IS NOT NULL;
ALTER TABLE leases_ticks ENABLE ROW LEVEL SECURITY;
ALTER TABLE leases_ticks FORCE ROW LEVEL SECURITY;
CREATE POLICY leases_ticks_tenant ON leases_ticks TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY leases_ticks_ops ON leases_ticks TO interlock_ops USING (true);
GRANT SELECT ON leases_ticks TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON leases_ticks TO interlock_ops;
