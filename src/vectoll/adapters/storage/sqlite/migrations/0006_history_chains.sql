-- An account's history without an index: each transfer names the one before it, of the account that it debits and of
-- the one that it credits, and every 64 end a page. The indexes cost each charge one page of the file more, somewhere,
-- than the balance that it writes anyway.

-- Of an account: how many transfers, the seq of the last, and between when and when those are dated that its newest
-- page has so far.
ALTER TABLE accounts ADD COLUMN transfers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN earliest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN latest INTEGER NOT NULL DEFAULT 0;

-- 64 transfers of an account that follow each other, and between when and when they are dated.
CREATE TABLE history_pages (
    account  TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    last_seq INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    latest   INTEGER NOT NULL,
    PRIMARY KEY (account, last_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE chained_transfers (
    seq           INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    debit         TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    credit        TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    amount        INTEGER NOT NULL CHECK (amount BETWEEN 0 AND 9000000000000000000),
    code          TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    request_id    TEXT,
    key           TEXT,
    model         TEXT,
    tokens        INTEGER NOT NULL CHECK (tokens >= 0),
    duration_ms   INTEGER,
    fingerprint   BLOB,
    note          TEXT    NOT NULL,
    -- The seq of the account's transfer before this one, 0 for its first. Without a default: a program that does not
    -- know of chains, such as a server that still runs, cannot add a transfer that is in none.
    debit_before  INTEGER NOT NULL CHECK (debit_before >= 0),
    credit_before INTEGER NOT NULL CHECK (credit_before >= 0),
    CHECK (debit <> credit)
) STRICT;

INSERT INTO chained_transfers
SELECT
    seq, id, debit, credit, amount, code, created_at, request_id, key, model, tokens, duration_ms, fingerprint, note,
    max(
        coalesce((SELECT max(seq) FROM transfers t WHERE t.debit = transfers.debit AND t.seq < transfers.seq), 0),
        coalesce((SELECT max(seq) FROM transfers t WHERE t.credit = transfers.debit AND t.seq < transfers.seq), 0)
    ),
    max(
        coalesce((SELECT max(seq) FROM transfers t WHERE t.debit = transfers.credit AND t.seq < transfers.seq), 0),
        coalesce((SELECT max(seq) FROM transfers t WHERE t.credit = transfers.credit AND t.seq < transfers.seq), 0)
    )
FROM transfers
ORDER BY seq;

DROP TABLE transfers;
ALTER TABLE chained_transfers RENAME TO transfers;

CREATE TRIGGER transfers_are_never_changed BEFORE UPDATE ON transfers
BEGIN
    SELECT raise(ABORT, 'a transfer is never changed');
END;

CREATE TRIGGER transfers_are_never_deleted BEFORE DELETE ON transfers
BEGIN
    SELECT raise(ABORT, 'a transfer is never deleted');
END;

-- Every page of every account, the newest as well, which may not be full.
CREATE TABLE pages AS
SELECT account, page, count(*) AS size, max(seq) AS last_seq, min(created_at) AS earliest, max(created_at) AS latest
FROM (
    SELECT account, seq, created_at, (row_number() OVER (PARTITION BY account ORDER BY seq) - 1) / 64 AS page
    FROM (
        SELECT debit AS account, seq, created_at FROM transfers
        UNION ALL
        SELECT credit, seq, created_at FROM transfers
    )
)
GROUP BY account, page;

INSERT INTO history_pages (account, last_seq, earliest, latest)
SELECT account, last_seq, earliest, latest FROM pages WHERE size = 64;

UPDATE accounts SET (transfers, last_seq, earliest, latest) = (newest.page * 64 + newest.size, newest.last_seq,
    newest.earliest, newest.latest)
FROM (SELECT *, max(page) FROM pages GROUP BY account) AS newest
WHERE newest.account = accounts.id;

DROP TABLE pages;
