-- why: a candidate replaces all settings of its pool; what changed since it was begun is not overwritten unseen
-- phase: expand

-- The version of the pool that the candidate differs from; of one that is older than this column nobody knows it.
ALTER TABLE scheduler_pool_candidates ADD COLUMN base_version integer;
