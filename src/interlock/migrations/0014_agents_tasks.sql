-- why: long-running work of agents as durable rows: tasks, their journal, approvals, budgets, processes
-- phase: expand

-- `state_before` is written with every change of state, so that the CHECK is the table of allowed transitions.
-- Texts hold JSON as it is shown; jsonb would refuse a NUL that a program printed.
CREATE TABLE agents_tasks (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  task_id uuid NOT NULL,
  state text NOT NULL DEFAULT 'queued',
  state_before text,
  reason text,
  detail text NOT NULL DEFAULT '{}',
  request text NOT NULL,
  input_key text NOT NULL,
  secret_names text[] NOT NULL DEFAULT '{}',
  model text NOT NULL,
  principal_id uuid NOT NULL,
  principal_kind text NOT NULL CHECK (principal_kind IN ('user', 'service_account')),
  grants text[] NOT NULL,
  protect text[] NOT NULL,
  labels jsonb NOT NULL DEFAULT '{}',
  request_id uuid,
  priority integer NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
  on_budget text NOT NULL DEFAULT 'block' CHECK (on_budget IN ('block', 'fail')),
  created_us bigint NOT NULL,
  started_us bigint,
  ended_us bigint,
  deadline_us bigint NOT NULL,
  blocked_us bigint,
  attempt bigint NOT NULL DEFAULT 0,
  head_step integer NOT NULL DEFAULT 0,
  head_event bigint NOT NULL DEFAULT 0,
  base_commit text,
  base_tree text,
  commit_id text,
  tree text,
  tokens_limit bigint NOT NULL CHECK (tokens_limit >= 0),
  tokens_used bigint NOT NULL DEFAULT 0,
  tokens_reserved bigint NOT NULL DEFAULT 0,
  usd_limit bigint NOT NULL CHECK (usd_limit >= 0),
  usd_used bigint NOT NULL DEFAULT 0,
  usd_reserved bigint NOT NULL DEFAULT 0,
  steps_limit bigint NOT NULL CHECK (steps_limit >= 0),
  steps_used bigint NOT NULL DEFAULT 0,
  tool_ms_limit bigint NOT NULL CHECK (tool_ms_limit >= 0),
  tool_ms_used bigint NOT NULL DEFAULT 0,
  rejections integer NOT NULL DEFAULT 0,
  violations integer NOT NULL DEFAULT 0,
  verify_state text NOT NULL DEFAULT 'none' CHECK (verify_state IN ('none', 'passed', 'rejected')),
  result text,
  cancel_requested_us bigint,
  cancel_reason text,
  cancel_confirmed_us bigint,
  cancel_proof text,
  forked_from uuid,
  forked_step integer,
  due_at timestamptz NOT NULL DEFAULT now(),
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (organization_id, workspace_id, task_id),
  CHECK (state IN ('queued', 'running', 'blocked', 'failed', 'canceled', 'complete')),
  CONSTRAINT agents_tasks_transition CHECK (
    (state_before IS NULL AND state = 'queued')
    OR (state_before, state) IN (
      ('queued', 'running'), ('queued', 'blocked'), ('queued', 'failed'), ('queued', 'canceled'),
      ('running', 'queued'), ('running', 'blocked'), ('running', 'failed'), ('running', 'canceled'),
      ('running', 'complete'),
      ('blocked', 'queued'), ('blocked', 'failed'), ('blocked', 'canceled'))),
  CHECK ((state IN ('failed', 'canceled', 'complete')) = (ended_us IS NOT NULL)),
  CHECK ((state = 'canceled') = (cancel_confirmed_us IS NOT NULL))
);
CREATE INDEX agents_tasks_due ON agents_tasks (organization_id, workspace_id, due_at)
  WHERE state IN ('queued', 'running') AND lease_owner IS NULL;
CREATE INDEX agents_tasks_expiry ON agents_tasks (lease_expires_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX agents_tasks_deadline ON agents_tasks (deadline_us) WHERE state IN ('queued', 'blocked');
CREATE INDEX agents_tasks_newest ON agents_tasks (organization_id, workspace_id, created_us DESC, task_id DESC);
ALTER TABLE agents_tasks ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_tasks FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_tasks_tenant ON agents_tasks TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_tasks_ops ON agents_tasks TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON agents_tasks TO interlock_app;
GRANT SELECT, UPDATE, DELETE ON agents_tasks TO interlock_ops;

-- One row a workspace, from its first task on. `vtime` is in seconds of legs.
CREATE TABLE agents_shares (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
  vtime double precision NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  running_max integer NOT NULL DEFAULT 4 CHECK (running_max > 0),
  is_active boolean NOT NULL DEFAULT false,
  PRIMARY KEY (organization_id, workspace_id)
);
ALTER TABLE agents_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_shares FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_shares_tenant ON agents_shares TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_shares_ops ON agents_shares TO interlock_ops USING (true);
GRANT SELECT, INSERT ON agents_shares TO interlock_app;
GRANT SELECT, UPDATE ON agents_shares TO interlock_ops;

-- Split by the task's id, which begins with its time: the journal of one task never lies in two partitions, and
-- the key that makes an effect happen once is unique within it.
CREATE TABLE agents_steps (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  task_id uuid NOT NULL,
  seq integer NOT NULL CHECK (seq > 0),
  attempt bigint NOT NULL,
  kind text NOT NULL CHECK (kind IN ('model', 'tool', 'approval', 'undo', 'verify', 'control')),
  status text NOT NULL CHECK (status IN ('intent', 'done', 'failed', 'aborted', 'undone')),
  tool text,
  call_id text,
  model_seq integer,
  args text,
  args_key text,
  args_sha256 text NOT NULL,
  idem_key text NOT NULL,
  result text,
  result_key text,
  error text,
  decision text,
  tree_before text,
  tree_after text,
  commit_id text,
  changed text NOT NULL DEFAULT '[]',
  checkpoint text,
  request_id text,
  tokens bigint NOT NULL DEFAULT 0,
  tokens_reserved bigint NOT NULL DEFAULT 0,
  usd_micros bigint NOT NULL DEFAULT 0,
  redactions integer NOT NULL DEFAULT 0,
  started_us bigint NOT NULL,
  ms double precision,
  PRIMARY KEY (organization_id, workspace_id, task_id, seq),
  UNIQUE (organization_id, workspace_id, task_id, idem_key)
) PARTITION BY RANGE (task_id);
COMMENT ON TABLE agents_steps IS 'partitions: month';
ALTER TABLE agents_steps ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_steps FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_steps_tenant ON agents_steps TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_steps_ops ON agents_steps TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON agents_steps TO interlock_app;
GRANT SELECT ON agents_steps TO interlock_ops;

CREATE TABLE agents_events (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  task_id uuid NOT NULL,
  seq bigint NOT NULL CHECK (seq > 0),
  event text NOT NULL,
  at_us bigint NOT NULL,
  content text NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, task_id, seq)
) PARTITION BY RANGE (task_id);
ALTER TABLE agents_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_events FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_events_tenant ON agents_events TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_events_ops ON agents_events TO interlock_ops USING (true);
GRANT SELECT, INSERT ON agents_events TO interlock_app;
GRANT SELECT, INSERT ON agents_events TO interlock_ops;

CREATE TABLE agents_approvals (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  approval_id uuid NOT NULL,
  task_id uuid NOT NULL,
  step integer NOT NULL,
  tool text NOT NULL,
  args text NOT NULL,
  args_sha256 text NOT NULL,
  tree text,
  effect text NOT NULL,
  rule text NOT NULL,
  created_us bigint NOT NULL,
  expires_us bigint NOT NULL,
  decision text CHECK (decision IN ('approve', 'deny')),
  decided_by text,
  decided_us bigint,
  note text,
  PRIMARY KEY (organization_id, workspace_id, approval_id)
);
CREATE INDEX agents_approvals_pending ON agents_approvals (organization_id, workspace_id, task_id)
  WHERE decision IS NULL;
ALTER TABLE agents_approvals ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_approvals FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_approvals_tenant ON agents_approvals TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_approvals_ops ON agents_approvals TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON agents_approvals TO interlock_app;
GRANT SELECT ON agents_approvals TO interlock_ops;

-- Every change of a task's counters, with the change as it is: their sums are the counters.
CREATE TABLE agents_budget_entries (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  task_id uuid NOT NULL,
  entry_id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('reserve', 'settle', 'release', 'charge')),
  step integer NOT NULL,
  tokens_used bigint NOT NULL DEFAULT 0,
  tokens_reserved bigint NOT NULL DEFAULT 0,
  usd_used bigint NOT NULL DEFAULT 0,
  steps_used bigint NOT NULL DEFAULT 0,
  tool_ms_used bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, workspace_id, task_id, entry_id)
);
ALTER TABLE agents_budget_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_budget_entries FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_budget_entries_tenant ON agents_budget_entries TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_budget_entries_ops ON agents_budget_entries TO interlock_ops USING (true);
GRANT SELECT, INSERT ON agents_budget_entries TO interlock_app;
GRANT SELECT ON agents_budget_entries TO interlock_ops;

-- Every namespace that was ever started, written before its program was let go.
CREATE TABLE agents_processes (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  task_id uuid NOT NULL,
  process_id uuid NOT NULL,
  step integer NOT NULL,
  host_id text NOT NULL,
  boot_id text NOT NULL,
  pid bigint NOT NULL,
  pid_start bigint NOT NULL,
  pidns_inode bigint NOT NULL,
  uid bigint NOT NULL,
  timeout_s double precision NOT NULL,
  started_us bigint NOT NULL,
  gone_us bigint,
  PRIMARY KEY (organization_id, workspace_id, task_id, process_id)
);
CREATE INDEX agents_processes_live ON agents_processes (organization_id, workspace_id, task_id) WHERE gone_us IS NULL;
ALTER TABLE agents_processes ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_processes FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_processes_tenant ON agents_processes TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_processes_ops ON agents_processes TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON agents_processes TO interlock_app;
GRANT SELECT ON agents_processes TO interlock_ops;

CREATE TABLE agents_artifacts (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  task_id uuid NOT NULL,
  name text NOT NULL,
  sha256 text NOT NULL,
  bytes bigint NOT NULL,
  step integer NOT NULL,
  object_key text NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, task_id, name)
);
ALTER TABLE agents_artifacts ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_artifacts FORCE ROW LEVEL SECURITY;
CREATE POLICY agents_artifacts_tenant ON agents_artifacts TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY agents_artifacts_ops ON agents_artifacts TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON agents_artifacts TO interlock_app;
GRANT SELECT ON agents_artifacts TO interlock_ops;

-- What no day or month takes lands here and raises an alert.
CREATE TABLE agents_steps_default PARTITION OF agents_steps DEFAULT;
ALTER TABLE agents_steps_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_steps_default FORCE ROW LEVEL SECURITY;
CREATE TABLE agents_events_default PARTITION OF agents_events DEFAULT;
ALTER TABLE agents_events_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents_events_default FORCE ROW LEVEL SECURITY;
