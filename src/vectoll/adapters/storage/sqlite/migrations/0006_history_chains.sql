-- An account's history without an index: each transfer names the one before it, of the account that it debits and of
-- the one that it credits, and a signpost marks every 64th. The indexes cost each charge one page more, somewhere in
-- the file, than the balance that it writes anyway.

DROP TRIGGER transfers_are_never_changed;

-- The seq of the account's transfer before this one, 0 for its first.
ALTER TABLE transfers ADD COLUMN debit_before INTEGER NOT NULL DEFAULT 0;
ALTER TABLE transfers ADD COLUMN credit_before INTEGER NOT NULL DEFAULT 0;

-- How many transfers an account has, and the seq of its last.
ALTER TABLE accounts ADD COLUMN transfers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;

-- 64 transfers of an account that follow each other, and between when and when they are dated.
CREATE TABLE history_pages (
    account  TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    last_seq INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    latest   INTEGER NOT NULL,
    PRIMARY KEY (account, last_seq)
) STRICT, WITHOUT ROWID;

UPDATE transfers SET
    debit_before = max(
        coalesce((SELECT max(seq) FROM transfers t WHERE t.debit = transfers.debit AND t.seq < transfers.seq), 0),
        coalesce((SELECT max(seq) FROM transfers t WHERE t.credit = transfers.debit AND t.seq < transfers.seq), 0)
    ),
    credit_before = max(
        coalesce((SELECT max(seq) FROM transfers t WHERE t.debit = transfers.credit AND t.seq < transfers.seq), 0),
        coalesce((SELECT max(seq) FROM transfers t WHERE t.credit = transfers.credit AND t.seq < transfers.seq), 0)
    );

INSERT INTO history_pages (account, last_seq, earliest, latest)
SELECT account, max(seq), min(created_at), max(created_at)
FROM (
    SELECT account, seq, created_at, (row_number() OVER (PARTITION BY account ORDER BY seq) - 1) / 64 AS page
    FROM (
        SELECT debit AS account, seq, created_at FROM transfers
        UNION ALL
        SELECT credit, seq, created_at FROM transfers
    )
)
GROUP BY account, page
HAVING count(*) = 64;

UPDATE accounts SET
    transfers =
        (SELECT count(*) FROM transfers WHERE debit = accounts.id)
        + (SELECT count(*) FROM transfers WHERE credit = accounts.id),
    last_seq = max(
        coalesce((SELECT max(seq) FROM transfers WHERE debit = accounts.id), 0),
        coalesce((SELECT max(seq) FROM transfers WHERE credit = accounts.id), 0)
    );

DROP INDEX transfers_by_debit;
DROP INDEX transfers_by_credit;

CREATE TRIGGER transfers_are_never_changed BEFORE UPDATE ON transfers
BEGIN
    SELECT raise(ABORT, 'a transfer is never changed');
END;
