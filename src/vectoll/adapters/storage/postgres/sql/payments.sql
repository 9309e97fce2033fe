-- name: insert_payment
INSERT INTO vectoll.payments
    (id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
     is_final, balance_after, reason, version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: advance_payment
SELECT vectoll.advance_payment($1, $2);

-- name: settle_payment
SELECT outcome, debit_balance, credit_balance FROM vectoll.settle_payment($1, $2, $3, $4);

-- name: payment
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM vectoll.payments
WHERE id = $1;

-- name: open_payments
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM vectoll.payments
WHERE state IN ('received', 'verified', 'submitting', 'unknown') OR (state = 'credited' AND NOT is_final)
ORDER BY seq;

-- name: open_payments_of
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM vectoll.payments
-- the set of payments_open, so that its index, which is small, is what is read
WHERE (state IN ('received', 'verified', 'submitting', 'unknown') OR (state = 'credited' AND NOT is_final))
    AND state IN ('verified', 'submitting', 'unknown') AND network = $1 AND payer = $2
ORDER BY seq;

-- name: reversed_payments
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM vectoll.payments
WHERE state = 'reversed' AND updated_at > $1
ORDER BY updated_at;

-- name: list_payments
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM vectoll.payments
WHERE $1::text IS NULL OR state = $1
ORDER BY seq DESC
LIMIT $2;

-- name: forget_failed
DELETE FROM vectoll.payments
WHERE state = 'failed' AND updated_at < CASE WHEN since_block = 0 AND tx IS NULL THEN $1::bigint ELSE $2 END
RETURNING id;

-- name: consume_nonce
WITH this_moment AS (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros
), lapsed AS (
    DELETE FROM vectoll.sign_in_nonces WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM vectoll.sign_in_nonces
        WHERE good_until <= (SELECT micros FROM this_moment) AND NOT (wallet = $1 AND nonce = $2)
        LIMIT 100 FOR UPDATE SKIP LOCKED))
)
INSERT INTO vectoll.sign_in_nonces AS n (wallet, nonce, good_until) VALUES ($1, $2, $3)
ON CONFLICT (wallet, nonce) DO UPDATE SET good_until = excluded.good_until
WHERE n.good_until <= (SELECT micros FROM this_moment)
RETURNING wallet;
