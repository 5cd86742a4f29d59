-- name: hold_folders_still
-- why: whoever binds a slot through folders and whoever changes folders of a source come one after the other
SELECT pg_advisory_xact_lock_shared(hashtextextended('retrieval-folders ' || $1::uuid::text, 0));

-- name: hold_folders_alone
-- why: a change of folders waits for those that are binding slots, and they for it
SELECT pg_advisory_xact_lock(hashtextextended('retrieval-folders ' || $1::uuid::text, 0));

-- name: find_sets
-- why: equal lists are one row
SELECT digest, set_id FROM retrieval_acl_sets WHERE organization_id = $1 AND digest = ANY ($2::bytea[]);

-- name: add_sets
-- why: lists that nobody had before, in the order of their digests, so that two writers never wait for each other
INSERT INTO retrieval_acl_sets (organization_id, digest, canonical)
SELECT $1, made.digest, made.canonical::jsonb FROM unnest($2::bytea[], $3::text[]) AS made (digest, canonical)
ORDER BY made.digest
ON CONFLICT (organization_id, digest) DO NOTHING
RETURNING digest, set_id;

-- name: add_clauses
-- why: the principals of a new list, by which the lists of a reader are found
INSERT INTO retrieval_acl_clauses (organization_id, set_id, clause_no, effect, principal_id)
SELECT $1, made.set_id, made.clause_no, made.effect, made.principal_id
FROM unnest($2::integer[], $3::smallint[], $4::text[], $5::uuid[]) AS made (set_id, clause_no, effect, principal_id);

-- name: sets_by_id
-- why: what folders and slots say themselves, to be united into what counts
SELECT set_id, canonical::text AS canonical FROM retrieval_acl_sets
WHERE organization_id = $1 AND set_id = ANY ($2::integer[]);

-- name: find_slots
-- why: a slot is what one source says by itself, by folder, or by both
SELECT acl_id, container_id, own_set_id FROM retrieval_acls
WHERE organization_id = $1 AND source_id = $2
  AND (coalesce(container_id, 0), coalesce(own_set_id, 0)) IN (SELECT * FROM unnest($3::bigint[], $4::integer[]));

-- name: add_slots
-- why: slots that nobody had before, in one order for all writers
INSERT INTO retrieval_acls (organization_id, source_id, container_id, own_set_id)
SELECT $1, $2, nullif(made.container_id, 0), nullif(made.own_set_id, 0)
FROM unnest($3::bigint[], $4::integer[]) AS made (container_id, own_set_id)
ORDER BY made.container_id, made.own_set_id
ON CONFLICT DO NOTHING
RETURNING acl_id, container_id, own_set_id;

-- name: add_counts
-- why: a slot counts from its first day, so that later changes are plain additions
INSERT INTO retrieval_acl_counts (organization_id, acl_id) SELECT $1, unnest($2::integer[]);

-- name: change_counts
-- why: what a slot holds, in the transaction that changes it; callers go up the numbers
UPDATE retrieval_acl_counts SET live_documents = live_documents + $3, live_chunks = live_chunks + $4,
  live_tokens = live_tokens + $5, pending_vectors = pending_vectors + $6
WHERE organization_id = $1 AND acl_id = $2;

-- name: slots_of_containers
-- why: the slots that a change of folders binds anew
SELECT acl_id, container_id, own_set_id FROM retrieval_acls
WHERE organization_id = $1 AND source_id = $2 AND container_id = ANY ($3::bigint[]) ORDER BY acl_id;

-- name: bound_sets
-- why: a slot whose list stays the same is not bound again
SELECT acl_id, set_id FROM retrieval_acl_bindings
WHERE organization_id = $1 AND acl_id = ANY ($2::integer[]) AND to_epoch IS NULL;

-- name: containers_at
-- why: folders by their paths
SELECT id, parent_id, path, own_set_id, inherit, problem FROM retrieval_containers
WHERE organization_id = $1 AND source_id = $2 AND path = ANY ($3::text[]);

-- name: containers_under
-- why: a folder and everything below it, which a change of it concerns
SELECT id, parent_id, path, own_set_id, inherit, problem FROM retrieval_containers
WHERE organization_id = $1 AND source_id = $2 AND (path = $3 OR starts_with(path, $4)) ORDER BY path;

-- name: add_container
-- why: a folder is made with the first thing that lies in it
INSERT INTO retrieval_containers (organization_id, source_id, parent_id, path) VALUES ($1, $2, $3, $4)
ON CONFLICT (organization_id, source_id, path) DO NOTHING RETURNING id;

-- name: point_container
-- why: the slot of the folder itself
UPDATE retrieval_containers SET acl_id = $4 WHERE organization_id = $1 AND source_id = $2 AND id = $3;

-- name: change_container
-- why: what a folder says itself
UPDATE retrieval_containers SET own_set_id = $4, inherit = $5, problem = $6
WHERE organization_id = $1 AND source_id = $2 AND id = $3;

-- name: move_containers
-- why: a move changes the paths below and one parent; what lies in the folders is not touched
UPDATE retrieval_containers SET path = CASE WHEN path = $3 THEN $4 ELSE $4 || substr(path, length($3) + 1) END,
  parent_id = CASE WHEN path = $3 THEN $5 ELSE parent_id END
WHERE organization_id = $1 AND source_id = $2 AND (path = $3 OR starts_with(path, $3 || '/'));

-- name: documents_in
-- why: how many documents a change of folders concerns
SELECT count(*) FROM retrieval_documents
WHERE organization_id = $1 AND source_id = $2 AND container_id = ANY ($3::bigint[]) AND state IN ('live', 'quarantined');

-- name: stamp
-- why: the last statement: raises the epoch and writes what begins with it; an end and a beginning are one moment
WITH raised AS (
  INSERT INTO identity_authz_epochs AS e (organization_id, epoch) VALUES ($1, 1)
  ON CONFLICT (organization_id) DO UPDATE SET epoch = e.epoch + 1
  RETURNING epoch
), ended_bindings AS (
  UPDATE retrieval_acl_bindings b SET to_epoch = raised.epoch FROM raised
  WHERE b.organization_id = $1 AND b.acl_id = ANY ($2::integer[]) AND b.to_epoch IS NULL RETURNING 1
), bindings AS (
  INSERT INTO retrieval_acl_bindings (organization_id, acl_id, from_epoch, set_id, source_observed_at)
  SELECT $1, made.acl_id, raised.epoch, made.set_id, now()
  FROM raised, (SELECT count(*) FROM ended_bindings) AS ended,
    unnest($2::integer[], $3::integer[]) AS made (acl_id, set_id)
), ended_containers AS (
  UPDATE retrieval_container_versions v SET to_epoch = raised.epoch FROM raised
  WHERE v.organization_id = $1 AND v.source_id = $4 AND v.container_id = ANY ($5::bigint[]) AND v.to_epoch IS NULL
  RETURNING 1
), containers AS (
  INSERT INTO retrieval_container_versions (organization_id, source_id, container_id, from_epoch, parent_id, path,
    own_set_id, inherit, problem)
  SELECT $1, $4, c.id, raised.epoch, c.parent_id, c.path, c.own_set_id, c.inherit, c.problem
  FROM raised, (SELECT count(*) FROM ended_containers) AS ended, retrieval_containers c
  WHERE c.organization_id = $1 AND c.source_id = $4 AND c.id = ANY ($5::bigint[])
), ended_documents AS (
  UPDATE retrieval_document_versions v SET to_epoch = raised.epoch FROM raised
  WHERE v.organization_id = $1 AND v.document_id = ANY ($6::uuid[]) AND v.to_epoch IS NULL RETURNING 1
), documents AS (
  INSERT INTO retrieval_document_versions (organization_id, document_id, from_epoch, version, acl_id, container_id,
    state, cause, at_us)
  SELECT $1, d.id, raised.epoch, d.version, d.acl_id, d.container_id, d.state, $7, $8
  FROM raised, (SELECT count(*) FROM ended_documents) AS ended, retrieval_documents d
  WHERE d.organization_id = $1 AND d.id = ANY ($6::uuid[])
), sources AS (
  UPDATE retrieval_sources s SET state_epoch = raised.epoch FROM raised
  WHERE s.organization_id = $1 AND s.id = ANY ($9::uuid[])
)
SELECT epoch FROM raised;

-- name: current_epoch
-- why: the epoch that an answer names when nothing changed
SELECT epoch FROM identity_authz_epochs WHERE organization_id = $1;

-- name: find_terms
-- why: words that are known already
SELECT term, term_id FROM retrieval_terms WHERE organization_id = $1 AND term = ANY ($2::text[]);

-- name: add_terms
-- why: new words in their own order, so that writers who bring the same ones wait in line and not for each other
INSERT INTO retrieval_terms (organization_id, term)
SELECT $1, made.term FROM unnest($2::text[]) AS made (term) ORDER BY made.term COLLATE "C"
ON CONFLICT (organization_id, term) DO NOTHING
RETURNING term, term_id;

-- name: known_documents
-- why: what a push or a listing is compared with before anything is read or locked
SELECT d.id, d.external_id, c.path AS container, d.acl_id, d.own_acl::text AS own_acl, d.acl_digest, d.state,
  d.state_code, d.version, d.content_digest, d.source_version, d.observed_at_us
FROM retrieval_documents d
LEFT JOIN retrieval_containers c
  ON c.organization_id = $1 AND c.source_id = d.source_id AND c.id = d.container_id
WHERE d.organization_id = $1 AND d.source_id = $2 AND d.external_id = ANY ($3::text[]);

-- name: hold_documents
-- why: makes or locks the rows of a batch in the order of their outside ids; a new one points at nothing yet
INSERT INTO retrieval_documents AS d (organization_id, id, source_id, external_id, state, version, content_digest, title,
  uri, media_type, origin, text_bytes, created_us, updated_us)
SELECT $1, made.id, $2, made.external_id, 'quarantined', 0, '', '', '', '', $5, 0, $6, $6
FROM unnest($3::uuid[], $4::text[]) AS made (id, external_id) ORDER BY made.external_id COLLATE "C"
ON CONFLICT (organization_id, source_id, external_id) DO UPDATE SET external_id = d.external_id
RETURNING id, external_id, container_id, acl_id, acl_digest, own_acl::text AS own_acl, state, state_code, version,
  content_digest, source_version, observed_at_us, chunks, tokens;

-- name: hold_document
-- why: a change of one document comes after the one that is under way
SELECT id, source_id, external_id, container_id, acl_id, acl_digest, own_acl::text AS own_acl, state, state_code, version,
  content_digest, source_version, observed_at_us, chunks, tokens FROM retrieval_documents
WHERE organization_id = $1 AND id = $2 FOR UPDATE;

-- name: hold_document_at
-- why: a source names a document by its own id
SELECT id, source_id, external_id, container_id, acl_id, acl_digest, own_acl::text AS own_acl, state, state_code, version,
  content_digest, source_version, observed_at_us, chunks, tokens FROM retrieval_documents
WHERE organization_id = $1 AND source_id = $2 AND external_id = $3 FOR UPDATE;

-- name: hold_expired
-- why: documents whose time in the index is over, locked in the order of writers
SELECT id, source_id, external_id, container_id, acl_id, acl_digest, own_acl::text AS own_acl, state, state_code, version,
  content_digest, source_version, observed_at_us, chunks, tokens FROM retrieval_documents
WHERE organization_id = $1 AND retain_until_us <= $2 AND state IN ('live', 'quarantined') AND hold_reason IS NULL
ORDER BY external_id COLLATE "C" LIMIT $3 FOR UPDATE SKIP LOCKED;

-- name: write_document
-- why: the content of a version; where it points is not its business
UPDATE retrieval_documents SET version = $3, content_digest = $4, source_version = $5, observed_at_us = $6, title = $7,
  uri = $8, media_type = $9, language = $10, origin = $11, labels = $12::text::jsonb, signals = $13::text::jsonb,
  snippet_chars_max = $14, text_bytes = $15, chunks = $16, tokens = $17, retain_until_us = $18, updated_us = $19,
  deleted_us = NULL
WHERE organization_id = $1 AND id = $2;

-- name: touch_document
-- why: the same content seen again under a later number; an older one must not come after it
UPDATE retrieval_documents SET source_version = greatest(source_version, $3), observed_at_us = greatest(observed_at_us, $4)
WHERE organization_id = $1 AND id = $2;

-- name: point_documents
-- why: half of point_at_acl: where documents point and what they say about it
UPDATE retrieval_documents d SET acl_id = made.acl_id, container_id = nullif(made.container_id, 0),
  own_acl = made.own_acl::jsonb, acl_digest = made.acl_digest, state = made.state, state_code = made.state_code
FROM unnest($2::uuid[], $3::integer[], $4::bigint[], $5::text[], $6::bytea[], $7::text[], $8::text[])
  AS made (id, acl_id, container_id, own_acl, acl_digest, state, state_code)
WHERE d.organization_id = $1 AND d.id = made.id;

-- name: point_codes
-- why: half of point_at_acl: codes go where their document points
UPDATE retrieval_chunk_codes c SET acl_id = made.acl_id
FROM unnest($2::uuid[], $3::integer[], $4::integer[]) AS made (id, acl_id, acl_id_before)
JOIN retrieval_chunks k ON k.organization_id = $1 AND k.document_id = made.id
WHERE c.organization_id = $1 AND c.acl_id = made.acl_id_before AND c.chunk_id = k.chunk_id;

-- name: point_postings
-- why: half of point_at_acl: postings go where their document points
UPDATE retrieval_postings p SET acl_id = made.acl_id
FROM unnest($2::uuid[], $3::integer[]) AS made (id, acl_id)
JOIN retrieval_chunks k ON k.organization_id = $1 AND k.document_id = made.id
WHERE p.organization_id = $1 AND p.chunk_id = k.chunk_id AND p.chunk_id > 0 AND p.acl_id <> made.acl_id;

-- name: add_text
-- why: the text of a version, which offsets count in
INSERT INTO retrieval_document_texts (organization_id, document_id, version, title, text, headings)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb);

-- name: forget_old_texts
-- why: two versions are kept, for citations of the one before
DELETE FROM retrieval_document_texts t USING retrieval_documents d
WHERE t.organization_id = $1 AND t.document_id = ANY ($2::uuid[]) AND d.organization_id = $1 AND d.id = t.document_id
  AND t.version < d.version - 1 AND d.hold_reason IS NULL;

-- name: add_chunks
-- why: the passages of a version
INSERT INTO retrieval_chunks (organization_id, document_id, version, ord, start_at, end_at, heading, tokens)
SELECT $1, made.document_id, made.version, made.ord, made.start_at, made.end_at, made.heading, made.tokens
FROM unnest($2::uuid[], $3::integer[], $4::integer[], $5::integer[], $6::integer[], $7::text[], $8::integer[])
  AS made (document_id, version, ord, start_at, end_at, heading, tokens)
RETURNING chunk_id, document_id, ord;

-- name: add_codes
-- why: a passage without a code yet, where its document points
INSERT INTO retrieval_chunk_codes (organization_id, acl_id, chunk_id)
SELECT $1, d.acl_id, k.chunk_id FROM retrieval_chunks k
JOIN retrieval_documents d ON d.organization_id = $1 AND d.id = k.document_id
WHERE k.organization_id = $1 AND k.document_id = ANY ($2::uuid[]);

-- name: add_postings
-- why: the words of passages, where their document points
INSERT INTO retrieval_postings (organization_id, term_id, acl_id, chunk_id, tf, dl)
SELECT $1, made.term_id, d.acl_id, made.chunk_id, made.tf, k.tokens
FROM unnest($2::integer[], $3::bigint[], $4::smallint[]) AS made (term_id, chunk_id, tf)
JOIN retrieval_chunks k ON k.organization_id = $1 AND k.chunk_id = made.chunk_id
JOIN retrieval_documents d ON d.organization_id = $1 AND d.id = k.document_id;

-- name: drop_postings
-- why: words of a version that is over, or of a document that is gone
DELETE FROM retrieval_postings p USING retrieval_chunks k
WHERE k.organization_id = $1 AND k.document_id = ANY ($2::uuid[]) AND p.organization_id = $1 AND p.chunk_id = k.chunk_id
  AND p.chunk_id > 0;

-- name: drop_codes
-- why: codes of a version that is over; the answer tells how many still waited for theirs
DELETE FROM retrieval_chunk_codes c USING unnest($2::uuid[], $3::integer[]) AS gone (id, acl_id)
JOIN retrieval_chunks k ON k.organization_id = $1 AND k.document_id = gone.id
WHERE c.organization_id = $1 AND c.acl_id = gone.acl_id AND c.chunk_id = k.chunk_id
RETURNING k.document_id, c.code IS NULL AS is_pending;

-- name: drop_vectors
-- why: vectors of a version that is over
DELETE FROM retrieval_chunk_vectors v USING retrieval_chunks k
WHERE k.organization_id = $1 AND k.document_id = ANY ($2::uuid[]) AND v.organization_id = $1 AND v.chunk_id = k.chunk_id;

-- name: drop_chunks
-- why: the passages themselves, after everything that hangs on them
DELETE FROM retrieval_chunks WHERE organization_id = $1 AND document_id = ANY ($2::uuid[]);

-- name: pending_of
-- why: how many passages of documents still wait for their vector, before they move
SELECT k.document_id, count(*) AS pending FROM unnest($2::uuid[], $3::integer[]) AS held (id, acl_id)
JOIN retrieval_chunks k ON k.organization_id = $1 AND k.document_id = held.id
JOIN retrieval_chunk_codes c ON c.organization_id = $1 AND c.acl_id = held.acl_id AND c.chunk_id = k.chunk_id
WHERE c.code IS NULL GROUP BY 1;

-- name: delete_documents
-- why: out of every answer from the next statement on
UPDATE retrieval_documents SET state = 'deleted', state_code = $3, chunks = 0, tokens = 0, deleted_us = $4, updated_us = $4
WHERE organization_id = $1 AND id = ANY ($2::uuid[]);

-- name: list_documents
-- why: metadata for whoever administers a source, never text
SELECT d.id, d.source_id, d.external_id, d.title, d.uri, d.media_type, d.state, d.state_code, d.version,
  d.own_acl::text AS own_acl, d.acl_digest, c.path AS container, d.labels::text AS labels, d.chunks, d.text_bytes,
  d.created_us, d.updated_us, d.deleted_us, d.source_version
FROM retrieval_documents d
LEFT JOIN retrieval_containers c
  ON c.organization_id = $1 AND c.source_id = d.source_id AND c.id = d.container_id
JOIN retrieval_sources s ON s.organization_id = $1 AND s.id = d.source_id AND s.removed_us IS NULL
WHERE d.organization_id = $1 AND d.id > $2 AND NOT d.is_probe AND ($3::uuid IS NULL OR d.source_id = $3) AND ($4::text IS NULL OR d.state = $4)
  AND ($5::uuid IS NULL OR s.workspace_id = $5)
ORDER BY d.id LIMIT $6;

-- name: readable_document
-- why: a live document with its text, for a reader who was judged in the same transaction
SELECT d.id, d.source_id, d.external_id, d.title, d.uri, d.media_type, d.version, d.labels::text AS labels, t.text,
  d.updated_us
FROM retrieval_documents d
JOIN retrieval_document_texts t ON t.organization_id = $1 AND t.document_id = d.id AND t.version = d.version
WHERE d.organization_id = $1 AND d.id = $2 AND d.state = 'live';

-- name: document_row
-- why: one document for whoever administers its source, never text
SELECT d.id, d.source_id, d.external_id, d.title, d.uri, d.media_type, d.state, d.state_code, d.version,
  d.own_acl::text AS own_acl, d.acl_digest, c.path AS container, d.labels::text AS labels, d.chunks, d.text_bytes,
  d.created_us, d.updated_us, d.deleted_us, d.source_version
FROM retrieval_documents d
LEFT JOIN retrieval_containers c
  ON c.organization_id = $1 AND c.source_id = d.source_id AND c.id = d.container_id
JOIN retrieval_sources s ON s.organization_id = $1 AND s.id = d.source_id AND s.removed_us IS NULL
WHERE d.organization_id = $1 AND d.id = $2 AND NOT d.is_probe AND ($3::uuid IS NULL OR s.workspace_id = $3);

-- name: document_path
-- why: a list that inherits does so through the folder that the document lies in
SELECT c.path FROM retrieval_documents d
JOIN retrieval_containers c ON c.organization_id = $1 AND c.source_id = d.source_id AND c.id = d.container_id
WHERE d.organization_id = $1 AND d.id = $2;

-- name: document_history
-- why: what a document was and where it pointed, by epoch
SELECT v.from_epoch, v.to_epoch, v.version, v.state, v.cause, v.at_us, c.path AS container
FROM retrieval_document_versions v
JOIN retrieval_documents d ON d.organization_id = $1 AND d.id = v.document_id
LEFT JOIN retrieval_containers c
  ON c.organization_id = $1 AND c.source_id = d.source_id AND c.id = v.container_id
WHERE v.organization_id = $1 AND v.document_id = $2 ORDER BY v.from_epoch DESC LIMIT $3;

-- name: live_external_ids
-- why: what a complete listing did not name is gone at the source
SELECT external_id FROM retrieval_documents
WHERE organization_id = $1 AND source_id = $2 AND state IN ('live', 'quarantined') AND external_id > $3 AND NOT is_probe
ORDER BY external_id LIMIT $4;

-- name: live_documents
-- why: what a removed source still holds, in the order in which rows are locked
SELECT id FROM retrieval_documents
WHERE organization_id = $1 AND source_id = $2 AND state IN ('live', 'quarantined')
ORDER BY external_id COLLATE "C" LIMIT $3;

-- name: add_source
-- why: a place that documents come from
INSERT INTO retrieval_sources (organization_id, id, workspace_id, name, kind, config, state, default_acl, strict, mode,
  observe_principals, sync_every_s, acl_max_age_s, retention_days, created_us)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, 'idle', $7::text::jsonb, $8, $9, $10, $11, $12, $13, $14);

-- name: add_share
-- why: the source takes part in the turns of leased work
INSERT INTO retrieval_shares (organization_id, source_id) VALUES ($1, $2);

-- name: get_source
-- why: one source
SELECT id, workspace_id, name, kind, config::text AS config, state, state_reason, default_acl::text AS default_acl, strict,
  mode, observe_principals, sync_every_s, acl_max_age_s, acl_confirmed_at, retention_days, created_us
FROM retrieval_sources WHERE organization_id = $1 AND id = $2 AND removed_us IS NULL;

-- name: source_by_name
-- why: a crawl finds the source that it made before
SELECT id, workspace_id, name, kind, config::text AS config, state, state_reason, default_acl::text AS default_acl, strict,
  mode, observe_principals, sync_every_s, acl_max_age_s, acl_confirmed_at, retention_days, created_us
FROM retrieval_sources WHERE organization_id = $1 AND name = $2 AND removed_us IS NULL;

-- name: list_sources
-- why: a page along the ids, of one workspace where $4 is not null
SELECT id, workspace_id, name, kind, config::text AS config, state, state_reason, default_acl::text AS default_acl, strict,
  mode, observe_principals, sync_every_s, acl_max_age_s, acl_confirmed_at, retention_days, created_us
FROM retrieval_sources WHERE organization_id = $1 AND id > $2 AND removed_us IS NULL
  AND ($4::uuid IS NULL OR workspace_id = $4) ORDER BY id LIMIT $3;

-- name: count_sources
-- why: an organization has a bounded number of sources
SELECT count(*) FROM retrieval_sources WHERE organization_id = $1 AND removed_us IS NULL;

-- name: change_source
-- why: settings that were given; what is null stays
UPDATE retrieval_sources SET config = coalesce($3::text::jsonb, config), default_acl = CASE WHEN $4 THEN $5::text::jsonb
  ELSE default_acl END, strict = coalesce($6, strict), mode = coalesce($7, mode),
  observe_principals = coalesce($8::uuid[], observe_principals), sync_every_s = coalesce($9, sync_every_s),
  acl_max_age_s = coalesce($10, acl_max_age_s), name = coalesce($11, name)
WHERE organization_id = $1 AND id = $2 AND removed_us IS NULL;

-- name: set_source_state
-- why: what a source does, unless it is dark or paused by a person and only a loop wants otherwise
UPDATE retrieval_sources SET state = $3, state_reason = $4
WHERE organization_id = $1 AND id = $2 AND removed_us IS NULL AND ($5 OR state NOT IN ('dark', 'paused'));

-- name: confirm_acls
-- why: every access list of the source was read at that moment, and the index has it as it was then
UPDATE retrieval_sources SET acl_confirmed_at = to_timestamp($3::bigint / 1e6) WHERE organization_id = $1 AND id = $2;

-- name: remove_source
-- why: dark from now on; the name is free again, the rows go with the job
UPDATE retrieval_sources SET state = 'dark', state_reason = 'removed', removed_us = $3
WHERE organization_id = $1 AND id = $2 AND removed_us IS NULL;

-- name: source_documents
-- why: how many documents a source has, by state
SELECT state, count(*) AS documents, count(*) FILTER (WHERE hold_reason IS NOT NULL) AS held
FROM retrieval_documents WHERE organization_id = $1 AND source_id = $2 AND NOT is_probe GROUP BY state;

-- name: source_backlog
-- why: what waits of a source and of its organization
SELECT
  coalesce(sum(j.documents) FILTER (WHERE j.source_id = $2), 0)::bigint AS source_documents,
  coalesce(sum(j.bytes) FILTER (WHERE j.source_id = $2), 0)::bigint AS source_bytes,
  coalesce(sum(j.documents), 0)::bigint AS organization_documents,
  coalesce(sum(j.bytes), 0)::bigint AS organization_bytes,
  (SELECT coalesce(sum(c.pending_vectors), 0)::bigint FROM retrieval_acl_counts c
   JOIN retrieval_acls a ON a.organization_id = $1 AND a.acl_id = c.acl_id AND a.source_id = $2
   WHERE c.organization_id = $1) AS vectors_pending,
  (SELECT coalesce(sum(c.pending_vectors), 0)::bigint FROM retrieval_acl_counts c
   WHERE c.organization_id = $1) AS organization_vectors_pending
FROM retrieval_index_jobs j WHERE j.organization_id = $1 AND j.kind = 'receive' AND j.lease_expires_at > now();

-- name: index_standing
-- why: how many live documents have an access list that was confirmed lately, and how many removals are not over
SELECT coalesce(sum(t.live), 0)::bigint AS live, coalesce(sum(t.live) FILTER (WHERE t.is_confirmed), 0)::bigint AS confirmed,
  (SELECT count(*) FROM retrieval_index_jobs j WHERE j.organization_id = $1 AND j.kind = 'purge'
   AND (j.lease_owner IS NOT NULL OR j.due_at < 'infinity')) AS purges
FROM (
  SELECT s.kind <> 'folder' OR coalesce(s.acl_confirmed_at >= now() - make_interval(secs => s.acl_max_age_s), false)
    AS is_confirmed,
    -- The counts hold what is quarantined as well.
    (SELECT coalesce(sum(c.live_documents), 0) FROM retrieval_acls a
     JOIN retrieval_acl_counts c ON c.organization_id = $1 AND c.acl_id = a.acl_id
     WHERE a.organization_id = $1 AND a.source_id = s.id)
    - (SELECT count(*) FROM retrieval_documents d
       WHERE d.organization_id = $1 AND d.source_id = s.id AND d.state = 'quarantined' AND NOT d.is_probe)
    - (SELECT count(*) FROM retrieval_probes p JOIN retrieval_documents d
       ON d.organization_id = $1 AND d.id = p.document_id AND d.state IN ('live', 'quarantined') AND d.version > 0
       WHERE p.organization_id = $1 AND p.source_id = s.id) AS live
  FROM retrieval_sources s WHERE s.organization_id = $1 AND s.removed_us IS NULL
) t;

-- name: quarantined_by_code
-- why: what an organization took in and shows nobody, by the reason
SELECT coalesce(d.state_code, 'none') AS code, count(*) AS documents FROM retrieval_sources s
JOIN retrieval_documents d ON d.organization_id = $1 AND d.source_id = s.id AND d.state = 'quarantined' AND NOT d.is_probe
WHERE s.organization_id = $1 AND s.removed_us IS NULL GROUP BY 1;

-- name: oldest_job_age
-- why: how far the index of a source, or of a whole organization, is behind what it took in
SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 FROM retrieval_index_jobs
WHERE organization_id = $1 AND ($2::uuid IS NULL OR source_id = $2) AND kind = 'embed' AND due_at <= now();

-- name: backlog_turn
-- why: two writers do not take the same last place
SELECT pg_advisory_xact_lock(hashtextextended('retrieval-backlog ' || $1::uuid::text, 0));

-- name: add_receipt
-- why: taken in and not stored yet; it counts until it is stored or its time is over
INSERT INTO retrieval_index_jobs (organization_id, source_id, id, kind, documents, bytes, due_at, lease_expires_at)
VALUES ($1, $2, $3, 'receive', $4, $5, 'infinity', now() + make_interval(secs => $6));

-- name: end_receipt
-- why: what was taken in is stored, or will not be
DELETE FROM retrieval_index_jobs WHERE organization_id = $1 AND source_id = $2 AND id = $3 AND kind = 'receive';

-- name: add_embed_jobs
-- why: the vectors of a version are made later
INSERT INTO retrieval_index_jobs (organization_id, source_id, id, kind, document_id, version)
SELECT $1, $2, made.id, 'embed', made.document_id, made.version
FROM unnest($3::uuid[], $4::uuid[], $5::integer[]) AS made (id, document_id, version);

-- name: waiting_embed_jobs
-- why: what has no vectors comes a little at a time, behind what was pushed a moment ago
SELECT count(*) FROM retrieval_index_jobs
WHERE organization_id = $1 AND kind = 'embed' AND (lease_owner IS NOT NULL OR due_at < 'infinity');

-- name: has_embed_job
-- why: what is under way is not asked for twice
SELECT EXISTS (SELECT FROM retrieval_index_jobs WHERE organization_id = $1 AND document_id = $2 AND kind = 'embed'
  AND (lease_owner IS NOT NULL OR due_at < 'infinity'));

-- name: documents_by_vector
-- why: a page of documents along their ids, and whether each has a passage without a vector of this embedder
SELECT d.id, lacking.is_lacking IS NOT NULL AS is_lacking FROM (
  SELECT id, acl_id FROM retrieval_documents
  WHERE organization_id = $1 AND id > $2 AND state IN ('live', 'quarantined') ORDER BY id LIMIT $4
) d
LEFT JOIN LATERAL (
  SELECT true AS is_lacking FROM retrieval_chunks k
  JOIN retrieval_chunk_codes c ON c.organization_id = $1 AND c.acl_id = d.acl_id AND c.chunk_id = k.chunk_id
  WHERE k.organization_id = $1 AND k.document_id = d.id AND c.embedder_no IS DISTINCT FROM $3 LIMIT 1
) lacking ON true
ORDER BY d.id;

-- name: forget_codes
-- why: vectors of two embedders never meet, so those of another one are as good as none
UPDATE retrieval_chunk_codes c SET embedder_no = NULL, code = NULL FROM retrieval_chunks k
WHERE k.organization_id = $1 AND k.document_id = $2 AND c.organization_id = $1 AND c.acl_id = $3
  AND c.chunk_id = k.chunk_id AND c.embedder_no <> $4;

-- name: add_purge_job
-- why: the rows of a removed source go in the background
INSERT INTO retrieval_index_jobs (organization_id, source_id, id, kind) VALUES ($1, $2, $3, 'purge');

-- name: get_job
-- why: what is to be done under a lease that still holds
SELECT kind, document_id, version FROM retrieval_index_jobs
WHERE id = $2 AND organization_id = $1 AND lease_token = $3 AND lease_owner IS NOT NULL AND lease_expires_at > now();

-- name: hold_job
-- why: a write of leased work carries its fence
SELECT id FROM retrieval_index_jobs
WHERE id = $2 AND organization_id = $1 AND lease_token = $3 AND lease_owner IS NOT NULL AND lease_expires_at > now()
FOR UPDATE;

-- name: forget_done_jobs
-- why: finished work, and receipts of writers that died
DELETE FROM retrieval_index_jobs WHERE lease_owner IS NULL AND due_at = 'infinity'
  AND (kind <> 'receive' OR lease_expires_at < now() - interval '10 minutes');

-- name: chunks_to_embed
-- why: the passages of a version that have no code yet
SELECT k.chunk_id, k.start_at, k.end_at, k.heading FROM retrieval_documents d
JOIN retrieval_chunks k ON k.organization_id = $1 AND k.document_id = d.id AND k.version = $3
JOIN retrieval_chunk_codes c ON c.organization_id = $1 AND c.acl_id = d.acl_id AND c.chunk_id = k.chunk_id
WHERE d.organization_id = $1 AND d.id = $2 AND c.code IS NULL ORDER BY k.ord LIMIT $4;

-- name: text_of_version
-- why: what the passages are cut from
SELECT title, text FROM retrieval_document_texts WHERE organization_id = $1 AND document_id = $2 AND version = $3;

-- name: write_vectors
-- why: meaning arrives; a vector that was there is of an older embedder
INSERT INTO retrieval_chunk_vectors (organization_id, chunk_id, embedder_no, embedding)
SELECT $1, made.chunk_id, $3, made.embedding::halfvec(384)
FROM unnest($2::bigint[], $4::text[]) AS made (chunk_id, embedding)
ON CONFLICT (organization_id, chunk_id) DO UPDATE SET embedder_no = EXCLUDED.embedder_no, embedding = EXCLUDED.embedding;

-- name: write_codes
-- why: from now on the passage is found by meaning, where its document points
UPDATE retrieval_chunk_codes c SET embedder_no = $3, code = made.code::bit(384)
FROM unnest($2::bigint[], $4::text[]) AS made (chunk_id, code)
WHERE c.organization_id = $1 AND c.acl_id = $5 AND c.chunk_id = made.chunk_id AND c.code IS NULL;

-- name: add_sync_run
-- why: one listing of a source at a time; who asks for another joins the one that is open
INSERT INTO retrieval_sync_runs (organization_id, source_id, id, is_full, created_us) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING;

-- name: open_sync_run
-- why: the listing that is under way or waits
SELECT id FROM retrieval_sync_runs WHERE organization_id = $1 AND source_id = $2 AND state IN ('queued', 'running');

-- name: get_sync_run
-- why: how far a listing is
SELECT id, source_id, state, is_full, added, changed, acl_changed, deleted, quarantined, skipped, errors::text AS errors,
  created_us, started_us, finished_us, last_error FROM retrieval_sync_runs WHERE organization_id = $1 AND id = $2;

-- name: last_sync_run
-- why: the newest listing of a source
SELECT id, source_id, state, is_full, added, changed, acl_changed, deleted, quarantined, skipped, errors::text AS errors,
  created_us, started_us, finished_us, last_error FROM retrieval_sync_runs
WHERE organization_id = $1 AND source_id = $2 ORDER BY created_us DESC LIMIT 1;

-- name: begin_sync_run
-- why: a run starts once; one that was taken over counts from anew, as it lists from anew
UPDATE retrieval_sync_runs SET state = 'running', started_us = coalesce(started_us, $4)
WHERE organization_id = $1 AND id = $2 AND lease_token = $3 AND lease_owner IS NOT NULL AND lease_expires_at > now()
RETURNING source_id, is_full;

-- name: write_sync_run
-- why: what a run did, under its fence
UPDATE retrieval_sync_runs SET state = $4, added = $5, changed = $6, acl_changed = $7, deleted = $8, quarantined = $9,
  skipped = $10, errors = $11::text::jsonb, finished_us = $12
WHERE organization_id = $1 AND id = $2 AND lease_token = $3 AND lease_owner IS NOT NULL AND lease_expires_at > now();

-- name: due_sources
-- why: listing sources whose time has come and that nobody lists right now
SELECT s.organization_id, s.id FROM retrieval_sources s
WHERE s.kind = ANY ($1::text[]) AND s.removed_us IS NULL AND s.state NOT IN ('dark', 'paused')
  AND NOT EXISTS (SELECT FROM retrieval_sync_runs r WHERE r.organization_id = s.organization_id AND r.source_id = s.id
    AND (r.state IN ('queued', 'running') OR r.finished_us > $2 - s.sync_every_s::bigint * 1000000))
  AND s.created_us <= $2 - s.sync_every_s::bigint * 1000000
ORDER BY s.organization_id, s.id LIMIT $3;

-- name: put_alias
-- why: a source's own name of somebody is one existing user or group here, from an epoch on
INSERT INTO retrieval_identity_aliases AS a (organization_id, source_id, external, external_principal_id, principal_id,
  principal_kind, verified_by, verified_us, from_epoch)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)
ON CONFLICT (organization_id, source_id, external) DO UPDATE SET principal_id = EXCLUDED.principal_id,
  principal_kind = EXCLUDED.principal_kind, verified_by = EXCLUDED.verified_by, verified_us = EXCLUDED.verified_us;

-- name: people_by_name
-- why: names in an access list become ids, or the list is refused
SELECT 'user' AS kind, id, lower(email) AS name FROM identity_users
WHERE organization_id = $1 AND (id = ANY ($2::uuid[]) OR lower(email) = ANY ($3::text[]))
UNION ALL
SELECT 'group', id, name FROM identity_groups WHERE organization_id = $1 AND (id = ANY ($2) OR name = ANY ($4::text[]))
UNION ALL
SELECT 'sa', id, name FROM identity_service_accounts WHERE organization_id = $1 AND id = ANY ($2);

-- name: organizations_with_sources
-- why: whose deleted texts are looked at
SELECT DISTINCT ON (organization_id) organization_id, id FROM retrieval_sources ORDER BY organization_id, id;

-- name: forget_deleted_texts
-- why: what a deleted document said is kept for its delay and then is gone
DELETE FROM retrieval_document_texts t USING retrieval_documents d
WHERE d.organization_id = $1 AND d.state = 'deleted' AND d.deleted_us <= $2 AND d.hold_reason IS NULL
  AND t.organization_id = $1 AND t.document_id = d.id;

-- name: claim_probe
-- why: one source whose probe is due, in the order in which they wait; one that nobody reads is left alone for long
WITH due AS (
  SELECT s.organization_id, s.id FROM retrieval_sources s
  LEFT JOIN retrieval_probes p ON p.organization_id = s.organization_id AND p.source_id = s.id
  WHERE s.removed_us IS NULL AND s.state <> 'dark' AND s.created_us <= $2::bigint - $3::bigint
    AND (s.mode = 'enforce' OR s.observe_principals <> '{}')
    AND (s.kind <> 'folder' OR coalesce(s.acl_confirmed_at >= now() - make_interval(secs => s.acl_max_age_s), false))
    AND coalesce(p.next_us, 0) <= $2
    AND (p.lease_expires_at IS NULL OR p.lease_expires_at < now())
    AND (p.last_us IS NULL OR p.last_us <= $2 - $4::bigint
      -- Ids of requests begin with their time, so that this is a range of the key; the minute is for slow requests.
      OR EXISTS (SELECT FROM retrieval_searches r WHERE r.organization_id = s.organization_id
        AND r.request_id >= (lpad(to_hex(greatest(p.last_us / 1000 - 60000, 0)), 12, '0') || repeat('0', 20))::uuid
        AND r.created_at > to_timestamp(p.last_us / 1e6))
      OR EXISTS (SELECT FROM retrieval_sync_runs r WHERE r.organization_id = s.organization_id AND r.source_id = s.id
        AND r.created_us > p.last_us))
  ORDER BY coalesce(p.next_us, 0), s.organization_id, s.id LIMIT 1
)
INSERT INTO retrieval_probes AS p (organization_id, source_id, lease_owner, lease_expires_at, lease_token)
SELECT organization_id, id, $1, now() + make_interval(secs => $5), 1 FROM due
ON CONFLICT (organization_id, source_id) DO UPDATE SET lease_owner = EXCLUDED.lease_owner,
  lease_expires_at = EXCLUDED.lease_expires_at, lease_token = p.lease_token + 1
  WHERE p.lease_expires_at IS NULL OR p.lease_expires_at < now()
RETURNING organization_id, source_id, lease_token, document_id, failures, recent_ms;

-- name: get_probe
-- why: what a source publishes of its probes
SELECT outcome, reason, is_ok, recent_ms, last_us FROM retrieval_probes WHERE organization_id = $1 AND source_id = $2;

-- name: has_documents
-- why: a source without a document has nothing to revoke
SELECT EXISTS (SELECT FROM retrieval_documents WHERE organization_id = $1 AND source_id = $2 AND state = 'live'
  AND NOT is_probe);

-- name: add_probe_document
-- why: the row of a probe's document, marked before anything is stored in it
INSERT INTO retrieval_documents (organization_id, id, source_id, external_id, state, version, content_digest, title, uri,
  media_type, origin, text_bytes, created_us, updated_us, is_probe)
VALUES ($1, $2, $3, $4, 'quarantined', 0, '', '', '', '', 'push', 0, $5, $5, true);

-- name: name_probe_document
-- why: the next probe uses the same document again
UPDATE retrieval_probes SET document_id = $3 WHERE organization_id = $1 AND source_id = $2 AND lease_token = $4
  AND lease_expires_at > now();

-- name: end_probe
-- why: what a probe found, under its fence; `last_us` null is a probe that found nothing out
UPDATE retrieval_probes SET outcome = $4, reason = $5, is_ok = coalesce($6, is_ok), failures = $7, recent_ms = $8,
  last_us = coalesce($9, last_us), next_us = $10, lease_owner = NULL, lease_expires_at = NULL
WHERE organization_id = $1 AND source_id = $2 AND lease_token = $3 AND lease_expires_at > now();
