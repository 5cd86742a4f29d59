-- Queries of leases about the platform's own ticks; the statements over any table of work are in templates.sql.

-- name: add_tick_share
-- why: the platform takes part in the fair claim like a tenant
INSERT INTO leases_shares (organization_id, workspace_id) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: add_tick
-- why: a tick that a newer release brings appears by itself
INSERT INTO leases_ticks (organization_id, workspace_id, id, name) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING

-- name: list_ticks
-- why: a worker knows ticks by name, the store by id
SELECT id, name, due_at, last_error FROM leases_ticks
