-- A payment's id follows from what its chain accepts only once, so the primary key is what stops a second settlement.
CREATE TABLE payments (
    seq           INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    network       TEXT    NOT NULL,
    payer         TEXT    NOT NULL,
    base_units    INTEGER NOT NULL CHECK (base_units > 0),
    payload       BLOB    NOT NULL,
    state         TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    since_block   INTEGER NOT NULL,
    tx            TEXT,
    raw_tx        BLOB,
    log_index     INTEGER,
    is_final      INTEGER NOT NULL CHECK (is_final IN (0, 1)),
    balance_after INTEGER,
    reason        TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    CHECK (state <> 'credited' OR (tx IS NOT NULL AND log_index IS NOT NULL AND balance_after IS NOT NULL))
) STRICT;

-- One log proves one payment.
CREATE UNIQUE INDEX payments_by_evidence ON payments (network, tx, log_index) WHERE log_index IS NOT NULL;
-- What has still to be watched.
CREATE INDEX payments_open ON payments (seq)
    WHERE state IN ('received', 'verified', 'submitting', 'unknown') OR (state = 'credited' AND NOT is_final);

CREATE TABLE sign_in_nonces (
    wallet     TEXT    NOT NULL,
    nonce      TEXT    NOT NULL,
    good_until INTEGER NOT NULL,
    PRIMARY KEY (wallet, nonce)
) STRICT, WITHOUT ROWID;

CREATE INDEX sign_in_nonces_by_lapse ON sign_in_nonces (good_until);
