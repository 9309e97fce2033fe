"""A backup is of one moment, whatever is written while it is made."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.ledger import ALICE, make_credit

from vectoll.adapters.storage.sqlite import backup, open_sqlite
from vectoll.adapters.storage.sqlite.connection import DATABASE_NAME


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
    assert not any(p.name.startswith("copy-") for p in os.scandir(tmp_path)), "one file, with nothing beside it"
