-- why: the last hour of a pool is read without a look at the fourteen days that are kept; decisions come in their order
-- phase: expand

CREATE INDEX scheduler_decisions_lately ON scheduler_decisions USING brin (created_at);
