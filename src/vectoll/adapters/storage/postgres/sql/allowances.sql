-- name: grant_allowance
SELECT staked, granted, spent FROM vectoll.grant_allowance($1, $2, $3);

-- name: allowances_of_day
SELECT account, coalesce(per_day, 0), coalesce(staked, 0), coalesce(granted, per_day), coalesce(spent, 0)
FROM (
    SELECT account FROM vectoll.daily_grants
    UNION
    SELECT account FROM vectoll.allowances WHERE day = $1
) holders
LEFT JOIN vectoll.daily_grants USING (account)
LEFT JOIN (SELECT * FROM vectoll.allowances WHERE day = $1) of_day USING (account)
WHERE coalesce(granted, per_day) > 0
ORDER BY account;

-- name: stake_snapshot
SELECT block FROM vectoll.stake_snapshots WHERE day = $1;

-- name: record_stakes
SELECT vectoll.record_stakes($1, $2, $3, $4, $5);

-- name: customers
SELECT id FROM vectoll.accounts WHERE left(id, 1) <> '$' ORDER BY id;
