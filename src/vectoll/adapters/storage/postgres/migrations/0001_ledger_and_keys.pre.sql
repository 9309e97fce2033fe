-- Money is whole units of 10^-12 USD, time is microseconds since 1970 UTC (to_timestamp(created_at / 1e6) shows it).

CREATE TABLE vectoll.accounts (
    id      text COLLATE "C" PRIMARY KEY,
    balance bigint NOT NULL CHECK (balance BETWEEN -9000000000000000000 AND 9000000000000000000),
    -- A customer is never below zero; the house's own accounts start with '$'.
    CONSTRAINT a_customer_is_never_below_zero CHECK (balance >= 0 OR left(id, 1) = '$')
) WITH (fillfactor = 50);  -- room for the next version of a row on its own page

-- The last number that was given out. Its row is locked by whatever moves money, last before the house's accounts,
-- and until its commit: so transfers are numbered without gaps and become visible in the order of their numbers.
CREATE TABLE vectoll.ledger_head (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    seq      bigint NOT NULL CHECK (seq >= 0)
) WITH (fillfactor = 10);
INSERT INTO vectoll.ledger_head (seq) VALUES (0);

-- No foreign keys: each would lock the account's row once more for every charge. Accounts are never deleted, the
-- functions below open them, and `vectoll ledger verify` looks for transfers without one.
CREATE TABLE vectoll.transfers (
    seq         bigint PRIMARY KEY,
    id          text COLLATE "C" NOT NULL UNIQUE,
    debit       text COLLATE "C" NOT NULL,
    credit      text COLLATE "C" NOT NULL,
    amount      bigint NOT NULL CHECK (amount BETWEEN 0 AND 9000000000000000000),
    code        text   NOT NULL,
    created_at  bigint NOT NULL,
    request_id  text,
    key         text COLLATE "C",
    model       text,
    tokens      bigint NOT NULL CHECK (tokens >= 0),
    duration_ms bigint,
    fingerprint bytea,
    note        text   NOT NULL,
    CHECK (debit <> credit)
);

-- An account's pages, in order; the time is in the index so that a page by date need not visit every row before it.
CREATE INDEX transfers_by_debit ON vectoll.transfers (debit, seq, created_at);
CREATE INDEX transfers_by_credit ON vectoll.transfers (credit, seq, created_at);
CREATE INDEX transfers_by_key ON vectoll.transfers (key, seq) WHERE key IS NOT NULL;

CREATE FUNCTION vectoll.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a transfer is never changed or deleted' USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER transfers_are_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON vectoll.transfers
FOR EACH STATEMENT EXECUTE FUNCTION vectoll.refuse_change();

-- What each key was charged in every UTC day (EPOCH), UTC month (MONTH) and ever (LIFETIME), whether or not it has a
-- limit now: so a limit that is set or changed later counts what was spent before.
CREATE TABLE vectoll.key_spend (
    key    text COLLATE "C" NOT NULL,
    period text COLLATE "C" NOT NULL,
    start  bigint NOT NULL,
    spent  bigint NOT NULL
        CONSTRAINT a_key_spends_what_can_be_counted CHECK (spent BETWEEN 0 AND 9000000000000000000),
    PRIMARY KEY (key, period, start)
) WITH (fillfactor = 50);

CREATE TABLE vectoll.api_keys (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           text COLLATE "C" NOT NULL UNIQUE,
    account      text COLLATE "C" NOT NULL REFERENCES vectoll.accounts (id),
    kind         text    NOT NULL,
    name         text    NOT NULL,
    digest       bytea   NOT NULL UNIQUE,
    prefix       text    NOT NULL,
    last6        text    NOT NULL,
    created_at   bigint  NOT NULL,
    expires_at   bigint,
    revoked_at   bigint,
    limit_amount bigint CHECK (limit_amount >= 0),
    limit_period text,
    is_pro       boolean NOT NULL,
    CHECK ((limit_amount IS NULL) = (limit_period IS NULL))
);

CREATE INDEX api_keys_by_account ON vectoll.api_keys (account);
