-- why: who did what, in one chain of hashes per organization that nobody can edit unseen
-- phase: expand

-- The order of seq is kept by the lock on the head, not by an index: the key of a partitioned table must hold
-- the column that it is split by. A second row with a used seq is a finding of the verifier.
CREATE TABLE audit_events (
  organization_id uuid NOT NULL,
  seq bigint NOT NULL CHECK (seq > 0),
  at_us bigint NOT NULL,
  actor jsonb NOT NULL,
  action text NOT NULL,
  target_kind text NOT NULL,
  target_id text NOT NULL,
  outcome text NOT NULL,
  reason text,
  request_id uuid,
  detail jsonb NOT NULL,
  prev_hash bytea NOT NULL CHECK (octet_length(prev_hash) = 32),
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  PRIMARY KEY (organization_id, seq, at_us)
) PARTITION BY RANGE (at_us);
COMMENT ON TABLE audit_events IS 'partitions: month';
CREATE INDEX audit_events_by_target ON audit_events (organization_id, target_id, seq);
CREATE INDEX audit_events_by_action ON audit_events (organization_id, action, seq);
ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_events_tenant ON audit_events TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY audit_events_ops ON audit_events TO interlock_ops USING (true);
GRANT SELECT, INSERT ON audit_events TO interlock_app, interlock_ops;
CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;
ALTER TABLE audit_events_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events_default FORCE ROW LEVEL SECURITY;

CREATE TABLE audit_heads (
  organization_id uuid PRIMARY KEY,
  seq bigint NOT NULL CHECK (seq >= 0),
  hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_heads_tenant ON audit_heads TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY audit_heads_ops ON audit_heads TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON audit_heads TO interlock_app, interlock_ops;

CREATE TABLE audit_checkpoints (
  organization_id uuid NOT NULL,
  seq bigint NOT NULL,
  hash bytea NOT NULL,
  at_us bigint NOT NULL,
  key_id text NOT NULL,
  signature bytea NOT NULL,
  PRIMARY KEY (organization_id, seq, key_id)
);
ALTER TABLE audit_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_checkpoints_tenant ON audit_checkpoints TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY audit_checkpoints_ops ON audit_checkpoints TO interlock_ops USING (true);
GRANT SELECT ON audit_checkpoints TO interlock_app;
GRANT SELECT, INSERT ON audit_checkpoints TO interlock_ops;

CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'audit rows are never changed or removed' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_events_keep BEFORE UPDATE OR DELETE ON audit_events
  FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_events_keep_all BEFORE TRUNCATE ON audit_events
  FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_checkpoints_keep BEFORE UPDATE OR DELETE ON audit_checkpoints
  FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_checkpoints_keep_all BEFORE TRUNCATE ON audit_checkpoints
  FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_heads_keep BEFORE DELETE ON audit_heads
  FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_heads_keep_all BEFORE TRUNCATE ON audit_heads
  FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
-- A head only ever moves by one, together with the row it names.
CREATE TRIGGER audit_heads_step BEFORE UPDATE ON audit_heads
  FOR EACH ROW WHEN (NEW.seq <> OLD.seq + 1 OR NEW.organization_id <> OLD.organization_id)
  EXECUTE FUNCTION audit_refuse_change();

-- One round trip: lock the head, hash the canonical event around its seq, write the row, move the head.
-- p_head is the canonical JSON up to and with `"seq":`, p_tail the rest; the two columns of the caller and the
-- canonical text are made from the same values, and the verifier rebuilds the text from the columns.
CREATE FUNCTION audit_append(
  p_organization_id uuid, p_at_us bigint, p_actor jsonb, p_action text, p_target_kind text, p_target_id text,
  p_outcome text, p_reason text, p_request_id uuid, p_detail jsonb, p_head text, p_tail text
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_seq bigint;
  v_prev bytea;
  v_hash bytea;
BEGIN
  SELECT seq, hash INTO v_seq, v_prev FROM audit_heads WHERE organization_id = p_organization_id FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO audit_heads VALUES (p_organization_id, 0, sha256(uuid_send(p_organization_id)))
      ON CONFLICT (organization_id) DO NOTHING;
    SELECT seq, hash INTO v_seq, v_prev FROM audit_heads WHERE organization_id = p_organization_id FOR UPDATE;
  END IF;
  v_seq := v_seq + 1;
  v_hash := sha256('interlock-audit-v1'::bytea || '\x00'::bytea || v_prev
    || convert_to(p_head || v_seq::text || p_tail, 'UTF8'));
  INSERT INTO audit_events VALUES (p_organization_id, v_seq, p_at_us, p_actor, p_action, p_target_kind, p_target_id,
    p_outcome, p_reason, p_request_id, p_detail, v_prev, v_hash);
  UPDATE audit_heads SET seq = v_seq, hash = v_hash WHERE organization_id = p_organization_id;
  RETURN v_seq;
END $$;
