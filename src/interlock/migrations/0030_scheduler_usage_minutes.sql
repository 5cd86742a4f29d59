-- why: what tenants used of a pool is asked about for longer than its decisions are kept
-- phase: expand

-- One row a minute and tenant; `key_id` is the nil UUID where no key was used. What a pool's engines cost while they did
-- nothing belongs to no tenant: its row is the platform's, with the nil workspace and no class.
CREATE TABLE scheduler_usage_minutes (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    key_id uuid NOT NULL,
    pool text NOT NULL,
    class text NOT NULL,
    minute timestamptz NOT NULL,
    requests bigint NOT NULL DEFAULT 0,
    successful bigint NOT NULL DEFAULT 0,
    -- Refusals by code.
    refused jsonb NOT NULL DEFAULT '{}',
    tokens bigint NOT NULL DEFAULT 0,
    charged bigint NOT NULL DEFAULT 0,
    wasted bigint NOT NULL DEFAULT 0,
    cost_usd double precision NOT NULL DEFAULT 0,
    idle_usd double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (organization_id, workspace_id, key_id, pool, class, minute)
);
CREATE INDEX scheduler_usage_minutes_pool ON scheduler_usage_minutes (pool, minute);
ALTER TABLE scheduler_usage_minutes ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_usage_minutes FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_usage_minutes_tenant ON scheduler_usage_minutes TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY scheduler_usage_minutes_ops ON scheduler_usage_minutes TO interlock_ops USING (true);
GRANT SELECT ON scheduler_usage_minutes TO interlock_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON scheduler_usage_minutes TO interlock_ops;
