-- name: take_holds
SELECT ordinal, outcome, available, spent
FROM vectoll.take_holds($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: release_holds
SELECT vectoll.release_holds($1, $2);

-- name: renew_holds
SELECT vectoll.renew_holds($1, $2, $3);

-- name: sweep_holds
SELECT vectoll.sweep_holds();

-- name: charge
SELECT ordinal, outcome, seq, available, spent
FROM vectoll.charge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18);

-- name: post
SELECT outcome, seq, debit_balance, credit_balance FROM vectoll.post($1, false);

-- name: give_back
SELECT vectoll.give_back($1, $2);

-- name: balance
SELECT
    coalesce((SELECT balance FROM vectoll.accounts WHERE id = $1), 0) AS balance,
    coalesce(
        (SELECT sum(amount) FROM vectoll.holds WHERE account = $1 AND expires_at > clock_timestamp()), 0
    )::numeric AS held,
    vectoll.allowance_left($1, $2) AS allowance,
    coalesce(
        (SELECT granted FROM vectoll.allowances WHERE account = $1 AND day = $2),
        (SELECT per_day FROM vectoll.daily_grants WHERE account = $1),
        0
    ) AS granted;

-- name: balances
SELECT id, balance, coalesce(held, 0), coalesce(granted - spent, per_day, 0), coalesce(granted, per_day, 0)
FROM vectoll.accounts
LEFT JOIN (
    SELECT account, sum(amount) AS held FROM vectoll.holds WHERE expires_at > clock_timestamp() GROUP BY account
) holds ON holds.account = id
LEFT JOIN vectoll.allowances ON allowances.account = id AND day = $1
LEFT JOIN vectoll.daily_grants ON daily_grants.account = id
WHERE left(id, 1) <> '$';

-- name: transfer
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq
FROM vectoll.transfers
WHERE id = $1;

-- name: transfers
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq
FROM vectoll.transfers
WHERE id = ANY ($1);

-- name: usage
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq
FROM (
    (
        SELECT * FROM vectoll.transfers
        WHERE debit = $1 AND seq > $2 AND created_at >= $3 AND created_at < $4
            AND ($5::text IS NULL OR code = $5)
        ORDER BY seq LIMIT $6
    )
    UNION ALL
    (
        SELECT * FROM vectoll.transfers
        WHERE credit = $1 AND seq > $2 AND created_at >= $3 AND created_at < $4
            AND ($5::text IS NULL OR code = $5)
        ORDER BY seq LIMIT $6
    )
) t
ORDER BY seq LIMIT $6;

-- name: charges
SELECT c.id, c.debit, c.credit, c.amount, c.code, c.created_at, c.request_id, c.key, c.model, c.tokens,
    c.duration_ms, c.fingerprint, c.note, c.seq,
    coalesce(a.amount, 0)
FROM vectoll.transfers c
-- What an allowance paid is just before the charge: read by its place, for its id may be anywhere in the index of ids.
LEFT JOIN vectoll.transfers a ON a.seq = c.seq - 1 AND a.id = c.id || '.allowance'
WHERE c.debit = $1 AND c.seq > $2 AND c.created_at >= $3 AND c.created_at < $4
    AND c.code = 'CHARGE'
    AND ($5::text IS NULL OR coalesce(a.amount, 0) < c.amount OR c.amount = 0)
ORDER BY c.seq LIMIT $6;

-- name: charges_by_allowance
-- From the allowances' side: an account may have millions of charges, and few that an allowance paid.
SELECT c.id, c.debit, c.credit, c.amount, c.code, c.created_at, c.request_id, c.key, c.model, c.tokens,
    c.duration_ms, c.fingerprint, c.note, c.seq,
    a.amount
FROM vectoll.transfers a
JOIN vectoll.transfers c ON c.seq = a.seq + 1 AND a.id = c.id || '.allowance'
WHERE a.credit BETWEEN $1 AND $1 AND a.seq >= $2 AND a.created_at >= $3 AND a.created_at < $4
    AND a.code = 'ALLOWANCE' AND a.amount > 0 AND c.seq > $2
ORDER BY a.credit, a.seq LIMIT $5;

-- name: newest_transfers
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq,
    coalesce((SELECT balance FROM vectoll.accounts WHERE id = $1), 0)
FROM (
    -- Neither `= $1` nor by seq alone: for an account that few transfers credit, a generic plan reads all from the end.
    (SELECT * FROM vectoll.transfers WHERE debit BETWEEN $1 AND $1 ORDER BY debit DESC, seq DESC LIMIT $2)
    UNION ALL
    (SELECT * FROM vectoll.transfers WHERE credit BETWEEN $1 AND $1 ORDER BY credit DESC, seq DESC LIMIT $2)
) t
ORDER BY seq DESC LIMIT $2;

-- name: charge_totals
SELECT debit, key, model, count(*), sum(tokens), sum(amount)
FROM vectoll.transfers
WHERE created_at >= $1 AND code = 'CHARGE'
GROUP BY debit, key, model;

-- name: charge_totals_of_account
SELECT debit, key, model, count(*), sum(tokens), sum(amount)
FROM vectoll.transfers
WHERE created_at >= $1 AND code = 'CHARGE' AND debit = $2
GROUP BY debit, key, model;

-- name: key_usage
SELECT
    asked.key,
    (
        SELECT coalesce(sum(spent), 0) FROM vectoll.key_spend
        WHERE key = asked.key AND period = 'EPOCH' AND start >= $4 AND start <= $5
    ),
    (SELECT spent FROM vectoll.key_spend WHERE key = asked.key AND period = asked.period AND start = asked.start),
    (SELECT created_at FROM vectoll.transfers WHERE key = asked.key ORDER BY seq DESC LIMIT 1)
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS asked (key, period, start);

-- name: all_postings
SELECT seq, debit, credit, amount, code, key, created_at, CASE WHEN code = 'ALLOWANCE' THEN note ELSE '' END
FROM vectoll.transfers
ORDER BY seq;

-- name: ledger_head
SELECT seq FROM vectoll.ledger_head;

-- name: all_balances
SELECT id, balance FROM vectoll.accounts;

-- name: all_spends
SELECT key, period, start, spent FROM vectoll.key_spend;

-- name: all_allowances
SELECT account, day, granted, spent FROM vectoll.allowances;
