-- Named blocks: each `-- name: x` starts one statement.

-- name: hold_facts
SELECT
    (SELECT balance FROM accounts WHERE id = ?1),
    coalesce(
        (SELECT granted - spent FROM allowances WHERE account = ?1 AND day = ?2),
        (SELECT per_day FROM daily_grants WHERE account = ?1)
    ),
    (SELECT spent FROM key_spend WHERE key = ?3 AND period = ?4 AND start = ?5);

-- name: balance
SELECT balance FROM accounts WHERE id = ?;

-- name: open_account
INSERT INTO accounts (id, balance) VALUES (?, 0) ON CONFLICT (id) DO NOTHING;

-- name: set_balance
UPDATE accounts SET balance = ? WHERE id = ?;

-- name: insert_transfer
INSERT INTO transfers
    (id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

-- name: transfer
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq
FROM transfers
WHERE id = ?;

-- name: usage
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq
FROM (
    SELECT * FROM (
        SELECT * FROM transfers INDEXED BY transfers_by_debit
        WHERE debit = :account AND seq > :after_seq AND created_at >= :start AND created_at < :end
            AND (:code IS NULL OR code = :code)
        ORDER BY seq LIMIT :limit
    )
    UNION ALL
    SELECT * FROM (
        SELECT * FROM transfers INDEXED BY transfers_by_credit
        WHERE credit = :account AND seq > :after_seq AND created_at >= :start AND created_at < :end
            AND (:code IS NULL OR code = :code)
        ORDER BY seq LIMIT :limit
    )
)
ORDER BY seq LIMIT :limit;

-- name: charges
SELECT c.id, c.debit, c.credit, c.amount, c.code, c.created_at, c.request_id, c.key, c.model, c.tokens,
    c.duration_ms, c.fingerprint, c.note, c.seq,
    coalesce(a.amount, 0)
FROM transfers c INDEXED BY transfers_by_debit
LEFT JOIN transfers a ON a.id = c.id || '.allowance'
WHERE c.debit = :account AND c.seq > :after_seq AND c.created_at >= :start AND c.created_at < :end
    AND c.code = 'CHARGE'
    AND CASE :funds
        WHEN 'allowance' THEN coalesce(a.amount, 0) > 0
        WHEN 'credit' THEN coalesce(a.amount, 0) < c.amount OR c.amount = 0
        ELSE true
    END
ORDER BY c.seq LIMIT :limit;

-- name: charge_totals
SELECT debit, key, model, count(*), sum(tokens), sum(amount >> 32), sum(amount & 0xffffffff)
FROM transfers
WHERE created_at >= :start AND code = 'CHARGE'
GROUP BY debit, key, model;

-- name: charge_totals_of_account
SELECT debit, key, model, count(*), sum(tokens), sum(amount >> 32), sum(amount & 0xffffffff)
FROM transfers INDEXED BY transfers_by_debit
WHERE debit = :account AND created_at >= :start AND code = 'CHARGE'
GROUP BY debit, key, model;

-- name: spent
SELECT spent FROM key_spend WHERE key = ? AND period = ? AND start = ?;

-- name: set_spent
INSERT INTO key_spend (key, period, start, spent, charged_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key, period, start) DO UPDATE SET spent = excluded.spent, charged_at = excluded.charged_at;

-- name: spent_since
SELECT coalesce(sum(spent), 0) FROM key_spend WHERE key = ? AND period = ? AND start >= ? AND start <= ?;

-- name: last_used_at
SELECT charged_at FROM key_spend WHERE key = ? AND period = 'LIFETIME';

-- name: all_postings
SELECT seq, debit, credit, amount, code, key, created_at, CASE WHEN code = 'ALLOWANCE' THEN note ELSE '' END
FROM transfers
ORDER BY seq;

-- name: all_balances
SELECT id, balance FROM accounts;

-- name: all_spends
SELECT key, period, start, spent FROM key_spend;
