-- Money is whole units of 10^-12 USD, time is microseconds since 1970 UTC; both always fit 64 bits.

CREATE TABLE accounts (
    id      TEXT    NOT NULL PRIMARY KEY,
    balance INTEGER NOT NULL CHECK (balance BETWEEN -9000000000000000000 AND 9000000000000000000),
    -- A customer is never below zero; the house's own accounts start with '$'.
    CHECK (balance >= 0 OR substr(id, 1, 1) = '$')
) STRICT, WITHOUT ROWID;

CREATE TABLE transfers (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    debit       TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    credit      TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    amount      INTEGER NOT NULL CHECK (amount BETWEEN 0 AND 9000000000000000000),
    code        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    request_id  TEXT,
    key         TEXT,
    model       TEXT,
    tokens      INTEGER NOT NULL CHECK (tokens >= 0),
    duration_ms INTEGER,
    fingerprint BLOB,
    note        TEXT    NOT NULL,
    CHECK (debit <> credit)
) STRICT;

-- An account's pages, in order; the time is in the index so that a page by date need not visit every row before it.
CREATE INDEX transfers_by_debit ON transfers (debit, seq, created_at);
CREATE INDEX transfers_by_credit ON transfers (credit, seq, created_at);
CREATE INDEX transfers_by_key ON transfers (key, seq) WHERE key IS NOT NULL;

CREATE TRIGGER transfers_are_never_changed BEFORE UPDATE ON transfers
BEGIN
    SELECT raise(ABORT, 'a transfer is never changed');
END;

CREATE TRIGGER transfers_are_never_deleted BEFORE DELETE ON transfers
BEGIN
    SELECT raise(ABORT, 'a transfer is never deleted');
END;

-- What each key was charged in every UTC day (EPOCH), UTC month (MONTH) and ever (LIFETIME), whether or not it has a
-- limit now: so a limit that is set or changed later counts what was spent before.
CREATE TABLE key_spend (
    key    TEXT    NOT NULL,
    period TEXT    NOT NULL,
    start  INTEGER NOT NULL,
    spent  INTEGER NOT NULL CHECK (spent BETWEEN 0 AND 9000000000000000000),
    PRIMARY KEY (key, period, start)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    account      TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    kind         TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    digest       BLOB    NOT NULL UNIQUE,
    prefix       TEXT    NOT NULL,
    last6        TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    limit_amount INTEGER CHECK (limit_amount >= 0),
    limit_period TEXT,
    is_pro       INTEGER NOT NULL CHECK (is_pro IN (0, 1)),
    CHECK ((limit_amount IS NULL) = (limit_period IS NULL))
) STRICT;

CREATE INDEX api_keys_by_account ON api_keys (account);
