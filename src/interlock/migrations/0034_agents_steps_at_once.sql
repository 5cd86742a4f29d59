-- why: intent and outcome of a step are one round trip each, and no statement of them is planned anew
-- phase: expand

-- Both set the scope that the policies judge them by, write under the fence of the lease, and return NULL where it is
-- not the current one. Plans are kept: one made anew at each step cost as much as the step's own work.
CREATE FUNCTION agents_begin_step(
  p_organization uuid, p_workspace uuid, p_task uuid, p_token bigint, p_seq integer, p_events text[],
  p_contents text[], p_at_us bigint, p_tokens_reserved bigint, p_entry uuid, p_kind text, p_status text, p_tool text,
  p_call_id text, p_model_seq integer, p_args text, p_args_key text, p_args_sha256 text, p_idem_key text,
  p_decision text, p_tree_before text
) RETURNS integer LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
  v_base bigint;
BEGIN
  PERFORM set_config('interlock.organization_id', p_organization::text, true),
    set_config('interlock.workspace_id', p_workspace::text, true),
    set_config('plan_cache_mode', 'force_generic_plan', true);
  UPDATE agents_tasks SET head_step = p_seq, head_event = head_event + cardinality(p_events),
    tokens_reserved = tokens_reserved + p_tokens_reserved
  WHERE organization_id = p_organization AND workspace_id = p_workspace AND task_id = p_task AND state = 'running'
    AND lease_token = p_token AND lease_owner IS NOT NULL AND lease_expires_at > now() AND cancel_requested_us IS NULL
  RETURNING head_event - cardinality(p_events) INTO v_base;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  INSERT INTO agents_steps (organization_id, workspace_id, task_id, seq, attempt, kind, status, tool, call_id,
    model_seq, args, args_key, args_sha256, idem_key, decision, tree_before, tokens_reserved, started_us)
  VALUES (p_organization, p_workspace, p_task, p_seq, p_token, p_kind, p_status, p_tool, p_call_id, p_model_seq,
    p_args, p_args_key, p_args_sha256, p_idem_key, p_decision, p_tree_before, p_tokens_reserved, p_at_us);
  INSERT INTO agents_events (organization_id, workspace_id, task_id, seq, event, at_us, content)
  SELECT p_organization, p_workspace, p_task, v_base + told.ord, told.event, p_at_us, told.content
  FROM unnest(p_events, p_contents) WITH ORDINALITY AS told(event, content, ord);
  IF p_tokens_reserved > 0 THEN
    INSERT INTO agents_budget_entries (organization_id, workspace_id, task_id, entry_id, kind, step, tokens_reserved)
    VALUES (p_organization, p_workspace, p_task, p_entry, 'reserve', p_seq, p_tokens_reserved);
  END IF;
  RETURN p_seq;
END $$;

-- A step that is not open is raised as `no_data_found`, for by then the task is changed, and has to be put back.
CREATE FUNCTION agents_end_step(
  p_organization uuid, p_workspace uuid, p_task uuid, p_token bigint, p_seq integer, p_events text[],
  p_contents text[], p_at_us bigint, p_tree text, p_commit text, p_tokens bigint, p_tokens_reserved bigint,
  p_usd_micros bigint, p_steps integer, p_tool_ms bigint, p_rejections integer, p_violations integer,
  p_verify_state text, p_entry uuid, p_status text, p_result text, p_result_key text, p_error text, p_changed text,
  p_checkpoint text, p_request_id text, p_redactions integer, p_ms double precision, p_decision text,
  p_artifact text, p_artifact_sha256 text, p_artifact_bytes bigint, p_artifact_key text, p_audit text[]
) RETURNS integer LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
  v_base bigint;
BEGIN
  PERFORM set_config('interlock.organization_id', p_organization::text, true),
    set_config('interlock.workspace_id', p_workspace::text, true),
    set_config('plan_cache_mode', 'force_generic_plan', true);
  UPDATE agents_tasks SET head_event = head_event + cardinality(p_events), tree = coalesce(p_tree, tree),
    commit_id = coalesce(p_commit, commit_id), tokens_used = tokens_used + p_tokens,
    tokens_reserved = tokens_reserved - p_tokens_reserved, usd_used = usd_used + p_usd_micros,
    steps_used = steps_used + p_steps, tool_ms_used = tool_ms_used + p_tool_ms,
    rejections = rejections + p_rejections, violations = violations + p_violations,
    verify_state = coalesce(p_verify_state, verify_state), attempts = 0
  WHERE organization_id = p_organization AND workspace_id = p_workspace AND task_id = p_task AND state = 'running'
    AND lease_token = p_token AND lease_owner IS NOT NULL AND lease_expires_at > now()
  RETURNING head_event - cardinality(p_events) INTO v_base;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  UPDATE agents_steps SET status = p_status, result = p_result, result_key = p_result_key, error = p_error,
    tree_after = p_tree, commit_id = p_commit, changed = p_changed, checkpoint = p_checkpoint,
    request_id = p_request_id, tokens = p_tokens, usd_micros = p_usd_micros, redactions = p_redactions, ms = p_ms,
    decision = coalesce(p_decision, decision)
  WHERE organization_id = p_organization AND workspace_id = p_workspace AND task_id = p_task AND seq = p_seq
    AND status = 'intent';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'step % is not open', p_seq USING ERRCODE = 'no_data_found';
  END IF;
  INSERT INTO agents_events (organization_id, workspace_id, task_id, seq, event, at_us, content)
  SELECT p_organization, p_workspace, p_task, v_base + told.ord, told.event, p_at_us, told.content
  FROM unnest(p_events, p_contents) WITH ORDINALITY AS told(event, content, ord);
  INSERT INTO agents_budget_entries (organization_id, workspace_id, task_id, entry_id, kind, step, tokens_used,
    tokens_reserved, usd_used, steps_used, tool_ms_used)
  VALUES (p_organization, p_workspace, p_task, p_entry, 'settle', p_seq, p_tokens, -p_tokens_reserved, p_usd_micros,
    p_steps, p_tool_ms);
  UPDATE agents_processes SET gone_us = p_at_us
  WHERE organization_id = p_organization AND workspace_id = p_workspace AND task_id = p_task AND step = p_seq
    AND gone_us IS NULL;
  IF p_artifact IS NOT NULL THEN
    INSERT INTO agents_artifacts (organization_id, workspace_id, task_id, name, sha256, bytes, step, object_key)
    VALUES (p_organization, p_workspace, p_task, p_artifact, p_artifact_sha256, p_artifact_bytes, p_seq,
      p_artifact_key)
    ON CONFLICT (organization_id, workspace_id, task_id, name)
    DO UPDATE SET sha256 = excluded.sha256, bytes = excluded.bytes, step = excluded.step,
      object_key = excluded.object_key;
  END IF;
  IF p_audit IS NOT NULL THEN
    PERFORM audit_leave(p_audit);
  END IF;
  RETURN p_seq;
END $$;
