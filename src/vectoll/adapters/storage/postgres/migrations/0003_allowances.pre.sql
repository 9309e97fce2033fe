-- Daily allowances. A day is '2026-11-18', in UTC. Whoever changes a row here has locked its account's row before.

-- What an operator granted for every day.
CREATE TABLE vectoll.daily_grants (
    account text COLLATE "C" PRIMARY KEY REFERENCES vectoll.accounts (id),
    per_day bigint NOT NULL CHECK (per_day BETWEEN 1 AND 9000000000000000000)
);

-- A day's row is made when it is first changed; until then the day is worth the standing grant.
CREATE TABLE vectoll.allowances (
    account text COLLATE "C" NOT NULL,
    day     text COLLATE "C" NOT NULL,
    staked  bigint NOT NULL CHECK (staked BETWEEN 0 AND 9000000000000000000),
    granted bigint NOT NULL CHECK (granted BETWEEN 0 AND 9000000000000000000),
    spent   bigint NOT NULL CHECK (spent BETWEEN 0 AND granted),
    PRIMARY KEY (account, day)
) WITH (fillfactor = 50);

CREATE INDEX allowances_by_day ON vectoll.allowances (day);

-- The primary key is what keeps a stake that moves between wallets from being read twice in a day.
CREATE TABLE vectoll.stake_snapshots (
    day      text COLLATE "C" PRIMARY KEY,
    block    bigint NOT NULL,
    taken_at bigint NOT NULL
);

-- A day's grant: at most 9,000,000 USD, and never less than what is spent of it already.
CREATE FUNCTION vectoll.granted_amount(p_per_day bigint, p_staked bigint, p_spent bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE RETURN greatest(p_spent, least(p_per_day::numeric + p_staked, 9000000000000000000))::bigint;

CREATE FUNCTION vectoll.allowance_left(p_account text, p_day text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT granted - spent FROM vectoll.allowances WHERE account = p_account AND day = p_day),
        (SELECT per_day FROM vectoll.daily_grants WHERE account = p_account),
        0
    )
$$;

-- Sets the standing grant and makes today's row of it.
CREATE FUNCTION vectoll.grant_allowance(p_account text, p_per_day bigint, p_day text)
RETURNS vectoll.allowances LANGUAGE plpgsql AS $$
DECLARE
    v_row vectoll.allowances;
BEGIN
    INSERT INTO vectoll.accounts (id, balance) VALUES (p_account, 0) ON CONFLICT (id) DO NOTHING;
    PERFORM 1 FROM vectoll.accounts WHERE id = p_account FOR NO KEY UPDATE;
    IF p_per_day = 0 THEN
        DELETE FROM vectoll.daily_grants WHERE account = p_account;
    ELSE
        INSERT INTO vectoll.daily_grants (account, per_day) VALUES (p_account, p_per_day)
        ON CONFLICT (account) DO UPDATE SET per_day = excluded.per_day;
    END IF;
    INSERT INTO vectoll.allowances AS a (account, day, staked, granted, spent)
    VALUES (p_account, p_day, 0, p_per_day, 0)
    ON CONFLICT (account, day) DO UPDATE SET granted = vectoll.granted_amount(p_per_day, a.staked, a.spent)
    RETURNING * INTO v_row;
    RETURN v_row;
END
$$;

-- Stores a day's snapshot and grants what each stake gives; false when the day has one already.
CREATE FUNCTION vectoll.record_stakes(
    p_day text, p_block bigint, p_taken_at bigint, p_accounts text[], p_amounts bigint[]
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO vectoll.stake_snapshots (day, block, taken_at) VALUES (p_day, p_block, p_taken_at)
    ON CONFLICT (day) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM 1 FROM vectoll.accounts WHERE id = ANY (p_accounts) ORDER BY id FOR NO KEY UPDATE;
    INSERT INTO vectoll.allowances AS a (account, day, staked, granted, spent)
    SELECT s.account, p_day, s.amount, vectoll.granted_amount(coalesce(g.per_day, 0), s.amount, 0), 0
    FROM unnest(p_accounts, p_amounts) AS s (account, amount)
    LEFT JOIN vectoll.daily_grants g ON g.account = s.account
    ORDER BY s.account
    ON CONFLICT (account, day) DO UPDATE
    SET staked = excluded.staked,
        granted = vectoll.granted_amount(
            coalesce((SELECT per_day FROM vectoll.daily_grants d WHERE d.account = a.account), 0),
            excluded.staked,
            a.spent
        );
    RETURN true;
END
$$;
