-- why: two schedulers on one store lead different pools, one takes over from the other, and who was passed writes nothing
-- phase: expand

CREATE TABLE scheduler_leaders (
    organization_id uuid NOT NULL,
    pool text NOT NULL,
    -- One life of one process; the seat is the place that it was started at, which the next life takes at once.
    holder text NOT NULL,
    seat text NOT NULL,
    -- Where edges ask it: unix:/path.sock: or http://host:port.
    address text NOT NULL,
    fence bigint NOT NULL CHECK (fence > 0),
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (organization_id, pool)
);
ALTER TABLE scheduler_leaders ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_leaders FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_leaders_ops ON scheduler_leaders TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON scheduler_leaders TO interlock_ops;
