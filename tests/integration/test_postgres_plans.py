"""What a question costs in a large ledger: the rows that are read for it, as the plans are that gateways use."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg
import pytest
from tests.ledger import make_credit, make_hold
from tests.postgres import PostgresServer, execute, make_schema, run_apart

from vectoll.adapters.storage.postgres import PoolSettings, PostgresStore, open_postgres
from vectoll.adapters.storage.postgres.database import sql

TRANSFERS = 30_000
KEYS = 5_000
EVER = "-9000000000000000000, 9000000000000000000"
PAGE = 50
_SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
ENOUGH = 4 * PAGE
"""Rows that a page may cost."""

FILL = f"""
INSERT INTO vectoll.transfers (seq, id, debit, credit, amount, code, created_at, tokens, note)
SELECT n, 'chg_' || md5(n::text), CASE WHEN n % 1000 = 0 THEN 'small' ELSE 'large' END,
    '$revenue:2026-11', 1, 'CHARGE', n, 1, ''
FROM generate_series(10, {TRANSFERS}) n
"""


@pytest.fixture(scope="module")
def large(postgres: PostgresServer) -> str:
    """A database in which nearly all transfers are charges of one account, and one other account has a few."""
    url = postgres.new_database()
    run_apart(make_schema(url))
    run_apart(
        execute(
            url,
            FILL,
            f"INSERT INTO vectoll.accounts SELECT 'a' || n, 0 FROM generate_series(1, {KEYS}) n",
            "INSERT INTO vectoll.accounts VALUES ('lapsed', 0)",
            f"""INSERT INTO vectoll.api_keys
                (id, account, kind, name, digest, prefix, last6, created_at, is_pro)
            SELECT n::text, 'a' || n, 'INFERENCE', '', n::text::bytea, '', '', n, false
            FROM generate_series(1, {KEYS}) n""",
            f"""INSERT INTO vectoll.payments
                (id, network, payer, base_units, payload, state, created_at, updated_at, since_block, tx, log_index,
                is_final, balance_after, reason, version)
            SELECT n::text, '', '', 1, '', 'credited', n, n, 1, n::text, 0, true, 1, '', 1
            FROM generate_series(1, {KEYS}) n""",
            f"""INSERT INTO vectoll.api_keys
                (id, account, kind, name, digest, prefix, last6, created_at, expires_at, is_pro)
            SELECT 'l' || n, 'lapsed', 'INFERENCE', '', ('l' || n)::bytea, '', '', n, 0, false
            FROM generate_series(1, {KEYS}) n""",
            "VACUUM ANALYZE vectoll.transfers",
            "VACUUM ANALYZE vectoll.payments",
            "VACUUM ANALYZE vectoll.api_keys",
        )
    )
    return url


async def rows_read(url: str, name: str, arguments: str) -> int:
    """How many rows a named statement visits, by the generic plan that every gateway has."""
    db = await asyncpg.connect(url, server_settings=_SETTINGS)
    try:
        await db.execute(f"PREPARE statement AS {sql(name)}")
        call = f"({arguments})" if arguments else ""
        [[found]] = await db.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE statement{call}")
    finally:
        await db.close()
    return sum(map(_visited, _nodes(json.loads(found)[0]["Plan"])))


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _visited(node: Mapping[str, Any]) -> int:
    if "Relation Name" not in node:
        return 0
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return int(rows * node["Actual Loops"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("newest_transfers", f"'small', {PAGE}"),
        ("newest_transfers", f"'large', {PAGE}"),
        ("newest_transfers", f"'nobody', {PAGE}"),
        ("usage", f"'small', 0, {EVER}, NULL, {PAGE}"),
        ("usage", f"'large', 0, {EVER}, NULL, {PAGE}"),
        ("charges", f"'small', 0, {EVER}, NULL, {PAGE}"),
        ("charges", f"'large', 0, {EVER}, 'credit', {PAGE}"),
        ("charges_by_allowance", f"'large', 0, {EVER}, {PAGE}"),
        ("list_account_keys", "'a77'"),
        ("active_keys", "'lapsed', 1"),
    ],
)
async def test_an_account_s_page_costs_its_own_rows_only(large: str, name: str, arguments: str) -> None:
    assert await rows_read(large, name, arguments) <= ENOUGH


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("list_payments", f"NULL, {PAGE}"),
        ("reversed_payments", "0"),
        ("open_payments", ""),
        ("open_payments_of", "'', ''"),
        ("forget_failed", "0, 0"),
    ],
)
async def test_what_is_asked_of_payments_every_few_minutes_does_not_read_them_all(
    large: str, name: str, arguments: str
) -> None:
    assert await rows_read(large, name, arguments) <= ENOUGH


async def rows_read_of_transfers(store: PostgresStore, url: str) -> int:
    """By all sessions until now: the store's one tells what it has read."""
    await store.database.run(lambda db: db.fetch("SELECT pg_stat_force_next_flush()"), is_repeatable=True)
    [[read]] = await execute(
        url,
        """SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 'vectoll.transfers'::regclass)
        + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relid = 'vectoll.transfers'::regclass)""",
    )
    return int(read)


async def test_a_plan_that_was_made_for_an_empty_ledger_does_for_a_large_one(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_database()
    await make_schema(url)
    await execute(url, "ALTER TABLE vectoll.transfers SET (autovacuum_enabled = false)")
    store = await open_postgres(url, pool=PoolSettings(connections=1))
    await store.ledger.post(make_credit("1"))

    async def embed() -> None:
        hold = make_hold(1)
        await store.ledger.hold(hold)
        await store.ledger.charge(hold, 1, 1)

    await embed()
    await execute(url, FILL, f"UPDATE vectoll.ledger_head SET seq = {TRANSFERS}")
    before = await rows_read_of_transfers(store, url)
    await embed()
    assert await rows_read_of_transfers(store, url) - before <= ENOUGH
    await store.close()
