-- name: list_filters
-- why: what a person named, by name; the page shows them all, as there are few
SELECT name, query FROM console_filters WHERE organization_id = $1 AND owner_id = $2 ORDER BY name LIMIT $3;

-- name: count_filters
-- why: how many others a person has, before one more is kept
SELECT count(*) FROM console_filters WHERE organization_id = $1 AND owner_id = $2 AND name <> $3;

-- name: put_filter
-- why: the same name again is another filter
INSERT INTO console_filters (organization_id, owner_id, name, query, created_us) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (organization_id, owner_id, name) DO UPDATE SET query = excluded.query, created_us = excluded.created_us;

-- name: delete_filter
-- why: of the person alone
DELETE FROM console_filters WHERE organization_id = $1 AND owner_id = $2 AND name = $3;
