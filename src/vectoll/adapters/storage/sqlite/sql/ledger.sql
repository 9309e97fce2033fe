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

-- name: account
SELECT balance, transfers, last_seq, earliest, latest FROM accounts WHERE id = ?;

-- name: set_account
UPDATE accounts SET balance = ?, transfers = ?, last_seq = ?, earliest = ?, latest = ? WHERE id = ?;

-- name: insert_transfer
INSERT INTO transfers
    (id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note,
    debit_before, credit_before)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

-- name: transfer
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq
FROM transfers
WHERE id = ?;

-- name: charge_totals
SELECT debit, key, model, count(*), sum(tokens), sum(amount >> 32), sum(amount & 0xffffffff)
FROM transfers
WHERE created_at >= :start AND code = 'CHARGE'
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

-- name: all_chained_postings
SELECT seq, debit, credit, amount, code, key, created_at, CASE WHEN code = 'ALLOWANCE' THEN note ELSE '' END,
    debit_before, credit_before
FROM transfers
ORDER BY seq;

-- name: all_balances
SELECT id, balance FROM accounts;

-- name: all_chains
SELECT id, transfers, last_seq, earliest, latest FROM accounts;

-- name: all_spends
SELECT key, period, start, spent FROM key_spend;
