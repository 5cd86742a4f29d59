-- why: how soon a revoke takes effect is measured in every source, by a document that nobody but the probe may ever read
-- phase: expand

-- The document of a probe is no document of anybody: lists, counts and listings of its source pass it over.
ALTER TABLE retrieval_documents ADD COLUMN is_probe boolean NOT NULL DEFAULT false;

-- One row a source, made with its first probe. `recent_ms` is bounded by the writer; `last_us` is the last probe that
-- came to a result, `next_us` is when the next one may begin.
CREATE TABLE retrieval_probes (
  organization_id uuid NOT NULL,
  source_id uuid NOT NULL,
  document_id uuid,
  outcome text CHECK (outcome IN ('clean', 'breached', 'failed', 'unknown')),
  reason text,
  is_ok boolean,
  failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
  recent_ms double precision[] NOT NULL DEFAULT '{}',
  last_us bigint,
  next_us bigint NOT NULL DEFAULT 0,
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (organization_id, source_id)
);
ALTER TABLE retrieval_probes ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_probes FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_probes_tenant ON retrieval_probes TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY retrieval_probes_ops ON retrieval_probes TO interlock_ops USING (true);
GRANT SELECT, UPDATE ON retrieval_probes TO interlock_app;
GRANT SELECT, INSERT, UPDATE ON retrieval_probes TO interlock_ops;

-- Whether anybody searched since the last probe: when, and nothing else of it.
CREATE POLICY retrieval_searches_ops ON retrieval_searches FOR SELECT TO interlock_ops USING (true);
GRANT SELECT (organization_id, request_id, created_at) ON retrieval_searches TO interlock_ops;
