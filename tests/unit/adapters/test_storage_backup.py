"""A backup is of one moment, whatever is written while it is made, and only a sound one is restored."""

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.ledger import ALICE, make_credit

from vectoll.adapters.storage.sqlite import backup, open_sqlite
from vectoll.adapters.storage.sqlite.connection import DATABASE_NAME
from vectoll.domain.errors import ConfigurationError, Unusable
from vectoll.domain.ledger import Verification
from vectoll.domain.money import usd


async def test_a_writer_between_two_steps_neither_gets_in_nor_starts_the_copy_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 1)
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit("5"))
    await store.close()
    seen: list[tuple[int, int]] = []

    def write(done: int, total: int) -> None:
        seen.append((done, total))
        assert len(seen) <= total, "the copy started over"
        with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db:
            db.execute("UPDATE accounts SET balance = balance + 1 WHERE id = ?", (ALICE,))
            db.commit()

    file = tmp_path / "copy"
    found = backup.back_up(tmp_path, file, replace=False, progress=write)
    assert (found.accounts, found.transfers, found.is_clean) == (2, 1, True)
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert not any(p.name.startswith("copy-") for p in os.scandir(tmp_path)), (
        "one file, with nothing beside it"
    )


async def test_two_backups_to_one_file_at_once_are_two_whole_copies(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit("5"))
    await store.close()
    file = tmp_path / "copy"
    inner: list[Verification] = []

    def overlap(_done: int, _total: int) -> None:
        if not inner:
            inner.append(backup.back_up(tmp_path, file, replace=True, progress=lambda *_: None))

    outer = backup.back_up(tmp_path, file, replace=True, progress=overlap)
    assert [found.is_clean for found in (outer, *inner)] == [True, True]
    assert backup.check_backup(file).transfers == 1
    assert not any("partial" in entry.name for entry in os.scandir(tmp_path))


async def test_what_is_wrong_with_the_ledger_is_not_said_of_the_copy(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit("5"))
    await store.close()
    ledger, file = tmp_path / DATABASE_NAME, tmp_path / "copy"
    forge(ledger)
    with pytest.raises(Unusable, match=f"the ledger in {re.escape(str(ledger))} does not add up"):
        backup.back_up(tmp_path, file, replace=False, progress=lambda *_: None)
    damage(ledger)
    with pytest.raises(Unusable, match=re.escape(str(ledger))) as damaged:
        backup.back_up(tmp_path, file, replace=False, progress=lambda *_: None)
    ledger.write_text("not a database, and longer than its header would be " * 9)
    with pytest.raises(Unusable, match=f"cannot read {re.escape(str(ledger))}") as unreadable:
        backup.back_up(tmp_path, file, replace=False, progress=lambda *_: None)
    assert "partial" not in str(damaged.value) + str(unreadable.value)
    assert "copy" not in str(damaged.value) + str(unreadable.value)
    assert not file.exists()


async def test_a_restore_that_is_cut_off_leaves_no_place_for_an_empty_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, data_dir = tmp_path / "copy", tmp_path / "data"
    store = await open_sqlite(data_dir)
    await store.ledger.post(make_credit("5"))
    backup.back_up(data_dir, file, replace=False, progress=lambda *_: None)
    await store.ledger.post(make_credit("2"))
    await store.close()

    class KilledError(BaseException):
        pass

    move = Path.replace

    def die(name: Path, target: Path) -> None:
        if name.suffix == ".restored":
            raise KilledError
        move(name, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KilledError):
        backup.restore(file, data_dir, replace=True, progress=lambda *_: None)
    monkeypatch.undo()
    with pytest.raises(Unusable, match="restore` was cut off"):
        await open_sqlite(data_dir)
    backup.restore(file, data_dir, replace=False, progress=lambda *_: None)
    store = await open_sqlite(data_dir)
    assert (await store.ledger.balance(ALICE)).balance == usd("5")
    await store.close()
    with closing(sqlite3.connect(data_dir / f"{DATABASE_NAME}.replaced")) as kept:
        assert kept.execute("SELECT balance FROM accounts WHERE id = ?", (ALICE,)).fetchone() == (usd("7"),)


def test_a_backup_that_is_not_there_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"cannot read .*gone: No such file or directory"):
        backup.restore(tmp_path / "gone", tmp_path, replace=False, progress=lambda *_: None)


def damage(file: Path) -> None:
    """Turn every page but the first over."""
    content = file.read_bytes()
    file.write_bytes(content[:4096] + bytes(255 - b for b in content[4096:]))


def forge(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("UPDATE accounts SET balance = balance + 1 WHERE id LIKE 'alice'")
        db.commit()


def age(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 999")


def leave_log(file: Path) -> None:
    Path(f"{file}-wal").write_bytes(b"log")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (damage, "cannot read|damaged"),
        (forge, "does not add up"),
        (age, "newer vectoll"),
        (leave_log, "in use when it was copied"),
        (lambda file: file.write_bytes(b""), "not a backup of a vectoll ledger"),
        (lambda file: file.write_text("a" * 9000), "not a database"),
        (Path.unlink, "cannot read"),
    ],
)
async def test_what_is_no_sound_backup_is_refused_before_anything_is_changed(
    tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    data, file = tmp_path / "data", tmp_path / "copy"
    store = await open_sqlite(data)
    await store.ledger.post(make_credit("5"))
    await store.close()
    backup.back_up(data, file, replace=False, progress=lambda _done, _total: None)
    before = (data / DATABASE_NAME).read_bytes()
    spoil(file)
    with pytest.raises(ConfigurationError, match=why):
        backup.restore(file, data, replace=True, progress=lambda _done, _total: None)
    assert (data / DATABASE_NAME).read_bytes() == before
    assert not any("restored" in entry.name for entry in os.scandir(data))
