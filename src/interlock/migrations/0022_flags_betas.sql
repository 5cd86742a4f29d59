-- why: a flag may be a beta, which a caller asks for by name
-- phase: expand

ALTER TABLE flags_definitions DROP CONSTRAINT flags_definitions_kind_check;
ALTER TABLE flags_definitions ADD CONSTRAINT flags_definitions_kind_check
    CHECK (kind IN ('boolean', 'variant', 'beta'));
