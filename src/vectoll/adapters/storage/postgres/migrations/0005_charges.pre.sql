-- Turns many holds into charges, each as if alone and in the order given, in one transaction: the holds are gone
-- whatever the outcome. No id occurs twice in one call. Locks: customers by id, then their holds, allowances and key
-- spends, then the head of the ledger, then the house's accounts.
--
-- What a charge has of its own is in arrays; p_limits and its period and start are null without a limit. All have in
-- common: the time, today's date, the house's two accounts, and the starts of the periods that keys are counted in.
-- Outcomes: charged (seq), exists (a transfer has the id), balance (available), limit (spent).
CREATE FUNCTION vectoll.charge(
    p_ids text[], p_request_ids text[], p_accounts text[], p_amounts bigint[], p_tokens bigint[],
    p_durations bigint[], p_models text[], p_keys text[], p_fingerprints bytea[],
    p_limits bigint[], p_limit_periods text[], p_limit_starts bigint[],
    p_now bigint, p_today text, p_revenue text, p_allowance text, p_periods text[], p_starts bigint[]
) RETURNS TABLE (ordinal bigint, outcome text, seq bigint, available numeric, spent numeric)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c_max       CONSTANT bigint := 9000000000000000000;
    v_row       record;
    v_account   text;
    v_balance   bigint;
    v_start     bigint;            -- the account's balance before this call
    v_days      text[];            -- the days whose allowance was looked at for the account,
    v_lefts     bigint[];          -- and what is left of each
    v_day       integer;
    v_part      bigint;
    v_spent     numeric;
    v_head      bigint;
    v_count     bigint := 0;
    v_charged   numeric := 0;      -- in all
    v_allowed   numeric := 0;      -- of that, by allowances
    v_new       vectoll.transfers[] := '{}';  -- seq counts from 1
    v_ordinals  bigint[] := '{}';
    v_seqs      bigint[] := '{}';
    v_accounts  text[] := '{}';
    v_balances  bigint[] := '{}';
    v_any_limit CONSTANT boolean := EXISTS (SELECT 1 FROM unnest(p_limits) AS l (x) WHERE x IS NOT NULL);
BEGIN
    PERFORM 1 FROM vectoll.accounts WHERE id = ANY (p_accounts) ORDER BY id FOR NO KEY UPDATE;
    FOR v_row IN
        WITH claimed AS (
            DELETE FROM vectoll.holds h USING unnest(p_ids, p_request_ids) AS i (id, request_id)
            WHERE h.id = i.id AND h.request_id = i.request_id
            RETURNING h.id, CASE WHEN h.expires_at > clock_timestamp() THEN h.day END AS day
        )
        SELECT i.*, coalesce(c.day, p_today) AS day,
            EXISTS (SELECT 1 FROM vectoll.transfers t WHERE t.id = i.id) AS does_exist
        FROM unnest(p_ids, p_request_ids, p_accounts, p_amounts, p_tokens, p_durations, p_models, p_keys,
                    p_fingerprints, p_limits, p_limit_periods, p_limit_starts)
            WITH ORDINALITY AS i (id, request_id, account, amount, tokens, duration_ms, model, key,
                                  fingerprint, key_limit, period, start, n)
        LEFT JOIN claimed c USING (id)
        ORDER BY i.account, i.n
    LOOP
        ordinal := v_row.n;
        seq := NULL; available := NULL; spent := NULL;
        IF v_row.account IS DISTINCT FROM v_account THEN
            IF v_balance <> v_start THEN
                v_accounts := array_append(v_accounts, v_account);
                v_balances := array_append(v_balances, v_balance);
            END IF;
            v_account := v_row.account;
            SELECT a.balance INTO v_balance FROM vectoll.accounts a WHERE a.id = v_account;
            v_start := v_balance;
            v_days := '{}'; v_lefts := '{}';
        END IF;
        IF v_row.does_exist THEN
            outcome := 'exists';
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF v_row.key_limit IS NOT NULL THEN
            SELECT coalesce(sum(k.spent), 0) INTO v_spent FROM vectoll.key_spend k
            WHERE k.key = v_row.key AND k.period = v_row.period AND k.start = v_row.start;
            SELECT v_spent + coalesce(sum(n.amount), 0) INTO v_spent FROM unnest(v_new) n WHERE n.key = v_row.key;
            IF v_spent + v_row.amount > v_row.key_limit THEN
                outcome := 'limit';
                spent := v_spent;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        v_day := array_position(v_days, v_row.day);
        IF v_day IS NULL THEN
            v_days := array_append(v_days, v_row.day);
            v_lefts := array_append(v_lefts, vectoll.allowance_left(v_account, v_row.day));
            v_day := cardinality(v_days);
        END IF;
        v_part := greatest(0, least(v_lefts[v_day], v_row.amount, c_max - coalesce(v_balance, 0)));
        IF coalesce(v_balance, 0)::numeric + v_part < v_row.amount THEN
            outcome := 'balance';
            available := coalesce(v_balance, 0)::numeric + v_part;
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF v_balance IS NULL THEN  -- a charge of nothing opens an account
            INSERT INTO vectoll.accounts (id, balance) VALUES (v_account, 0) ON CONFLICT (id) DO NOTHING;
            v_balance := 0; v_start := 0;
        END IF;
        IF v_part > 0 THEN
            v_lefts[v_day] := v_lefts[v_day] - v_part;
            v_allowed := v_allowed + v_part;
            v_count := v_count + 1;
            v_new := array_append(v_new, ROW(
                v_count, v_row.id || '.allowance', p_allowance, v_account, v_part, 'ALLOWANCE', p_now,
                v_row.request_id, NULL, NULL, 0, NULL, NULL, v_row.day
            )::vectoll.transfers);
        END IF;
        v_count := v_count + 1;
        v_balance := v_balance + v_part - v_row.amount;
        v_charged := v_charged + v_row.amount;
        v_new := array_append(v_new, ROW(
            v_count, v_row.id, v_account, p_revenue, v_row.amount, 'CHARGE', p_now,
            v_row.request_id, v_row.key, v_row.model, v_row.tokens, v_row.duration_ms, v_row.fingerprint, ''
        )::vectoll.transfers);
        v_ordinals := array_append(v_ordinals, v_row.n);
        v_seqs := array_append(v_seqs, v_count);
    END LOOP;
    IF v_count = 0 THEN
        RETURN;
    END IF;
    IF v_balance <> v_start THEN
        v_accounts := array_append(v_accounts, v_account);
        v_balances := array_append(v_balances, v_balance);
    END IF;
    UPDATE vectoll.accounts a SET balance = n.balance
    FROM unnest(v_accounts, v_balances) AS n (id, balance) WHERE a.id = n.id;
    IF v_allowed > 0 THEN
        PERFORM vectoll.spend_allowances(v_new);
    END IF;
    INSERT INTO vectoll.key_spend AS k (key, period, start, spent)
    SELECT n.key, p.period, p.start, sum(n.amount)
    FROM unnest(v_new) n CROSS JOIN unnest(p_periods, p_starts) AS p (period, start)
    WHERE n.key IS NOT NULL
    GROUP BY n.key, p.period, p.start
    ORDER BY n.key, p.period, p.start
    ON CONFLICT (key, period, start) DO UPDATE SET spent = k.spent + excluded.spent;
    UPDATE vectoll.ledger_head h SET seq = h.seq + v_count RETURNING h.seq - v_count INTO v_head;
    INSERT INTO vectoll.transfers
    SELECT v_head + n.seq, n.id, n.debit, n.credit, n.amount, n.code, n.created_at, n.request_id, n.key, n.model,
        n.tokens, n.duration_ms, n.fingerprint, n.note
    FROM unnest(v_new) n;
    PERFORM vectoll.add_to_account(p_revenue, v_charged);
    IF v_allowed > 0 THEN
        PERFORM vectoll.add_to_account(p_allowance, -v_allowed);
    END IF;
    RETURN QUERY SELECT o.n, 'charged', v_head + o.rank, NULL::numeric, NULL::numeric
    FROM unnest(v_ordinals, v_seqs) AS o (n, rank);
END
$$;

-- Counts the allowances' transfers among the given ones as spent.
CREATE FUNCTION vectoll.spend_allowances(p_transfers vectoll.transfers[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO vectoll.allowances (account, day, staked, granted, spent)
    SELECT DISTINCT n.credit, n.note, 0, g.per_day, 0
    FROM unnest(p_transfers) n
    JOIN vectoll.daily_grants g ON g.account = n.credit
    WHERE n.code = 'ALLOWANCE'
        AND NOT EXISTS (SELECT 1 FROM vectoll.allowances a WHERE a.account = n.credit AND a.day = n.note);
    UPDATE vectoll.allowances a SET spent = a.spent + s.spent
    FROM (
        SELECT n.credit, n.note, sum(n.amount) AS spent
        FROM unnest(p_transfers) n WHERE n.code = 'ALLOWANCE' GROUP BY n.credit, n.note
    ) s
    WHERE a.account = s.credit AND a.day = s.note;
END
$$;

-- Adds to an account, opening it; a balance beyond the bounds is refused by the table.
CREATE FUNCTION vectoll.add_to_account(p_account text, p_amount numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE vectoll.accounts a SET balance = a.balance::numeric + p_amount WHERE a.id = p_account;
    IF NOT FOUND THEN
        INSERT INTO vectoll.accounts (id, balance) VALUES (p_account, p_amount);
    END IF;
END
$$;
