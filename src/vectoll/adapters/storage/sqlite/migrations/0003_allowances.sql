-- Daily allowances. A day is '2026-11-18', in UTC.

-- What an operator granted for every day.
CREATE TABLE daily_grants (
    account TEXT    NOT NULL PRIMARY KEY REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    per_day INTEGER NOT NULL CHECK (per_day BETWEEN 1 AND 9000000000000000000)
) STRICT, WITHOUT ROWID;

-- A day's row is made when it is first changed; until then the day is worth the standing grant.
CREATE TABLE allowances (
    account TEXT    NOT NULL REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED,
    day     TEXT    NOT NULL,
    staked  INTEGER NOT NULL CHECK (staked BETWEEN 0 AND 9000000000000000000),
    granted INTEGER NOT NULL CHECK (granted BETWEEN 0 AND 9000000000000000000),
    spent   INTEGER NOT NULL CHECK (spent BETWEEN 0 AND granted),
    PRIMARY KEY (account, day)
) STRICT, WITHOUT ROWID;

CREATE INDEX allowances_by_day ON allowances (day);

-- The primary key is what keeps a stake that moves between wallets from being read twice in a day.
CREATE TABLE stake_snapshots (
    day      TEXT    NOT NULL PRIMARY KEY,
    block    INTEGER NOT NULL,
    taken_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
