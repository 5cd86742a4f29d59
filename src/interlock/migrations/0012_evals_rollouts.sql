-- why: rollouts of route versions, what their monitors remember, and every look with its reasons
-- phase: expand

CREATE TABLE evals_rollouts (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  route text NOT NULL,
  from_version integer NOT NULL,
  to_version integer NOT NULL,
  artifact_digest text NOT NULL,
  state text NOT NULL CHECK (state IN ('draft', 'canary', 'paused', 'promoted', 'rolled_back', 'killed')),
  stages double precision[] NOT NULL,
  stage integer NOT NULL DEFAULT 0,
  weight double precision NOT NULL DEFAULT 0,
  dwell_s double precision NOT NULL,
  -- Bounds of each metric as they were asked for.
  metrics jsonb NOT NULL,
  gate jsonb,
  decision text CHECK (decision IN ('PROMOTE', 'ROLLBACK', 'HOLD')),
  reasons jsonb NOT NULL DEFAULT '[]',
  reason text,
  -- What the monitor remembers beyond its metrics, and the first second that it has not read.
  monitor jsonb,
  look integer NOT NULL DEFAULT 0,
  counted_second bigint NOT NULL DEFAULT 0,
  stage_started_us bigint NOT NULL DEFAULT 0,
  lease_until_us bigint,
  unkill_by uuid,
  created_us bigint NOT NULL,
  ended_us bigint,
  priority integer NOT NULL DEFAULT 0,
  due_at timestamptz NOT NULL DEFAULT 'infinity',
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (organization_id, workspace_id, id)
);
CREATE UNIQUE INDEX evals_rollouts_active ON evals_rollouts (organization_id, route)
  WHERE state IN ('canary', 'paused');
CREATE INDEX evals_rollouts_id ON evals_rollouts (id);
CREATE INDEX evals_rollouts_due ON evals_rollouts (organization_id, workspace_id, due_at) WHERE lease_owner IS NULL;
CREATE INDEX evals_rollouts_expiry ON evals_rollouts (lease_expires_at) WHERE lease_owner IS NOT NULL;
ALTER TABLE evals_rollouts ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_rollouts FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_rollouts_tenant ON evals_rollouts TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY evals_rollouts_ops ON evals_rollouts TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON evals_rollouts TO interlock_app;
GRANT SELECT, UPDATE ON evals_rollouts TO interlock_ops;

CREATE TABLE evals_rollout_shares (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
  vtime double precision NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  running_max integer NOT NULL DEFAULT 16 CHECK (running_max > 0),
  is_active boolean NOT NULL DEFAULT false,
  PRIMARY KEY (organization_id, workspace_id)
);
ALTER TABLE evals_rollout_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_rollout_shares FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_rollout_shares_tenant ON evals_rollout_shares TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY evals_rollout_shares_ops ON evals_rollout_shares TO interlock_ops USING (true);
GRANT SELECT, INSERT ON evals_rollout_shares TO interlock_app;
GRANT SELECT, UPDATE ON evals_rollout_shares TO interlock_ops;

-- One row a metric. Hashes of units that were bad in this rollout and in this stage, 8 bytes each, one behind the other:
-- a unit turns bad once.
CREATE TABLE evals_rollout_monitors (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  rollout_id uuid NOT NULL,
  metric text NOT NULL,
  state jsonb NOT NULL,
  reading jsonb,
  bad_units bytea NOT NULL DEFAULT '',
  stage_bad_units bytea NOT NULL DEFAULT '',
  PRIMARY KEY (organization_id, workspace_id, rollout_id, metric)
);
ALTER TABLE evals_rollout_monitors ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_rollout_monitors FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_rollout_monitors_tenant ON evals_rollout_monitors TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE, DELETE ON evals_rollout_monitors TO interlock_app;

CREATE TABLE evals_rollout_looks (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  rollout_id uuid NOT NULL,
  look integer NOT NULL,
  at_us bigint NOT NULL,
  stage integer NOT NULL,
  weight double precision NOT NULL,
  counts jsonb NOT NULL,
  readings jsonb NOT NULL,
  decision text NOT NULL,
  reasons jsonb NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, rollout_id, look)
);
CREATE INDEX evals_rollout_looks_by_age ON evals_rollout_looks (at_us);
ALTER TABLE evals_rollout_looks ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_rollout_looks FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_rollout_looks_tenant ON evals_rollout_looks TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY evals_rollout_looks_ops ON evals_rollout_looks TO interlock_ops USING (true);
GRANT SELECT, INSERT ON evals_rollout_looks TO interlock_app;
GRANT SELECT, DELETE ON evals_rollout_looks TO interlock_ops;
