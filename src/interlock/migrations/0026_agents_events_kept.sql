-- Events of tasks that ended long ago are deleted; steps and books stay.
GRANT DELETE ON agents_events TO interlock_ops;
