-- name: insert_key
WITH opened AS (
    INSERT INTO vectoll.accounts (id, balance) VALUES ($2, 0) ON CONFLICT (id) DO NOTHING
)
INSERT INTO vectoll.api_keys
    (id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
     is_pro)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: key_by_digest
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM vectoll.api_keys
WHERE digest = $1;

-- name: key_by_id
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM vectoll.api_keys
WHERE id = $1;

-- name: list_keys
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM vectoll.api_keys
ORDER BY created_at, seq;

-- name: list_account_keys
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM vectoll.api_keys
WHERE account = $1
ORDER BY created_at, seq;

-- name: active_keys
-- two parts, for each of which the index is a range
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM (
    SELECT * FROM vectoll.api_keys WHERE account = $1 AND revoked_at IS NULL AND expires_at IS NULL
    UNION ALL
    SELECT * FROM vectoll.api_keys WHERE account = $1 AND revoked_at IS NULL AND expires_at > $2
) AS active
ORDER BY created_at, seq;

-- name: revoke_key
UPDATE vectoll.api_keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL RETURNING id;
