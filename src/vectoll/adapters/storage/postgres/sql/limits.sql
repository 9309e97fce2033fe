-- name: limits
SELECT ordinal, allowed, used, previous, wait_s, now_s FROM vectoll.limits($1, $2, $3, $4, $5, $6);

-- name: sweep_limits
SELECT vectoll.sweep_limits();
