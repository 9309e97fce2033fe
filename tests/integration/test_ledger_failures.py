"""The SQLite store when its disk, its file or its operator misbehaves."""

import asyncio
import resource
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.ledger import ALICE, BOB, TOKEN, make_credit, make_hold, make_key

from vectoll.adapters.storage.sqlite import UNDECIDED_NAME, SqliteStore, connection, history, open_sqlite
from vectoll.adapters.storage.sqlite.write_lock import write_lock
from vectoll.domain.errors import ConfigurationError, Draining, OutcomeUnknown, Unavailable
from vectoll.domain.ids import AccountId, TransferId
from vectoll.domain.ledger import Balance, TransferCode
from vectoll.domain.money import ZERO, Amount
from vectoll.ports.ledger import Funds, PaidCharge, UsageQuery


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit(100 * TOKEN))
    yield store
    await store.close()


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process may grow beyond the size of ``path``'s write-ahead log."""
    size = Path(f"{path}-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


async def test_a_full_disk_charges_nobody_answers_everybody_and_passes(store: SqliteStore) -> None:
    holds = [make_hold(1) for _ in range(8)]
    for hold in holds:
        await store.ledger.hold(hold)
    with full_disk(store.path):
        charges = (store.ledger.charge(hold, 1, 0) for hold in holds)
        outcomes = await asyncio.gather(*charges, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 8
        with pytest.raises(Unavailable):
            await store.keys.add(make_key())
        assert await store.ledger.balance(ALICE) == Balance(Amount(100 * TOKEN), ZERO)
    for hold in holds:
        assert await store.ledger.transfer(hold.id) is None
        assert await store.ledger.hold(hold) is None
        await store.ledger.charge(hold, 1, 0)
    assert await store.ledger.balance(ALICE) == Balance(Amount(92 * TOKEN), ZERO)
    assert (await store.ledger.verify()).is_clean


@dataclass
class Disk:
    """How often it will refuse to flush the log, and then to take what overwrites it."""

    refused_flushes: int = 0
    refused_writes: int = 0


class UnflushedConnection:
    """A connection whose COMMIT fails as it does when the disk refuses to flush the log.

    The transaction is in the log then, whole, and SQLite's index of the log does not count it.
    """

    def __init__(self, path: Path, inner: sqlite3.Connection, disk: Disk) -> None:
        self._path, self._inner, self._disk = path, inner, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement == "COMMIT" and self._disk.refused_flushes:
            self._disk.refused_flushes -= 1
            self._commit_uncounted()
            raise _io_error()
        if statement.startswith("PRAGMA user_version =") and self._disk.refused_writes:
            self._disk.refused_writes -= 1
            raise _io_error()
        return self._inner.execute(statement, *parameters)

    def _commit_uncounted(self) -> None:
        headers = 96  # both copies of the index's header
        with Path(f"{self._path}-shm").open("r+b", buffering=0) as index:
            before = index.read(headers)
            self._inner.execute("COMMIT")
            index.seek(0)
            index.write(before)


def _io_error() -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    return error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of every store that is opened from now on."""
    disk, connect = Disk(), connection.connect
    monkeypatch.setattr(connection, "connect", lambda path: UnflushedConnection(path, connect(path), disk))
    return disk


async def killed(store: SqliteStore, elsewhere: Path) -> SqliteStore:
    """What the next process finds when this one is killed now."""
    index = f"{store.path.name}-shm"
    shutil.copytree(store.path.parent, elsewhere, ignore=shutil.ignore_patterns(index))
    return await open_sqlite(elsewhere)


async def test_a_charge_that_the_disk_did_not_flush_does_not_come_back(
    disk: Disk, store: SqliteStore, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hold = make_hold(1)
    await store.ledger.hold(hold)
    disk.refused_flushes = 1
    with pytest.raises(Unavailable, match="Nothing was charged") as refusal:
        await store.ledger.charge(hold, 1, 0)
    assert not isinstance(refusal.value, OutcomeUnknown)
    after = await killed(store, tmp_path_factory.mktemp("killed") / "data")
    assert await after.ledger.balance(ALICE) == Balance(Amount(100 * TOKEN), ZERO)
    assert await after.ledger.transfer(hold.id) is None
    assert (await after.ledger.verify()).is_clean
    await after.close()
    await store.ledger.charge(hold, 1, 0)
    assert await store.ledger.balance(ALICE) == Balance(Amount(99 * TOKEN), ZERO)
    assert (await store.ledger.verify()).is_clean


async def test_a_charge_that_may_come_back_is_unknown_and_given_back_at_the_next_start(
    disk: Disk, store: SqliteStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await store.allowances.grant(ALICE, Amount(TOKEN))
    hold, repeatable = make_hold(3), make_hold(1, charge_id="idem_1")
    disk.refused_flushes = disk.refused_writes = 1
    outcomes = await asyncio.gather(
        store.ledger.charge(hold, 3, 0), store.ledger.charge(repeatable, 1, 0), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 2
    assert (await store.ledger.balance(ALICE)).balance == 100 * TOKEN
    after = await killed(store, tmp_path_factory.mktemp("killed") / "data")
    assert (await after.ledger.transfer(hold.id)) is not None
    refund = await after.ledger.transfer(TransferId(f"undelivered_{hold.id}"))
    assert refund is not None
    assert (refund.code, refund.amount) == (TransferCode.REFUND, 3 * TOKEN)
    assert await after.ledger.balance(ALICE) == Balance(
        Amount(99 * TOKEN), ZERO, Amount(TOKEN), Amount(TOKEN)
    )
    assert await after.ledger.hold(repeatable) is not None
    assert (await after.ledger.verify()).is_clean
    assert not list((after.path.parent / UNDECIDED_NAME).iterdir())
    await after.close()


async def test_nothing_is_committed_after_what_may_come_back(
    disk: Disk, store: SqliteStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The next group first makes sure that it cannot, and is refused while that fails."""
    hold = make_hold(1)
    await store.ledger.hold(hold)
    disk.refused_flushes, disk.refused_writes = 1, 2
    with pytest.raises(OutcomeUnknown):
        await store.ledger.charge(hold, 1, 0)
    with pytest.raises(Unavailable, match="Nothing was charged"):
        await store.ledger.post(make_credit(1, BOB))
    await store.ledger.post(make_credit(1, BOB))
    after = await killed(store, tmp_path_factory.mktemp("killed") / "data")
    assert (await after.ledger.balance(ALICE)).balance == 100 * TOKEN
    late = await after.ledger.charge(hold, 1, 0)
    assert late.amount == 0
    assert (await after.ledger.balance(BOB)).balance == 1
    assert (await after.ledger.verify()).is_clean
    await after.close()


async def test_a_database_that_stays_locked_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.05)
    store = await open_sqlite(tmp_path)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await store.ledger.post(make_credit("1"))
        assert await store.ledger.balance(ALICE) == Balance(ZERO, ZERO)
    await store.ledger.post(make_credit("1"))
    await store.close()


async def test_a_process_that_never_finishes_writing_is_unavailable_not_a_hang(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.05)
    hold = make_hold(1)
    await store.ledger.hold(hold)
    with write_lock(store.path, 0):
        with pytest.raises(Unavailable):
            await store.ledger.charge(hold, 1, 0)
        with pytest.raises(ConfigurationError, match="does not finish"):
            await open_sqlite(tmp_path)
    assert await store.ledger.balance(ALICE) == Balance(Amount(100 * TOKEN), ZERO)
    await store.ledger.charge(hold, 1, 0)


async def test_writers_of_two_stores_take_turns(store: SqliteStore, tmp_path: Path) -> None:
    other = await open_sqlite(tmp_path)
    posts = [s.ledger.post(make_credit(1, BOB)) for s in (store, other) for _ in range(20)]
    await asyncio.gather(*posts)
    assert (await store.ledger.balance(BOB)).balance == 40
    await other.close()


async def test_a_broken_operation_fails_alone(store: SqliteStore) -> None:
    """An error that is no refusal takes the transaction down; its neighbours get one of their own."""
    good, bad, last = make_hold(1), make_hold(1, request_id="\ud800"), make_hold(1)
    for hold in (good, bad, last):
        await store.ledger.hold(hold)
    outcomes = await asyncio.gather(
        *(store.ledger.charge(hold, 1, 0) for hold in (good, bad, last)), return_exceptions=True
    )
    assert isinstance(outcomes[1], UnicodeEncodeError)
    assert await store.ledger.transfer(good.id) == outcomes[0]
    assert await store.ledger.transfer(last.id) == outcomes[2]
    assert await store.ledger.balance(ALICE) == Balance(Amount(98 * TOKEN), ZERO)


async def test_after_close_everything_is_draining(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit("1"))
    await store.close()
    await store.close()
    hold = make_hold(1)
    for call in (
        store.ledger.hold(hold),
        store.ledger.charge(hold, 1, 0),
        store.ledger.post(make_credit("1")),
        store.ledger.balance(ALICE),
        store.ledger.usage(UsageQuery(ALICE)),
        store.keys.list(),
        store.keys.by_digest(b""),
    ):
        with pytest.raises(Draining):
            await call


async def test_a_customer_s_many_reads_leave_threads_to_others_and_wait_their_turn(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    order: list[AccountId] = []

    def read_slowly(_db: sqlite3.Connection, query: UsageQuery, _funds: Funds | None) -> list[PaidCharge]:
        order.append(query.account)
        assert go_on.wait(10)
        return []

    monkeypatch.setattr(history, "charges", read_slowly)
    reads = [store.ledger.charges(UsageQuery(account)) for account in [ALICE] * 40 + [BOB]]
    reading = asyncio.gather(*reads)
    async with asyncio.timeout(5):
        await asyncio.to_thread(lambda: None)
    go_on.set()
    await reading
    assert order.index(BOB) < 20, "long before the others of forty"
    assert len(order) == 41


async def test_verify_finds_a_balance_that_was_changed(store: SqliteStore) -> None:
    tamper(store.path, f"UPDATE accounts SET balance = balance + 5 WHERE id = '{ALICE}'")
    verification = await store.ledger.verify()
    found = {d.subject: (d.expected, d.found) for d in verification.disagreements}
    assert found == {
        f"balance of {ALICE}": (str(100 * TOKEN), str(100 * TOKEN + 5)),
        "sum of all balances": ("0", "5"),
    }


async def test_verify_finds_a_balance_below_zero(store: SqliteStore) -> None:
    await store.ledger.post(make_credit(1, BOB))
    tamper(
        store.path,
        "PRAGMA ignore_check_constraints = ON",
        f"UPDATE accounts SET balance = -1 WHERE id = '{BOB}'",
    )
    subjects = [d.subject for d in (await store.ledger.verify()).disagreements]
    assert subjects.count(f"balance of {BOB}") == 2
    assert "database file" in subjects  # SQLite's own check of the constraint


async def test_verify_finds_transfers_that_were_changed_deleted_or_orphaned(store: SqliteStore) -> None:
    for n in range(4):
        await store.ledger.post(make_credit(n, AccountId(f"account_{n}")))
    tamper(
        store.path,
        "DROP TRIGGER transfers_are_never_changed",
        "DROP TRIGGER transfers_are_never_deleted",
        "UPDATE transfers SET amount = 7 WHERE seq = 2",
        "DELETE FROM transfers WHERE seq = 3",
        "DELETE FROM accounts WHERE id = 'account_3'",
    )
    subjects = {d.subject for d in (await store.ledger.verify()).disagreements}
    assert {
        "balance of account_0",
        "balance of account_1",
        "transfers after seq 2",
        "account account_3",
    } <= subjects


async def test_verify_finds_a_key_spend_that_was_changed(store: SqliteStore) -> None:
    await store.ledger.charge(make_hold(2, key="key_1"), 2, 0)
    tamper(
        store.path,
        "UPDATE key_spend SET spent = 1 WHERE period = 'MONTH'",
        "DELETE FROM key_spend WHERE period = 'EPOCH'",
        "INSERT INTO key_spend VALUES ('key_2', 'LIFETIME', 0, 9, NULL)",
    )
    found = {(d.subject[:19], d.expected, d.found) for d in (await store.ledger.verify()).disagreements}
    assert found == {
        ("spend of key key_1 ", str(2 * TOKEN), "1"),
        ("spend of key key_1 ", str(2 * TOKEN), "none"),
        ("spend of key key_2 ", "0", "9"),
    }


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        ("UPDATE transfers SET debit_before = 3 WHERE seq = 9", "transfer of $credit:2026-11 before seq 9"),
        ("UPDATE transfers SET credit_before = 3 WHERE seq = 9", "transfer of alice before seq 9"),
        ("UPDATE accounts SET last_seq = 3 WHERE id = 'alice'", "history of alice"),
        ("UPDATE accounts SET transfers = 3 WHERE id = 'alice'", "history of alice"),
        ("UPDATE accounts SET earliest = 3 WHERE id = 'alice'", "history of alice"),
        ("UPDATE history_pages SET latest = latest + 1 WHERE account = 'alice'", "pages of histories"),
        ("DELETE FROM history_pages WHERE account = 'alice'", "pages of histories"),
    ],
)
async def test_verify_finds_a_history_that_was_changed(
    store: SqliteStore, statement: str, subject: str
) -> None:
    await asyncio.gather(*(store.ledger.post(make_credit(1)) for _ in range(70)))
    assert (await store.ledger.verify()).is_clean
    tamper(store.path, "DROP TRIGGER transfers_are_never_changed", statement)
    assert [d.subject for d in (await store.ledger.verify()).disagreements] == [subject]


async def test_verify_says_when_the_file_is_damaged(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path)
    for _ in range(50):
        await store.ledger.post(make_credit(1))
    await store.close()
    with closing(sqlite3.connect(store.path)) as db:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'transfers'"
        page = db.execute(query).fetchone()[0] - 1
    pages = bytearray(store.path.read_bytes())
    pages[page * 4096 : page * 4096 + 12] = b"\xff" * 12
    store.path.write_bytes(pages)
    store = await open_sqlite(tmp_path)
    verification = await store.ledger.verify()
    assert "database file" in {d.subject for d in verification.disagreements}
    await store.close()


@pytest.mark.parametrize("statement", ["UPDATE transfers SET amount = 1", "DELETE FROM transfers"])
async def test_transfers_are_immutable_in_the_database(store: SqliteStore, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        tamper(store.path, statement)


async def test_a_negative_balance_is_impossible_in_the_database(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        tamper(store.path, f"UPDATE accounts SET balance = -1 WHERE id = '{ALICE}'")
    with pytest.raises(sqlite3.IntegrityError):
        tamper(store.path, f"UPDATE accounts SET balance = balance + {2**63 - 1} WHERE id = '{ALICE}'")


async def test_a_file_of_a_newer_vectoll_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    tamper(store.path, "PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="newer vectoll"):
        await open_sqlite(tmp_path)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vectoll.sqlite3").write_bytes(b"not a database, but long enough to be one" * 200)
    with pytest.raises(ConfigurationError, match=r"cannot open .*vectoll\.sqlite3"):
        await open_sqlite(tmp_path)


async def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot write"):
        await open_sqlite(tmp_path / "file")


async def test_what_is_made_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "new")
    await store.ledger.post(make_credit("1"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "new").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    await store.close()


async def test_reopening_keeps_everything_but_holds(store: SqliteStore, tmp_path: Path) -> None:
    await store.ledger.hold(make_hold(5))
    await store.close()
    again = await open_sqlite(tmp_path)
    assert await again.ledger.balance(ALICE) == Balance(Amount(100 * TOKEN), ZERO)
    assert await again.ledger.transfer(TransferId("nothing")) is None
    await again.close()
