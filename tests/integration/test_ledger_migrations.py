"""A file that an earlier vectoll has written, opened by this one."""

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from tests.ledger import ALICE, BOB, NOON, TOKEN, FixedClock, make_credit, make_debit, make_hold

from vectoll.adapters.storage.lock import DataDirLock
from vectoll.adapters.storage.sqlite import backup, connection, open_sqlite
from vectoll.adapters.storage.times import period_starts, to_micros
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.ids import KeyId
from vectoll.domain.money import ZERO, Amount
from vectoll.ports.ledger import KeyUsage, UsageQuery
from vectoll.ports.store import Store

SPENT = {"key_1": 3, "key_2": 1}


def make_schema(newest: int, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty file as that schema was."""
    older = {number: text for number, text in connection._migrations().items() if number <= newest}
    with monkeypatch.context() as old:
        old.setattr(connection, "_migrations", lambda: older)
        return connection.prepare(data_dir)


def make_schema_4(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three charges of key_1 and one of key_2, a minute apart, as that schema stored them."""
    path = make_schema(4, data_dir, monkeypatch)
    charges = ["key_1", "key_2", "key_1", "key_1"]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO accounts VALUES ('$c', ?), ('$r', ?), (?, ?)", (-100, 4, ALICE, 96))
        transfer = "INSERT INTO transfers VALUES (NULL, ?, ?, ?, ?, ?, ?, NULL, ?, NULL, 0, NULL, NULL, '')"
        db.execute(transfer, ("credit", "$c", ALICE, 100, "CREDIT", to_micros(NOON), None))
        for n, key in enumerate(charges):
            db.execute(
                transfer, (f"t{n}", ALICE, "$r", 1, "CHARGE", to_micros(NOON + timedelta(minutes=n)), key)
            )
        for key, spent in SPENT.items():
            rows = [(key, period.value, start, spent) for period, start in period_starts(NOON)]
            db.executemany("INSERT INTO key_spend VALUES (?, ?, ?, ?)", rows)
    return path


async def usage_of(store: Store, key: str) -> KeyUsage:
    return (await store.ledger.key_usage(ALICE, {KeyId(key): None}, NOON))[KeyId(key)]


def silent(_done: int, _total: int) -> None: ...


async def test_when_a_key_was_last_used_outlives_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_schema_4(tmp_path, monkeypatch)
    later = NOON + timedelta(hours=1)
    store = await open_sqlite(tmp_path, FixedClock(later))
    try:
        for key, minutes in (("key_1", 3), ("key_2", 1)):
            spent = Amount(SPENT[key])
            assert await usage_of(store, key) == KeyUsage(spent, spent, NOON + timedelta(minutes=minutes))
        assert await usage_of(store, "key_3") == KeyUsage(ZERO, ZERO, None)
        await store.ledger.post(make_credit(TOKEN))
        await store.ledger.charge(make_hold(1, key="key_2"), 1, 0)
        assert (await usage_of(store, "key_2")).last_used_at == later
        assert (await store.ledger.verify()).is_clean
    finally:
        await store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == connection.newest_schema()
        indexes = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'transfers' AND sql IS NOT NULL"
        assert not list(db.execute(indexes))


async def test_histories_are_chained_as_if_they_had_always_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(3)
    today = await open_sqlite(tmp_path / "today", FixedClock(NOON))
    for n in range(210):
        at = NOON + timedelta(minutes=rng.randrange(1000))
        account = (ALICE, BOB)[n % 5 == 0]
        await today.ledger.post(
            make_debit(1, account, at=at) if n % 7 == 6 else make_credit(9, account, at=at)
        )
    await today.close()
    (tmp_path / "old").mkdir()
    path = make_schema(5, tmp_path / "old", monkeypatch)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ATTACH ? AS today", (str(today.path),))
        db.execute("INSERT INTO main.accounts SELECT id, balance FROM today.accounts")
        columns = "seq, id, debit, credit, amount, code, created_at, tokens, note"
        db.execute(f"INSERT INTO main.transfers ({columns}) SELECT {columns} FROM today.transfers")
    monkeypatch.setattr(connection, "LARGE", 210)
    store = await open_sqlite(tmp_path / "old")
    [told] = caplog.records
    assert (told.getMessage(), vars(told)["transfers"]) == ("ledger_conversion", 210)
    assert (await store.ledger.verify()).is_clean
    await store.ledger.post(make_credit(1))
    assert (
        len(await store.ledger.usage(UsageQuery(ALICE))) + len(await store.ledger.usage(UsageQuery(BOB)))
        == 211
    )
    assert (await store.ledger.verify()).is_clean
    await store.close()


def test_a_ledger_is_not_converted_under_a_server_that_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_schema(5, tmp_path, monkeypatch)
    hold = "import sys; from pathlib import Path; from vectoll.adapters.storage.lock import DataDirLock\n"
    hold += "with DataDirLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout
        assert server.stdout.readline() == b"held\n"
        refused = rf"process {server.pid}\) is using .* from schema 5 to \d+: restart the server first"
        with pytest.raises(ConfigurationError, match=refused):
            connection.prepare(tmp_path)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone()[0] == 5
        server.communicate()
    with DataDirLock(tmp_path):
        connection.prepare(tmp_path)


@pytest.mark.parametrize("schema", [3, 4, 5])
def test_a_ledger_of_an_older_schema_is_backed_up_as_it_is_and_restored_as_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: int
) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "ledger.bak"
    old.mkdir()
    new.mkdir()
    path = make_schema(schema, old, monkeypatch)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO accounts VALUES ('$c', -7), (?, 7)", (ALICE,))
        columns = "id, debit, credit, amount, code, created_at, tokens, note"
        db.execute(
            f"INSERT INTO transfers ({columns}) VALUES ('c', '$c', ?, 7, 'CREDIT', 0, 0, '')", (ALICE,)
        )

    assert backup.back_up(old, file, replace=False, progress=silent).transfers == 1
    for written in (path, file):
        with closing(sqlite3.connect(written)) as db:
            assert db.execute("PRAGMA user_version").fetchone()[0] == schema
    assert backup.restore(file, new, replace=False, progress=silent).is_clean
    with closing(sqlite3.connect(new / connection.DATABASE_NAME)) as db:
        assert db.execute("SELECT transfers, last_seq FROM accounts WHERE id = ?", (ALICE,)).fetchone() == (
            1,
            1,
        )


def test_a_backup_that_cannot_be_converted_leaves_the_ledger_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk is full: whoever tries again would replace the ledger by what could not be converted."""
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "ledger.bak"
    old.mkdir()
    make_schema(5, old, monkeypatch)
    backup.back_up(old, file, replace=False, progress=silent)
    before = connection.prepare(new).read_bytes()
    broken = connection._migrations() | {6: "SELECT nothing_like_this();"}
    with monkeypatch.context() as failing:
        failing.setattr(connection, "_migrations", lambda: broken)
        with pytest.raises(ConfigurationError, match=r"cannot restore .* nothing_like_this"):
            backup.restore(file, new, replace=True, progress=silent)
    assert (new / connection.DATABASE_NAME).read_bytes() == before
    assert [path.name for path in sorted(new.iterdir())] == [connection.DATABASE_NAME, "write.lock"]


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("balance", 1),
        ("spent", 3),
        ("set_spent", 5),
        ("account", 1),
        ("set_account", 6),
        ("hold_facts", 5),
        ("allowance", 2),
        ("daily_grant", 1),
        ("last_used_at", 1),
        ("transfer", 1),
    ],
)
def test_nothing_that_a_charge_needs_reads_a_table_through(
    tmp_path: Path, statement: str, parameters: int
) -> None:
    """So a charge reads as little in a large ledger as in a small one."""
    with closing(connection.connect(connection.prepare(tmp_path))) as db:
        plan = db.execute(f"EXPLAIN QUERY PLAN {connection.sql(statement)}", [None] * parameters)
        assert not [step for *_, step in plan if step.startswith("SCAN ") and step != "SCAN CONSTANT ROW"]


@pytest.mark.parametrize(
    ("statement", "parameters", "index"),
    [
        ("open_payments", 0, "payments_open"),
        ("open_payments_of", 2, "payments_open"),
        ("forget_failed", 2, "payments_failed"),
        ("reversed_payments", 1, "payments_reversed"),
    ],
)
def test_what_is_asked_of_payments_every_few_minutes_does_not_read_them_all(
    tmp_path: Path, statement: str, parameters: int, index: str
) -> None:
    """Each of these indexes holds only what is looked for."""
    with closing(connection.connect(connection.prepare(tmp_path))) as db:
        plan = db.execute(f"EXPLAIN QUERY PLAN {connection.sql(statement)}", [None] * parameters)
        assert all(f"USING INDEX {index}" in step for *_, step in plan)


def test_an_accounts_active_keys_are_found_among_those_that_lapsed(tmp_path: Path) -> None:
    with closing(connection.connect(connection.prepare(tmp_path))) as db:
        wanted = {"account": ALICE, "now": 0}
        plan = [
            step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {connection.sql('active_keys')}", wanted)
        ]
    ranges = [step for step in plan if "api_keys" in step]
    assert len(ranges) == 2
    assert all("USING INDEX api_keys_active (account=? AND expires_at" in step for step in ranges)
