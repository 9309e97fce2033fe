"""The parts of the stores that have bounds and rules of their own."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.ledger import ALICE, NOON, FixedClock, make_credit, make_hold

from vectoll.adapters.storage import audit, holds, postgres, sqlite, undecided
from vectoll.adapters.storage.audit import Audit
from vectoll.adapters.storage.blocks import read_blocks
from vectoll.adapters.storage.holds import Holds
from vectoll.adapters.storage.lock import DataDirLock, server_of
from vectoll.adapters.storage.sqlite import SqliteStore, connection, history, open_sqlite, work, writer
from vectoll.adapters.storage.sqlite.nonces import FORGET_AT_ONCE, FORGET_ON_AFTER_S
from vectoll.adapters.storage.times import from_micros, period_starts, to_micros
from vectoll.domain.allowances import Day
from vectoll.domain.errors import ConfigurationError, SpendLimitReached, Unavailable
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import MAX_AMOUNT, Amount, Price
from vectoll.ports.ledger import UsageQuery

TODAY = Day("2026-11-18")


def test_holds_leave_no_trace() -> None:
    limit = SpendLimit(Amount(100), LimitPeriod.EPOCH)
    book = Holds()
    taken = [make_hold(n, key="key_1", limit=limit, price=Price(1)) for n in range(10)]
    for hold in taken:
        book.take(hold, funds=100, spent=0, day=TODAY)
    assert book.held(ALICE) == 45
    for hold in taken[::2]:
        assert book.claim(hold) == TODAY
        assert book.claim(hold) is None
        book.release(hold)
        assert book.held(ALICE)
        book.settle(hold)
    for hold in taken[1::2]:
        book.release(hold)
        book.release(hold)
    assert not any(vars(book).values())


def test_holds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "MAX_HOLDS", 2)
    book = Holds()
    for _ in range(2):
        book.take(make_hold(price=Price(0)), funds=0, spent=0, day=TODAY)
    with pytest.raises(Unavailable):
        book.take(make_hold(price=Price(0)), funds=0, spent=0, day=TODAY)


async def test_what_waits_for_a_commit_is_bounded_and_a_refused_charge_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 0)
    store = await open_sqlite(tmp_path)
    hold = make_hold(price=Price(0))
    await store.ledger.hold(hold)
    with pytest.raises(Unavailable):
        await store.ledger.charge(hold, 1, 0)
    assert store.ledger._holds._active == {}
    await store.close()


async def test_a_group_is_bounded_and_the_rest_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_GROUP", 2)
    store = await open_sqlite(tmp_path)
    futures = [store._writer.submit(lambda work, n=n: (n, id(work))) for n in range(5)]  # type: ignore[misc]
    outcomes = [await future for future in futures]
    assert [n for n, _ in outcomes] == [0, 1, 2, 3, 4]
    await store.close()


async def charge(store: SqliteStore, tokens: int, limit: SpendLimit | None = None) -> None:
    hold = make_hold(tokens, key="key_1", limit=limit, price=Price(1))
    await store.ledger.hold(hold)
    await store.ledger.charge(hold, tokens, 0)


@pytest.mark.parametrize("remembered", [0, work.MAX_REMEMBERED])
async def test_what_another_process_commits_is_known_to_the_next_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr(work, "MAX_REMEMBERED", remembered)
    limit = SpendLimit(Amount(100), LimitPeriod.LIFETIME)
    one, other = [await open_sqlite(tmp_path, FixedClock()) for _ in range(2)]
    await one.ledger.post(make_credit(100))
    for number in range(3):
        await charge(one, 10)
        await charge(other, 15)
        assert (await one.ledger.balance(ALICE)).balance == 100 - 25 * (number + 1)
    await other.ledger.post(make_credit(100))
    with pytest.raises(SpendLimitReached):  # 75 are spent, by two processes
        await charge(one, 26, limit)
    await other.allowances.grant(ALICE, Amount(7))
    await charge(one, 25, limit)
    balance = await other.ledger.balance(ALICE)
    assert (balance.balance, balance.allowance) == (107, 0)
    assert (await one.ledger.verify()).is_clean
    await one.close()
    await other.close()


async def test_a_long_read_lets_the_log_begin_anew_and_takes_what_was_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the log grows for as long as one read, or another, is always under way."""
    monkeypatch.setattr(history, "PAGES", 2)
    store = await open_sqlite(tmp_path, FixedClock())
    posts = (store.ledger.post(make_credit(n + 1)) for n in range(3 * work.PAGE + 10))
    stored = await asyncio.gather(*posts)
    were_busy: list[int] = []

    def read(db: sqlite3.Connection) -> Sequence[Transfer]:
        def between_statements(_statement: str) -> None:
            other.begin(NOON)
            for _ in range(work.PAGE // 2):  # so that the newest page becomes another
                other.post(make_credit(1))
            other.flush()
            other.connection.execute("COMMIT")
            were_busy.append(other.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0])

        db.set_trace_callback(between_statements)
        return history.usage(db, UsageQuery(ALICE, limit=len(stored)))

    with closing(connection.connect(store.path)) as db:
        db.execute("PRAGMA busy_timeout = 0")
        other = work.Work(db)
        found = await store._reader.read_in_turn(ALICE, read)
    assert found == sorted(stored, key=lambda transfer: transfer.seq)
    assert were_busy == [0] * 6, "two looks for pages, four pages"
    await store.close()


def test_charges_that_cannot_be_written_down_leave_nothing_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    charges = undecided.UndecidedCharges(tmp_path)
    hold = make_hold()
    with monkeypatch.context() as full:
        full.setattr(undecided, "sync", fail)
        charges.add([hold])
    assert list(tmp_path.iterdir()) == []
    assert [[each.id for each in group] for group in charges.groups()] == [[hold.id]]
    charges.add([hold])
    assert len(list(tmp_path.iterdir())) == 1


async def test_nonces_that_lapsed_are_forgotten(tmp_path: Path) -> None:
    store, now = await open_sqlite(tmp_path), NOON
    for number in range(30):
        now += timedelta(seconds=0.3)
        assert await store.nonces.consume(ALICE, f"n{number}", now, now + timedelta(seconds=0.5))
    count = store._reader.read(lambda db: db.execute("SELECT count(*) FROM sign_in_nonces").fetchone()[0])
    assert 2 <= count <= 6
    await store.close()


async def test_many_nonces_that_lapsed_are_forgotten_in_pieces(tmp_path: Path) -> None:
    """In the transaction that charges wait for, however many sign-ins of one minute lapse together."""
    store = await open_sqlite(tmp_path)
    many = 2 * FORGET_AT_ONCE + 1
    with closing(sqlite3.connect(store.path)) as db, db:
        rows = [("wallet", str(n), to_micros(NOON)) for n in range(many)]
        db.executemany("INSERT INTO sign_in_nonces VALUES (?, ?, ?)", rows)
    left, now = [], NOON
    query = "SELECT count(*) FROM sign_in_nonces WHERE wallet = 'wallet'"
    for number in range(4):
        now += timedelta(seconds=2 * FORGET_ON_AFTER_S)
        await store.nonces.consume(ALICE, f"n{number}", now, now + timedelta(days=1))
        left.append(store._reader.read(lambda db: db.execute(query).fetchone()[0]))
    assert left == [many - FORGET_AT_ONCE, 1, 0, 0]
    await store.close()


async def test_a_new_day_has_an_allowance_and_periods_of_its_own(tmp_path: Path) -> None:
    clock, limit = FixedClock(), SpendLimit(Amount(10), LimitPeriod.EPOCH)
    store = await open_sqlite(tmp_path, clock)
    await store.ledger.post(make_credit(100))
    await store.allowances.grant(ALICE, Amount(4))
    for left in (94, 88, 82):
        await charge(store, 10, limit)
        with pytest.raises(SpendLimitReached):
            await charge(store, 1, limit)
        assert (await store.ledger.balance(ALICE)).balance == left
        clock.advance(days=1)
    assert (await store.ledger.verify()).is_clean
    await store.close()


async def test_a_grant_counts_for_a_charge_that_was_held_the_day_before(tmp_path: Path) -> None:
    clock = FixedClock()
    store = await open_sqlite(tmp_path, clock)
    await store.ledger.post(make_credit(100))
    early, late = (make_hold(5, price=Price(1)) for _ in range(2))
    await store.ledger.hold(early)
    await store.ledger.hold(late)
    clock.advance(days=1)
    await store.ledger.charge(early, 5, 0)  # now the day of the hold is known to have no allowance
    await store.allowances.grant(ALICE, Amount(4))
    await store.ledger.charge(late, 5, 0)
    assert (await store.ledger.balance(ALICE)).balance == 94
    await store.close()


def test_full_disk_is_one_line_and_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(ConfigurationError, match="No space left on device"), DataDirLock(tmp_path):
            pass
    with DataDirLock(tmp_path):
        assert server_of(tmp_path) is None


@given(st.datetimes(timezones=st.timezones(), min_value=datetime(1900, 1, 1), max_value=datetime(2900, 1, 1)))  # noqa: DTZ001
@example(datetime(2008, 3, 29, 23, tzinfo=ZoneInfo("America/Santiago")))  # an hour that came twice
def test_times_are_exact_both_ways(instant: datetime) -> None:
    assert from_micros(to_micros(instant)) == instant.astimezone(UTC)
    assert from_micros(to_micros(instant)).tzinfo is UTC


def test_a_naive_time_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        to_micros(datetime(2026, 1, 1))  # noqa: DTZ001


def test_periods_start_in_utc_whatever_the_zone() -> None:
    for zone in (NOON, NOON.astimezone(None)):
        assert dict(period_starts(zone))[LimitPeriod.EPOCH] == to_micros(NOON - timedelta(hours=12))


def test_an_audit_adds_beyond_64_bits() -> None:
    auditing = Audit()
    house, customer = AccountId("$credit:2026-11"), AccountId("a")
    auditing.read((n, house, customer, MAX_AMOUNT, "CREDIT", None, 0, "") for n in range(1, 101))
    auditing.compare([(house, -100 * MAX_AMOUNT), (customer, 100 * MAX_AMOUNT)], [], [])
    assert auditing.verdict().is_clean


def test_an_audit_reads_on_over_what_nobody_can_have_written() -> None:
    auditing = Audit()
    house, customer, key = AccountId("$revenue:2026-11"), AccountId("a"), KeyId("k")
    auditing.read(
        [
            (1, house, customer, 1, "GIFT", None, 0, ""),
            (2, customer, house, 1, "CHARGE", key, 2**62, ""),
            (3, customer, house, 0, "CHARGE", key, -(2**62), ""),
        ]
    )
    auditing.compare([(house, 0), (customer, 0)], [((key, "WEEK", 0), 7), ((key, "EPOCH", 2**62), 8)], [])
    assert {(d.subject, d.found) for d in auditing.verdict().disagreements} == {
        ("transfer 1", "GIFT at 0"),
        ("transfer 2", f"CHARGE at {2**62}"),
        ("transfer 3", f"CHARGE at {-(2**62)}"),
        ("spend of key k in WEEK from 1970-01-01", "7"),
        (f"spend of key k in EPOCH from {2**62}", "8"),
    }


def test_an_audit_lists_only_so_many_disagreements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_DISAGREEMENTS", 3)
    auditing = Audit()
    auditing.compare([(AccountId(f"account_{n}"), 1) for n in range(10)], [], [])
    verdict = auditing.verdict()
    assert len(verdict.disagreements) == 4
    assert (
        replace(verdict.disagreements[-1], expected="").found == "8"
    )  # ten balances and their sum, less three


@pytest.mark.parametrize("package", [sqlite, postgres])
def test_every_statement_has_a_name_of_its_own_and_is_used(package: ModuleType) -> None:
    folder = Path(str(package.__file__)).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    blocks = read_blocks(package.__name__)
    for name in blocks:
        assert f'"{name}"' in source, name
    text = "".join(path.read_text() for path in folder.joinpath("sql").iterdir())
    assert text.count("-- name: ") - text.count("`-- name: ") == len(blocks)


def test_a_script_that_ends_in_mid_statement_is_a_bug() -> None:
    with pytest.raises(ValueError, match="middle of a statement"):
        list(connection._statements("SELECT 1;\nSELECT"))
