-- name: epoch
-- why: the moment that a reader sees; the first statement of a snapshot fixes it
SELECT coalesce((SELECT epoch FROM identity_authz_epochs WHERE organization_id = $1), 0);

-- name: resolve
-- why: from a principal to the slots it may read now: groups upwards, clauses wholly held, no deny held, sources open
WITH RECURSIVE up AS (
  SELECT root.id FROM unnest($2::uuid[]) AS root (id)
  UNION
  SELECT e.group_id FROM up
  JOIN identity_group_edges e ON e.organization_id = $1 AND e.member_id = up.id AND e.to_epoch IS NULL
), held AS MATERIALIZED (
  SELECT id FROM up
  UNION SELECT other.id FROM unnest($3::uuid[]) AS other (id)
  UNION
  SELECT a.external_principal_id FROM up
  JOIN retrieval_identity_aliases a ON a.organization_id = $1 AND a.principal_id = up.id
), hit AS MATERIALIZED (
  SELECT c.set_id, c.clause_no, c.effect, count(*) AS principals
  FROM held CROSS JOIN LATERAL (
    SELECT k.set_id, k.clause_no, k.effect FROM retrieval_acl_clauses k
    WHERE k.organization_id = $1 AND k.principal_id = held.id OFFSET 0
  ) c
  GROUP BY c.set_id, c.clause_no, c.effect
), allowed AS MATERIALIZED (
  SELECT DISTINCT h.set_id FROM hit h CROSS JOIN LATERAL (
    SELECT count(*) AS principals FROM retrieval_acl_clauses k
    WHERE k.organization_id = $1 AND k.set_id = h.set_id AND k.effect = 'allow' AND k.clause_no = h.clause_no OFFSET 0
  ) clause
  WHERE h.effect = 'allow' AND h.principals = clause.principals
    AND h.set_id NOT IN (SELECT d.set_id FROM hit d WHERE d.effect = 'deny')
), sources AS MATERIALIZED (
  SELECT s.id, s.state <> 'dark' AND s.removed_us IS NULL AND s.id <> ALL ($6::uuid[])
    AND (s.kind <> 'folder' OR s.acl_confirmed_at >= $4::timestamptz - make_interval(secs => s.acl_max_age_s))
    AS is_open
  FROM retrieval_sources s
  WHERE s.organization_id = $1 AND ($5::uuid[] IS NULL OR s.id = ANY ($5))
    AND (s.mode = 'enforce' OR EXISTS (SELECT FROM held WHERE held.id = ANY (s.observe_principals)))
), slots AS MATERIALIZED (
  SELECT n.acl_id, s.is_open, n.live_documents, n.live_chunks, n.live_tokens, n.pending_vectors
  FROM allowed
  CROSS JOIN LATERAL (
    SELECT b.acl_id FROM retrieval_acl_bindings b
    WHERE b.organization_id = $1 AND b.set_id = allowed.set_id AND b.to_epoch IS NULL OFFSET 0
  ) b
  CROSS JOIN LATERAL (
    SELECT a.source_id FROM retrieval_acls a WHERE a.organization_id = $1 AND a.acl_id = b.acl_id OFFSET 0
  ) a
  JOIN sources s ON s.id = a.source_id
  CROSS JOIN LATERAL (
    SELECT c.* FROM retrieval_acl_counts c
    WHERE c.organization_id = $1 AND c.acl_id = b.acl_id AND c.live_chunks > 0 OFFSET 0
  ) n
)
SELECT
  coalesce(array_agg(acl_id ORDER BY acl_id) FILTER (WHERE is_open), '{}') AS acl_ids,
  coalesce(sum(live_documents) FILTER (WHERE is_open), 0)::bigint AS documents,
  coalesce(sum(live_chunks) FILTER (WHERE is_open), 0)::bigint AS chunks,
  coalesce(sum(live_tokens) FILTER (WHERE is_open), 0)::bigint AS tokens,
  coalesce(sum(pending_vectors) FILTER (WHERE is_open), 0)::bigint AS pending_vectors,
  coalesce(bool_or(NOT is_open), false) AS has_dark,
  (SELECT count(*) FROM allowed) AS sets,
  (SELECT array_agg(id ORDER BY id) FROM held) AS held
FROM slots;

-- name: same_outsider
-- why: a name of a source is also every other name that the same source gives to the same person
SELECT DISTINCT b.external_principal_id FROM retrieval_identity_aliases a
JOIN retrieval_identity_aliases b
  ON b.organization_id = a.organization_id AND b.source_id = a.source_id AND b.principal_id = a.principal_id
WHERE a.organization_id = $1 AND a.external_principal_id = $2;

-- name: find_terms
-- why: numbers of the words of a query, and how many eligible passages hold each, counted no further than needed
SELECT t.term, t.term_id, n.frequency FROM retrieval_terms t
CROSS JOIN LATERAL (
  SELECT count(*) AS frequency FROM (
    SELECT FROM retrieval_postings p
    WHERE p.organization_id = $1 AND p.term_id = t.term_id AND p.acl_id = ANY ($2::integer[])
    LIMIT $4
  ) counted
) n
WHERE t.organization_id = $1 AND t.term = ANY ($3::text[]);

-- name: count_terms
-- why: a common word that is used after all needs the whole of its count
SELECT w.term_id, count(*) AS frequency FROM unnest($3::integer[]) AS w (term_id)
CROSS JOIN LATERAL (
  SELECT FROM retrieval_postings p
  WHERE p.organization_id = $1 AND p.term_id = w.term_id AND p.acl_id = ANY ($2::integer[]) OFFSET 0
) p
GROUP BY w.term_id;

-- name: lexical
-- why: best passages by words; parts are integers, so that no order of rows changes a sum; $8 null: no look at documents
WITH documents AS MATERIALIZED (
  SELECT d.id FROM retrieval_documents d
  LEFT JOIN retrieval_containers f
    ON f.organization_id = d.organization_id AND f.source_id = d.source_id AND f.id = d.container_id
  WHERE d.organization_id = $1 AND d.acl_id = ANY ($2::integer[]) AND d.state = 'live'
    AND d.labels @> $8::jsonb AND d.updated_us > $9
    AND ($10::text IS NULL OR f.path = $10 OR starts_with(f.path, $10 || '/'))
), wanted AS MATERIALIZED (
  SELECT c.chunk_id FROM documents d CROSS JOIN LATERAL (
    SELECT c.chunk_id FROM retrieval_chunks c WHERE c.organization_id = $1 AND c.document_id = d.id OFFSET 0
  ) c
)
SELECT p.chunk_id, sum(floor(w.weight * p.half / (p.half + $5 + $6 * p.dl) * 100000 + 0.5)::integer) AS score
FROM unnest($3::integer[], $4::double precision[]) AS w (term_id, weight)
CROSS JOIN LATERAL (
  SELECT p.chunk_id, p.tf * 0.5::double precision AS half, p.dl::double precision AS dl FROM retrieval_postings p
  WHERE p.organization_id = $1 AND p.term_id = w.term_id AND p.acl_id = ANY ($2::integer[])
    AND ($8::jsonb IS NULL OR p.chunk_id IN (SELECT wanted.chunk_id FROM wanted)) OFFSET 0
) p
GROUP BY p.chunk_id
ORDER BY score DESC, p.chunk_id DESC
LIMIT $7;

-- name: exact
-- why: few are eligible, so every vector is compared; fences keep the planner from another order; filters as in `lexical`
WITH q AS MATERIALIZED (
  SELECT $3::real[]::halfvec(384) AS vector
), documents AS MATERIALIZED (
  SELECT d.id FROM retrieval_documents d
  LEFT JOIN retrieval_containers f
    ON f.organization_id = d.organization_id AND f.source_id = d.source_id AND f.id = d.container_id
  WHERE d.organization_id = $1 AND d.acl_id = ANY ($2::integer[]) AND d.state = 'live'
    AND d.labels @> $6::jsonb AND d.updated_us > $7
    AND ($8::text IS NULL OR f.path = $8 OR starts_with(f.path, $8 || '/'))
), wanted AS MATERIALIZED (
  SELECT c.chunk_id FROM documents d CROSS JOIN LATERAL (
    SELECT c.chunk_id FROM retrieval_chunks c WHERE c.organization_id = $1 AND c.document_id = d.id OFFSET 0
  ) c
), eligible AS MATERIALIZED (
  SELECT c.chunk_id FROM retrieval_chunk_codes c
  WHERE c.organization_id = $1 AND c.acl_id = ANY ($2::integer[]) AND c.embedder_no = $4
    AND ($6::jsonb IS NULL OR c.chunk_id IN (SELECT wanted.chunk_id FROM wanted))
)
SELECT e.chunk_id, v.embedding <#> q.vector AS distance FROM q CROSS JOIN eligible e
CROSS JOIN LATERAL (
  SELECT v.embedding FROM retrieval_chunk_vectors v
  WHERE v.organization_id = $1 AND v.chunk_id = e.chunk_id AND v.embedder_no = $4 OFFSET 0
) v
ORDER BY distance, e.chunk_id DESC
LIMIT $5;

-- name: bits
-- why: many are eligible, so their 1-bit codes choose whose vectors are fetched, by key alone; filters as in `lexical`
WITH q AS MATERIALIZED (
  SELECT $3::real[]::halfvec(384) AS vector, $6::bit(384) AS code
), documents AS MATERIALIZED (
  SELECT d.id FROM retrieval_documents d
  LEFT JOIN retrieval_containers f
    ON f.organization_id = d.organization_id AND f.source_id = d.source_id AND f.id = d.container_id
  WHERE d.organization_id = $1 AND d.acl_id = ANY ($2::integer[]) AND d.state = 'live'
    AND d.labels @> $8::jsonb AND d.updated_us > $9
    AND ($10::text IS NULL OR f.path = $10 OR starts_with(f.path, $10 || '/'))
), wanted AS MATERIALIZED (
  SELECT c.chunk_id FROM documents d CROSS JOIN LATERAL (
    SELECT c.chunk_id FROM retrieval_chunks c WHERE c.organization_id = $1 AND c.document_id = d.id OFFSET 0
  ) c
), near AS MATERIALIZED (
  SELECT c.chunk_id FROM q CROSS JOIN LATERAL (
    SELECT c.chunk_id, c.code <~> q.code AS distance FROM retrieval_chunk_codes c
    WHERE c.organization_id = $1 AND c.acl_id = ANY ($2::integer[]) AND c.embedder_no = $4
      AND ($8::jsonb IS NULL OR c.chunk_id IN (SELECT wanted.chunk_id FROM wanted))
    ORDER BY 2, 1 DESC LIMIT $7
  ) c
)
SELECT n.chunk_id, v.embedding <#> q.vector AS distance FROM q CROSS JOIN near n
CROSS JOIN LATERAL (
  SELECT v.embedding FROM retrieval_chunk_vectors v
  WHERE v.organization_id = $1 AND v.chunk_id = n.chunk_id AND v.embedder_no = $4 OFFSET 0
) v
ORDER BY distance, n.chunk_id DESC
LIMIT $5;

-- name: bound_statements
-- why: a further look may take what is left of the time, and no more
SELECT set_config('statement_timeout', $1, true);

-- name: spread
-- why: of passages in their order the first of each document, so that a long one does not hide all others
SELECT placed.chunk_id, placed.document_id FROM (
  SELECT w.chunk_id, w.place, c.document_id, row_number() OVER (PARTITION BY c.document_id ORDER BY w.place) AS nth
  FROM unnest($2::bigint[]) WITH ORDINALITY AS w (chunk_id, place)
  CROSS JOIN LATERAL (
    SELECT c.document_id FROM retrieval_chunks c WHERE c.organization_id = $1 AND c.chunk_id = w.chunk_id OFFSET 0
  ) c
) placed
WHERE placed.nth <= $3 ORDER BY placed.place LIMIT $4;

-- name: distances
-- why: the reranker compares meaning also where words alone found a passage
WITH q AS MATERIALIZED (
  SELECT $3::real[]::halfvec(384) AS vector
)
SELECT w.chunk_id, v.embedding <#> q.vector AS distance FROM q CROSS JOIN unnest($2::bigint[]) AS w (chunk_id)
CROSS JOIN LATERAL (
  SELECT v.embedding FROM retrieval_chunk_vectors v
  WHERE v.organization_id = $1 AND v.chunk_id = w.chunk_id AND v.embedder_no = $4 OFFSET 0
) v;

-- name: passages
-- why: what candidates are part of; none of it is the text of a document
SELECT c.chunk_id, c.document_id, c.version, c.start_at, c.end_at, d.source_id, d.title, d.uri, d.updated_us,
  d.snippet_chars_max, d.signals, s.kind
FROM unnest($2::bigint[]) AS w (chunk_id)
CROSS JOIN LATERAL (
  SELECT c.* FROM retrieval_chunks c WHERE c.organization_id = $1 AND c.chunk_id = w.chunk_id OFFSET 0
) c
CROSS JOIN LATERAL (
  SELECT d.* FROM retrieval_documents d WHERE d.organization_id = $1 AND d.id = c.document_id OFFSET 0
) d
JOIN retrieval_sources s ON s.organization_id = $1 AND s.id = d.source_id;

-- name: passage_texts
-- why: the words of passages that are eligible and near the top, cut out where they lie
SELECT w.chunk_id, substr(t.text, w.start_at + 1, w.end_at - w.start_at) AS text
FROM unnest($2::bigint[], $3::uuid[], $4::integer[], $5::integer[], $6::integer[])
  AS w (chunk_id, document_id, version, start_at, end_at)
CROSS JOIN LATERAL (
  SELECT t.text FROM retrieval_document_texts t
  WHERE t.organization_id = $1 AND t.document_id = w.document_id AND t.version = w.version OFFSET 0
) t;

-- name: groups_of
-- why: the second path walks groups step by step, by another statement than the first
SELECT member_id, group_id FROM identity_group_edges
WHERE organization_id = $1 AND member_id = ANY ($2::uuid[])
  AND from_epoch <= $3 AND (to_epoch IS NULL OR to_epoch > $3);

-- name: outside_names
-- why: what the sources call somebody or its groups, as it was mapped by then
SELECT source_id, external, principal_id FROM retrieval_identity_aliases
WHERE organization_id = $1 AND principal_id = ANY ($2::uuid[]) AND from_epoch <= $3;

-- name: same_names
-- why: the names that a source has for one person, for the second path
SELECT source_id, external FROM retrieval_identity_aliases
WHERE organization_id = $1 AND external_principal_id = ANY ($2::uuid[]);

-- name: guarded_documents
-- why: what the second path judges of documents: their own words, never the slots that the first path went by
SELECT d.id, d.source_id, d.container_id, d.own_acl::text AS own_acl, d.state, s.state AS source_state, s.kind, s.mode,
  s.observe_principals, s.removed_us,
  s.kind <> 'folder' OR coalesce(s.acl_confirmed_at >= $3::timestamptz - make_interval(secs => s.acl_max_age_s), false)
  AS is_confirmed
FROM retrieval_documents d
JOIN retrieval_sources s ON s.organization_id = d.organization_id AND s.id = d.source_id
WHERE d.organization_id = $1 AND d.id = ANY ($2::uuid[]);

-- name: guarded_folders
-- why: folders as the second path reads them, each with its own list; it goes up one step a time
SELECT f.source_id, f.id, f.parent_id, f.path, f.inherit, f.problem, s.canonical::text AS own
FROM retrieval_containers f
LEFT JOIN retrieval_acl_sets s ON s.organization_id = f.organization_id AND s.set_id = f.own_set_id
WHERE f.organization_id = $1 AND f.source_id = ANY ($2::uuid[]) AND f.id = ANY ($3::bigint[]);

-- name: darken
-- why: a source whose two paths disagree shows nothing until a person has looked
WITH raised AS (
  UPDATE identity_authz_epochs SET epoch = epoch + 1 WHERE organization_id = $1 RETURNING epoch
)
UPDATE retrieval_sources SET state = 'dark', state_reason = $3, state_epoch = raised.epoch FROM raised
WHERE organization_id = $1 AND id = ANY ($2::uuid[]) AND state <> 'dark';

-- name: record_search
-- why: who saw what, when and by which way, by ids alone
INSERT INTO retrieval_searches (
  organization_id, request_id, created_at, workspace_id, kind, caller_id, principal, closure_digest, epoch, query_hmac,
  plan, profile_digest, eligible_chunks, eligible_documents, acl_ids, candidates, fused, emitted, dropped, degraded,
  timing, answer_id
) VALUES (
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::jsonb, $17::jsonb, $18::jsonb, $19::jsonb, $20,
  $21::jsonb, $22
);

-- name: version_texts
-- why: the text that a citation counts in, where it is still kept
SELECT d.id, d.version AS newest, t.version, t.text FROM retrieval_documents d
LEFT JOIN retrieval_document_texts t
  ON t.organization_id = d.organization_id AND t.document_id = d.id AND t.version = ANY ($3::integer[])
WHERE d.organization_id = $1 AND d.id = ANY ($2::uuid[]);

-- name: last_epochs
-- why: an older version is verified for who could read it in its time, so its last moment is asked for
SELECT document_id, version, max(to_epoch) - 1 AS epoch FROM retrieval_document_versions
WHERE organization_id = $1 AND document_id = ANY ($2::uuid[]) AND version = ANY ($3::integer[]) AND state = 'live'
GROUP BY document_id, version;

-- name: document_at
-- why: what a document was at an epoch, and what it said itself then
SELECT d.id, d.source_id, v.state, v.version, a.container_id, k.canonical::text AS own, s.state AS source_state,
  s.state_epoch, s.mode, s.observe_principals, s.removed_us,
  s.kind <> 'folder' OR coalesce(s.acl_confirmed_at >= $4::timestamptz - make_interval(secs => s.acl_max_age_s), false)
  AS is_confirmed
FROM retrieval_documents d
JOIN retrieval_sources s ON s.organization_id = d.organization_id AND s.id = d.source_id
LEFT JOIN retrieval_document_versions v
  ON v.organization_id = d.organization_id AND v.document_id = d.id
  AND v.from_epoch <= $3 AND (v.to_epoch IS NULL OR v.to_epoch > $3)
LEFT JOIN retrieval_acls a ON a.organization_id = d.organization_id AND a.acl_id = v.acl_id
LEFT JOIN retrieval_acl_sets k ON k.organization_id = d.organization_id AND k.set_id = a.own_set_id
WHERE d.organization_id = $1 AND d.id = $2 AND NOT d.is_probe;

-- name: document_turns
-- why: the epochs at which something about a document became another, by itself or by the folders above it
SELECT epoch, min(cause) AS cause FROM (
  SELECT v.from_epoch AS epoch, v.cause FROM retrieval_document_versions v
  WHERE v.organization_id = $1 AND v.document_id = $2
  UNION ALL
  SELECT b.from_epoch, 'folder' FROM retrieval_documents d
  JOIN retrieval_acls a ON a.organization_id = $1 AND a.acl_id = d.acl_id AND a.container_id IS NOT NULL
  JOIN retrieval_acl_bindings b ON b.organization_id = $1 AND b.acl_id = d.acl_id
    AND b.from_epoch > (SELECT min(v.from_epoch) FROM retrieval_document_versions v
                        WHERE v.organization_id = $1 AND v.document_id = $2)
  WHERE d.organization_id = $1 AND d.id = $2
) turned
GROUP BY epoch ORDER BY epoch DESC LIMIT $3;

-- name: folders_at
-- why: folders as they were at an epoch; it goes up one step a time
SELECT f.container_id AS id, f.parent_id, f.path, f.inherit, f.problem, k.canonical::text AS own
FROM retrieval_container_versions f
LEFT JOIN retrieval_acl_sets k ON k.organization_id = f.organization_id AND k.set_id = f.own_set_id
WHERE f.organization_id = $1 AND f.source_id = $2 AND f.container_id = ANY ($3::bigint[])
  AND f.from_epoch <= $4 AND (f.to_epoch IS NULL OR f.to_epoch > $4);

-- name: find_search
-- why: what was recorded of a request; its last search, where it made several
SELECT request_id, created_at, workspace_id, kind, caller_id, principal, epoch, plan, profile_digest, eligible_chunks,
  eligible_documents, candidates::text AS candidates, fused::text AS fused, emitted::text AS emitted,
  dropped::text AS dropped, degraded, timing::text AS timing, answer_id
FROM retrieval_searches WHERE organization_id = $1 AND request_id = $2 ORDER BY created_at DESC LIMIT 1;

-- name: list_searches
-- why: the newest searches, for the console
SELECT request_id, created_at, kind, principal, plan, eligible_chunks, epoch, emitted::text AS emitted, degraded
FROM retrieval_searches WHERE organization_id = $1 AND created_at < $2 ORDER BY created_at DESC LIMIT $3;

-- name: eligible_documents
-- why: every document that a recorded search could see, by the slots and the epoch that it ran with
SELECT v.document_id FROM retrieval_searches s
JOIN retrieval_document_versions v
  ON v.organization_id = s.organization_id AND v.acl_id = ANY (s.acl_ids) AND v.state = 'live'
  AND v.from_epoch <= s.epoch AND (v.to_epoch IS NULL OR v.to_epoch > s.epoch)
WHERE s.organization_id = $1 AND s.request_id = $2 AND s.created_at = $3 AND v.document_id > $4
ORDER BY v.document_id LIMIT $5;
