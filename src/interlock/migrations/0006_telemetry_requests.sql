-- why: one story a request, found by our id, the client's, the upstream's or the trace's, dropped by the day
-- phase: expand

-- Partitions are ranges of the id: a uuid7 begins with its time, so the id alone names the day to look in,
-- and the primary key stays what makes a second shipment of a record harmless.
CREATE TABLE telemetry_requests (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    workspace_id uuid,
    created_at timestamptz NOT NULL,
    key_id uuid,
    client_request_id text,
    trace_id text,
    endpoint text NOT NULL,
    alias text,
    outcome text NOT NULL,
    status integer NOT NULL,
    is_complete boolean NOT NULL,
    story bytea NOT NULL,
    PRIMARY KEY (organization_id, id)
) PARTITION BY RANGE (id);
-- In the order of the id, which is that of created_at: a page then reads the newest partition and stops there.
CREATE INDEX telemetry_requests_by_workspace
    ON telemetry_requests (organization_id, workspace_id, id DESC);
CREATE INDEX telemetry_requests_by_client_request_id
    ON telemetry_requests (organization_id, client_request_id) WHERE client_request_id IS NOT NULL;
CREATE INDEX telemetry_requests_by_trace_id
    ON telemetry_requests (organization_id, trace_id) WHERE trace_id IS NOT NULL;
ALTER TABLE telemetry_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry_requests FORCE ROW LEVEL SECURITY;
-- A row without a workspace belongs to the organization and is seen by whole-organization scopes only.
CREATE POLICY telemetry_requests_tenant ON telemetry_requests TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND (current_setting('interlock.workspace_id') = '*'
            OR workspace_id = nullif(current_setting('interlock.workspace_id'), '*')::uuid));
CREATE POLICY telemetry_requests_ops ON telemetry_requests TO interlock_ops USING (true);
GRANT SELECT ON telemetry_requests TO interlock_app;
GRANT SELECT, INSERT, UPDATE ON telemetry_requests TO interlock_ops;

-- A side table, as operators on an array column cannot use an index under row-level security.
CREATE TABLE telemetry_request_upstream_ids (
    organization_id uuid NOT NULL,
    upstream_request_id text NOT NULL,
    request_id uuid NOT NULL,
    workspace_id uuid,
    PRIMARY KEY (organization_id, upstream_request_id, request_id)
) PARTITION BY RANGE (request_id);
ALTER TABLE telemetry_request_upstream_ids ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry_request_upstream_ids FORCE ROW LEVEL SECURITY;
CREATE POLICY telemetry_request_upstream_ids_tenant ON telemetry_request_upstream_ids TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND (current_setting('interlock.workspace_id') = '*'
            OR workspace_id = nullif(current_setting('interlock.workspace_id'), '*')::uuid));
CREATE POLICY telemetry_request_upstream_ids_ops ON telemetry_request_upstream_ids TO interlock_ops USING (true);
GRANT SELECT ON telemetry_request_upstream_ids TO interlock_app;
GRANT SELECT, INSERT ON telemetry_request_upstream_ids TO interlock_ops;

CREATE SEQUENCE telemetry_events_seq;
GRANT USAGE ON SEQUENCE telemetry_events_seq TO interlock_app, interlock_ops;
CREATE TABLE telemetry_events (
    organization_id uuid NOT NULL,
    topic text NOT NULL,
    seq bigint NOT NULL DEFAULT nextval('telemetry_events_seq'),
    created_at timestamptz NOT NULL,
    workspace_id uuid,
    payload jsonb NOT NULL,
    PRIMARY KEY (organization_id, topic, seq, created_at)
) PARTITION BY RANGE (created_at);
ALTER TABLE telemetry_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry_events FORCE ROW LEVEL SECURITY;
CREATE POLICY telemetry_events_tenant ON telemetry_events TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid
        AND (current_setting('interlock.workspace_id') = '*'
            OR workspace_id = nullif(current_setting('interlock.workspace_id'), '*')::uuid));
CREATE POLICY telemetry_events_ops ON telemetry_events TO interlock_ops USING (true);
GRANT SELECT, INSERT ON telemetry_events TO interlock_app;
GRANT SELECT, INSERT ON telemetry_events TO interlock_ops;

-- What no day partition takes lands here and raises an alert. Nobody but the owner may read a partition directly,
-- where the policy of its parent would not apply.
CREATE TABLE telemetry_requests_default PARTITION OF telemetry_requests DEFAULT;
ALTER TABLE telemetry_requests_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry_requests_default FORCE ROW LEVEL SECURITY;
CREATE TABLE telemetry_request_upstream_ids_default PARTITION OF telemetry_request_upstream_ids DEFAULT;
ALTER TABLE telemetry_request_upstream_ids_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry_request_upstream_ids_default FORCE ROW LEVEL SECURITY;
CREATE TABLE telemetry_events_default PARTITION OF telemetry_events DEFAULT;
ALTER TABLE telemetry_events_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry_events_default FORCE ROW LEVEL SECURITY;
