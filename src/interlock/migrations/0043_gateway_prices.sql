-- why: lists of prices that deployments take theirs from, so that a cost says which list it was made by
-- phase: expand

-- One row for each model of a version of a list. Never changed: what a cost names stays as it was.
CREATE TABLE gateway_prices (
    organization_id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    effective_us bigint NOT NULL,
    version text NOT NULL,
    input_price_micro bigint NOT NULL CHECK (input_price_micro >= 0),
    output_price_micro bigint NOT NULL CHECK (output_price_micro >= 0),
    cached_input_price_micro bigint CHECK (cached_input_price_micro >= 0),
    created_us bigint NOT NULL,
    PRIMARY KEY (organization_id, provider, model, effective_us, version)
);
CREATE INDEX gateway_prices_version ON gateway_prices (organization_id, version, provider, model);
ALTER TABLE gateway_prices ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_prices FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_prices_tenant ON gateway_prices TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_prices_ops ON gateway_prices TO interlock_ops USING (true);
GRANT SELECT, INSERT ON gateway_prices TO interlock_app;
GRANT SELECT ON gateway_prices TO interlock_ops;

ALTER TABLE gateway_deployments ADD COLUMN price_version text;
