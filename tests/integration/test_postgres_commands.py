"""Every command on a database, and an SQLite deployment that moves to one."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.integration.test_postgres_failures import QUICK
from tests.ledger import ALICE, BOB, TOKEN, FixedClock, make_credit, make_hold, make_key
from tests.live import MODEL, Vectoll
from tests.postgres import PostgresServer, execute, make_schema, run_apart

from vectoll.adapters.storage.copying import copy_store
from vectoll.adapters.storage.postgres import PostgresStore, open_postgres
from vectoll.adapters.storage.postgres.database import connect
from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.cli.root import cli
from vectoll.domain.allowances import Day, StakeSnapshot
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount
from vectoll.ports.ledger import UsageQuery
from vectoll.ports.store import Store

WALLET = AccountId("0x" + "ab" * 20)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    url = postgres.new_database()
    run_apart(make_schema(url))
    return url


class Commands:
    """The command line in this process, on a database."""

    def __init__(self, home: Path, url: str) -> None:
        self._options = ["--data-dir", str(home / "data")]
        self._environ = {"VECTOLL_DATABASE__URL": url}

    def fails(self, *arguments: str, code: int = 2) -> str:
        result = CliRunner().invoke(cli, [*arguments, *self._options], env=self._environ)
        assert result.exit_code == code, result.output
        return result.output

    def run(self, *arguments: str) -> str:
        return self.fails(*arguments, code=0)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


def test_commands_work_on_a_database(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vectoll = Commands(tmp_path, postgres.new_database().replace("postgres@", "postgres:hush@"))
    missing = vectoll.fails("keys", "list", code=1)
    assert "vectoll db migrate" in missing
    assert "vectoll db migrate" in vectoll.fails("db", "status", code=1)
    vectoll.run("db", "migrate", "--pre")
    assert "--post" in vectoll.run("db", "status")
    assert "(--pre)" in vectoll.run("db", "migrate", "--pre", "--post")
    status = vectoll.json("db", "status")
    assert status["pre"] == status["post"] == status["program"]
    key = vectoll.json("keys", "create", "--name", "k", "--credit-usd", "1")
    vectoll.run("credit", "add", "--key", key["id"], "--usd", "2.5")
    vectoll.run("credit", "remove", "--key", key["id"], "--usd", "0.5", "--note", "mistaken")
    [account] = vectoll.json("accounts", "list")
    assert (account["balance_usd"], account["held_usd"], account["active_keys"]) == (3, 0, 1)
    vectoll.run("allowance", "set", "--account", key["account"], "--usd-per-day", "1")
    assert [row["account"] for row in vectoll.json("allowance", "list")] == [key["account"]]
    assert vectoll.json("usage") == []
    assert vectoll.json("payments", "list") == []
    assert vectoll.json("ledger", "verify")["transfers"] == 3
    assert vectoll.json("keys", "revoke", key["id"])["revoked"]
    assert vectoll.json("keys", "list") == []
    assert "pg_dump" in vectoll.fails("backup", str(tmp_path / "file"))
    shown = vectoll.run("config", "show")
    assert "127.0.0.1" in shown
    assert "hush" not in shown + missing
    assert not (tmp_path / "data").exists()


def test_db_commands_want_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data-dir", str(tmp_path)]
    for command in ("migrate", "status", "copy"):
        result = CliRunner().invoke(cli, ["db", command, *options])
        assert result.exit_code == 2
        assert "database.url is not set" in result.output


def test_a_deployment_moves_to_a_database_and_serves_on(url: str, tmp_path: Path) -> None:
    before = Vectoll(tmp_path)
    key = before.create_key("1")
    body = {"model": MODEL, "input": "one text"}
    with before.serve() as server:
        with server.client(key) as client:
            assert client.post("/api/v1/embeddings", json=body).status_code == 200
        refused = before.try_run("db", "copy", "--to", url)
        assert refused.returncode == 1
        assert "another vectoll server" in refused.stderr
    assert json.loads(before.run("db", "copy", "--to", url, "--json"))["transfers"] == 2
    again = before.try_run("db", "copy", "--to", url)
    assert "not empty" in again.stderr
    after = Vectoll(tmp_path, database__url=url)
    with after.serve() as server, server.client(key) as client:
        assert client.post("/api/v1/embeddings", json=body).status_code == 200
        assert [charge.tokens for charge in server.charges(key)] == [4, 4]
    after.verify()


NONCE_TIMES = datetime.now(UTC), datetime.now(UTC) + timedelta(hours=1)


async def fill(store: Store) -> None:
    """Something in every table."""
    await store.ledger.post(make_credit("1"))
    await store.ledger.post(make_credit("1", BOB))
    await store.keys.add(make_key("a", is_pro=True))
    await store.keys.add(make_key("b", BOB))
    await store.allowances.grant(ALICE, Amount(3 * TOKEN))
    await store.allowances.record(StakeSnapshot(Day("2026-11-18"), 7), {BOB: Amount(TOKEN)})
    await store.nonces.consume(WALLET, "n", *NONCE_TIMES)
    for n in range(5):
        hold = make_hold(2, key="key_a", fingerprint=b"\x00\xff" * 16)
        await store.ledger.hold(hold)
        await store.ledger.charge(hold, 2, n)
    await fill_payments(store)


async def fill_payments(store: Store) -> None:
    from tests.contract.storage.test_payments_and_nonces import credited, intent, top_up

    old = intent(raw_tx=b"\x02\xff")
    await store.payments.insert(old)
    assert await store.payments.credit(old, credited(old), top_up(old))
    await store.payments.insert(intent("b", reason="why"))


async def everything(store: Store) -> object:
    accounts = [ALICE, BOB, WALLET]
    return (
        [await store.ledger.balance(account) for account in accounts],
        [await store.ledger.usage(UsageQuery(account)) for account in accounts],
        await store.keys.list(),
        await store.payments.list(),
        await store.payments.open(),
        await store.allowances.list(),
        await store.allowances.snapshot(Day("2026-11-18")),
        await store.ledger.verify(),
    )


async def test_a_copy_is_whole_and_goes_on_where_the_file_ended(url: str, tmp_path: Path) -> None:
    clock = FixedClock()
    file = await open_sqlite(tmp_path, clock)
    await fill(file)
    expected = await everything(file)
    await file.close()
    seen = []
    database = await connect(url, QUICK)
    copied = await copy_store(tmp_path, database, lambda done, total: seen.append((done, total)))
    await database.close()
    assert seen[-1] == (copied.rows, copied.rows)
    store = await open_postgres(url, clock, QUICK)
    assert await everything(store) == expected
    assert not await store.nonces.consume(WALLET, "n", *NONCE_TIMES)
    await go_on(store)
    await store.close()


async def go_on(store: PostgresStore) -> None:
    last = (await store.ledger.usage(UsageQuery(ALICE)))[-1].seq
    posted = await store.ledger.post(make_credit("1"))
    assert posted.seq > last
    await store.keys.add(make_key("c"))
    assert [key.name for key in await store.keys.list()] == ["a", "b", "c"]
    assert (await store.ledger.verify()).is_clean


async def test_a_ledger_that_does_not_verify_is_not_copied(url: str, tmp_path: Path) -> None:
    file = await open_sqlite(tmp_path)
    await fill(file)
    await file.close()
    with closing(sqlite3.connect(file.path, isolation_level=None)) as db:
        db.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 'alice'")
    await refused(url, tmp_path, "does not verify")


async def test_a_name_that_postgresql_cannot_hold_is_copied_with_a_sign_for_it(
    url: str, tmp_path: Path
) -> None:
    """Files of earlier versions may have one."""
    file = await open_sqlite(tmp_path)
    await file.keys.add(make_key("a"))
    await file.close()
    with closing(sqlite3.connect(file.path)) as db, db:
        db.execute("UPDATE api_keys SET name = ?", ("a\0b",))
    database = await connect(url, QUICK)
    await copy_store(tmp_path, database, lambda done, total: None)
    await database.close()
    store = await open_postgres(url, None, QUICK)
    assert [key.name for key in await store.keys.list()] == ["a␀b"]
    await store.close()


async def test_a_row_that_postgresql_cannot_hold_is_named(url: str, tmp_path: Path) -> None:
    file = await open_sqlite(tmp_path)
    await file.ledger.post(make_credit("1"))
    await file.ledger.post(replace(make_credit("1", transfer_id="credit_1"), note="a\0b"))
    await file.close()
    await refused(url, tmp_path, "transfers: the row with seq 2 has a NUL .* its note.*nothing was copied")


async def test_a_file_with_charges_whose_outcome_is_unknown_is_not_copied(url: str, tmp_path: Path) -> None:
    """They would be looked up in the file, which nobody uses any more."""
    file = await open_sqlite(tmp_path)
    await fill(file)
    file.ledger._undecided.add([make_hold(1)])
    await file.close()
    await refused(url, tmp_path, "undecided-charges-sqlite.*vectoll ledger verify")
    await (await open_sqlite(tmp_path)).close()
    database = await connect(url, QUICK)
    assert (await copy_store(tmp_path, database, lambda done, total: None)).verification.is_clean
    await database.close()


async def test_a_copy_that_does_not_verify_leaves_the_database_empty(url: str, tmp_path: Path) -> None:
    file = await open_sqlite(tmp_path)
    await fill(file)
    await file.close()
    await execute(
        url,
        "CREATE FUNCTION vectoll.meddle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN NEW.balance := NEW.balance + 1; RETURN NEW; END$$",
        "CREATE TRIGGER meddle BEFORE INSERT ON vectoll.accounts FOR EACH ROW EXECUTE FUNCTION vectoll.meddle()",
    )
    await refused(url, tmp_path, "the copy does not verify")


async def refused(url: str, data_dir: Path, why: str) -> None:
    database = await connect(url, QUICK)
    with pytest.raises(ConfigurationError, match=why):
        await copy_store(data_dir, database, lambda _done, _total: None)
    await database.close()
    assert (
        await execute(url, "SELECT 1 FROM vectoll.accounts UNION ALL SELECT 1 FROM vectoll.transfers") == []
    )
