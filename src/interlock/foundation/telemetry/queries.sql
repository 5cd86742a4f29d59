-- name: insert_requests
-- why: a record that was shipped before is left as it is; the new ones are named, for roll-ups, where not all are new
-- What many rows have in common comes once, as their kind; an id begins with the milliseconds of its request; the
-- stories come as one value, as the driver takes longer for many small values than the store does to cut them out.
WITH given AS (
    SELECT *
    FROM unnest($1::text::uuid[], $2::text::integer[], $3::text[], $4::text[], $6::text::integer[],
        $7::text::integer[], $8::text[]) AS row (id, kind, client_request_id, trace_id, start, size, upstream_request_id)
    JOIN unnest($9::uuid[], $10::uuid[], $11::uuid[], $12::text[], $13::text[], $14::text[], $15::integer[],
        $16::boolean[]) WITH ORDINALITY AS kinds (organization_id, workspace_id, key_id, endpoint, alias, outcome,
        status, is_complete, kind) USING (kind)
), told AS (
    INSERT INTO telemetry_requests (organization_id, id, workspace_id, created_at, key_id, client_request_id,
        trace_id, endpoint, alias, outcome, status, is_complete, story)
    SELECT organization_id, id, workspace_id,
        to_timestamp(('x' || encode(substr(uuid_send(id), 1, 6), 'hex'))::bit(48)::bigint / 1000.0::float8),
        key_id, client_request_id, trace_id, endpoint, alias, outcome, status, is_complete, substr($5::bytea, start, size)
    FROM given
    ON CONFLICT (organization_id, id) DO NOTHING
    RETURNING id
), named AS (
    INSERT INTO telemetry_request_upstream_ids (organization_id, upstream_request_id, request_id, workspace_id)
    SELECT organization_id, upstream_request_id, id, workspace_id FROM given WHERE upstream_request_id IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT CASE WHEN count(*) < cardinality($7::text::integer[]) THEN coalesce(array_agg(id), '{}') END FROM told;

-- name: insert_upstream_ids
-- why: support starts from the id that an upstream wrote into its own log; the first calls of requests that made several
INSERT INTO telemetry_request_upstream_ids (organization_id, upstream_request_id, request_id, workspace_id)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[])
ON CONFLICT DO NOTHING;

-- name: lock_requests
-- why: decisions of another role are merged into what is there, one writer at a time
SELECT id, organization_id, is_complete, story
FROM telemetry_requests
WHERE id = ANY($1::uuid[]) AND id BETWEEN $2 AND $3
ORDER BY id
FOR UPDATE;

-- name: replace_request
-- why: a merged story, or the record itself where only another role's decisions had arrived
UPDATE telemetry_requests
SET client_request_id = $3, trace_id = $4, story = $5, workspace_id = $6, key_id = $7, endpoint = $8, alias = $9,
    outcome = $10, status = $11, is_complete = $12
WHERE organization_id = $1 AND id = $2;

-- name: get_story
-- why: the time in the id prunes to the one partition that can hold it
SELECT organization_id, story FROM telemetry_requests WHERE id = $1;

-- name: search_organization
-- why: newest first over a whole organization, along the primary key of each day
SELECT id, organization_id, story FROM telemetry_requests
WHERE organization_id = $1 AND id < $2 AND id >= $3
    AND ($4::uuid IS NULL OR key_id = $4)
    AND ($5::text IS NULL OR outcome = $5)
    AND ($6::text IS NULL OR alias = $6)
    AND ($7::text IS NULL OR endpoint = $7)
ORDER BY id DESC
LIMIT $8;

-- name: search_workspace
-- why: the same inside one workspace, along its own index
SELECT id, organization_id, story FROM telemetry_requests
WHERE organization_id = $1 AND workspace_id = $9 AND id < $2 AND id >= $3
    AND ($4::uuid IS NULL OR key_id = $4)
    AND ($5::text IS NULL OR outcome = $5)
    AND ($6::text IS NULL OR alias = $6)
    AND ($7::text IS NULL OR endpoint = $7)
ORDER BY id DESC
LIMIT $8;

-- name: search_client_request_id
-- why: the id that the caller chose; few rows, so other filters are applied to what is found
SELECT id, organization_id, story FROM telemetry_requests
WHERE organization_id = $1 AND client_request_id = $2 AND id < $3 AND id >= $4
    AND ($5::uuid IS NULL OR key_id = $5)
    AND ($6::text IS NULL OR outcome = $6)
    AND ($7::text IS NULL OR alias = $7)
    AND ($8::text IS NULL OR endpoint = $8)
ORDER BY id DESC
LIMIT $9;

-- name: search_trace_id
-- why: every request of one distributed trace
SELECT id, organization_id, story FROM telemetry_requests
WHERE organization_id = $1 AND trace_id = $2 AND id < $3 AND id >= $4
    AND ($5::uuid IS NULL OR key_id = $5)
    AND ($6::text IS NULL OR outcome = $6)
    AND ($7::text IS NULL OR alias = $7)
    AND ($8::text IS NULL OR endpoint = $8)
ORDER BY id DESC
LIMIT $9;

-- name: search_upstream_request_id
-- why: from an upstream's id to ours by the side table, then to the story
SELECT found.id, found.organization_id, found.story
FROM telemetry_request_upstream_ids AS named
JOIN telemetry_requests AS found ON found.organization_id = named.organization_id AND found.id = named.request_id
WHERE named.organization_id = $1 AND named.upstream_request_id = $2
    AND named.request_id < $3 AND named.request_id >= $4
    AND ($5::uuid IS NULL OR found.key_id = $5)
    AND ($6::text IS NULL OR found.outcome = $6)
    AND ($7::text IS NULL OR found.alias = $7)
    AND ($8::text IS NULL OR found.endpoint = $8)
ORDER BY found.id DESC
LIMIT $9;

-- name: lock_topic
-- why: seq is handed out before commit; one writer at a time keeps a reader from passing a gap that fills later
SELECT pg_advisory_xact_lock(hashtextextended('telemetry_events/' || $1 || '/' || $2, 0));

-- name: append_event
-- why: one event of a stream that consoles and tasks follow
INSERT INTO telemetry_events (organization_id, topic, created_at, workspace_id, payload)
VALUES ($1, $2, $3, $4, $5)
RETURNING seq;

-- name: events_after
-- why: what a stream that resumes has missed
SELECT seq, topic, created_at, payload FROM telemetry_events
WHERE organization_id = $1 AND topic = ANY($2::text[]) AND seq > $3
ORDER BY seq
LIMIT $4;

-- name: partitions_of
-- why: the catalogue knows which days are there; the name of a partition ends in its day
SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass ORDER BY 1;
