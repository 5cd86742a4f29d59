-- why: controls are run again from the outputs they were built from; a case that failed once is asked again by a run of its own
-- phase: expand

CREATE TABLE evals_baselines (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  suite text NOT NULL,
  key text NOT NULL,
  -- What a good artifact answered, one output an epoch, without secrets.
  outputs jsonb NOT NULL,
  at_us bigint NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, suite, key)
);
ALTER TABLE evals_baselines ENABLE ROW LEVEL SECURITY;
ALTER TABLE evals_baselines FORCE ROW LEVEL SECURITY;
CREATE POLICY evals_baselines_tenant ON evals_baselines TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
GRANT SELECT, INSERT, UPDATE ON evals_baselines TO interlock_app;

-- check name -> run id of the further repeats of a check
ALTER TABLE evals_evaluations ADD COLUMN further jsonb NOT NULL DEFAULT '{}';
ALTER TABLE evals_runs DROP CONSTRAINT evals_runs_purpose_check;
ALTER TABLE evals_runs ADD CONSTRAINT evals_runs_purpose_check
  CHECK (purpose IN ('run', 'control', 'reproduce', 'admission', 'repeats'));

-- The nightly proof looks for gates of every tenant.
CREATE POLICY evals_gates_ops ON evals_gates TO interlock_ops USING (true);
GRANT SELECT ON evals_gates TO interlock_ops;
