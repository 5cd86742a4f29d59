-- why: suites by content, runs and their samples, gates with controls and verdicts, incidents
-- phase: expand

CREATE TABLE evals_cases (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  case_id uuid NOT NULL,
  case_digest text NOT NULL,
  body jsonb NOT NULL,
  cluster text,
  provenance text,
  PRIMARY KEY (organization_id, workspace_id, case_id),
  UNIQUE (organization_id, workspace_id, case_digest)
);
ALTER TABLE evals_cases ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_cases FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_cases_tenant ON evals_cases TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_cases TO interlock_app;

CREATE TABLE evals_suite_versions (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  name text NOT NULL,
  version integer NOT NULL,
  kind text NOT NULL CHECK (kind IN ('quality', 'must_pass', 'zero_tolerance')),
  description text NOT NULL DEFAULT '',
  suite_digest text NOT NULL,
  cases integer NOT NULL,
  added integer NOT NULL,
  changed integer NOT NULL,
  removed integer NOT NULL,
  created_by uuid NOT NULL,
  created_us bigint NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, name, version)
);
ALTER TABLE evals_suite_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_suite_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_suite_versions_tenant ON evals_suite_versions TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_suite_versions TO interlock_app;

CREATE TABLE evals_suite_cases (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  name text NOT NULL,
  version integer NOT NULL,
  key text NOT NULL,
  case_id uuid NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, name, version, key),
  FOREIGN KEY (organization_id, workspace_id, case_id) REFERENCES evals_cases
);
ALTER TABLE evals_suite_cases ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_suite_cases FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_suite_cases_tenant ON evals_suite_cases TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_suite_cases TO interlock_app;

CREATE TABLE evals_runs (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  state text NOT NULL CHECK (state IN ('queued', 'running', 'complete', 'failed', 'canceling', 'canceled')),
  suite text NOT NULL,
  suite_version integer NOT NULL,
  suite_digest text NOT NULL,
  -- Targets without the outputs of recordings, which lie in the samples.
  candidate jsonb NOT NULL,
  baseline jsonb,
  candidate_digest text NOT NULL,
  baseline_digest text,
  seed bigint NOT NULL,
  epochs integer NOT NULL,
  concurrency integer NOT NULL,
  attempts_max integer NOT NULL,
  sample_timeout_s double precision NOT NULL,
  expected integer NOT NULL,
  retries integer NOT NULL DEFAULT 0,
  deadline_us bigint NOT NULL,
  labels jsonb NOT NULL DEFAULT '{}',
  purpose text NOT NULL DEFAULT 'run' CHECK (purpose IN ('run', 'control', 'reproduce', 'admission')),
  principal_id uuid NOT NULL,
  principal_kind text NOT NULL,
  code_version text NOT NULL,
  numbers jsonb,
  evidence_digest text,
  reason text,
  created_us bigint NOT NULL,
  ended_us bigint,
  priority integer NOT NULL DEFAULT 0,
  due_at timestamptz NOT NULL DEFAULT now(),
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (organization_id, workspace_id, id)
);
CREATE INDEX evals_runs_due ON evals_runs (organization_id, workspace_id, due_at) WHERE lease_owner IS NULL;
CREATE INDEX evals_runs_expiry ON evals_runs (lease_expires_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX evals_runs_id ON evals_runs (id);
ALTER TABLE evals_runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_runs FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_runs_tenant ON evals_runs TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE ON evals_runs TO interlock_app;
CREATE POLICY evals_runs_ops ON evals_runs TO interlock_ops USING (true);
GRANT SELECT, UPDATE ON evals_runs TO interlock_ops;

CREATE TABLE evals_shares (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
  vtime double precision NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  running_max integer NOT NULL DEFAULT 4 CHECK (running_max > 0),
  is_active boolean NOT NULL DEFAULT false,
  PRIMARY KEY (organization_id, workspace_id)
);
ALTER TABLE evals_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_shares FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_shares_tenant ON evals_shares TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_shares TO interlock_app;
CREATE POLICY evals_shares_ops ON evals_shares TO interlock_ops USING (true);
GRANT SELECT, UPDATE ON evals_shares TO interlock_ops;

CREATE TABLE evals_samples (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  run_id uuid NOT NULL,
  key text NOT NULL,
  arm text NOT NULL CHECK (arm IN ('candidate', 'baseline')),
  epoch integer NOT NULL,
  ord integer NOT NULL,
  case_id uuid NOT NULL,
  state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'scored', 'errored')),
  tries integer NOT NULL DEFAULT 0,
  outcome text CHECK (outcome IN ('pass', 'fail', 'unscorable', 'output_missing', 'target_failed', 'timeout')),
  why text,
  output jsonb,
  output_sha256 text,
  request_id text,
  latency_ms double precision,
  PRIMARY KEY (organization_id, workspace_id, run_id, key, arm, epoch)
);
CREATE INDEX evals_samples_due ON evals_samples (organization_id, workspace_id, run_id, ord) WHERE state = 'due';
ALTER TABLE evals_samples ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_samples FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_samples_tenant ON evals_samples TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE ON evals_samples TO interlock_app;

CREATE TABLE evals_gates (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  name text NOT NULL,
  route text NOT NULL,
  version integer NOT NULL,
  mode text NOT NULL CHECK (mode IN ('required', 'advisory')),
  created_us bigint NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, id),
  UNIQUE (organization_id, workspace_id, name)
);
-- One required gate a route of an organization, whatever the workspace that keeps it.
CREATE UNIQUE INDEX evals_gates_required ON evals_gates (organization_id, route) WHERE mode = 'required';
ALTER TABLE evals_gates ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_gates FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_gates_tenant ON evals_gates TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE ON evals_gates TO interlock_app;

CREATE TABLE evals_gate_versions (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  gate_id uuid NOT NULL,
  version integer NOT NULL,
  policy jsonb NOT NULL,
  policy_digest text NOT NULL,
  created_by uuid NOT NULL,
  created_us bigint NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, gate_id, version)
);
ALTER TABLE evals_gate_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_gate_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_gate_versions_tenant ON evals_gate_versions TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_gate_versions TO interlock_app;

CREATE TABLE evals_gate_controls (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  gate_id uuid NOT NULL,
  policy_digest text NOT NULL,
  check_name text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('positive', 'negative')),
  suite_digest text NOT NULL,
  sabotage text NOT NULL,
  expected text NOT NULL,
  observed text NOT NULL,
  ok boolean NOT NULL,
  at_us bigint NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, gate_id, policy_digest, check_name, kind)
);
ALTER TABLE evals_gate_controls ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_gate_controls FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_gate_controls_tenant ON evals_gate_controls TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE ON evals_gate_controls TO interlock_app;

CREATE TABLE evals_verdicts (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  gate_id uuid NOT NULL,
  version integer NOT NULL,
  route text NOT NULL,
  policy_digest text NOT NULL,
  artifact_digest text NOT NULL,
  baseline_digest text,
  attempt integer NOT NULL,
  runs_digest text NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'INCONCLUSIVE')),
  admits boolean NOT NULL,
  body jsonb NOT NULL,
  issued_us bigint NOT NULL,
  expires_us bigint NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, id)
);
CREATE INDEX evals_verdicts_artifact ON evals_verdicts (organization_id, workspace_id, gate_id, artifact_digest, issued_us DESC);
ALTER TABLE evals_verdicts ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_verdicts FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_verdicts_tenant ON evals_verdicts TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_verdicts TO interlock_app;

CREATE TABLE evals_signing_keys (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  key_id text NOT NULL,
  public_key bytea NOT NULL,
  not_after_us bigint NOT NULL,
  revoked_us bigint,
  PRIMARY KEY (organization_id, workspace_id, key_id)
);
ALTER TABLE evals_signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_signing_keys_tenant ON evals_signing_keys TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_signing_keys TO interlock_app;
CREATE POLICY evals_signing_keys_ops ON evals_signing_keys TO interlock_ops USING (true);
GRANT SELECT ON evals_signing_keys TO interlock_ops;

CREATE TABLE evals_incidents (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'triaged', 'reproduced', 'guarded', 'closed', 'dismissed')),
  fingerprint text NOT NULL,
  title text NOT NULL,
  severity text NOT NULL CHECK (severity IN ('sev1', 'sev2', 'sev3', 'sev4')),
  source text NOT NULL,
  detector text,
  taxonomy text,
  route text,
  request_id text,
  artifact_digest text,
  body text,
  input jsonb,
  evidence jsonb,
  capture_state text NOT NULL DEFAULT 'kept' CHECK (capture_state IN ('kept', 'quarantined')),
  occurrences integer NOT NULL DEFAULT 1,
  owner text,
  repro jsonb,
  case_key text,
  suite text,
  created_us bigint NOT NULL,
  updated_us bigint NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, id)
);
CREATE UNIQUE INDEX evals_incidents_fingerprint ON evals_incidents (organization_id, workspace_id, fingerprint)
  WHERE state <> 'dismissed';
ALTER TABLE evals_incidents ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_incidents FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_incidents_tenant ON evals_incidents TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE ON evals_incidents TO interlock_app;

CREATE TABLE evals_incident_events (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  incident_id uuid NOT NULL,
  seq integer NOT NULL,
  at_us bigint NOT NULL,
  kind text NOT NULL,
  actor text NOT NULL,
  note text,
  detail jsonb NOT NULL DEFAULT '{}',
  PRIMARY KEY (organization_id, workspace_id, incident_id, seq)
);
ALTER TABLE evals_incident_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_incident_events FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_incident_events_tenant ON evals_incident_events TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_incident_events TO interlock_app;

-- An evaluation under way: what a worker decides and signs once its runs have ended.
CREATE TABLE evals_evaluations (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  id uuid NOT NULL,
  gate_id uuid NOT NULL,
  artifact_digest text NOT NULL,
  baseline_digest text,
  -- check name -> run id
  runs jsonb NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'decided', 'refused')),
  verdict_id uuid,
  code text,
  created_us bigint NOT NULL,
  priority integer NOT NULL DEFAULT 0,
  due_at timestamptz NOT NULL DEFAULT now(),
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (organization_id, workspace_id, id)
);
CREATE INDEX evals_evaluations_due ON evals_evaluations (organization_id, workspace_id, due_at) WHERE lease_owner IS NULL;
CREATE INDEX evals_evaluations_expiry ON evals_evaluations (lease_expires_at) WHERE lease_owner IS NOT NULL;
ALTER TABLE evals_evaluations ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_evaluations FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_evaluations_tenant ON evals_evaluations TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE ON evals_evaluations TO interlock_app;
CREATE POLICY evals_evaluations_ops ON evals_evaluations TO interlock_ops USING (true);
GRANT SELECT, UPDATE ON evals_evaluations TO interlock_ops;

CREATE TABLE evals_evaluation_shares (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
  vtime double precision NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  running_max integer NOT NULL DEFAULT 4 CHECK (running_max > 0),
  is_active boolean NOT NULL DEFAULT false,
  PRIMARY KEY (organization_id, workspace_id)
);
ALTER TABLE evals_evaluation_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_evaluation_shares FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_evaluation_shares_tenant ON evals_evaluation_shares TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT ON evals_evaluation_shares TO interlock_app;
CREATE POLICY evals_evaluation_shares_ops ON evals_evaluation_shares TO interlock_ops USING (true);
GRANT SELECT, UPDATE ON evals_evaluation_shares TO interlock_ops;
