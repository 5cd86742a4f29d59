-- why: a task may ask for no model and no class that the key which opened it may not ask for, and the key may be gone by then
-- phase: expand

-- Tasks of before were checked against their own model alone, and go on unbound as they began.
ALTER TABLE agents_tasks
  ADD COLUMN key_models text[] NOT NULL DEFAULT '{*}',
  ADD COLUMN key_class_max text CHECK (key_class_max IN ('interactive', 'standard', 'batch'));
