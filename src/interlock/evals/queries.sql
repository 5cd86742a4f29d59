-- name: add_rollout
-- why: a rollout begins as a draft that nobody works on
INSERT INTO evals_rollouts (organization_id, workspace_id, id, route, from_version, to_version, artifact_digest, state,
  stages, dwell_s, shadow_s, metrics, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'draft', $8, $9, $10, $11::text::jsonb, $12);

-- name: add_rollout_share
-- why: a workspace takes turns with the others once it has a rollout
INSERT INTO evals_rollout_shares (organization_id, workspace_id) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: get_rollout
-- why: one rollout inside the scope
SELECT * FROM evals_rollouts WHERE organization_id = $1 AND id = $2;

-- name: lock_rollout
-- why: of two acts on one rollout the second sees what the first did
SELECT id FROM evals_rollouts WHERE organization_id = $1 AND id = $2 FOR UPDATE;

-- name: list_rollouts
-- why: a page, newest first
SELECT * FROM evals_rollouts
WHERE organization_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::text IS NULL OR state = $3)
ORDER BY id DESC LIMIT $4;

-- name: active_rollout
-- why: a route has at most one version that is tried
SELECT id FROM evals_rollouts
WHERE organization_id = $1 AND route = $2 AND state IN ('shadow', 'canary', 'paused');

-- name: start_rollout
-- why: the first stage is in force; from now on a worker looks at it, and its looks go on from the last number
UPDATE evals_rollouts SET state = $9, from_version = $3, stage = 0, weight = $4, lease_until_us = $5,
  gate = $6::text::jsonb, stage_started_us = $7::bigint, counted_second = $7::bigint / 1000000, monitor = NULL, decision = NULL,
  reasons = '[]', reason = $8, ended_us = NULL, due_at = now()
WHERE organization_id = $1 AND id = $2;

-- name: move_rollout
-- why: a state that a person or the monitor moved it to; one that has ended is due no more
UPDATE evals_rollouts SET state = $3, reason = $4, weight = coalesce($5, weight), ended_us = $6, unkill_by = $7,
  due_at = CASE WHEN $6::bigint IS NULL AND $3 IN ('shadow', 'canary', 'paused') THEN now() ELSE 'infinity' END
WHERE organization_id = $1 AND id = $2;

-- name: note_look
-- why: the result of a look, by whoever holds the rollout's lease; no row means that the lease was lost
UPDATE evals_rollouts SET look = $4, decision = $5, reasons = $6::text::jsonb, monitor = $7::text::jsonb,
  counted_second = $8
WHERE organization_id = $1 AND id = $2 AND lease_token = $3 AND lease_owner IS NOT NULL AND lease_expires_at > now()
  AND state IN ('shadow', 'canary', 'paused')
RETURNING id;

-- name: note_weight
-- why: what holds after a look was acted on, and which stage it is
UPDATE evals_rollouts SET stage = $3, weight = $4, lease_until_us = $5, stage_started_us = $6
WHERE organization_id = $1 AND id = $2 AND state IN ('shadow', 'canary', 'paused');

-- name: rollout_monitors
-- why: what the monitor of a rollout remembers
SELECT metric, state, reading, bad_units, stage_bad_units
FROM evals_rollout_monitors WHERE organization_id = $1 AND rollout_id = $2 ORDER BY metric;

-- name: monitors_of
-- why: the readings of a page of rollouts
SELECT rollout_id, metric, reading
FROM evals_rollout_monitors WHERE organization_id = $1 AND rollout_id = ANY ($2::uuid[]) AND reading IS NOT NULL;

-- name: put_rollout_monitor
-- why: what one metric came to
INSERT INTO evals_rollout_monitors
  (organization_id, workspace_id, rollout_id, metric, state, reading, bad_units, stage_bad_units)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7, $8)
ON CONFLICT (organization_id, workspace_id, rollout_id, metric) DO UPDATE
SET state = EXCLUDED.state, reading = EXCLUDED.reading, bad_units = EXCLUDED.bad_units,
  stage_bad_units = EXCLUDED.stage_bad_units;

-- name: forget_rollout_monitors
-- why: a rollout that starts again has seen nothing
DELETE FROM evals_rollout_monitors WHERE organization_id = $1 AND rollout_id = $2;

-- name: add_rollout_look
-- why: every look with its counts, its readings and its reasons
INSERT INTO evals_rollout_looks
  (organization_id, workspace_id, rollout_id, look, at_us, stage, weight, counts, readings, decision, reasons)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9::text::jsonb, $10, $11::text::jsonb);

-- name: rollout_looks
-- why: a page of looks, newest first
SELECT look, at_us, stage, weight, counts, readings, decision, reasons
FROM evals_rollout_looks
WHERE organization_id = $1 AND rollout_id = $2 AND ($3::integer IS NULL OR look < $3)
ORDER BY look DESC LIMIT $4;

-- name: forget_rollout_looks
-- why: looks are kept for ninety days
DELETE FROM evals_rollout_looks WHERE at_us < $1;

-- name: newest_suite
-- why: the version that a push is compared with, held until the new one is written
SELECT * FROM evals_suite_versions WHERE organization_id = $1 AND workspace_id = $2 AND name = $3
ORDER BY version DESC LIMIT 1;

-- name: suite_version
-- why: one version, the newest where none is named
SELECT * FROM evals_suite_versions WHERE organization_id = $1 AND name = $2 AND ($3::int IS NULL OR version = $3)
ORDER BY version DESC LIMIT 1;

-- name: list_suites
-- why: the newest version of each suite, by name
SELECT DISTINCT ON (name) * FROM evals_suite_versions WHERE organization_id = $1 AND name > $2
ORDER BY name, version DESC LIMIT $3;

-- name: lock_suite
-- why: two pushes of one suite take turns
SELECT pg_advisory_xact_lock(hashtextextended($1::text, 17));

-- name: put_case
-- why: a case is kept once, whatever suites name it
INSERT INTO evals_cases (organization_id, workspace_id, case_id, case_digest, body, cluster, provenance)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7) ON CONFLICT (organization_id, workspace_id, case_digest) DO NOTHING;

-- name: case_ids
-- why: the ids of cases by digest, those just put and those that were there
SELECT case_id, case_digest FROM evals_cases
WHERE organization_id = $1 AND workspace_id = $2 AND case_digest = ANY($3);

-- name: add_suite_version
-- why: versions are immutable
INSERT INTO evals_suite_versions (organization_id, workspace_id, name, version, kind, description, suite_digest, cases,
  added, changed, removed, created_by, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: add_suite_case
-- why: which cases a version holds
INSERT INTO evals_suite_cases (organization_id, workspace_id, name, version, key, case_id) VALUES ($1, $2, $3, $4, $5, $6);

-- name: cases_of
-- why: the cases of a version, a page by key
SELECT s.key, s.case_id, c.body, c.case_digest FROM evals_suite_cases s
JOIN evals_cases c USING (organization_id, workspace_id, case_id)
WHERE s.organization_id = $1 AND s.name = $2 AND s.version = $3 AND s.key > $4 ORDER BY s.key LIMIT $5;

-- name: queued_runs
-- why: the bound of a workspace's queue
SELECT count(*) FROM evals_runs WHERE organization_id = $1 AND workspace_id = $2 AND state IN ('queued', 'running');

-- name: add_share
-- why: a workspace takes turns with the others once it has a run
INSERT INTO evals_shares (organization_id, workspace_id) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: add_run
-- why: the manifest's head, in the transaction of all its samples
INSERT INTO evals_runs (organization_id, workspace_id, id, state, suite, suite_version, suite_digest, candidate, baseline,
  candidate_digest, baseline_digest, seed, epochs, concurrency, attempts_max, sample_timeout_s, expected, deadline_us,
  labels, purpose, principal_id, principal_kind, code_version, created_us)
VALUES ($1, $2, $3, 'queued', $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9, $10, $11, $12, $13, $14, $15, $16, $17,
  $18::text::jsonb, $19, $20, $21, $22, $23);

-- name: add_sample
-- why: the manifest: every sample is a row before the first call
INSERT INTO evals_samples (organization_id, workspace_id, run_id, key, arm, epoch, ord, case_id, output)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb);

-- name: get_run
-- why: one run inside the scope
SELECT * FROM evals_runs WHERE organization_id = $1 AND id = $2;

-- name: list_runs
-- why: a page, newest first
SELECT * FROM evals_runs WHERE organization_id = $1 AND ($2::uuid IS NULL OR id < $2)
  AND ($3::text IS NULL OR state = $3) AND purpose = 'run' ORDER BY id DESC LIMIT $4;

-- name: runs_of_artifact
-- why: the newest complete runs of a suite version on an artifact: what a check can be decided from
SELECT * FROM evals_runs WHERE organization_id = $1 AND suite = $2 AND suite_version = $3 AND candidate_digest = $4
  AND state = 'complete' AND purpose = 'run' ORDER BY id DESC LIMIT 20;

-- name: begin_run
-- why: the run goes from queued to running under its lease, or stays as it is
UPDATE evals_runs SET state = 'running' WHERE organization_id = $1 AND id = $2 AND lease_token = $3
  AND lease_owner IS NOT NULL AND state = 'queued';

-- name: due_samples
-- why: what is left of a run, both arms of a case side by side
SELECT s.key, s.arm, s.epoch, s.tries, s.output, c.body FROM evals_samples s
JOIN evals_cases c USING (organization_id, workspace_id, case_id)
WHERE s.organization_id = $1 AND s.workspace_id = $2 AND s.run_id = $3 AND s.state = 'due' ORDER BY s.ord LIMIT $4;

-- name: score_samples
-- why: results, each once, and only by who holds the run: a second result of a sample is a no-op
UPDATE evals_samples s SET state = n.state, outcome = n.outcome, why = n.why, output = n.output::jsonb,
  output_sha256 = n.output_sha256, request_id = n.request_id, latency_ms = n.latency_ms, tries = n.tries
FROM unnest($5::text[], $6::text[], $7::integer[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
            $13::text[], $14::double precision[], $15::integer[])
  AS n (key, arm, epoch, state, outcome, why, output, output_sha256, request_id, latency_ms, tries)
WHERE s.organization_id = $1 AND s.workspace_id = $2 AND s.run_id = $3 AND s.key = n.key AND s.arm = n.arm
  AND s.epoch = n.epoch AND s.state = 'due'
  AND EXISTS (SELECT FROM evals_runs r WHERE r.organization_id = $1 AND r.workspace_id = $2 AND r.id = $3
              AND r.lease_token = $4 AND r.lease_owner IS NOT NULL AND r.lease_expires_at > now());

-- name: note_retries
-- why: the retry budget of a run outlives its worker
UPDATE evals_runs SET retries = retries + $3 WHERE organization_id = $1 AND id = $2;

-- name: progress_of
-- why: how far a run is
SELECT count(*) FILTER (WHERE state = 'scored') AS scored, count(*) FILTER (WHERE state = 'errored') AS errored,
  count(*) AS expected FROM evals_samples WHERE organization_id = $1 AND run_id = $2;

-- name: samples_of
-- why: results of a run, a page in the order of the manifest
SELECT s.key, s.arm, s.epoch, s.ord, s.state, s.outcome, s.why, s.output, s.output_sha256, s.request_id, s.latency_ms,
  s.tries, c.cluster, c.body FROM evals_samples s
JOIN evals_cases c USING (organization_id, workspace_id, case_id)
WHERE s.organization_id = $1 AND s.run_id = $2 AND s.ord > $3 AND ($4::text IS NULL OR s.arm = $4)
  AND ($5::text IS NULL OR s.outcome = $5) ORDER BY s.ord LIMIT $6;

-- name: seal_run
-- why: the end of a run, by who holds it, once
UPDATE evals_runs SET state = $4, numbers = $5::text::jsonb, evidence_digest = $6, reason = $7, ended_us = $8
WHERE organization_id = $1 AND id = $2 AND lease_token = $3 AND lease_owner IS NOT NULL
  AND state IN ('queued', 'running', 'canceling');

-- name: cancel_run
-- why: a run that nobody has begun ends at once, a running one at its next batch
UPDATE evals_runs SET state = CASE WHEN state = 'queued' AND lease_owner IS NULL THEN 'canceled' ELSE 'canceling' END,
  due_at = CASE WHEN state = 'queued' AND lease_owner IS NULL THEN 'infinity'::timestamptz ELSE due_at END,
  ended_us = CASE WHEN state = 'queued' AND lease_owner IS NULL THEN $3::bigint ELSE ended_us END
WHERE organization_id = $1 AND id = $2 AND state IN ('queued', 'running') RETURNING state;

-- name: add_gate
-- why: a gate and its mode; the policy is a version of its own
INSERT INTO evals_gates (organization_id, workspace_id, id, name, route, version, mode, created_us)
VALUES ($1, $2, $3, $4, $5, 1, $6, $7);

-- name: change_gate
-- why: mode and newest version of a gate
UPDATE evals_gates SET mode = $3, version = $4, name = $5 WHERE organization_id = $1 AND id = $2;

-- name: add_gate_version
-- why: policies are immutable
INSERT INTO evals_gate_versions (organization_id, workspace_id, gate_id, version, policy, policy_digest, created_by, created_us)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8);

-- name: get_gate
-- why: a gate with its newest policy, by id or name
SELECT g.*, v.policy, v.policy_digest FROM evals_gates g
JOIN evals_gate_versions v ON v.organization_id = g.organization_id AND v.workspace_id = g.workspace_id
  AND v.gate_id = g.id AND v.version = g.version
WHERE g.organization_id = $1 AND (g.id = $2 OR g.name = $3);

-- name: list_gates
-- why: gates by name with their newest policies
SELECT g.*, v.policy, v.policy_digest FROM evals_gates g
JOIN evals_gate_versions v ON v.organization_id = g.organization_id AND v.workspace_id = g.workspace_id
  AND v.gate_id = g.id AND v.version = g.version
WHERE g.organization_id = $1 AND g.name > $2 ORDER BY g.name LIMIT $3;

-- name: required_gate
-- why: the one gate that a route cannot pass by
SELECT g.*, v.policy, v.policy_digest FROM evals_gates g
JOIN evals_gate_versions v ON v.organization_id = g.organization_id AND v.workspace_id = g.workspace_id
  AND v.gate_id = g.id AND v.version = g.version
WHERE g.organization_id = $1 AND g.route = $2 AND g.mode = 'required';

-- name: required_gate_id
-- why: a route is the organization's, so its gate counts in every workspace
SELECT id FROM evals_gates WHERE organization_id = $1 AND route = $2 AND mode = 'required';

-- name: required_gates_anywhere
-- why: a pool is the platform's, so the gate of any of its operators counts, whatever their organization
SELECT id, organization_id, workspace_id FROM evals_gates WHERE route = $1 AND mode = 'required' ORDER BY id;

-- name: put_control
-- why: the newest proof that a check can fail, and that it need not
INSERT INTO evals_gate_controls (organization_id, workspace_id, gate_id, policy_digest, check_name, kind, suite_digest,
  sabotage, expected, observed, ok, at_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (organization_id, workspace_id, gate_id, policy_digest, check_name, kind) DO UPDATE
SET suite_digest = excluded.suite_digest, sabotage = excluded.sabotage, expected = excluded.expected,
  observed = excluded.observed, ok = excluded.ok, at_us = excluded.at_us;

-- name: controls_of
-- why: what was proved of a policy
SELECT * FROM evals_gate_controls WHERE organization_id = $1 AND gate_id = $2 AND policy_digest = $3
ORDER BY check_name, kind;

-- name: lock_gate
-- why: evaluations of one gate take turns, so that attempts are counted once
SELECT id FROM evals_gates WHERE organization_id = $1 AND id = $2 FOR UPDATE;

-- name: verdicts_of
-- why: verdicts of a gate, newest first, of one artifact where it is named
SELECT * FROM evals_verdicts WHERE organization_id = $1 AND gate_id = $2
  AND ($3::text IS NULL OR artifact_digest = $3) AND ($4::uuid IS NULL OR id < $4) ORDER BY id DESC LIMIT $5;

-- name: get_verdict
-- why: one verdict inside the scope
SELECT * FROM evals_verdicts WHERE organization_id = $1 AND id = $2;

-- name: add_verdict
-- why: a verdict is never changed
INSERT INTO evals_verdicts (organization_id, workspace_id, id, gate_id, version, route, policy_digest, artifact_digest,
  baseline_digest, attempt, runs_digest, verdict, admits, body, issued_us, expires_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::text::jsonb, $15, $16);

-- name: signing_key
-- why: the key of a workspace that still signs
SELECT * FROM evals_signing_keys WHERE organization_id = $1 AND workspace_id = $2 AND revoked_us IS NULL
  AND not_after_us > $3 ORDER BY not_after_us DESC LIMIT 1;

-- name: add_signing_key
-- why: the public half is published; the private one lies among the secrets
INSERT INTO evals_signing_keys (organization_id, workspace_id, key_id, public_key, not_after_us)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING;

-- name: signing_keys
-- why: the public keys of an organization
SELECT * FROM evals_signing_keys WHERE organization_id = $1 ORDER BY key_id;

-- name: all_signing_keys
-- why: every edge checks the tokens of all organizations
SELECT key_id, organization_id, public_key, not_after_us, revoked_us FROM evals_signing_keys;

-- name: incident_by_fingerprint
-- why: the same report twice is one incident
SELECT * FROM evals_incidents WHERE organization_id = $1 AND workspace_id = $2 AND fingerprint = ANY($3)
  AND state <> 'dismissed' ORDER BY created_us LIMIT 1 FOR UPDATE;

-- name: add_incident
-- why: a new incident
INSERT INTO evals_incidents (organization_id, workspace_id, id, state, fingerprint, title, severity, source, detector,
  taxonomy, route, request_id, artifact_digest, body, input, evidence, capture_state, created_us, updated_us)
VALUES ($1, $2, $3, 'open', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::text::jsonb, $15::text::jsonb, $16, $17, $17);

-- name: recur_incident
-- why: it happened again; a closed one is open again
UPDATE evals_incidents SET occurrences = occurrences + 1, state = CASE WHEN state = 'closed' THEN 'open' ELSE state END,
  updated_us = $3 WHERE organization_id = $1 AND id = $2;

-- name: get_incident
-- why: one incident inside the scope
SELECT * FROM evals_incidents WHERE organization_id = $1 AND id = $2;

-- name: lock_incident
-- why: of two acts on one incident the second sees what the first did
SELECT id FROM evals_incidents WHERE organization_id = $1 AND id = $2 FOR UPDATE;

-- name: list_incidents
-- why: a page, newest first
SELECT * FROM evals_incidents WHERE organization_id = $1 AND ($2::uuid IS NULL OR id < $2)
  AND ($3::text IS NULL OR state = $3) ORDER BY id DESC LIMIT $4;

-- name: move_incident
-- why: a step of the incident's life with what it brings
UPDATE evals_incidents SET state = $3, owner = coalesce($4, owner), repro = coalesce($5::text::jsonb, repro),
  suite = coalesce($6, suite), case_key = coalesce($7, case_key), updated_us = $8
WHERE organization_id = $1 AND id = $2;

-- name: add_incident_event
-- why: the timeline of an incident, numbered
INSERT INTO evals_incident_events (organization_id, workspace_id, incident_id, seq, at_us, kind, actor, note, detail)
SELECT $1, $2, $3, coalesce(max(seq), 0) + 1, $4, $5, $6, $7, $8::text::jsonb FROM evals_incident_events
WHERE organization_id = $1 AND incident_id = $3;

-- name: incident_events
-- why: the timeline in its order
SELECT * FROM evals_incident_events WHERE organization_id = $1 AND incident_id = $2 ORDER BY seq;

-- name: add_evaluation_share
-- why: a workspace takes turns with the others once it evaluates
INSERT INTO evals_evaluation_shares (organization_id, workspace_id) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: add_evaluation
-- why: what a worker has to decide and sign
INSERT INTO evals_evaluations (organization_id, workspace_id, id, gate_id, artifact_digest, baseline_digest, runs, created_us)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8);

-- name: get_evaluation
-- why: how far an evaluation is
SELECT * FROM evals_evaluations WHERE organization_id = $1 AND id = $2;

-- name: end_evaluation
-- why: the end of an evaluation, in the transaction of its verdict and by who holds it
UPDATE evals_evaluations SET state = $4, verdict_id = $5, code = $6
WHERE organization_id = $1 AND id = $2 AND lease_token = $3 AND lease_owner IS NOT NULL AND state = 'pending';

-- name: newest_runs
-- why: the newest recording of a suite version, which controls are built from
SELECT * FROM evals_runs WHERE organization_id = $1 AND suite = $2 AND suite_version = $3 AND state = 'complete'
ORDER BY id DESC LIMIT 1;

-- name: has_case
-- why: whether a version of a suite holds a case
SELECT key FROM evals_suite_cases WHERE organization_id = $1 AND name = $2 AND version = $3 AND key = $4;

-- name: put_baseline
-- why: the newest outputs of a good artifact, which controls are built from
INSERT INTO evals_baselines (organization_id, workspace_id, suite, key, outputs, at_us)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6)
ON CONFLICT (organization_id, workspace_id, suite, key) DO UPDATE SET outputs = excluded.outputs, at_us = excluded.at_us;

-- name: baseline_of
-- why: what a control over a suite is built from
SELECT key, outputs FROM evals_baselines WHERE organization_id = $1 AND suite = $2;

-- name: all_gates
-- why: the controls of every gate are renewed, whoever's it is
SELECT organization_id, workspace_id, id FROM evals_gates;

-- name: note_further
-- why: a case that failed once is asked again, once
UPDATE evals_evaluations SET further = $4::text::jsonb
WHERE organization_id = $1 AND id = $2 AND lease_token = $3 AND lease_owner IS NOT NULL;

-- name: note_repro
-- why: how often an incident came back; one that nobody worked on yet counts as reproduced once it did
UPDATE evals_incidents SET repro = $3::text::jsonb, updated_us = $5,
  state = CASE WHEN state IN ('open', 'triaged') THEN coalesce($4, state) ELSE state END
WHERE organization_id = $1 AND id = $2;
