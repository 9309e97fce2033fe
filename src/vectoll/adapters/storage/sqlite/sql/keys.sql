-- name: key_exists
SELECT 1 FROM api_keys WHERE id = ? OR digest = ?;

-- name: insert_key
INSERT INTO api_keys
    (id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
     is_pro)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: key_by_digest
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM api_keys
WHERE digest = ?;

-- name: key_by_id
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM api_keys
WHERE id = ?;

-- name: list_keys
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM api_keys
ORDER BY created_at, seq;

-- name: list_account_keys
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM api_keys
WHERE account = ?
ORDER BY created_at, seq;

-- name: active_keys
-- two parts, for each of which the index is a range
SELECT id, account, kind, name, digest, prefix, last6, created_at, expires_at, revoked_at, limit_amount, limit_period,
    is_pro
FROM (
    SELECT * FROM api_keys WHERE account = :account AND revoked_at IS NULL AND expires_at IS NULL
    UNION ALL
    SELECT * FROM api_keys WHERE account = :account AND revoked_at IS NULL AND expires_at > :now
) AS active
ORDER BY created_at, seq;

-- name: revoke_key
UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL;
