-- why: a leader that was passed ends no candidate; the statement that ends one reads the leader's fence under a lock
-- phase: expand

-- The end of a candidate has its audit row, so it is written by the application; its lock asks for a right to change.
CREATE POLICY scheduler_leaders_tenant ON scheduler_leaders TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, UPDATE (until) ON scheduler_leaders TO interlock_app;
