-- Who was blocked before this database's clock was set back stayed blocked until it had caught up: such a block is
-- forgotten at the next sweep.
ALTER TABLE vectoll.limit_blocks
    ADD COLUMN blocked_at double precision NOT NULL DEFAULT extract(epoch FROM clock_timestamp());

CREATE OR REPLACE FUNCTION vectoll.sweep_limits() RETURNS void LANGUAGE plpgsql AS $$
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
    DELETE FROM vectoll.limit_blocks WHERE ctid = ANY (ARRAY(  -- one of a moment ago may have been made since v_now
        SELECT ctid FROM vectoll.limit_blocks WHERE expires_at <= v_now OR blocked_at > v_now + 60
        LIMIT 10000 FOR UPDATE SKIP LOCKED));
END
$$;
