-- Takes back a charge whose answer was not delivered, once: the whole price to the account, and from there what an
-- allowance had paid to the day that it was of. Does nothing for a charge that was not made, or of nothing.
CREATE FUNCTION vectoll.give_back(p_charge text, p_note text) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_charge vectoll.transfers;
    v_part   vectoll.transfers;
    v_back   bigint;
    v_seq    bigint;
BEGIN
    SELECT * INTO v_charge FROM vectoll.transfers WHERE id = p_charge AND code = 'CHARGE' AND amount > 0;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM 1 FROM vectoll.accounts WHERE id = v_charge.debit FOR NO KEY UPDATE;
    IF EXISTS (SELECT 1 FROM vectoll.transfers WHERE id = 'undelivered_' || p_charge) THEN
        RETURN;
    END IF;
    SELECT * INTO v_part FROM vectoll.transfers WHERE id = p_charge || '.allowance' AND code = 'ALLOWANCE';
    v_back := coalesce(v_part.amount, 0);
    IF v_back > 0 THEN
        UPDATE vectoll.allowances SET spent = spent - v_back WHERE account = v_charge.debit AND day = v_part.note;
    END IF;
    UPDATE vectoll.ledger_head SET seq = seq + CASE WHEN v_back > 0 THEN 2 ELSE 1 END RETURNING seq INTO v_seq;
    INSERT INTO vectoll.transfers (seq, id, debit, credit, amount, code, created_at, request_id, tokens, note)
    VALUES (
        CASE WHEN v_back > 0 THEN v_seq - 1 ELSE v_seq END, 'undelivered_' || p_charge, v_charge.credit,
        v_charge.debit, v_charge.amount, 'REFUND', v_charge.created_at, v_charge.request_id, 0, p_note
    );
    IF v_back > 0 THEN
        INSERT INTO vectoll.transfers (seq, id, debit, credit, amount, code, created_at, request_id, tokens, note)
        VALUES (
            v_seq, 'undelivered_' || p_charge || '.allowance', v_part.credit, v_part.debit, v_back, 'ALLOWANCE',
            v_charge.created_at, v_charge.request_id, 0, v_part.note
        );
    END IF;
    PERFORM vectoll.add_to_account(v_charge.debit, v_charge.amount::numeric - v_back);
    PERFORM vectoll.add_to_account(v_charge.credit, -v_charge.amount::numeric);
    IF v_back > 0 THEN
        PERFORM vectoll.add_to_account(v_part.debit, v_back::numeric);
    END IF;
END
$$;
