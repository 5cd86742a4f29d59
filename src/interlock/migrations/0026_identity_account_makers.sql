-- why: where two people are wanted, all programs that one made count as that person; accounts of before stand alone
-- phase: expand

ALTER TABLE identity_service_accounts ADD COLUMN made_by uuid;
