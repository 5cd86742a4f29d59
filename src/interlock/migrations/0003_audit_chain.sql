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

-- An append waits here until its transaction commits, so that the head is locked for the commit alone and not while
-- the client thinks; no transaction can deadlock over it, as it is always the last lock. A row never outlives its
-- transaction, so nothing of it has to survive a crash.
-- canonical_head is the canonical JSON up to and with `"seq":`, canonical_tail the rest. Both and the columns are made
-- from the same values; the verifier rebuilds the text from the columns.
CREATE UNLOGGED TABLE audit_pending (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id uuid NOT NULL,
  at_us bigint NOT NULL,
  actor jsonb NOT NULL,
  action text NOT NULL,
  target_kind text NOT NULL,
  target_id text NOT NULL,
  outcome text NOT NULL,
  reason text,
  request_id uuid,
  detail jsonb NOT NULL,
  canonical_head text NOT NULL,
  canonical_tail text NOT NULL
);
ALTER TABLE audit_pending ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_pending FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_pending_tenant ON audit_pending TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY audit_pending_ops ON audit_pending TO interlock_ops USING (true);
GRANT SELECT, INSERT, DELETE ON audit_pending TO interlock_app, interlock_ops;

CREATE FUNCTION audit_chain_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  v_seq bigint;
  v_prev bytea;
  v_hash bytea;
  v_tenant text := current_setting('interlock.organization_id', true);
BEGIN
  -- An operator's transaction may have acted in several organizations; the policies judge each event in its own, as
  -- they did when it was left here.
  PERFORM set_config('interlock.organization_id', NEW.organization_id::text, true);
  DELETE FROM audit_pending WHERE id = NEW.id;
  -- Writers line up here: a queue on the row itself would wake them all to look at every newer version of it.
  PERFORM pg_advisory_xact_lock(hashtextextended('audit_heads', 0) # uuid_hash_extended(NEW.organization_id, 0));
  SELECT seq, hash INTO v_seq, v_prev FROM audit_heads WHERE organization_id = NEW.organization_id FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO audit_heads VALUES (NEW.organization_id, 0, sha256(uuid_send(NEW.organization_id)))
      ON CONFLICT (organization_id) DO NOTHING;
    SELECT seq, hash INTO v_seq, v_prev FROM audit_heads WHERE organization_id = NEW.organization_id FOR UPDATE;
  END IF;
  v_seq := v_seq + 1;
  v_hash := sha256('interlock-audit-v1'::bytea || '\x00'::bytea || v_prev
    || convert_to(NEW.canonical_head || v_seq::text || NEW.canonical_tail, 'UTF8'));
  INSERT INTO audit_events VALUES (NEW.organization_id, v_seq, NEW.at_us, NEW.actor, NEW.action, NEW.target_kind,
    NEW.target_id, NEW.outcome, NEW.reason, NEW.request_id, NEW.detail, v_prev, v_hash);
  UPDATE audit_heads SET seq = v_seq, hash = v_hash WHERE organization_id = NEW.organization_id;
  PERFORM set_config('interlock.organization_id', coalesce(v_tenant, ''), true);
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER audit_pending_chain AFTER INSERT ON audit_pending
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit_chain_event();
