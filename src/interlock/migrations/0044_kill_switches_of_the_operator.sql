-- why: a switch of the platform's operator on an id stops one organization, which must not lift it
-- phase: expand

-- Code before this column takes such a switch for the organization's own: it stops just as much.
ALTER TABLE flags_kill_switches ADD COLUMN is_of_platform boolean NOT NULL DEFAULT false;
