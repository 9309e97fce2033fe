-- A payment's id follows from what its chain accepts only once, so the unique id is what stops a second settlement.
CREATE TABLE vectoll.payments (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id            text COLLATE "C" NOT NULL UNIQUE,
    network       text    NOT NULL,
    payer         text    NOT NULL,
    base_units    bigint  NOT NULL CHECK (base_units > 0),
    payload       bytea   NOT NULL,
    state         text    NOT NULL,
    created_at    bigint  NOT NULL,
    updated_at    bigint  NOT NULL,
    since_block   bigint  NOT NULL,
    tx            text,
    raw_tx        bytea,
    log_index     bigint,
    is_final      boolean NOT NULL,
    balance_after bigint,
    reason        text    NOT NULL,
    version       bigint  NOT NULL,
    CHECK (state <> 'credited' OR (tx IS NOT NULL AND log_index IS NOT NULL AND balance_after IS NOT NULL))
);

-- One log proves one payment.
CREATE UNIQUE INDEX payments_by_evidence ON vectoll.payments (network, tx, log_index) WHERE log_index IS NOT NULL;
-- What has still to be watched.
CREATE INDEX payments_open ON vectoll.payments (seq)
    WHERE state IN ('received', 'verified', 'submitting', 'unknown') OR (state = 'credited' AND NOT is_final);

CREATE TABLE vectoll.sign_in_nonces (
    wallet     text COLLATE "C" NOT NULL,
    nonce      text COLLATE "C" NOT NULL,
    good_until bigint NOT NULL,
    PRIMARY KEY (wallet, nonce)
);

CREATE INDEX sign_in_nonces_by_lapse ON vectoll.sign_in_nonces (good_until);
