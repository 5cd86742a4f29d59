-- Where two people are wanted, all programs that one made count as that person: each account names who is behind it.
-- Accounts of before stand for themselves.
ALTER TABLE identity_service_accounts ADD COLUMN made_by uuid;
