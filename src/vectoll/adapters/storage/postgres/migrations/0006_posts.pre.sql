-- Applies one transfer that is no charge, once. Outcomes: applied (seq); exists (a transfer has the id); refused (by
-- the two balances, which are given). p_at_most: the amount is lowered to what the debited customer has.
CREATE FUNCTION vectoll.post(
    p_transfer vectoll.transfers, p_at_most boolean,
    OUT outcome text, OUT seq bigint, OUT debit_balance bigint, OUT credit_balance bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c_max     CONSTANT bigint := 9000000000000000000;
    v_amount  bigint := p_transfer.amount;
    v_account text;
    v_balance bigint;
BEGIN
    outcome := 'exists';
    IF EXISTS (SELECT 1 FROM vectoll.transfers t WHERE t.id = p_transfer.id) THEN
        RETURN;
    END IF;
    debit_balance := 0; credit_balance := 0;
    FOR v_account IN
        SELECT x FROM unnest(ARRAY[p_transfer.debit, p_transfer.credit]) AS u (x) WHERE left(x, 1) <> '$' ORDER BY x
    LOOP
        INSERT INTO vectoll.accounts (id, balance) VALUES (v_account, 0) ON CONFLICT (id) DO NOTHING;
        SELECT a.balance INTO v_balance FROM vectoll.accounts a WHERE a.id = v_account FOR NO KEY UPDATE;
        IF v_account = p_transfer.debit THEN
            debit_balance := v_balance;
        ELSE
            credit_balance := v_balance;
        END IF;
    END LOOP;
    IF EXISTS (SELECT 1 FROM vectoll.transfers t WHERE t.id = p_transfer.id) THEN
        RETURN;  -- by whoever held the lock before
    END IF;
    IF p_at_most THEN
        v_amount := least(v_amount, debit_balance);
    END IF;
    PERFORM 1 FROM vectoll.ledger_head FOR NO KEY UPDATE;
    IF left(p_transfer.debit, 1) = '$' THEN
        SELECT coalesce(sum(a.balance), 0) INTO debit_balance FROM vectoll.accounts a WHERE a.id = p_transfer.debit;
    END IF;
    IF left(p_transfer.credit, 1) = '$' THEN
        SELECT coalesce(sum(a.balance), 0) INTO credit_balance FROM vectoll.accounts a WHERE a.id = p_transfer.credit;
    END IF;
    outcome := 'refused';
    IF debit_balance::numeric - v_amount < (CASE WHEN left(p_transfer.debit, 1) = '$' THEN -c_max ELSE 0 END)
        OR credit_balance::numeric + v_amount > c_max THEN
        RETURN;
    END IF;
    outcome := 'applied';
    UPDATE vectoll.ledger_head h SET seq = h.seq + 1 RETURNING h.seq INTO seq;
    INSERT INTO vectoll.transfers VALUES (
        seq, p_transfer.id, p_transfer.debit, p_transfer.credit, v_amount, p_transfer.code, p_transfer.created_at,
        p_transfer.request_id, p_transfer.key, p_transfer.model, p_transfer.tokens, p_transfer.duration_ms,
        p_transfer.fingerprint, p_transfer.note
    );
    PERFORM vectoll.add_to_account(p_transfer.debit, -v_amount::numeric);
    PERFORM vectoll.add_to_account(p_transfer.credit, v_amount::numeric);
    debit_balance := debit_balance - v_amount;
    credit_balance := credit_balance + v_amount;
END
$$;

-- Writes a changed payment, if the stored one still has the version that the change was based on.
CREATE FUNCTION vectoll.advance_payment(p_new vectoll.payments, p_version bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE vectoll.payments
    SET base_units = p_new.base_units, payload = p_new.payload, state = p_new.state, created_at = p_new.created_at,
        updated_at = p_new.updated_at, since_block = p_new.since_block, tx = p_new.tx, raw_tx = p_new.raw_tx,
        log_index = p_new.log_index, is_final = p_new.is_final, balance_after = p_new.balance_after,
        reason = p_new.reason, version = p_version + 1
    WHERE id = p_new.id AND version = p_version;
    RETURN FOUND;
END
$$;

-- Advances a payment and posts its transfer, or does neither. Outcomes: done (with the credited account's balance);
-- outdated; consumed (the evidence proves another payment); conflict (the transfer's id moved something else);
-- refused, as by post.
CREATE FUNCTION vectoll.settle_payment(
    p_new vectoll.payments, p_version bigint, p_transfer vectoll.transfers, p_is_credit boolean,
    OUT outcome text, OUT debit_balance bigint, OUT credit_balance bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_post record;
BEGIN
    outcome := 'outdated';
    PERFORM 1 FROM vectoll.payments WHERE id = p_new.id AND version = p_version FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    outcome := 'consumed';
    IF p_is_credit AND EXISTS (
        SELECT 1 FROM vectoll.payments
        WHERE network = p_new.network AND tx = p_new.tx AND log_index = p_new.log_index AND id <> p_new.id
    ) THEN
        RETURN;
    END IF;
    SELECT * INTO v_post FROM vectoll.post(p_transfer, NOT p_is_credit);
    outcome := v_post.outcome;
    debit_balance := v_post.debit_balance;
    credit_balance := v_post.credit_balance;
    IF outcome = 'refused' THEN
        RETURN;
    END IF;
    IF outcome = 'exists' THEN
        outcome := 'conflict';
        PERFORM 1 FROM vectoll.transfers t
        WHERE t.id = p_transfer.id AND t.debit = p_transfer.debit AND t.credit = p_transfer.credit
            AND t.amount = p_transfer.amount AND t.code = p_transfer.code;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        SELECT a.balance INTO credit_balance FROM vectoll.accounts a WHERE a.id = p_transfer.credit;
    END IF;
    IF p_is_credit THEN
        p_new.balance_after := credit_balance;
    END IF;
    outcome := 'done';
    PERFORM vectoll.advance_payment(p_new, p_version);
END
$$;
