-- why: filters of the requests page that a person named, to come back to them
-- phase: expand

-- A person's own: what somebody looks for is nobody else's business.
CREATE TABLE console_filters (
    organization_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 60),
    query text NOT NULL CHECK (char_length(query) BETWEEN 1 AND 2000),
    created_us bigint NOT NULL,
    PRIMARY KEY (organization_id, owner_id, name)
);
ALTER TABLE console_filters ENABLE ROW LEVEL SECURITY;
ALTER TABLE console_filters FORCE ROW LEVEL SECURITY;
CREATE POLICY console_filters_tenant ON console_filters TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY console_filters_ops ON console_filters TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON console_filters TO interlock_app;
GRANT SELECT, DELETE ON console_filters TO interlock_ops;
