-- name: add_task
-- why: a task begins queued, with everything that it may use
INSERT INTO agents_tasks (organization_id, workspace_id, task_id, request, input_key, secret_names, model, principal_id,
  principal_kind, grants, protect, labels, request_id, priority, on_budget, created_us, deadline_us, tokens_limit,
  usd_limit, steps_limit, tool_ms_limit, forked_from, forked_step, base_commit, base_tree, commit_id, tree,
  key_models, key_class_max)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::jsonb, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
  $24, $25, $26, $27, $28, $29);

-- name: add_share
-- why: a workspace takes part in the fair claim from its first task on
INSERT INTO agents_shares (organization_id, workspace_id) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: count_queued
-- why: the queue of a workspace and of its organization is bounded
SELECT count(*) FILTER (WHERE workspace_id = $2) AS workspace, count(*) AS organization
FROM agents_tasks WHERE organization_id = $1 AND state = 'queued';

-- name: ended_lately
-- why: how long a full queue takes, for `retry-after`
SELECT count(*) FROM agents_tasks WHERE organization_id = $1 AND ended_us > $2;

-- name: find_task
-- why: one task as its scope may see it
SELECT * FROM agents_tasks WHERE organization_id = $1 AND task_id = $2;

-- name: lock_task
-- why: a change from outside decides on the state that it changes
SELECT * FROM agents_tasks WHERE organization_id = $1 AND task_id = $2 FOR UPDATE;

-- name: list_tasks
-- why: newest first; the position is that of the last one seen
SELECT * FROM agents_tasks
WHERE organization_id = $1 AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR labels ? $3)
  AND ($4::text IS NULL OR labels ->> $3 = $4) AND (created_us, task_id) < ($5, $6)
ORDER BY created_us DESC, task_id DESC LIMIT $7;

-- name: queue_position
-- why: whoever waits is told how many are before
SELECT count(*) FROM agents_tasks WHERE organization_id = $1 AND workspace_id = $2 AND state = 'queued'
  AND lease_owner IS NULL AND (priority > $3 OR (priority = $3 AND created_us < $4));

-- name: add_event
-- why: an event of a change from outside, in the transaction of the change
WITH numbered AS (
  UPDATE agents_tasks SET head_event = head_event + 1
  WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 RETURNING head_event)
INSERT INTO agents_events (organization_id, workspace_id, task_id, seq, event, at_us, content)
SELECT $1, $2, $3, head_event, $4, $5, $6 FROM numbered RETURNING seq;

-- name: events_after
-- why: a reader goes on from the number it has
SELECT seq, event, at_us, content FROM agents_events
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND seq > $4 ORDER BY seq LIMIT $5;

-- name: forget_events
-- why: events of tasks that ended long ago, some at a time; the ids, which begin with their time, leave newer partitions out
DELETE FROM agents_events WHERE (organization_id, workspace_id, task_id, seq) IN (
  SELECT e.organization_id, e.workspace_id, e.task_id, e.seq FROM agents_events e
  JOIN agents_tasks t USING (organization_id, workspace_id, task_id)
  WHERE e.task_id < $1 AND t.ended_us < $2 ORDER BY e.task_id, e.seq LIMIT $3) AND task_id < $1;

-- name: list_steps
-- why: the whole journal of a task, which decides what comes next
SELECT * FROM agents_steps WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 ORDER BY seq;

-- name: change_state
-- why: one compare-and-set for every change of state, with its events; no row: somebody was first, or a cancel was promised
WITH held AS (
  UPDATE agents_tasks SET state_before = state, state = $5, reason = $6, detail = $7,
    ended_us = CASE WHEN $5 IN ('failed', 'canceled', 'complete') THEN $8::bigint END,
    blocked_us = CASE WHEN $5 = 'blocked' THEN $8 END,
    cancel_confirmed_us = CASE WHEN $5 = 'canceled' THEN $8 END,
    cancel_requested_us = CASE WHEN $5 = 'canceled' THEN coalesce(cancel_requested_us, $8) ELSE cancel_requested_us END,
    cancel_proof = coalesce($9, cancel_proof), result = coalesce($10, result),
    due_at = now(), attempts = 0, head_event = head_event + cardinality($11::text[])
  WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND state = $4
    AND ($13::bigint IS NULL OR (lease_token = $13 AND lease_owner IS NOT NULL AND lease_expires_at > now()
      AND (cancel_requested_us IS NULL OR $5 = 'canceled')))
  RETURNING head_event - cardinality($11::text[]) AS base
), told AS (
  INSERT INTO agents_events (organization_id, workspace_id, task_id, seq, event, at_us, content)
  SELECT $1, $2, $3, h.base + e.ord, e.event, $8, e.content
  FROM held h, unnest($11::text[], $12::text[]) WITH ORDINALITY AS e(event, content, ord)
)
SELECT base FROM held;

-- name: start_leg
-- why: the claimed task becomes running, or goes on running under a new attempt
WITH held AS (
  UPDATE agents_tasks SET state_before = CASE state WHEN 'queued' THEN 'queued' ELSE state_before END,
    reason = CASE state WHEN 'running' THEN 'recovered' END, state = 'running', detail = '{}', attempt = $4::bigint,
    started_us = coalesce(started_us, $5), blocked_us = NULL, head_event = head_event + 1
  WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND state IN ('queued', 'running')
    AND lease_token = $4 AND lease_owner IS NOT NULL AND lease_expires_at > now()
  RETURNING head_event, reason
), told AS (
  INSERT INTO agents_events (organization_id, workspace_id, task_id, seq, event, at_us, content)
  SELECT $1, $2, $3, head_event, 'task.state', $5,
    jsonb_build_object('state', 'running', 'reason', reason, 'attempt', $4::bigint)::text FROM held
)
SELECT reason FROM held;

-- name: begin_step
-- why: the intent before anything is done: step, events and reservation together, under the fence and not once a cancel is asked for
SELECT agents_begin_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
  AS seq;

-- name: reopen_step
-- why: a step that was begun by an attempt that died is done again under its own number
UPDATE agents_steps s SET attempt = $4, started_us = $6 FROM agents_tasks t
WHERE s.organization_id = $1 AND s.workspace_id = $2 AND s.task_id = $3 AND s.seq = $5 AND s.status = 'intent'
  AND t.organization_id = $1 AND t.workspace_id = $2 AND t.task_id = $3 AND t.state = 'running' AND t.lease_token = $4
  AND t.lease_owner IS NOT NULL AND t.lease_expires_at > now() AND t.cancel_requested_us IS NULL
RETURNING s.seq;

-- name: end_step
-- why: the outcome with all that hangs on it: events, head, budget, processes, audit; what is told is told after this commits
SELECT agents_end_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
  $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34) AS seq;

-- name: add_outside_step
-- why: what a human did to a task that nobody works on: an answer, an undo, a new goal
WITH held AS (
  UPDATE agents_tasks SET head_step = $4, tree = coalesce($11, tree), commit_id = coalesce($12, commit_id)
  WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 RETURNING task_id)
INSERT INTO agents_steps (organization_id, workspace_id, task_id, seq, attempt, kind, status, tool, args, args_sha256,
  idem_key, started_us, tree_after, commit_id, result, ms)
SELECT $1, $2, $3, $4, $5, $6, 'done', $7, $8, $9, $10, $13, $11, $12, $14, 0 FROM held RETURNING seq;

-- name: decide_step
-- why: the answer to an approval ends its step, so that the journal alone says what is allowed
UPDATE agents_steps SET status = $5, result = $6 WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3
  AND seq = $4 AND kind = 'approval' AND status = 'intent' RETURNING seq;

-- name: reconcile_step
-- why: a human says whether an effect that nobody saw the end of has happened
UPDATE agents_steps SET status = $5, result = $6 WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3
  AND seq = $4 AND status = 'intent' RETURNING seq;

-- name: undo_steps
-- why: what lies behind the step that a task goes back to no longer counts
UPDATE agents_steps SET status = 'undone' WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND seq > $4
  AND status <> 'undone' RETURNING seq;

-- name: revive_steps
-- why: an undo that goes back to before another undo brings back what that one took away, but no answer of a human and nothing unfinished
UPDATE agents_steps SET status = CASE WHEN kind = 'approval' OR (result IS NULL AND result_key IS NULL) THEN 'aborted'
  WHEN error IS NULL THEN 'done' ELSE 'failed' END
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND seq = ANY($4::int[]) AND status = 'undone';

-- name: copy_steps
-- why: a fork begins with the journal of the task it comes from, but not with what a human allowed there
INSERT INTO agents_steps (organization_id, workspace_id, task_id, seq, attempt, kind, status, tool, call_id, model_seq,
  args, args_key, args_sha256, idem_key, result, result_key, error, decision, tree_before, tree_after, commit_id,
  changed, checkpoint, request_id, redactions, started_us, ms)
SELECT organization_id, workspace_id, $4, seq, 0, kind,
  CASE WHEN status = 'intent' OR kind = 'approval' THEN 'aborted' ELSE status END, tool,
  call_id, model_seq, args, args_key, args_sha256, idem_key, result, result_key, error, decision, tree_before,
  tree_after, commit_id, changed, checkpoint, request_id, redactions, started_us, ms
FROM agents_steps WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND seq <= $5;

-- name: place_fork
-- why: the numbers of a fork's steps go on behind those that it took over
UPDATE agents_tasks SET head_step = $4 WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3;

-- name: set_limits
-- why: a resumed task may be given more
UPDATE agents_tasks SET tokens_limit = $4, usd_limit = $5, steps_limit = $6, tool_ms_limit = $7, deadline_us = $8
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3;

-- name: add_approval
-- why: a question that outlives every process
INSERT INTO agents_approvals (organization_id, workspace_id, approval_id, task_id, step, tool, args, args_sha256, tree,
  effect, rule, created_us, expires_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: pending_approval
-- why: the question that a task waits for
SELECT * FROM agents_approvals
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND decision IS NULL ORDER BY created_us DESC LIMIT 1;

-- name: lock_approval
-- why: two who decide at once are told apart
SELECT * FROM agents_approvals WHERE organization_id = $1 AND workspace_id = $2 AND approval_id = $3 AND task_id = $4
FOR UPDATE;

-- name: decide_approval
-- why: who said what, when
UPDATE agents_approvals SET decision = $4, decided_by = $5, decided_us = $6, note = $7
WHERE organization_id = $1 AND workspace_id = $2 AND approval_id = $3;

-- name: ask_cancel
-- why: the wish is durable before it is confirmed to whoever asked
UPDATE agents_tasks SET cancel_requested_us = coalesce(cancel_requested_us, $4), cancel_reason = coalesce(cancel_reason, $5),
  due_at = least(due_at, now()) WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3;

-- name: canceled_of
-- why: the watcher of a worker asks about what it holds, should a notice have been lost
SELECT task_id FROM agents_tasks WHERE task_id = ANY($1::uuid[]) AND cancel_requested_us IS NOT NULL;

-- name: canceled_unheld
-- why: a cancel does not wait for a slot where a leg broke off and nobody took the task over yet
SELECT * FROM agents_tasks WHERE cancel_requested_us IS NOT NULL AND state IN ('queued', 'running')
  AND (lease_owner IS NULL OR lease_expires_at <= now()) LIMIT $1;

-- name: any_canceled_unheld
-- why: a question of the lookout
SELECT FROM agents_tasks WHERE cancel_requested_us IS NOT NULL AND state IN ('queued', 'running')
  AND (lease_owner IS NULL OR lease_expires_at <= now());

-- name: abort_unheld
-- why: what such a leg had begun is aborted, if the task is still nobody's
WITH held AS (
  SELECT task_id FROM agents_tasks WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3
    AND (lease_owner IS NULL OR lease_expires_at <= now()) FOR UPDATE
), aborted AS (
  UPDATE agents_steps s SET status = 'aborted', error = 'aborted', ms = 0 FROM held
  WHERE s.organization_id = $1 AND s.workspace_id = $2 AND s.task_id = $3 AND s.status = 'intent' AND s.kind <> 'approval'
)
SELECT task_id FROM held;

-- name: add_process
-- why: a namespace is known before its program is let go
INSERT INTO agents_processes (organization_id, workspace_id, task_id, process_id, step, host_id, boot_id, pid, pid_start,
  pidns_inode, uid, timeout_s, started_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: live_processes
-- why: what a takeover or a cancel has to see the end of
SELECT process_id, host_id, boot_id, pid, pid_start, pidns_inode, uid, timeout_s, started_us FROM agents_processes
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND gone_us IS NULL ORDER BY started_us;

-- name: processes_gone
-- why: their namespaces are empty
UPDATE agents_processes SET gone_us = $4
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND gone_us IS NULL;

-- name: list_artifacts
-- why: what a task kept for whoever asked for the work
SELECT name, sha256, bytes, step, object_key FROM agents_artifacts
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND name > $4 ORDER BY name LIMIT $5;

-- name: find_artifact
-- why: one of them
SELECT name, sha256, bytes, step, object_key FROM agents_artifacts
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3 AND name = $4;

-- name: charge_share
-- why: a workspace is charged the seconds that a leg took, beyond what the claim charged
UPDATE agents_shares SET vtime = vtime + $3 / weight WHERE organization_id = $1 AND workspace_id = $2;

-- name: others_due
-- why: a leg makes room only where somebody waits
SELECT EXISTS (SELECT FROM agents_tasks WHERE state IN ('queued', 'running') AND lease_owner IS NULL
  AND due_at <= now() AND task_id <> $1);

-- name: forget_owner
-- why: a worker that starts again under its name proves that its earlier self is dead; its leases end at once
WITH freed AS (
  UPDATE agents_tasks SET lease_owner = NULL, lease_expires_at = NULL, due_at = now()
  WHERE lease_owner = $1 RETURNING organization_id, workspace_id
), counted AS (SELECT organization_id, workspace_id, count(*) AS gone FROM freed GROUP BY 1, 2)
UPDATE agents_shares s SET running = greatest(s.running - c.gone, 0) FROM counted c
WHERE s.organization_id = c.organization_id AND s.workspace_id = c.workspace_id RETURNING c.gone;

-- name: overdue
-- why: a deadline passes for those that nobody works on too
SELECT * FROM agents_tasks
WHERE state IN ('queued', 'blocked') AND deadline_us <= $1 AND (lease_owner IS NULL OR lease_expires_at <= now())
ORDER BY deadline_us LIMIT $2;

-- name: expired_approvals
-- why: a question that nobody answered ends its task
SELECT t.* FROM agents_approvals a JOIN agents_tasks t USING (organization_id, workspace_id, task_id)
WHERE a.decision IS NULL AND a.expires_us <= $1 AND t.state = 'blocked' AND t.reason = 'approval_required' LIMIT $2;

-- name: any_overdue
-- why: a question of the lookout
SELECT FROM agents_tasks WHERE state IN ('queued', 'blocked')
  AND deadline_us <= extract(epoch FROM now()) * 1e6 AND (lease_owner IS NULL OR lease_expires_at <= now());

-- name: any_unanswered
-- why: a question of the lookout
SELECT FROM agents_approvals a JOIN agents_tasks t USING (organization_id, workspace_id, task_id)
WHERE a.decision IS NULL AND a.expires_us <= extract(epoch FROM now()) * 1e6
  AND t.state = 'blocked' AND t.reason = 'approval_required';

-- name: sums
-- why: the counters of a task are the sums of its entries
SELECT coalesce(sum(tokens_used), 0)::bigint AS tokens_used, coalesce(sum(tokens_reserved), 0)::bigint AS tokens_reserved,
  coalesce(sum(usd_used), 0)::bigint AS usd_used, coalesce(sum(steps_used), 0)::bigint AS steps_used,
  coalesce(sum(tool_ms_used), 0)::bigint AS tool_ms_used
FROM agents_budget_entries WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3;

-- name: event_gaps
-- why: numbers of events are dense, from 1 until the oldest are deleted
SELECT count(*) AS events, coalesce(min(seq), 0) AS first, coalesce(max(seq), 0) AS last FROM agents_events
WHERE organization_id = $1 AND workspace_id = $2 AND task_id = $3;

-- name: shares
-- why: who is served how much, for the console
SELECT s.workspace_id, s.weight, s.vtime, s.running, s.running_max FROM agents_shares s WHERE s.organization_id = $1
ORDER BY s.vtime;

-- name: state_counts
-- why: how many tasks are in each state, for the console
SELECT state, count(*) AS tasks, min(blocked_us) AS oldest_blocked_us FROM agents_tasks WHERE organization_id = $1
GROUP BY state;
