-- why: events of tasks that ended long ago are deleted; steps and books stay
-- phase: expand

GRANT DELETE ON agents_events TO interlock_ops;
