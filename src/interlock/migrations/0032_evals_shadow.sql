-- why: a rollout may let its version see copies of requests before it answers anybody
-- phase: expand

ALTER TABLE evals_rollouts ADD COLUMN shadow_s double precision NOT NULL DEFAULT 0 CHECK (shadow_s >= 0);
ALTER TABLE evals_rollouts DROP CONSTRAINT evals_rollouts_state_check;
ALTER TABLE evals_rollouts ADD CONSTRAINT evals_rollouts_state_check
  CHECK (state IN ('draft', 'shadow', 'canary', 'paused', 'promoted', 'rolled_back', 'killed'));
DROP INDEX evals_rollouts_active;
CREATE UNIQUE INDEX evals_rollouts_active ON evals_rollouts (organization_id, route)
  WHERE state IN ('shadow', 'canary', 'paused');
