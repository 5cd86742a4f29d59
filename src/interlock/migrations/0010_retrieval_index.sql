-- why: sources, access lists, documents, chunks and postings: search in which nobody sees what they may not see
-- phase: expand

-- The embedded store has it by now, and an external one from its administrator; only a superuser may add it.
CREATE EXTENSION IF NOT EXISTS vector;

-- Numbers are drawn from sequences of the whole store: a gap tells nobody anything, a counter of a tenant would.
CREATE SEQUENCE retrieval_set_numbers AS integer;
CREATE SEQUENCE retrieval_acl_numbers AS integer;
CREATE SEQUENCE retrieval_term_numbers AS integer;
CREATE SEQUENCE retrieval_container_numbers AS bigint;
CREATE SEQUENCE retrieval_chunk_numbers AS bigint;
GRANT USAGE ON SEQUENCE retrieval_set_numbers, retrieval_acl_numbers, retrieval_term_numbers,
  retrieval_container_numbers, retrieval_chunk_numbers TO interlock_app;

-- A source belongs to the workspace that made it, the zero uuid for the whole organization. What it holds is read by
-- whom its access lists name, in any workspace: the workspace bounds who may administer it, never who may search it.
CREATE TABLE retrieval_sources (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  kind text NOT NULL CHECK (kind IN ('push', 'folder', 'crawl')),
  config jsonb NOT NULL,
  state text NOT NULL CHECK (state IN ('idle', 'running', 'throttled', 'paused', 'dark', 'failed')),
  state_reason text,
  -- The epoch of the last change of what the state lets be seen.
  state_epoch bigint NOT NULL DEFAULT 0,
  default_acl jsonb,
  strict boolean NOT NULL DEFAULT false,
  mode text NOT NULL DEFAULT 'enforce' CHECK (mode IN ('enforce', 'observe')),
  observe_principals uuid[] NOT NULL DEFAULT '{}',
  sync_every_s integer NOT NULL CHECK (sync_every_s > 0),
  acl_max_age_s integer NOT NULL CHECK (acl_max_age_s > 0),
  -- Null for a source that nobody lists: what is pushed says who may read it with every push.
  acl_confirmed_at timestamptz,
  cursor jsonb,
  retention_days integer CHECK (retention_days > 0),
  removed_us bigint,
  created_us bigint NOT NULL,
  PRIMARY KEY (organization_id, id)
);
CREATE UNIQUE INDEX retrieval_sources_name ON retrieval_sources (organization_id, name) WHERE removed_us IS NULL;
ALTER TABLE retrieval_sources ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_sources FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_sources_tenant ON retrieval_sources TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY retrieval_sources_ops ON retrieval_sources TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON retrieval_sources TO interlock_app;
GRANT SELECT ON retrieval_sources TO interlock_ops;

-- Who may read, written once an organization: equal lists are one row, and a row never changes.
CREATE TABLE retrieval_acl_sets (
  organization_id uuid NOT NULL,
  set_id integer NOT NULL DEFAULT nextval('retrieval_set_numbers'),
  digest bytea NOT NULL CHECK (length(digest) = 32),
  canonical jsonb NOT NULL,
  PRIMARY KEY (organization_id, set_id),
  UNIQUE (organization_id, digest)
);
ALTER TABLE retrieval_acl_sets ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_acl_sets FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_acl_sets_tenant ON retrieval_acl_sets TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT ON retrieval_acl_sets TO interlock_app;

-- The principals of a set, so that the sets of a reader are found by index. A clause holds when all of its rows do.
CREATE TABLE retrieval_acl_clauses (
  organization_id uuid NOT NULL,
  set_id integer NOT NULL,
  clause_no smallint NOT NULL,
  effect text NOT NULL CHECK (effect IN ('allow', 'deny')),
  principal_id uuid NOT NULL,
  PRIMARY KEY (organization_id, set_id, effect, clause_no, principal_id)
);
CREATE INDEX retrieval_acl_clauses_principal ON retrieval_acl_clauses (organization_id, principal_id)
  INCLUDE (set_id, clause_no, effect);
ALTER TABLE retrieval_acl_clauses ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_acl_clauses FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_acl_clauses_tenant ON retrieval_acl_clauses TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT ON retrieval_acl_clauses TO interlock_app;

-- Folders of a source. `own_set_id` is what the folder itself says, null where it says nothing.
CREATE TABLE retrieval_containers (
  organization_id uuid NOT NULL,
  source_id uuid NOT NULL,
  id bigint NOT NULL DEFAULT nextval('retrieval_container_numbers'),
  parent_id bigint,
  path text NOT NULL CHECK (path LIKE '/%'),
  own_set_id integer,
  inherit boolean NOT NULL DEFAULT true,
  acl_id integer,
  -- Set where the folder's access list could not be read: nobody reads anything below it.
  problem text,
  PRIMARY KEY (organization_id, source_id, id),
  UNIQUE (organization_id, source_id, path)
);
CREATE INDEX retrieval_containers_parent ON retrieval_containers (organization_id, source_id, parent_id);
ALTER TABLE retrieval_containers ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_containers FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_containers_tenant ON retrieval_containers TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE ON retrieval_containers TO interlock_app;

CREATE TABLE retrieval_container_versions (
  organization_id uuid NOT NULL,
  source_id uuid NOT NULL,
  container_id bigint NOT NULL,
  from_epoch bigint NOT NULL,
  to_epoch bigint,
  parent_id bigint,
  path text NOT NULL,
  own_set_id integer,
  inherit boolean NOT NULL,
  problem text,
  PRIMARY KEY (organization_id, source_id, container_id, from_epoch)
);
CREATE UNIQUE INDEX retrieval_container_versions_live
  ON retrieval_container_versions (organization_id, source_id, container_id) WHERE to_epoch IS NULL;
ALTER TABLE retrieval_container_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_container_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_container_versions_tenant ON retrieval_container_versions TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE ON retrieval_container_versions TO interlock_app;

-- The slot that chunks point to: what one source says by itself, by folder, or by both. It never changes what it
-- names, so a change of a folder rebinds it and no chunk is written.
CREATE TABLE retrieval_acls (
  organization_id uuid NOT NULL,
  acl_id integer NOT NULL DEFAULT nextval('retrieval_acl_numbers'),
  source_id uuid NOT NULL,
  container_id bigint,
  own_set_id integer,
  PRIMARY KEY (organization_id, acl_id),
  UNIQUE NULLS NOT DISTINCT (organization_id, source_id, container_id, own_set_id)
);
ALTER TABLE retrieval_acls ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_acls FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_acls_tenant ON retrieval_acls TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT ON retrieval_acls TO interlock_app;

-- Which set a slot has had, by epoch; the row without an end is what counts now.
CREATE TABLE retrieval_acl_bindings (
  organization_id uuid NOT NULL,
  acl_id integer NOT NULL,
  from_epoch bigint NOT NULL,
  to_epoch bigint,
  set_id integer NOT NULL,
  source_observed_at timestamptz,
  PRIMARY KEY (organization_id, acl_id, from_epoch)
);
CREATE UNIQUE INDEX retrieval_acl_bindings_live ON retrieval_acl_bindings (organization_id, acl_id)
  INCLUDE (set_id) WHERE to_epoch IS NULL;
CREATE INDEX retrieval_acl_bindings_set ON retrieval_acl_bindings (organization_id, set_id) INCLUDE (acl_id)
  WHERE to_epoch IS NULL;
ALTER TABLE retrieval_acl_bindings ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_acl_bindings FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_acl_bindings_tenant ON retrieval_acl_bindings TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE ON retrieval_acl_bindings TO interlock_app;

-- What a slot holds now; kept in the transaction that changes chunks. `pending_vectors` are chunks without a code.
CREATE TABLE retrieval_acl_counts (
  organization_id uuid NOT NULL,
  acl_id integer NOT NULL,
  live_documents integer NOT NULL DEFAULT 0 CHECK (live_documents >= 0),
  live_chunks integer NOT NULL DEFAULT 0 CHECK (live_chunks >= 0),
  live_tokens bigint NOT NULL DEFAULT 0 CHECK (live_tokens >= 0),
  pending_vectors integer NOT NULL DEFAULT 0 CHECK (pending_vectors >= 0),
  PRIMARY KEY (organization_id, acl_id)
) WITH (fillfactor = 70);
ALTER TABLE retrieval_acl_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_acl_counts FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_acl_counts_tenant ON retrieval_acl_counts TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE ON retrieval_acl_counts TO interlock_app;

-- A quarantined document points to a slot that lets nobody in. `own_acl` is the list as it was given, for the reader.
CREATE TABLE retrieval_documents (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  source_id uuid NOT NULL,
  external_id text NOT NULL CHECK (length(external_id) BETWEEN 1 AND 2048),
  container_id bigint,
  -- 0 points at nothing yet; only the statement that moves codes and postings along writes another number.
  acl_id integer NOT NULL DEFAULT 0,
  own_acl jsonb,
  acl_digest bytea,
  state text NOT NULL CHECK (state IN ('live', 'quarantined', 'deleted', 'purged')),
  state_code text,
  version integer NOT NULL,
  content_digest bytea NOT NULL,
  source_version bigint,
  observed_at_us bigint,
  title text NOT NULL,
  uri text NOT NULL,
  media_type text NOT NULL,
  language text,
  origin text NOT NULL CHECK (origin IN ('web', 'connector', 'push')),
  labels jsonb NOT NULL DEFAULT '{}',
  signals jsonb NOT NULL DEFAULT '{}',
  snippet_chars_max integer CHECK (snippet_chars_max >= 0),
  text_bytes integer NOT NULL,
  chunks integer NOT NULL DEFAULT 0,
  tokens integer NOT NULL DEFAULT 0,
  hold_reason text,
  retain_until_us bigint,
  created_us bigint NOT NULL,
  updated_us bigint NOT NULL,
  deleted_us bigint,
  PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, source_id, external_id)
);
CREATE INDEX retrieval_documents_state ON retrieval_documents (organization_id, source_id, state, id);
CREATE INDEX retrieval_documents_container ON retrieval_documents (organization_id, source_id, container_id);
CREATE INDEX retrieval_documents_acl ON retrieval_documents (organization_id, acl_id);
CREATE INDEX retrieval_documents_deleted ON retrieval_documents (organization_id, deleted_us) WHERE state = 'deleted';
ALTER TABLE retrieval_documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_documents FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_documents_tenant ON retrieval_documents TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE ON retrieval_documents TO interlock_app;

CREATE TABLE retrieval_document_versions (
  organization_id uuid NOT NULL,
  document_id uuid NOT NULL,
  from_epoch bigint NOT NULL,
  to_epoch bigint,
  version integer NOT NULL,
  acl_id integer NOT NULL,
  container_id bigint,
  state text NOT NULL CHECK (state IN ('live', 'quarantined', 'deleted', 'purged')),
  cause text NOT NULL,
  at_us bigint NOT NULL,
  PRIMARY KEY (organization_id, document_id, from_epoch)
);
CREATE UNIQUE INDEX retrieval_document_versions_live ON retrieval_document_versions (organization_id, document_id)
  WHERE to_epoch IS NULL;
ALTER TABLE retrieval_document_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_document_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_document_versions_tenant ON retrieval_document_versions TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE ON retrieval_document_versions TO interlock_app;

CREATE TABLE retrieval_document_texts (
  organization_id uuid NOT NULL,
  document_id uuid NOT NULL,
  version integer NOT NULL,
  title text NOT NULL,
  text text NOT NULL,
  headings jsonb NOT NULL DEFAULT '[]',
  PRIMARY KEY (organization_id, document_id, version)
);
ALTER TABLE retrieval_document_texts ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_document_texts FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_document_texts_tenant ON retrieval_document_texts TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, DELETE ON retrieval_document_texts TO interlock_app;

-- Passages of the live version; offsets are Unicode code points of the stored text.
CREATE TABLE retrieval_chunks (
  organization_id uuid NOT NULL,
  chunk_id bigint NOT NULL DEFAULT nextval('retrieval_chunk_numbers'),
  document_id uuid NOT NULL,
  version integer NOT NULL,
  ord integer NOT NULL,
  start_at integer NOT NULL,
  end_at integer NOT NULL CHECK (end_at > start_at),
  heading text,
  tokens integer NOT NULL,
  PRIMARY KEY (organization_id, chunk_id)
) PARTITION BY HASH (organization_id);
CREATE UNIQUE INDEX retrieval_chunks_document ON retrieval_chunks (organization_id, document_id, ord);
ALTER TABLE retrieval_chunks ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_chunks FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_chunks_tenant ON retrieval_chunks TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, DELETE ON retrieval_chunks TO interlock_app;

-- Narrow on purpose: the eligible codes of a reader are scanned for every search. `embedder_no` is
-- domain.types.embedder_no of the embedder's id; vectors of two embedders never meet.
CREATE TABLE retrieval_chunk_codes (
  organization_id uuid NOT NULL,
  acl_id integer NOT NULL,
  chunk_id bigint NOT NULL,
  embedder_no integer,
  code bit(384),
  PRIMARY KEY (organization_id, acl_id, chunk_id)
) PARTITION BY HASH (organization_id);
CREATE INDEX retrieval_chunk_codes_chunk ON retrieval_chunk_codes (organization_id, chunk_id);
ALTER TABLE retrieval_chunk_codes ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_chunk_codes FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_chunk_codes_tenant ON retrieval_chunk_codes TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_chunk_codes TO interlock_app;

CREATE TABLE retrieval_chunk_vectors (
  organization_id uuid NOT NULL,
  chunk_id bigint NOT NULL,
  embedder_no integer NOT NULL,
  embedding halfvec(384) NOT NULL,
  PRIMARY KEY (organization_id, chunk_id)
) PARTITION BY HASH (organization_id);
ALTER TABLE retrieval_chunk_vectors ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_chunk_vectors FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_chunk_vectors_tenant ON retrieval_chunk_vectors TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_chunk_vectors TO interlock_app;

CREATE TABLE retrieval_terms (
  organization_id uuid NOT NULL,
  term text NOT NULL,
  term_id integer NOT NULL DEFAULT nextval('retrieval_term_numbers'),
  PRIMARY KEY (organization_id, term)
);
ALTER TABLE retrieval_terms ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_terms FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_terms_tenant ON retrieval_terms TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT ON retrieval_terms TO interlock_app;

-- tf = body + 2 x title + 1.5 x heading, in halves of one so that it stays an integer; dl is the chunk's length.
CREATE TABLE retrieval_postings (
  organization_id uuid NOT NULL,
  term_id integer NOT NULL,
  acl_id integer NOT NULL,
  chunk_id bigint NOT NULL,
  tf smallint NOT NULL,
  dl integer NOT NULL,
  PRIMARY KEY (organization_id, term_id, acl_id, chunk_id) INCLUDE (tf, dl)
) PARTITION BY HASH (organization_id);
CREATE INDEX retrieval_postings_chunk ON retrieval_postings (organization_id, chunk_id);
ALTER TABLE retrieval_postings ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_postings FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_postings_tenant ON retrieval_postings TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_postings TO interlock_app;

-- Nobody but the owner may read a partition directly, where the policy of its parent would not apply.
DO $$
DECLARE
  parent text;
BEGIN
  FOREACH parent IN ARRAY ARRAY['retrieval_chunks', 'retrieval_chunk_codes', 'retrieval_chunk_vectors',
                                'retrieval_postings'] LOOP
    FOR part IN 0..7 LOOP
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS 8, REMAINDER %s)',
                     parent || '_' || part, parent, part);
      EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', parent || '_' || part);
      EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', parent || '_' || part);
    END LOOP;
  END LOOP;
END $$;

-- Leased work takes turns by organization, then by source: the source is the tenant of these tables.
CREATE TABLE retrieval_shares (
  organization_id uuid NOT NULL,
  source_id uuid NOT NULL,
  weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
  vtime double precision NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  running_max integer NOT NULL DEFAULT 2 CHECK (running_max > 0),
  is_active boolean NOT NULL DEFAULT false,
  PRIMARY KEY (organization_id, source_id)
);
ALTER TABLE retrieval_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_shares FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_shares_tenant ON retrieval_shares TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY retrieval_shares_ops ON retrieval_shares TO interlock_ops USING (true);
GRANT SELECT, INSERT ON retrieval_shares TO interlock_app;
GRANT SELECT, UPDATE ON retrieval_shares TO interlock_ops;

-- `embed` and `purge` are claimed. `receive` is what somebody took in and has not committed yet: it counts against the
-- backlog until it ends or its lease runs out, so that a writer that died holds no room for long.
CREATE TABLE retrieval_index_jobs (
  organization_id uuid NOT NULL,
  source_id uuid NOT NULL,
  id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('embed', 'purge', 'receive')),
  document_id uuid,
  version integer,
  documents integer NOT NULL DEFAULT 0,
  bytes bigint NOT NULL DEFAULT 0,
  priority integer NOT NULL DEFAULT 0,
  due_at timestamptz NOT NULL DEFAULT now(),
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (organization_id, source_id, id)
);
CREATE INDEX retrieval_index_jobs_due ON retrieval_index_jobs (organization_id, source_id, due_at)
  WHERE lease_owner IS NULL;
CREATE INDEX retrieval_index_jobs_expiry ON retrieval_index_jobs (lease_expires_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX retrieval_index_jobs_id ON retrieval_index_jobs (id);
CREATE INDEX retrieval_index_jobs_received ON retrieval_index_jobs (organization_id, source_id)
  INCLUDE (documents, bytes, lease_expires_at) WHERE kind = 'receive';
CREATE INDEX retrieval_index_jobs_document ON retrieval_index_jobs (organization_id, document_id)
  WHERE document_id IS NOT NULL;
ALTER TABLE retrieval_index_jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_index_jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_index_jobs_tenant ON retrieval_index_jobs TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY retrieval_index_jobs_ops ON retrieval_index_jobs TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_index_jobs TO interlock_app;
GRANT SELECT, UPDATE, DELETE ON retrieval_index_jobs TO interlock_ops;

CREATE TABLE retrieval_sync_runs (
  organization_id uuid NOT NULL,
  source_id uuid NOT NULL,
  id uuid NOT NULL,
  state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
  is_full boolean NOT NULL DEFAULT false,
  added integer NOT NULL DEFAULT 0,
  changed integer NOT NULL DEFAULT 0,
  acl_changed integer NOT NULL DEFAULT 0,
  deleted integer NOT NULL DEFAULT 0,
  quarantined integer NOT NULL DEFAULT 0,
  skipped integer NOT NULL DEFAULT 0,
  errors jsonb NOT NULL DEFAULT '[]',
  created_us bigint NOT NULL,
  started_us bigint,
  finished_us bigint,
  priority integer NOT NULL DEFAULT 0,
  due_at timestamptz NOT NULL DEFAULT now(),
  lease_owner text,
  lease_expires_at timestamptz,
  lease_token bigint NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  PRIMARY KEY (organization_id, source_id, id)
);
CREATE UNIQUE INDEX retrieval_sync_runs_open ON retrieval_sync_runs (organization_id, source_id)
  WHERE state IN ('queued', 'running');
CREATE INDEX retrieval_sync_runs_due ON retrieval_sync_runs (organization_id, source_id, due_at)
  WHERE lease_owner IS NULL;
CREATE INDEX retrieval_sync_runs_expiry ON retrieval_sync_runs (lease_expires_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX retrieval_sync_runs_newest ON retrieval_sync_runs (organization_id, source_id, created_us DESC);
CREATE INDEX retrieval_sync_runs_id ON retrieval_sync_runs (id);
ALTER TABLE retrieval_sync_runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_sync_runs FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_sync_runs_tenant ON retrieval_sync_runs TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY retrieval_sync_runs_ops ON retrieval_sync_runs TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON retrieval_sync_runs TO interlock_app;
GRANT SELECT, UPDATE ON retrieval_sync_runs TO interlock_ops;

-- A source's own name of somebody, and who that is here. `external_principal_id` is domain.access.external_id.
CREATE TABLE retrieval_identity_aliases (
  organization_id uuid NOT NULL,
  source_id uuid NOT NULL,
  external text NOT NULL,
  external_principal_id uuid NOT NULL,
  principal_id uuid NOT NULL,
  principal_kind text NOT NULL CHECK (principal_kind IN ('user', 'sa', 'group')),
  verified_by uuid NOT NULL,
  verified_us bigint NOT NULL,
  from_epoch bigint NOT NULL,
  PRIMARY KEY (organization_id, source_id, external)
);
CREATE INDEX retrieval_identity_aliases_principal ON retrieval_identity_aliases (organization_id, principal_id)
  INCLUDE (external_principal_id);
ALTER TABLE retrieval_identity_aliases ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_identity_aliases FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_identity_aliases_tenant ON retrieval_identity_aliases TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval_identity_aliases TO interlock_app;

-- What a search or an answer saw and gave, by ids and ranks; never the text of a query or a passage.
CREATE TABLE retrieval_searches (
  organization_id uuid NOT NULL,
  request_id uuid NOT NULL,
  created_at timestamptz NOT NULL,
  workspace_id uuid,
  kind text NOT NULL CHECK (kind IN ('search', 'answer', 'explain')),
  caller_id uuid NOT NULL,
  principal text NOT NULL,
  closure_digest bytea NOT NULL,
  epoch bigint NOT NULL,
  query_hmac bytea NOT NULL,
  plan text NOT NULL,
  profile_digest text NOT NULL,
  eligible_chunks bigint NOT NULL,
  eligible_documents bigint NOT NULL,
  acl_ids integer[] NOT NULL,
  candidates jsonb NOT NULL,
  fused jsonb NOT NULL,
  emitted jsonb NOT NULL,
  dropped jsonb NOT NULL,
  degraded text[] NOT NULL DEFAULT '{}',
  timing jsonb NOT NULL DEFAULT '{}',
  answer_id uuid,
  PRIMARY KEY (organization_id, request_id, created_at)
) PARTITION BY RANGE (created_at);
ALTER TABLE retrieval_searches ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_searches FORCE ROW LEVEL SECURITY;
CREATE POLICY retrieval_searches_tenant ON retrieval_searches TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
GRANT SELECT, INSERT ON retrieval_searches TO interlock_app;
CREATE TABLE retrieval_searches_default PARTITION OF retrieval_searches DEFAULT;
ALTER TABLE retrieval_searches_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE retrieval_searches_default FORCE ROW LEVEL SECURITY;

