-- why: a model server charges less for tokens that it had in its cache, and what a start registers has a time, too
-- phase: expand
ALTER TABLE gateway_deployments ADD COLUMN cached_input_price_micro bigint CHECK (cached_input_price_micro >= 0);
ALTER TABLE gateway_deployments
    ALTER COLUMN created_us SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
ALTER TABLE gateway_providers
    ALTER COLUMN created_us SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
