-- why: a statement that changes something may leave its event itself, and a commit waits for fewer statements of the chain
-- phase: expand

-- What a change leaves to be chained at its commit. `p_entry` is made by `AuditLog` alone, which says what stands where.
CREATE FUNCTION audit_leave(p_entry text[]) RETURNS void LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
  INSERT INTO audit_pending (organization_id, at_us, actor, action, target_kind, target_id, outcome, reason, request_id,
    detail, canonical_head, canonical_tail)
  VALUES (p_entry[1]::uuid, p_entry[2]::bigint, p_entry[3]::jsonb, p_entry[4], p_entry[5], p_entry[6], p_entry[7],
    p_entry[8], p_entry[9]::uuid, p_entry[10]::jsonb, p_entry[11], p_entry[12]);
END $$;

-- As before, but that the tenant is only changed where it is another one, and that the head is not locked before it is
-- changed: the writers line up at the advisory lock, and each statement sees what was committed before it.
CREATE OR REPLACE FUNCTION audit_chain_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  v_seq bigint;
  v_prev bytea;
  v_hash bytea;
  v_tenant text := current_setting('interlock.organization_id', true);
  v_is_other boolean := v_tenant IS DISTINCT FROM NEW.organization_id::text;
BEGIN
  -- An operator's transaction may have acted in several organizations; the policies judge each event in its own, as
  -- they did when it was left here.
  IF v_is_other THEN
    PERFORM set_config('interlock.organization_id', NEW.organization_id::text, true);
  END IF;
  DELETE FROM audit_pending WHERE id = NEW.id;
  PERFORM pg_advisory_xact_lock(hashtextextended('audit_heads', 0) # uuid_hash_extended(NEW.organization_id, 0));
  SELECT seq, hash INTO v_seq, v_prev FROM audit_heads WHERE organization_id = NEW.organization_id;
  IF NOT FOUND THEN
    INSERT INTO audit_heads VALUES (NEW.organization_id, 0, sha256(uuid_send(NEW.organization_id)))
      ON CONFLICT (organization_id) DO NOTHING;
    SELECT seq, hash INTO v_seq, v_prev FROM audit_heads WHERE organization_id = NEW.organization_id;
  END IF;
  v_seq := v_seq + 1;
  v_hash := sha256('interlock-audit-v1'::bytea || '\x00'::bytea || v_prev
    || convert_to(NEW.canonical_head || v_seq::text || NEW.canonical_tail, 'UTF8'));
  INSERT INTO audit_events VALUES (NEW.organization_id, v_seq, NEW.at_us, NEW.actor, NEW.action, NEW.target_kind,
    NEW.target_id, NEW.outcome, NEW.reason, NEW.request_id, NEW.detail, v_prev, v_hash);
  UPDATE audit_heads SET seq = v_seq, hash = v_hash WHERE organization_id = NEW.organization_id;
  IF v_is_other THEN
    PERFORM set_config('interlock.organization_id', coalesce(v_tenant, ''), true);
  END IF;
  RETURN NULL;
END $$;
