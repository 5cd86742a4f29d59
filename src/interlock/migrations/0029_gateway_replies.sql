-- why: an inference call with an Idempotency-Key is claimed in one round trip, and its owner holds the claim by a lease
-- phase: expand

-- Twins line up at the advisory lock for as long as this statement runs; what each then reads is newer than its wait.
-- `owner` is the id of the claiming request. A row whose lease ended is as if it were not there, so a dead owner frees it.
CREATE FUNCTION gateway_claim_reply(
    p_organization uuid, p_workspace uuid, p_endpoint text, p_key text, p_fingerprint bytea, p_owner text,
    p_lease_s double precision
) RETURNS TABLE (is_mine boolean, is_same boolean, claimed_at timestamptz, state text, owner text, reply bytea)
LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_column
DECLARE
    v_found store_idempotency_keys;
    v_now timestamptz;
BEGIN
    PERFORM set_config('interlock.organization_id', p_organization::text, true),
        set_config('interlock.workspace_id', p_workspace::text, true);
    PERFORM pg_advisory_xact_lock(hashtextextended(
        concat_ws('|', p_organization, p_workspace, p_endpoint, p_key), 0));
    v_now := clock_timestamp();
    SELECT * INTO v_found FROM store_idempotency_keys AS k
        WHERE k.organization_id = p_organization AND k.workspace_id = p_workspace AND k.endpoint = p_endpoint
            AND k.key = p_key AND k.expires_at > v_now
        ORDER BY k.created_at DESC LIMIT 1;
    IF FOUND THEN
        RETURN QUERY SELECT false, v_found.fingerprint = p_fingerprint, v_found.created_at, v_found.state,
            v_found.owner, v_found.reply;
        RETURN;
    END IF;
    INSERT INTO store_idempotency_keys
        (organization_id, workspace_id, endpoint, key, created_at, fingerprint, owner, expires_at)
        VALUES (p_organization, p_workspace, p_endpoint, p_key, v_now, p_fingerprint, p_owner,
            v_now + make_interval(secs => p_lease_s));
    RETURN QUERY SELECT true, true, v_now, 'running', p_owner, NULL::bytea;
END
$$;

-- The loop of an edge renews the claims of all its tenants at once, and nothing else of them.
GRANT UPDATE (expires_at) ON store_idempotency_keys TO interlock_ops;
