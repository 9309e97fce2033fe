-- name: balance_and_allowance
SELECT
    (SELECT balance FROM accounts WHERE id = ?1),
    coalesce(
        (SELECT granted FROM allowances WHERE account = ?1 AND day = ?2),
        (SELECT per_day FROM daily_grants WHERE account = ?1)
    ),
    (SELECT spent FROM allowances WHERE account = ?1 AND day = ?2);

-- name: balances_and_allowances
SELECT id, balance, coalesce(granted, per_day), spent
FROM accounts
LEFT JOIN allowances ON allowances.account = id AND day = ?
LEFT JOIN daily_grants ON daily_grants.account = id
WHERE id NOT GLOB '$*';

-- name: allowance
SELECT staked, granted, spent FROM allowances WHERE account = ? AND day = ?;

-- name: set_allowance
INSERT INTO allowances (account, day, staked, granted, spent) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (account, day) DO UPDATE
SET staked = excluded.staked, granted = excluded.granted, spent = excluded.spent;

-- name: daily_grant
SELECT per_day FROM daily_grants WHERE account = ?;

-- name: set_daily_grant
INSERT INTO daily_grants (account, per_day) VALUES (?, ?)
ON CONFLICT (account) DO UPDATE SET per_day = excluded.per_day;

-- name: end_daily_grant
DELETE FROM daily_grants WHERE account = ?;

-- name: allowances_of_day
SELECT account, coalesce(per_day, 0), coalesce(staked, 0), coalesce(granted, per_day), coalesce(spent, 0)
FROM (
    SELECT account FROM daily_grants
    UNION
    SELECT account FROM allowances WHERE day = ?1
)
LEFT JOIN daily_grants USING (account)
LEFT JOIN (SELECT * FROM allowances WHERE day = ?1) USING (account)
WHERE coalesce(granted, per_day) > 0
ORDER BY account;

-- name: all_allowances
SELECT account, day, granted, spent FROM allowances;

-- name: stake_snapshot
SELECT block FROM stake_snapshots WHERE day = ?;

-- name: insert_stake_snapshot
INSERT INTO stake_snapshots (day, block, taken_at) VALUES (?, ?, ?) ON CONFLICT (day) DO NOTHING;

-- name: customers
SELECT id FROM accounts WHERE id NOT GLOB '$*' ORDER BY id;
