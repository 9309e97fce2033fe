-- An account's history is a chain of transfers from its newest to its first, cut into pages of 64; what is left over
-- at its end is the newest page.

-- name: insert_history_page
INSERT INTO history_pages (account, last_seq, earliest, latest) VALUES (?, ?, ?, ?);

-- name: pages
-- The first of them; `:many` is how many at most.
SELECT last_seq, :page FROM history_pages
WHERE account = :account AND last_seq > :after_seq AND latest >= :start AND earliest < :end
UNION ALL
SELECT last_seq, transfers % :page FROM accounts
WHERE id = :account AND transfers % :page > 0 AND last_seq > :after_seq AND latest >= :start AND earliest < :end
ORDER BY last_seq
LIMIT :many;

-- name: page
-- One page, from `:last_seq` back over `:size` transfers. What is read of it follows: `usage` or `charges`.
WITH RECURSIVE page (seq, place) AS (
    VALUES (:last_seq, 1)
    UNION ALL
    SELECT iif(t.debit = :account, t.debit_before, t.credit_before), place + 1
    FROM page CROSS JOIN transfers t USING (seq)
    WHERE place < :size AND t.seq > :after_seq
)

-- name: usage
SELECT id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note, seq
FROM page CROSS JOIN transfers USING (seq)
WHERE seq > :after_seq AND created_at >= :start AND created_at < :end AND (:code IS NULL OR code = :code)
ORDER BY seq;

-- name: charges
SELECT c.id, c.debit, c.credit, c.amount, c.code, c.created_at, c.request_id, c.key, c.model, c.tokens,
    c.duration_ms, c.fingerprint, c.note, c.seq,
    coalesce(a.amount, 0)
FROM page CROSS JOIN transfers c USING (seq)
LEFT JOIN transfers a ON a.id = c.id || '.allowance'
WHERE c.debit = :account AND c.seq > :after_seq AND c.created_at >= :start AND c.created_at < :end
    AND c.code = 'CHARGE'
    AND CASE :funds
        WHEN 'allowance' THEN coalesce(a.amount, 0) > 0
        WHEN 'credit' THEN coalesce(a.amount, 0) < c.amount OR c.amount = 0
        ELSE true
    END
ORDER BY c.seq;

-- name: charge_totals_of_account
WITH RECURSIVE page (seq, places) AS (
    SELECT last_seq, :page FROM history_pages WHERE account = :account AND latest >= :start
    UNION ALL
    SELECT last_seq, transfers % :page FROM accounts
    WHERE id = :account AND transfers % :page > 0 AND latest >= :start
    UNION ALL
    SELECT iif(t.debit = :account, t.debit_before, t.credit_before), places - 1
    FROM page CROSS JOIN transfers t USING (seq)
    WHERE places > 1
    ORDER BY 1 DESC -- the newest first: page beside page, in turns of one step, each part of the file is read 64 times
)
SELECT debit, key, model, count(*), sum(tokens), sum(amount >> 32), sum(amount & 0xffffffff)
FROM page CROSS JOIN transfers USING (seq)
WHERE debit = :account AND created_at >= :start AND code = 'CHARGE'
GROUP BY debit, key, model;

-- name: all_history_pages
SELECT account, last_seq, earliest, latest FROM history_pages;
