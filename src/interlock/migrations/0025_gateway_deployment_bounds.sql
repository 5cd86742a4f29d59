-- why: a route with several targets leaves out those that are full or cannot do what is asked
-- phase: expand

ALTER TABLE gateway_deployments ADD COLUMN max_concurrent integer CHECK (max_concurrent > 0);
ALTER TABLE gateway_deployments ADD COLUMN capabilities jsonb NOT NULL DEFAULT '{}'::jsonb;
