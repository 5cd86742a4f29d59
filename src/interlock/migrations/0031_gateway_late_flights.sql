-- why: a flight that came a second time took what late owners held out of their leases and never out of the bucket
-- phase: expand

-- Who is late is reaped where the bucket is written, in the same breath.

-- One flight of a machine, for one organization: gives back, settles, asks for several requests at once and for leases
-- on top. Buckets come in the order of their ids, in which every caller locks them. `p_credits_micro` are settlements
-- (below 0 a debt), `p_backs_micro` unused leases, `p_held_micro` what the owner holds after both. Asks are decided in
-- their order, each all or nothing over what it enforces; leases come last and leave a tenth of the burst.
CREATE OR REPLACE FUNCTION gateway_lease(
    p_organization uuid, p_owner uuid, p_fence bigint, p_ttl_us bigint,
    p_buckets uuid[], p_versions bigint[], p_rates_micro bigint[], p_bursts_micro bigint[], p_refills text[],
    p_credits_micro bigint[], p_backs_micro bigint[], p_held_micro bigint[], p_leases_micro bigint[],
    p_asks integer[], p_ask_buckets integer[], p_ask_micro bigint[], p_ask_enforced boolean[]
) RETURNS TABLE (levels_micro bigint[], leased_micro bigint[], is_short boolean[])
LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_column
DECLARE
    v_bucket gateway_limit_buckets;
    v_lease gateway_limit_leases;
    v_buckets gateway_limit_buckets[] := '{}';
    v_levels bigint[] := '{}';
    v_leased bigint[] := '{}';
    v_amounts bigint[] := '{}';
    v_granted bigint[] := array_fill(0::bigint, ARRAY[cardinality(p_buckets)]);
    v_observed integer[] := array_fill(0, ARRAY[cardinality(p_buckets)]);
    v_known boolean[] := '{}';
    v_short boolean[] := array_fill(false, ARRAY[cardinality(p_asks)]);
    v_is_again boolean := false;
    v_is_refused boolean;
    v_now_us bigint;
    v_hour bigint;
    v_back bigint;
    v_reaped bigint[] := '{}';
    v_first integer := 1;
    v_last integer;
    v_at integer;
BEGIN
    PERFORM set_config('interlock.organization_id', p_organization::text, true),
        set_config('interlock.workspace_id', '*', true);
    FOR i IN 1 .. cardinality(p_buckets) LOOP
        SELECT * INTO v_bucket FROM gateway_limit_buckets AS b
            WHERE b.organization_id = p_organization AND b.bucket_id = p_buckets[i] FOR UPDATE;
        IF NOT FOUND THEN
            INSERT INTO gateway_limit_buckets
                (organization_id, bucket_id, level_micro, refilled_us, rate_micro, burst_micro, refill, version)
                VALUES (p_organization, p_buckets[i], p_bursts_micro[i], gateway_now_us(), p_rates_micro[i],
                    p_bursts_micro[i], p_refills[i], p_versions[i])
                ON CONFLICT DO NOTHING;
            SELECT * INTO v_bucket FROM gateway_limit_buckets AS b
                WHERE b.organization_id = p_organization AND b.bucket_id = p_buckets[i] FOR UPDATE;
        END IF;
        v_buckets := array_append(v_buckets, v_bucket);
    END LOOP;

    -- Read once all locks are held, so that no bucket is refilled to a moment before its last debit.
    v_now_us := gateway_now_us();
    v_hour := v_now_us / 3600000000;
    FOR i IN 1 .. cardinality(p_buckets) LOOP
        v_bucket := v_buckets[i];
        -- The level is brought to now at the old rate; another process may already know a newer version of the limit.
        v_bucket.level_micro := gateway_level(v_bucket.refill, v_bucket.level_micro, v_bucket.leased_micro,
            v_bucket.refilled_us, v_now_us, v_bucket.rate_micro, v_bucket.burst_micro);
        IF p_versions[i] > v_bucket.version THEN
            v_bucket.rate_micro := p_rates_micro[i];
            v_bucket.burst_micro := p_bursts_micro[i];
            v_bucket.version := p_versions[i];
        END IF;
        -- After a start of the store live owners renew first.
        v_reaped[i] := 0;
        IF v_bucket.leased_micro > 0 AND pg_postmaster_start_time() < clock_timestamp() - interval '10 seconds' THEN
            v_reaped[i] := (SELECT coalesce(sum(l.amount_micro), 0) FROM gateway_limit_leases AS l
                WHERE l.organization_id = p_organization AND l.bucket_id = p_buckets[i] AND l.amount_micro > 0
                    AND l.expires_us < v_now_us AND l.owner <> p_owner);
        END IF;
        v_bucket.leased_micro := v_bucket.leased_micro - v_reaped[i];

        SELECT * INTO v_lease FROM gateway_limit_leases AS l
            WHERE l.organization_id = p_organization AND l.bucket_id = p_buckets[i] AND l.owner = p_owner;
        v_known := v_known || FOUND;
        v_amounts := v_amounts || coalesce(v_lease.amount_micro, 0);
        IF v_lease.fence >= p_fence THEN
            v_is_again := true;
        ELSE
            IF v_bucket.refill = 'slots' THEN
                v_amounts[i] := p_held_micro[i];
            ELSE
                -- An owner that is late has been reaped: what it gives back is nobody's any more.
                v_back := CASE WHEN v_lease.expires_us < v_now_us THEN 0
                    ELSE least(p_backs_micro[i], v_amounts[i]) END;
                v_bucket.level_micro := v_bucket.level_micro + v_back + p_credits_micro[i];
                v_amounts[i] := least(v_amounts[i] - v_back, p_held_micro[i]);
            END IF;
            v_bucket.leased_micro := v_bucket.leased_micro + v_amounts[i] - coalesce(v_lease.amount_micro, 0);
        END IF;
        v_buckets[i] := v_bucket;
        v_leased := v_leased || v_bucket.leased_micro;
        v_levels := v_levels || CASE v_bucket.refill
            WHEN 'slots' THEN v_bucket.burst_micro - v_bucket.leased_micro
            ELSE greatest(-v_bucket.burst_micro,
                least(v_bucket.level_micro, v_bucket.burst_micro - v_bucket.leased_micro))
        END;
    END LOOP;

    -- A flight that comes a second time, or too late, gets nothing and changes nothing.
    IF v_is_again THEN
        RETURN QUERY SELECT v_levels, v_granted, array_fill(true, ARRAY[cardinality(p_asks)]);
        RETURN;
    END IF;

    WHILE v_first <= cardinality(p_asks) LOOP
        v_last := v_first;
        WHILE v_last < cardinality(p_asks) AND p_asks[v_last + 1] = p_asks[v_first] LOOP
            v_last := v_last + 1;
        END LOOP;
        v_is_refused := false;
        FOR i IN v_first .. v_last LOOP
            v_short[i] := v_levels[p_ask_buckets[i]] < p_ask_micro[i];
            v_is_refused := v_is_refused OR (v_short[i] AND p_ask_enforced[i]);
        END LOOP;
        FOR i IN v_first .. v_last LOOP
            v_at := p_ask_buckets[i];
            IF v_short[i] THEN
                IF NOT p_ask_enforced[i] THEN
                    v_observed[v_at] := v_observed[v_at] + 1;
                END IF;
            ELSIF NOT v_is_refused THEN
                v_levels[v_at] := v_levels[v_at] - p_ask_micro[i];
                IF p_refills[v_at] = 'slots' THEN
                    v_leased[v_at] := v_leased[v_at] + p_ask_micro[i];
                    v_amounts[v_at] := v_amounts[v_at] + p_ask_micro[i];
                END IF;
            END IF;
        END LOOP;
        v_first := v_last + 1;
    END LOOP;

    FOR i IN 1 .. cardinality(p_buckets) LOOP
        v_bucket := v_buckets[i];
        v_granted[i] := greatest(0, least(p_leases_micro[i], v_levels[i] - v_bucket.burst_micro / 10));
        v_levels[i] := v_levels[i] - v_granted[i];
        v_leased[i] := v_leased[i] + v_granted[i];
        v_amounts[i] := v_amounts[i] + v_granted[i];
        IF v_observed[i] > 0 THEN
            v_bucket.observed_refusals := gateway_observed(v_bucket.observed_refusals, v_bucket.observed_hour, v_hour);
            v_bucket.observed_refusals[1] := v_bucket.observed_refusals[1] + v_observed[i];
            v_bucket.observed_hour := v_hour;
        END IF;
        UPDATE gateway_limit_buckets AS b
            SET level_micro = v_levels[i], leased_micro = v_leased[i], refilled_us = greatest(b.refilled_us, v_now_us),
                rate_micro = v_bucket.rate_micro, burst_micro = v_bucket.burst_micro, version = v_bucket.version,
                observed_refusals = v_bucket.observed_refusals, observed_hour = v_bucket.observed_hour
            WHERE b.organization_id = p_organization AND b.bucket_id = p_buckets[i];
        IF v_reaped[i] > 0 THEN
            UPDATE gateway_limit_leases AS l SET amount_micro = 0
                WHERE l.organization_id = p_organization AND l.bucket_id = p_buckets[i] AND l.amount_micro > 0
                    AND l.expires_us < v_now_us AND l.owner <> p_owner;
        END IF;
        IF v_known[i] OR v_amounts[i] > 0 OR p_credits_micro[i] <> 0 THEN
            -- Unused tokens are reaped 10 s after their end, slots at their end.
            INSERT INTO gateway_limit_leases AS l
                VALUES (p_organization, p_buckets[i], p_owner, v_amounts[i],
                    v_now_us + CASE p_refills[i] WHEN 'slots' THEN 10000000 ELSE p_ttl_us + 10000000 END, p_fence)
                ON CONFLICT (organization_id, bucket_id, owner) DO UPDATE
                    SET amount_micro = EXCLUDED.amount_micro, expires_us = EXCLUDED.expires_us, fence = EXCLUDED.fence;
        END IF;
    END LOOP;
    RETURN QUERY SELECT v_levels, v_granted, v_short;
END
$$;
