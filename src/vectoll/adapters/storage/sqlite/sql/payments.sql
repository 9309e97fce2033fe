-- name: insert_payment
INSERT INTO payments
    (id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
     is_final, balance_after, reason, version)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

-- name: update_payment
UPDATE payments
SET base_units = ?, payload = ?, state = ?, created_at = ?, updated_at = ?, since_block = ?, tx = ?, raw_tx = ?,
    log_index = ?, is_final = ?, balance_after = ?, reason = ?, version = ?
WHERE id = ? AND version = ?;

-- name: payment
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM payments
WHERE id = ?;

-- name: open_payments
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM payments
WHERE state IN ('received', 'verified', 'submitting', 'unknown') OR (state = 'credited' AND NOT is_final)
ORDER BY seq;

-- name: open_payments_of
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM payments
-- the set of payments_open, so that its index, which is small, is what is read
WHERE (state IN ('received', 'verified', 'submitting', 'unknown') OR (state = 'credited' AND NOT is_final))
    AND state IN ('verified', 'submitting', 'unknown') AND network = ? AND payer = ?
ORDER BY seq;

-- name: reversed_payments
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM payments
WHERE state = 'reversed' AND updated_at > ?
ORDER BY updated_at;

-- name: list_payments
SELECT id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, raw_tx, log_index,
    is_final, balance_after, reason, version
FROM payments
WHERE ?1 IS NULL OR state = ?1
ORDER BY seq DESC
LIMIT ?2;

-- name: forget_failed
DELETE FROM payments
WHERE state = 'failed' AND updated_at < CASE WHEN since_block = 0 AND tx IS NULL THEN ? ELSE ? END;

-- name: evidence_consumed
SELECT 1 FROM payments WHERE network = ? AND tx = ? AND log_index = ? AND id <> ?;

-- name: forget_nonces
DELETE FROM sign_in_nonces
WHERE (wallet, nonce) IN (SELECT wallet, nonce FROM sign_in_nonces WHERE good_until <= ? ORDER BY good_until LIMIT ?);

-- name: consume_nonce
INSERT INTO sign_in_nonces (wallet, nonce, good_until) VALUES (?, ?, ?) ON CONFLICT (wallet, nonce) DO NOTHING;
