-- why: what was used and what it cost, by the minute and the hour
-- phase: expand

-- One row for each caller, alias, deployment, price version and set of tags in a minute. Added to in the transaction
-- that stores the stories, so that a batch that is sent again counts once.
CREATE TABLE gateway_usage_minutes (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    key_id uuid NOT NULL,
    alias text NOT NULL,
    deployment text NOT NULL,
    price_version text NOT NULL,
    tag_set text NOT NULL,
    bucket_at timestamptz NOT NULL,
    requests bigint NOT NULL,
    refused bigint NOT NULL,
    unpriced bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_usd_micros bigint NOT NULL,
    PRIMARY KEY (organization_id, bucket_at, workspace_id, key_id, alias, deployment, price_version, tag_set)
) PARTITION BY RANGE (bucket_at);
ALTER TABLE gateway_usage_minutes ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_usage_minutes FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_usage_minutes_tenant ON gateway_usage_minutes TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND (current_setting('interlock.workspace_id') = '*'
            OR workspace_id = nullif(current_setting('interlock.workspace_id'), '*')::uuid));
CREATE POLICY gateway_usage_minutes_ops ON gateway_usage_minutes TO interlock_ops USING (true);
GRANT SELECT ON gateway_usage_minutes TO interlock_app;
GRANT SELECT, INSERT, UPDATE ON gateway_usage_minutes TO interlock_ops;

CREATE TABLE gateway_usage_hours (LIKE gateway_usage_minutes INCLUDING ALL) PARTITION BY RANGE (bucket_at);
COMMENT ON TABLE gateway_usage_hours IS 'partitions: month';
ALTER TABLE gateway_usage_hours ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_usage_hours FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_usage_hours_tenant ON gateway_usage_hours TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND (current_setting('interlock.workspace_id') = '*'
            OR workspace_id = nullif(current_setting('interlock.workspace_id'), '*')::uuid));
CREATE POLICY gateway_usage_hours_ops ON gateway_usage_hours TO interlock_ops USING (true);
GRANT SELECT ON gateway_usage_hours TO interlock_app;
GRANT SELECT, INSERT, UPDATE ON gateway_usage_hours TO interlock_ops;

CREATE TABLE gateway_usage_minutes_default PARTITION OF gateway_usage_minutes DEFAULT;
ALTER TABLE gateway_usage_minutes_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_usage_minutes_default FORCE ROW LEVEL SECURITY;
CREATE TABLE gateway_usage_hours_default PARTITION OF gateway_usage_hours DEFAULT;
ALTER TABLE gateway_usage_hours_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_usage_hours_default FORCE ROW LEVEL SECURITY;
