-- What is set aside for requests in flight, by whichever gateway. A gateway renews what it holds; what it no longer
-- renews lapses. Unlogged: after a crash of the database nothing is held, and a charge is checked against the balance.
CREATE UNLOGGED TABLE vectoll.holds (
    id          text COLLATE "C" NOT NULL,
    request_id  text COLLATE "C" NOT NULL,
    account     text COLLATE "C" NOT NULL,
    key         text COLLATE "C",  -- only where the key has a limit
    amount      bigint NOT NULL CHECK (amount >= 0),
    fingerprint bytea,
    day         text   NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (id, request_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX holds_by_account ON vectoll.holds (account) INCLUDE (amount, expires_at);
CREATE INDEX holds_by_key ON vectoll.holds (key) WHERE key IS NOT NULL;
CREATE INDEX holds_by_expiry ON vectoll.holds (expires_at);

-- Takes many holds, each as if alone and in the order given; p_keys is null where the key has no limit.
-- No id occurs twice in one call. Outcomes: held; charged (a transfer has the id); conflict (another hold under the
-- id has another fingerprint); balance (available: what could be held); limit (spent: charged in the
-- period, without what is held).
CREATE FUNCTION vectoll.take_holds(
    p_ids text[], p_request_ids text[], p_accounts text[], p_amounts bigint[], p_fingerprints bytea[],
    p_keys text[], p_limits bigint[], p_periods text[], p_starts bigint[], p_day text, p_ttl_s double precision
) RETURNS TABLE (ordinal bigint, outcome text, available numeric, spent numeric)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now     timestamptz;
    v_row     record;
    v_account text;
    v_free    numeric;
    v_spent   numeric;
    v_pending numeric;
    v_taken   bigint[] := '{}';
    v_keys    text[] := '{}';     -- keys with a limit that took something in this call,
    v_added   numeric[] := '{}';  -- and how much
    v_at      integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);  -- a hold need not survive a crash
    PERFORM 1 FROM vectoll.accounts WHERE id = ANY (p_accounts) ORDER BY id FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    FOR v_row IN
        SELECT i.*,
            EXISTS (SELECT 1 FROM vectoll.transfers t WHERE t.id = i.id) AS is_charged,
            h.is_same, h.is_other
        FROM unnest(p_ids, p_request_ids, p_accounts, p_amounts, p_fingerprints, p_keys, p_limits, p_periods, p_starts)
            WITH ORDINALITY AS i (id, request_id, account, amount, fingerprint, key, key_limit, period, start, n)
        CROSS JOIN LATERAL (
            SELECT
                bool_or(o.request_id = i.request_id) AS is_same,
                bool_or(o.fingerprint IS DISTINCT FROM i.fingerprint) AS is_other
            FROM vectoll.holds o
            WHERE o.id = i.id AND o.expires_at > v_now
        ) h
        ORDER BY i.account, i.n
    LOOP
        ordinal := v_row.n;
        available := NULL; spent := NULL;
        IF v_row.account IS DISTINCT FROM v_account THEN
            v_account := v_row.account;
            SELECT
                coalesce((SELECT balance::numeric FROM vectoll.accounts WHERE id = v_account), 0)
                + vectoll.allowance_left(v_account, p_day)
                - coalesce(
                    (SELECT sum(amount) FROM vectoll.holds WHERE account = v_account AND expires_at > v_now), 0
                )
            INTO v_free;
        END IF;
        IF v_row.is_charged THEN
            outcome := 'charged';
        ELSIF v_row.is_other THEN
            outcome := 'conflict';
        ELSIF v_row.is_same THEN
            outcome := 'held';
        ELSIF v_row.amount > v_free THEN
            outcome := 'balance';
            available := v_free;
        ELSE
            outcome := 'held';
            IF v_row.key IS NOT NULL THEN
                v_at := array_position(v_keys, v_row.key);
                SELECT coalesce(sum(amount), 0) + CASE WHEN v_at IS NULL THEN 0 ELSE v_added[v_at] END
                INTO v_pending FROM vectoll.holds WHERE key = v_row.key AND expires_at > v_now;
                SELECT coalesce(sum(s.spent), 0) INTO v_spent FROM vectoll.key_spend s
                WHERE s.key = v_row.key AND s.period = v_row.period AND s.start = v_row.start;
                IF v_spent + v_pending + v_row.amount > v_row.key_limit THEN
                    outcome := 'limit';
                    spent := v_spent;
                ELSIF v_at IS NULL THEN
                    v_keys := array_append(v_keys, v_row.key);
                    v_added := array_append(v_added, v_row.amount::numeric);
                ELSE
                    v_added[v_at] := v_added[v_at] + v_row.amount;
                END IF;
            END IF;
            IF outcome = 'held' THEN
                v_free := v_free - v_row.amount;
                v_taken := array_append(v_taken, v_row.n);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
    INSERT INTO vectoll.holds AS h (id, request_id, account, key, amount, fingerprint, day, expires_at)
    SELECT p_ids[n], p_request_ids[n], p_accounts[n], p_keys[n], p_amounts[n], p_fingerprints[n], p_day,
        v_now + make_interval(secs => p_ttl_s)
    FROM unnest(v_taken) AS t (n)
    ON CONFLICT (id, request_id) DO UPDATE  -- one that lapsed and was not swept yet
    SET account = excluded.account, key = excluded.key, amount = excluded.amount, fingerprint = excluded.fingerprint,
        day = excluded.day, expires_at = excluded.expires_at;
END
$$;

CREATE FUNCTION vectoll.release_holds(p_ids text[], p_request_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM vectoll.holds h
    USING unnest(p_ids, p_request_ids) AS i (id, request_id)
    WHERE h.id = i.id AND h.request_id = i.request_id;
END
$$;

-- Those that another transaction is about to delete or renew are passed over: nobody waits here, so no deadlock.
CREATE FUNCTION vectoll.renew_holds(p_ids text[], p_request_ids text[], p_ttl_s double precision) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE vectoll.holds h SET expires_at = clock_timestamp() + make_interval(secs => p_ttl_s)
    FROM (
        SELECT o.ctid AS place FROM vectoll.holds o
        JOIN unnest(p_ids, p_request_ids) AS i (id, request_id) USING (id, request_id)
        FOR UPDATE OF o SKIP LOCKED
    ) mine
    WHERE h.ctid = mine.place;
END
$$;

CREATE FUNCTION vectoll.sweep_holds() RETURNS void LANGUAGE sql AS $$
    DELETE FROM vectoll.holds h
    USING (
        SELECT o.ctid AS place FROM vectoll.holds o
        WHERE o.expires_at <= clock_timestamp()
        LIMIT 10000 FOR UPDATE SKIP LOCKED
    ) lapsed
    WHERE h.ctid = lapsed.place
$$;
