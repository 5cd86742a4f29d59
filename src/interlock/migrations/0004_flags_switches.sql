-- why: flags, kill switches and the epochs by which every process learns that something changed
-- phase: expand
CREATE TABLE flags_epochs (
  topic text PRIMARY KEY,
  epoch bigint NOT NULL
);
ALTER TABLE flags_epochs ENABLE ROW LEVEL SECURITY;
ALTER TABLE flags_epochs FORCE ROW LEVEL SECURITY;
-- No tenant's row is in here: a tenant may raise an epoch, which says only that something changed.
CREATE POLICY flags_epochs_app ON flags_epochs TO interlock_app
  USING (current_setting('interlock.organization_id')::uuid IS NOT NULL);
CREATE POLICY flags_epochs_ops ON flags_epochs TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON flags_epochs TO interlock_app, interlock_ops;
CREATE SEQUENCE flags_epoch_numbers;
GRANT USAGE ON SEQUENCE flags_epoch_numbers TO interlock_app, interlock_ops;

CREATE TABLE flags_acknowledgements (
  process text PRIMARY KEY,
  epoch bigint NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE flags_acknowledgements ENABLE ROW LEVEL SECURITY;
ALTER TABLE flags_acknowledgements FORCE ROW LEVEL SECURITY;
CREATE POLICY flags_acknowledgements_ops ON flags_acknowledgements TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON flags_acknowledgements TO interlock_ops;

CREATE TABLE flags_kill_switches (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  scope text NOT NULL,
  target text NOT NULL,
  mode text NOT NULL CHECK (mode IN ('reject', 'drain', 'abort')),
  reason text NOT NULL,
  actor text NOT NULL,
  epoch bigint NOT NULL,
  created_us bigint NOT NULL,
  lifted_us bigint,
  lift_reason text,
  PRIMARY KEY (organization_id, id)
);
CREATE UNIQUE INDEX flags_kill_switches_on ON flags_kill_switches (organization_id, scope, target)
  WHERE lifted_us IS NULL;
ALTER TABLE flags_kill_switches ENABLE ROW LEVEL SECURITY;
ALTER TABLE flags_kill_switches FORCE ROW LEVEL SECURITY;
CREATE POLICY flags_kill_switches_tenant ON flags_kill_switches TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY flags_kill_switches_ops ON flags_kill_switches TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON flags_kill_switches TO interlock_app;
GRANT SELECT ON flags_kill_switches TO interlock_ops;

CREATE TABLE flags_definitions (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  name text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('boolean', 'variant')),
  spec jsonb NOT NULL,
  owner text NOT NULL,
  reason text NOT NULL,
  until_us bigint,
  version bigint NOT NULL DEFAULT 1,
  PRIMARY KEY (organization_id, name)
);
ALTER TABLE flags_definitions ENABLE ROW LEVEL SECURITY;
ALTER TABLE flags_definitions FORCE ROW LEVEL SECURITY;
CREATE POLICY flags_definitions_tenant ON flags_definitions TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY flags_definitions_ops ON flags_definitions TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON flags_definitions TO interlock_app;
GRANT SELECT ON flags_definitions TO interlock_ops;
