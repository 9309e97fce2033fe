-- What callers used, counted for all gateways together, by this database's clock (or p_now, in seconds since 1970).
-- Unlogged: after a crash of the database every window is fresh.

-- Small limits: every hit is remembered until it leaves the window.
CREATE UNLOGGED TABLE vectoll.limit_windows (
    bucket     text COLLATE "C" PRIMARY KEY,
    used       bigint NOT NULL,
    expires_at double precision NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

CREATE UNLOGGED TABLE vectoll.limit_hits (
    bucket    text COLLATE "C" NOT NULL,
    leaves_at double precision NOT NULL,
    cost      bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX limit_hits_by_bucket ON vectoll.limit_hits (bucket, leaves_at);
CREATE INDEX limit_hits_by_expiry ON vectoll.limit_hits (leaves_at);

-- Large ones: two counters; the previous window's hits are taken to be spread evenly.
CREATE UNLOGGED TABLE vectoll.limit_counters (
    bucket     text COLLATE "C" PRIMARY KEY,
    slot       bigint NOT NULL,
    current    bigint NOT NULL,
    previous   bigint NOT NULL,
    expires_at double precision NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

CREATE UNLOGGED TABLE vectoll.limit_blocks (
    bucket     text COLLATE "C" PRIMARY KEY,
    expires_at double precision NOT NULL
);

-- Counts p_cost in an exact window if it fits. wait_s: until the window is fresh, or, when refused, until it would fit.
CREATE FUNCTION vectoll.hit_window(
    p_bucket text, p_amount bigint, p_window_s double precision, p_cost bigint, p_now double precision,
    OUT allowed boolean, OUT used bigint, OUT wait_s double precision
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_before bigint;
    v_gone   bigint;
    v_excess bigint;
BEGIN
    INSERT INTO vectoll.limit_windows AS w (bucket, used, expires_at) VALUES (p_bucket, 0, p_now + p_window_s)
    ON CONFLICT (bucket) DO UPDATE SET expires_at = greatest(w.expires_at, excluded.expires_at)
    RETURNING w.used INTO v_before;
    WITH gone AS (DELETE FROM vectoll.limit_hits WHERE bucket = p_bucket AND leaves_at <= p_now RETURNING cost)
    SELECT coalesce(sum(cost), 0) INTO v_gone FROM gone;
    used := greatest(0, v_before - v_gone);  -- a window that was swept knows nothing of hits that were not yet
    allowed := used + p_cost <= p_amount;
    wait_s := 0;
    IF allowed AND p_cost > 0 THEN
        INSERT INTO vectoll.limit_hits (bucket, leaves_at, cost) VALUES (p_bucket, p_now + p_window_s, p_cost);
        used := used + p_cost;
        wait_s := p_window_s;
    ELSIF used > 0 THEN
        v_excess := used + CASE WHEN allowed THEN p_amount ELSE least(p_cost, p_amount) END - p_amount;
        SELECT leaves_at - p_now INTO wait_s
        FROM (
            SELECT leaves_at, sum(cost) OVER (ORDER BY leaves_at ROWS UNBOUNDED PRECEDING) AS freed
            FROM vectoll.limit_hits WHERE bucket = p_bucket
        ) h
        WHERE freed >= v_excess ORDER BY leaves_at LIMIT 1;
    END IF;
    IF used <> v_before THEN
        UPDATE vectoll.limit_windows w SET used = hit_window.used WHERE w.bucket = p_bucket;
    END IF;
END
$$;

-- Counts p_cost in an estimated window if it fits; what is in both counters after it.
CREATE FUNCTION vectoll.hit_counter(
    p_bucket text, p_amount bigint, p_window_s double precision, p_cost bigint, p_now double precision,
    OUT allowed boolean, OUT current bigint, OUT previous bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_slot  CONSTANT bigint := floor(p_now / p_window_s);
    v_share CONSTANT double precision := 1 - (p_now - v_slot * p_window_s) / p_window_s;
BEGIN
    INSERT INTO vectoll.limit_counters AS c (bucket, slot, current, previous, expires_at)
    VALUES (p_bucket, v_slot, 0, 0, (v_slot + 2) * p_window_s)
    ON CONFLICT (bucket) DO UPDATE
    SET slot = greatest(c.slot, v_slot),
        previous = CASE WHEN c.slot >= v_slot THEN c.previous WHEN c.slot = v_slot - 1 THEN c.current ELSE 0 END,
        current = CASE WHEN c.slot >= v_slot THEN c.current ELSE 0 END,
        expires_at = greatest(c.expires_at, excluded.expires_at)
    RETURNING c.current, c.previous INTO current, previous;
    allowed := floor(previous * v_share + current) + p_cost <= p_amount;
    IF allowed AND p_cost > 0 THEN
        current := current + p_cost;
        UPDATE vectoll.limit_counters c SET current = hit_counter.current WHERE c.bucket = p_bucket;
    END IF;
END
$$;

-- Many questions to the limits in one call, answered bucket by bucket, so that two calls never wait for each other
-- crosswise. Kinds: window and counter (count the cost if it fits; a cost of 0 only looks), block (the cost is how many
-- seconds), blocked (wait_s: how long still). now_s is the clock by which it was answered.
CREATE FUNCTION vectoll.limits(
    p_kinds text[], p_buckets text[], p_amounts bigint[], p_windows double precision[], p_costs bigint[],
    p_now double precision
) RETURNS TABLE (
    ordinal bigint, allowed boolean, used bigint, previous bigint, wait_s double precision, now_s double precision
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now double precision := coalesce(p_now, extract(epoch FROM clock_timestamp()));
    v_row record;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    now_s := v_now;
    FOR v_row IN
        SELECT * FROM unnest(p_kinds, p_buckets, p_amounts, p_windows, p_costs)
            WITH ORDINALITY AS i (kind, bucket, amount, window_s, cost, n)
        ORDER BY i.bucket, i.n
    LOOP
        ordinal := v_row.n;
        allowed := true; used := 0; previous := 0; wait_s := 0;
        CASE v_row.kind
            WHEN 'window' THEN
                SELECT w.allowed, w.used, w.wait_s INTO allowed, used, wait_s
                FROM vectoll.hit_window(v_row.bucket, v_row.amount, v_row.window_s, v_row.cost, v_now) w;
            WHEN 'counter' THEN
                SELECT c.allowed, c.current, c.previous INTO allowed, used, previous
                FROM vectoll.hit_counter(v_row.bucket, v_row.amount, v_row.window_s, v_row.cost, v_now) c;
            WHEN 'block' THEN
                INSERT INTO vectoll.limit_blocks (bucket, expires_at) VALUES (v_row.bucket, v_now + v_row.cost)
                ON CONFLICT (bucket) DO UPDATE SET expires_at = excluded.expires_at;
            WHEN 'blocked' THEN
                SELECT greatest(0, coalesce(max(b.expires_at) - v_now, 0)) INTO wait_s
                FROM vectoll.limit_blocks b WHERE b.bucket = v_row.bucket;
        END CASE;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Forgets what has expired. Rows that are in use are passed over: nobody waits here.
CREATE FUNCTION vectoll.sweep_limits() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now CONSTANT double precision := extract(epoch FROM clock_timestamp());
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    -- The windows first: their hits have all left by then, and a window that is new counts none of them.
    DELETE FROM vectoll.limit_windows WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vectoll.limit_windows WHERE expires_at <= v_now LIMIT 10000 FOR UPDATE SKIP LOCKED));
    DELETE FROM vectoll.limit_hits h WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vectoll.limit_hits o WHERE o.leaves_at <= v_now
            AND NOT EXISTS (SELECT 1 FROM vectoll.limit_windows w WHERE w.bucket = o.bucket)
        LIMIT 10000 FOR UPDATE SKIP LOCKED));
    DELETE FROM vectoll.limit_counters WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vectoll.limit_counters WHERE expires_at <= v_now LIMIT 10000 FOR UPDATE SKIP LOCKED));
    DELETE FROM vectoll.limit_blocks WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vectoll.limit_blocks WHERE expires_at <= v_now LIMIT 10000 FOR UPDATE SKIP LOCKED));
END
$$;
