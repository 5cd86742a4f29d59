-- why: a change of a pool's policy has a number, an author and a way back, and is tried before it decides for everybody
-- phase: expand

CREATE TABLE scheduler_pool_versions (
    organization_id uuid NOT NULL,
    pool text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    policy text NOT NULL,
    share_level double precision NOT NULL,
    objectives jsonb NOT NULL,
    -- What differs from the version before: setting to [before, after].
    changed jsonb NOT NULL,
    reason text,
    actor text NOT NULL,
    at_us bigint NOT NULL,
    PRIMARY KEY (organization_id, pool, version),
    FOREIGN KEY (organization_id, pool) REFERENCES scheduler_pools (organization_id, name) ON DELETE CASCADE
);
ALTER TABLE scheduler_pool_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_pool_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_pool_versions_tenant ON scheduler_pool_versions TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY scheduler_pool_versions_ops ON scheduler_pool_versions TO interlock_ops USING (true);
GRANT SELECT, INSERT, DELETE ON scheduler_pool_versions TO interlock_app;
GRANT SELECT ON scheduler_pool_versions TO interlock_ops;

-- Of pools that are older than this table the present version is the first that is known.
INSERT INTO scheduler_pool_versions (organization_id, pool, version, policy, share_level, objectives, changed, reason,
    actor, at_us)
SELECT organization_id, name, version, policy, share_level, objectives, '{}', NULL, 'system', created_us
FROM scheduler_pools;

CREATE TABLE scheduler_pool_candidates (
    organization_id uuid NOT NULL,
    pool text NOT NULL,
    -- Which try of the pool this is; what a leader says of an older one is about nobody.
    number integer NOT NULL DEFAULT 1,
    stage text NOT NULL CHECK (stage IN ('shadow', 'canary', 'promoted', 'dropped', 'rolled_back', 'failed')),
    share_bp integer NOT NULL DEFAULT 0 CHECK (share_bp BETWEEN 0 AND 10000),
    policy text NOT NULL,
    share_level double precision NOT NULL,
    objectives jsonb NOT NULL,
    actor text NOT NULL,
    began_us bigint NOT NULL,
    ended_us bigint,
    -- What ended it, with its numbers.
    verdict jsonb,
    PRIMARY KEY (organization_id, pool),
    FOREIGN KEY (organization_id, pool) REFERENCES scheduler_pools (organization_id, name) ON DELETE CASCADE,
    CHECK ((ended_us IS NULL) = (stage IN ('shadow', 'canary')))
);
ALTER TABLE scheduler_pool_candidates ENABLE ROW LEVEL SECURITY;
ALTER TABLE scheduler_pool_candidates FORCE ROW LEVEL SECURITY;
CREATE POLICY scheduler_pool_candidates_tenant ON scheduler_pool_candidates TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY scheduler_pool_candidates_ops ON scheduler_pool_candidates TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON scheduler_pool_candidates TO interlock_app;
GRANT SELECT ON scheduler_pool_candidates TO interlock_ops;
