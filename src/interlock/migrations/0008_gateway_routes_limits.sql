-- why: where an alias leads, and limits that hold over all edge processes with one round trip a request
-- phase: expand

CREATE TABLE gateway_providers (
    organization_id uuid NOT NULL,
    name text NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('openai', 'pool')),
    base_url text,
    pool text,
    secret text,
    PRIMARY KEY (organization_id, name),
    UNIQUE (organization_id, id),
    CHECK ((kind = 'openai') = (base_url IS NOT NULL)),
    CHECK ((kind = 'pool') = (pool IS NOT NULL))
);
ALTER TABLE gateway_providers ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_providers FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_providers_tenant ON gateway_providers TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_providers_ops ON gateway_providers TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON gateway_providers TO interlock_app;
GRANT SELECT ON gateway_providers TO interlock_ops;

CREATE TABLE gateway_deployments (
    organization_id uuid NOT NULL,
    name text NOT NULL,
    id uuid NOT NULL,
    provider text NOT NULL,
    upstream_model text NOT NULL,
    PRIMARY KEY (organization_id, name),
    UNIQUE (organization_id, id),
    FOREIGN KEY (organization_id, provider) REFERENCES gateway_providers (organization_id, name)
);
ALTER TABLE gateway_deployments ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_deployments FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_deployments_tenant ON gateway_deployments TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_deployments_ops ON gateway_deployments TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON gateway_deployments TO interlock_app;
GRANT SELECT ON gateway_deployments TO interlock_ops;

CREATE TABLE gateway_routes (
    organization_id uuid NOT NULL,
    alias text NOT NULL,
    id uuid NOT NULL,
    stable_version integer NOT NULL,
    created_us bigint NOT NULL,
    PRIMARY KEY (organization_id, alias),
    UNIQUE (organization_id, id)
);
ALTER TABLE gateway_routes ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_routes FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_routes_tenant ON gateway_routes TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_routes_ops ON gateway_routes TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE ON gateway_routes TO interlock_app;
GRANT SELECT ON gateway_routes TO interlock_ops;

CREATE TABLE gateway_route_versions (
    organization_id uuid NOT NULL,
    alias text NOT NULL,
    version integer NOT NULL,
    digest text NOT NULL,
    spec jsonb NOT NULL,
    created_us bigint NOT NULL,
    PRIMARY KEY (organization_id, alias, version),
    FOREIGN KEY (organization_id, alias) REFERENCES gateway_routes (organization_id, alias)
);
ALTER TABLE gateway_route_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_route_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_route_versions_tenant ON gateway_route_versions TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_route_versions_ops ON gateway_route_versions TO interlock_ops USING (true);
-- A version is never changed, so nobody is granted UPDATE.
GRANT SELECT, INSERT ON gateway_route_versions TO interlock_app;
GRANT SELECT ON gateway_route_versions TO interlock_ops;

CREATE TABLE gateway_limits (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    scope text NOT NULL CHECK (scope IN ('organization', 'workspace', 'key', 'tier')),
    target text NOT NULL,
    dimension text NOT NULL CHECK (dimension IN ('requests_per_minute', 'tokens_per_minute')),
    model text NOT NULL,
    per_minute bigint NOT NULL CHECK (per_minute > 0),
    burst bigint NOT NULL CHECK (burst > 0),
    mode text NOT NULL CHECK (mode IN ('enforce', 'observe')),
    version bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, scope, target, dimension, model)
);
ALTER TABLE gateway_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_limits FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_limits_tenant ON gateway_limits TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_limits_ops ON gateway_limits TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_limits TO interlock_app;
GRANT SELECT ON gateway_limits TO interlock_ops;

-- One bucket a limit and organization. `level_micro` is in millionths of a request or token and falls below 0
-- when an answer was longer than its reservation. Half of each page stays free, so that updates stay on it.
CREATE TABLE gateway_limit_buckets (
    organization_id uuid NOT NULL,
    bucket_id uuid NOT NULL,
    level_micro bigint NOT NULL,
    refilled_us bigint NOT NULL,
    per_minute bigint NOT NULL,
    burst bigint NOT NULL,
    version bigint NOT NULL,
    observed_refusals integer[] NOT NULL DEFAULT array_fill(0, ARRAY[24]),
    observed_hour bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (organization_id, bucket_id)
) WITH (fillfactor = 50);
ALTER TABLE gateway_limit_buckets ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_limit_buckets FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_limit_buckets_tenant ON gateway_limit_buckets TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_limit_buckets_ops ON gateway_limit_buckets TO interlock_ops USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_limit_buckets TO interlock_app;
GRANT SELECT ON gateway_limit_buckets TO interlock_ops;

-- What a running request holds of its buckets; gone with its settlement, which makes a second one harmless.
-- Not logged: after a crash of the store what was held stays spent, which errs on the safe side.
CREATE UNLOGGED TABLE gateway_limit_holds (
    organization_id uuid NOT NULL,
    request_id uuid NOT NULL,
    bucket_ids uuid[] NOT NULL,
    amounts_micro bigint[] NOT NULL,
    is_tokens boolean[] NOT NULL,
    held_us bigint NOT NULL,
    PRIMARY KEY (organization_id, request_id)
);
CREATE INDEX gateway_limit_holds_by_age ON gateway_limit_holds (held_us);
ALTER TABLE gateway_limit_holds ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway_limit_holds FORCE ROW LEVEL SECURITY;
CREATE POLICY gateway_limit_holds_tenant ON gateway_limit_holds TO interlock_app
    USING (organization_id = current_setting('interlock.organization_id')::uuid);
CREATE POLICY gateway_limit_holds_ops ON gateway_limit_holds TO interlock_ops USING (true);
GRANT SELECT, INSERT, DELETE ON gateway_limit_holds TO interlock_app;
GRANT SELECT, DELETE ON gateway_limit_holds TO interlock_ops;

CREATE FUNCTION gateway_now_us() RETURNS bigint LANGUAGE sql VOLATILE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- A bucket of `p_burst`, refilled continuously at `p_per_minute`; what a fraction of a millionth is worth is dropped.
CREATE FUNCTION gateway_refilled(
    p_level_micro bigint, p_refilled_us bigint, p_now_us bigint, p_per_minute bigint, p_burst bigint
) RETURNS bigint LANGUAGE sql IMMUTABLE
    AS $$
        SELECT least(
            p_burst::numeric * 1000000,
            p_level_micro + floor(greatest(0, p_now_us - p_refilled_us)::numeric * p_per_minute / 60)
        )::bigint
    $$;

-- Refusals that a limit in `observe` would have made, newest hour first.
CREATE FUNCTION gateway_observed(p_counts integer[], p_counted_hour bigint, p_hour bigint)
RETURNS integer[] LANGUAGE sql IMMUTABLE
    AS $$
        SELECT (array_fill(0, ARRAY[least(24, greatest(0, p_hour - p_counted_hour))::integer]) || p_counts)[1:24]
    $$;

-- Checks all buckets, then debits all or none. They come in the order of their ids, in which every caller locks them.
-- Returns each bucket's level after the debit, or as it stands when the request is refused.
CREATE FUNCTION gateway_reserve(
    p_organization uuid,
    p_request uuid,
    p_buckets uuid[],
    p_versions bigint[],
    p_per_minute bigint[],
    p_bursts bigint[],
    p_amounts_micro bigint[],
    p_is_enforced boolean[],
    p_is_tokens boolean[]
) RETURNS TABLE (level_micro bigint, is_short boolean)
LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_column
DECLARE
    v_bucket gateway_limit_buckets;
    v_buckets gateway_limit_buckets[] := '{}';
    v_levels bigint[] := '{}';
    v_short boolean[] := '{}';
    v_is_refused boolean := false;
    v_now_us bigint;
    v_hour bigint;
    v_held uuid[] := '{}';
    v_amounts bigint[] := '{}';
    v_tokens boolean[] := '{}';
BEGIN
    PERFORM set_config('interlock.organization_id', p_organization::text, true),
        set_config('interlock.workspace_id', '*', true);
    FOR i IN 1 .. cardinality(p_buckets) LOOP
        SELECT * INTO v_bucket FROM gateway_limit_buckets AS b
            WHERE b.organization_id = p_organization AND b.bucket_id = p_buckets[i] FOR UPDATE;
        IF NOT FOUND THEN
            INSERT INTO gateway_limit_buckets
                (organization_id, bucket_id, level_micro, refilled_us, per_minute, burst, version)
                VALUES (p_organization, p_buckets[i], p_bursts[i] * 1000000, gateway_now_us(), p_per_minute[i],
                    p_bursts[i], p_versions[i])
                ON CONFLICT DO NOTHING;
            SELECT * INTO v_bucket FROM gateway_limit_buckets AS b
                WHERE b.organization_id = p_organization AND b.bucket_id = p_buckets[i] FOR UPDATE;
        END IF;
        -- Another process may already know a newer version of the limit.
        IF p_versions[i] > v_bucket.version THEN
            v_bucket.per_minute := p_per_minute[i];
            v_bucket.burst := p_bursts[i];
            v_bucket.version := p_versions[i];
        END IF;
        v_buckets := array_append(v_buckets, v_bucket);
    END LOOP;

    -- Read once all locks are held, so that no bucket is refilled to a moment before its last debit.
    v_now_us := gateway_now_us();
    v_hour := v_now_us / 3600000000;
    FOR i IN 1 .. cardinality(p_buckets) LOOP
        v_bucket := v_buckets[i];
        v_levels := v_levels || gateway_refilled(
            v_bucket.level_micro, v_bucket.refilled_us, v_now_us, v_bucket.per_minute, v_bucket.burst);
        v_short := v_short || (v_levels[i] < p_amounts_micro[i]);
        v_is_refused := v_is_refused OR (v_short[i] AND p_is_enforced[i]);
    END LOOP;

    FOR i IN 1 .. cardinality(p_buckets) LOOP
        v_bucket := v_buckets[i];
        IF v_short[i] AND NOT p_is_enforced[i] THEN
            v_bucket.observed_refusals := gateway_observed(v_bucket.observed_refusals, v_bucket.observed_hour, v_hour);
            v_bucket.observed_refusals[1] := v_bucket.observed_refusals[1] + 1;
            UPDATE gateway_limit_buckets AS b
                SET observed_refusals = v_bucket.observed_refusals, observed_hour = v_hour
                WHERE b.organization_id = p_organization AND b.bucket_id = p_buckets[i];
        ELSIF NOT v_is_refused THEN
            v_levels[i] := v_levels[i] - p_amounts_micro[i];
            UPDATE gateway_limit_buckets AS b
                SET level_micro = v_levels[i], refilled_us = greatest(b.refilled_us, v_now_us),
                    per_minute = v_bucket.per_minute, burst = v_bucket.burst, version = v_bucket.version
                WHERE b.organization_id = p_organization AND b.bucket_id = p_buckets[i];
            v_held := v_held || p_buckets[i];
            v_amounts := v_amounts || p_amounts_micro[i];
            v_tokens := v_tokens || p_is_tokens[i];
        END IF;
    END LOOP;
    IF cardinality(v_held) > 0 THEN
        INSERT INTO gateway_limit_holds VALUES (p_organization, p_request, v_held, v_amounts, v_tokens, v_now_us);
    END IF;
    RETURN QUERY SELECT * FROM unnest(v_levels, v_short);
END
$$;

-- Gives back what requests held and did not use, or takes what they used beyond it; a request that called no model
-- server gets all of it back. A request that holds nothing, such as one settled before, changes nothing.
CREATE FUNCTION gateway_settle(
    p_organization uuid, p_requests uuid[], p_tokens_micro bigint[], p_is_called boolean[]
) RETURNS integer
LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_column
DECLARE
    v_settled integer;
    v_credit record;
    v_now_us bigint;
BEGIN
    PERFORM set_config('interlock.organization_id', p_organization::text, true),
        set_config('interlock.workspace_id', '*', true);
    SELECT count(*) INTO v_settled FROM gateway_limit_holds AS h
        WHERE h.organization_id = p_organization AND h.request_id = ANY (p_requests);
    FOR v_credit IN
        WITH used AS (
            SELECT * FROM unnest(p_requests, p_tokens_micro, p_is_called) AS u (request_id, tokens_micro, is_called)
        ), gone AS (
            DELETE FROM gateway_limit_holds AS h USING used
                WHERE h.organization_id = p_organization AND h.request_id = used.request_id
                RETURNING h.bucket_ids, h.amounts_micro, h.is_tokens, used.tokens_micro, used.is_called
        ), parts AS (
            SELECT part.bucket_id, CASE
                    WHEN NOT gone.is_called THEN part.amount_micro
                    WHEN part.is_tokens THEN part.amount_micro - gone.tokens_micro
                    ELSE 0
                END AS credit_micro
            FROM gone, unnest(gone.bucket_ids, gone.amounts_micro, gone.is_tokens)
                AS part (bucket_id, amount_micro, is_tokens)
        )
        SELECT bucket_id, sum(credit_micro)::bigint AS credit_micro
            FROM parts GROUP BY bucket_id HAVING sum(credit_micro) <> 0 ORDER BY bucket_id
    LOOP
        PERFORM 1 FROM gateway_limit_buckets AS b
            WHERE b.organization_id = p_organization AND b.bucket_id = v_credit.bucket_id FOR UPDATE;
        v_now_us := gateway_now_us();
        UPDATE gateway_limit_buckets AS b
            SET level_micro = greatest(-b.burst * 1000000, least(b.burst * 1000000, v_credit.credit_micro
                    + gateway_refilled(b.level_micro, b.refilled_us, v_now_us, b.per_minute, b.burst))),
                refilled_us = greatest(b.refilled_us, v_now_us)
            WHERE b.organization_id = p_organization AND b.bucket_id = v_credit.bucket_id;
    END LOOP;
    RETURN v_settled;
END
$$;
