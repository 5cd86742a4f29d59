-- why: the roles' way into the schema, and replies that a client may ask for again
-- phase: expand

GRANT USAGE ON SCHEMA public TO interlock_app, interlock_ops, interlock_read;

-- A reservation, the work and the stored reply commit together. The key of a partitioned table must hold the
-- column it is split by, so that no index alone can make (endpoint, key) unique over two days: whoever reserves
-- takes a transaction's advisory lock on the key first and then looks it up.
-- An organization-wide call has the zero uuid as its workspace.
CREATE TABLE store_idempotency_keys (
  organization_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  endpoint text NOT NULL,
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  created_at timestamptz NOT NULL DEFAULT now(),
  fingerprint bytea NOT NULL,
  state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done')),
  fence bigint NOT NULL DEFAULT 0,
  owner text,
  reply_status integer,
  reply bytea,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, endpoint, key, created_at)
) PARTITION BY RANGE (created_at);
ALTER TABLE store_idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE store_idempotency_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY store_idempotency_keys_tenant ON store_idempotency_keys TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY store_idempotency_keys_ops ON store_idempotency_keys TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON store_idempotency_keys TO interlock_app;
GRANT SELECT, DELETE ON store_idempotency_keys TO interlock_ops;

CREATE TABLE store_idempotency_keys_default PARTITION OF store_idempotency_keys DEFAULT;
ALTER TABLE store_idempotency_keys_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE store_idempotency_keys_default FORCE ROW LEVEL SECURITY;
