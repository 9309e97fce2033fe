-- What lies further ahead than it can was written before this database's clock was set back, and is forgotten: until the
-- clock had caught up, nobody had more than one window, and what a gateway that was killed had held stayed held.

CREATE OR REPLACE FUNCTION vectoll.hit_window(
    p_bucket text, p_amount bigint, p_window_s double precision, p_cost bigint, p_now double precision,
    OUT allowed boolean, OUT used bigint, OUT wait_s double precision
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_before  bigint;
    v_expires double precision;
    v_gone    bigint;
    v_excess  bigint;
BEGIN
    INSERT INTO vectoll.limit_windows AS w (bucket, used, expires_at) VALUES (p_bucket, 0, p_now + p_window_s)
    ON CONFLICT (bucket) DO UPDATE SET expires_at = greatest(w.expires_at, excluded.expires_at)
    RETURNING w.used, w.expires_at INTO v_before, v_expires;
    IF v_expires > p_now + 2 * p_window_s THEN  -- once only: calls that wait for each other's locks are a little ahead
        DELETE FROM vectoll.limit_hits WHERE bucket = p_bucket;
        UPDATE vectoll.limit_windows w SET used = 0, expires_at = p_now + p_window_s WHERE w.bucket = p_bucket;
        v_before := 0;
    END IF;
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

CREATE OR REPLACE FUNCTION vectoll.hit_counter(
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
    ON CONFLICT (bucket) DO UPDATE  -- a call that began a little later may have come first, and be one slot ahead
    SET slot = CASE WHEN c.slot = v_slot + 1 THEN c.slot ELSE v_slot END,
        previous = CASE WHEN c.slot IN (v_slot, v_slot + 1) THEN c.previous
            WHEN c.slot = v_slot - 1 THEN c.current ELSE 0 END,
        current = CASE WHEN c.slot IN (v_slot, v_slot + 1) THEN c.current ELSE 0 END,
        expires_at = greatest(c.expires_at, excluded.expires_at)
    RETURNING c.current, c.previous INTO current, previous;
    allowed := floor(previous * v_share + current) + p_cost <= p_amount;
    IF allowed AND p_cost > 0 THEN
        current := current + p_cost;
        UPDATE vectoll.limit_counters c SET current = hit_counter.current WHERE c.bucket = p_bucket;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectoll.sweep_holds() RETURNS void LANGUAGE sql AS $$
    DELETE FROM vectoll.holds h
    USING (
        SELECT o.ctid AS place FROM vectoll.holds o
        WHERE o.expires_at <= clock_timestamp() OR o.expires_at > clock_timestamp() + interval '10 minutes'
        LIMIT 10000 FOR UPDATE SKIP LOCKED
    ) lapsed
    WHERE h.ctid = lapsed.place
$$;
