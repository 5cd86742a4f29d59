-- why: versions of a route take traffic by a leased weight, and what their arms answered is counted by the second
-- phase: expand

-- `offline` is a chat server of the platform's own behind a socket. `may_be_private` is what an organization's own
-- providers lack: they are reached at public addresses only.
ALTER TABLE gateway_providers DROP CONSTRAINT gateway_providers_kind_check;
ALTER TABLE gateway_providers ADD CONSTRAINT gateway_providers_kind_check
    CHECK (kind IN ('openai', 'pool', 'offline'));
ALTER TABLE gateway_providers DROP CONSTRAINT gateway_providers_check;
ALTER TABLE gateway_providers ADD CONSTRAINT gateway_providers_address
    CHECK ((kind IN ('openai', 'offline')) = (base_url IS NOT NULL));
ALTER TABLE gateway_providers ADD COLUMN may_be_private boolean NOT NULL DEFAULT true;
ALTER TABLE gateway_providers ADD COLUMN created_us bigint NOT NULL DEFAULT 0;
GRANT DELETE ON gateway_providers TO interlock_app;

-- Dollars a million tokens, in millionths; no price is none that is known, not zero.
ALTER TABLE gateway_deployments ADD COLUMN input_price_micro bigint CHECK (input_price_micro >= 0);
ALTER TABLE gateway_deployments ADD COLUMN output_price_micro bigint CHECK (output_price_micro >= 0);
ALTER TABLE gateway_deployments ADD COLUMN created_us bigint NOT NULL DEFAULT 0;
GRANT DELETE ON gateway_deployments TO interlock_app;

-- One row is the truth of what a route gives to whom; history is in audit. A route without one gives all to the
-- `stable_version` that it was born with. A weight holds until `expires_us`.
-- `rose_us` is when it last rose: from then on units of its arms are counted anew. The token is kept, for every edge
-- checks it again by itself.
CREATE TABLE gateway_route_weights (
    organization_id uuid NOT NULL,
    alias text NOT NULL,
    stable_version integer NOT NULL,
    candidate_version integer,
    mode text CHECK (mode IN ('canary', 'shadow')),
    weight_bp integer NOT NULL DEFAULT 0 CHECK (weight_bp BETWEEN 0 AND 10000),
    verdict_id text,
    verdict_token text,
    verdict_expires_us bigint,
    expires_us bigint,
    rose_us bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (organization_id, alias),
    FOREIGN KEY (organization_id, alias, stable_version)
        REFERENCES gateway_route_versions (organization_id, alias, version),
    FOREIGN KEY (organization_id, alias, candidate_version)
        REFERENCES gateway_route_versions (organization_id, alias, version),
    CHECK ((candidate_version IS NULL) = (mode IS NULL)),
    CHECK ((candidate_version IS NULL) = (weight_bp = 0)),
    CHECK ((candidate_version IS NULL) = (expires_us IS NULL)),
    CHECK (candidate_version IS DISTINCT FROM stable_version)
);
ALTER TABLE gateway_route_weights ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_route_weights FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_route_weights_tenant ON gateway_route_weights TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_route_weights_ops ON gateway_route_weights TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON gateway_route_weights TO interlock_app;
GRANT SELECT ON gateway_route_weights TO interlock_ops;

-- What one edge process saw of one arm in one second. Hashes of bad units are 8 bytes each, one behind the other.
CREATE TABLE gateway_route_arm_counts (
    organization_id uuid NOT NULL,
    alias text NOT NULL,
    version integer NOT NULL,
    arm text NOT NULL CHECK (arm IN ('stable', 'canary')),
    second bigint NOT NULL,
    edge uuid NOT NULL,
    weight_bp integer NOT NULL,
    units integer NOT NULL,
    requests integer NOT NULL,
    errors_requests integer NOT NULL,
    errors_units bytea NOT NULL,
    slow_requests integer NOT NULL,
    slow_units bytea NOT NULL,
    PRIMARY KEY (organization_id, alias, second, version, arm, edge)
);
CREATE INDEX gateway_route_arm_counts_by_age ON gateway_route_arm_counts (second);
ALTER TABLE gateway_route_arm_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_route_arm_counts FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_route_arm_counts_tenant ON gateway_route_arm_counts TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_route_arm_counts_ops ON gateway_route_arm_counts TO interlock_ops USING (true);
GRANT SELECT ON gateway_route_arm_counts TO interlock_app;
GRANT SELECT, INSERT, DELETE ON gateway_route_arm_counts TO interlock_ops;
