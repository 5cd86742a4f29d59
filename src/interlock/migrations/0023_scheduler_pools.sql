-- why: pools and engines that operators declare outlive the scheduler, and so does what a leader learned and decided
-- phase: expand

CREATE TABLE scheduler_pools (
    organization_id uuid NOT NULL,
    name text NOT NULL,
    policy text NOT NULL DEFAULT 'interlock',
    share_level double precision NOT NULL DEFAULT 0.8 CHECK (share_level > 0 AND share_level <= 1),
    -- Objectives by class: ttft_ms and tpot_ms.
    objectives jsonb NOT NULL,
    is_draining boolean NOT NULL DEFAULT false,
    version integer NOT NULL DEFAULT 1,
    created_us bigint NOT NULL,
    PRIMARY KEY (organization_id, name)
);
ALTER TABLE scheduler_pools ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_pools FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_pools_tenant ON scheduler_pools TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY scheduler_pools_ops ON scheduler_pools TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON scheduler_pools TO interlock_app;
GRANT SELECT ON scheduler_pools TO interlock_ops;

CREATE TABLE scheduler_engines (
    organization_id uuid NOT NULL,
    pool text NOT NULL,
    engine_id text NOT NULL,
    url text NOT NULL,
    adapter text NOT NULL,
    model text NOT NULL,
    slots integer NOT NULL CHECK (slots > 0),
    context_tokens integer NOT NULL CHECK (context_tokens > 0),
    kv_tokens integer CHECK (kv_tokens > 0),
    prefill_tps integer CHECK (prefill_tps > 0),
    tpot_ms double precision CHECK (tpot_ms > 0),
    price_usd_hour double precision NOT NULL DEFAULT 0 CHECK (price_usd_hour >= 0),
    is_draining boolean NOT NULL DEFAULT false,
    created_us bigint NOT NULL,
    PRIMARY KEY (organization_id, pool, engine_id),
    FOREIGN KEY (organization_id, pool) REFERENCES scheduler_pools (organization_id, name) ON DELETE CASCADE
);
ALTER TABLE scheduler_engines ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_engines FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_engines_tenant ON scheduler_engines TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY scheduler_engines_ops ON scheduler_engines TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON scheduler_engines TO interlock_app;
GRANT SELECT ON scheduler_engines TO interlock_ops;

CREATE TABLE scheduler_weights (
    organization_id uuid NOT NULL,
    scope text NOT NULL CHECK (scope IN ('organization', 'workspace', 'key')),
    target uuid NOT NULL,
    weight double precision NOT NULL CHECK (weight >= 0.1 AND weight <= 100),
    PRIMARY KEY (organization_id, scope, target)
);
ALTER TABLE scheduler_weights ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_weights FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_weights_tenant ON scheduler_weights TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY scheduler_weights_ops ON scheduler_weights TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON scheduler_weights TO interlock_app;
GRANT SELECT ON scheduler_weights TO interlock_ops;

CREATE TABLE scheduler_checkpoints (
    organization_id uuid NOT NULL,
    pool text NOT NULL,
    kept jsonb NOT NULL,
    at_us bigint NOT NULL,
    PRIMARY KEY (organization_id, pool)
);
ALTER TABLE scheduler_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_checkpoints_ops ON scheduler_checkpoints TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON scheduler_checkpoints TO interlock_ops;

CREATE TABLE scheduler_decisions (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    request_id text NOT NULL,
    created_at timestamptz NOT NULL,
    key_id uuid,
    pool text NOT NULL,
    engine_id text,
    class text NOT NULL,
    outcome text NOT NULL,
    code text,
    promise text,
    queue_wait_ms integer,
    predicted_ttft_ms integer,
    ttft_ms integer,
    predicted_tpot_ms integer,
    tpot_ms double precision,
    predicted_output integer,
    output_tokens integer NOT NULL,
    total_ms integer,
    debt double precision,
    demand double precision,
    share double precision,
    input_tokens integer NOT NULL,
    cached_tokens integer NOT NULL,
    charged integer NOT NULL,
    wasted integer NOT NULL,
    cost_usd double precision NOT NULL,
    is_in_slo boolean NOT NULL,
    steps jsonb NOT NULL,
    PRIMARY KEY (organization_id, workspace_id, request_id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX scheduler_decisions_newest ON scheduler_decisions (organization_id, workspace_id, created_at DESC);
ALTER TABLE scheduler_decisions ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_decisions FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_decisions_tenant ON scheduler_decisions TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
CREATE POLICY scheduler_decisions_ops ON scheduler_decisions TO interlock_ops USING (true);
GRANT SELECT ON scheduler_decisions TO interlock_app;
GRANT SELECT, INSERT, DELETE ON scheduler_decisions TO interlock_ops;
CREATE TABLE scheduler_decisions_default PARTITION OF scheduler_decisions DEFAULT;
ALTER TABLE scheduler_decisions_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_decisions_default FORCE ROW LEVEL SECURITY;
