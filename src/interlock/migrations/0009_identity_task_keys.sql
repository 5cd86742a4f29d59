-- why: a key of kind task is lent to one piece of work and acts for whom the work was asked by
-- phase: expand
ALTER TABLE identity_api_keys DROP CONSTRAINT identity_api_keys_kind_check;
ALTER TABLE identity_api_keys ADD CONSTRAINT identity_api_keys_kind_check CHECK (kind IN ('live', 'test', 'task'));
CREATE INDEX identity_api_keys_lent ON identity_api_keys (expires_us) WHERE kind = 'task';
