"""``vectoll ledger verify`` for SQLite."""

import sqlite3
from collections.abc import Iterable
from typing import cast

from vectoll.adapters.storage.audit import AllowanceOfDay, Audit, Posting, SpendPeriod
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.domain.identity import LimitPeriod
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Verification

MAX_FAULTS = 20


def verify(db: sqlite3.Connection) -> Verification:
    """Read every transfer once, in order, within the caller's snapshot; takes memory for accounts and key days only."""
    audit = Audit()
    try:
        for (fault,) in db.execute(f"PRAGMA quick_check({MAX_FAULTS})"):
            if fault != "ok":
                audit.disagree("database file", "intact", fault)
        audit.read(cast(Iterable[Posting], db.execute(sql("all_postings"))))
        audit.compare(
            cast(Iterable[tuple[AccountId, int]], db.execute(sql("all_balances"))),
            _spends(db),
            cast(Iterable[AllowanceOfDay], db.execute(sql("all_allowances"))),
        )
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        audit.disagree("database file", "readable", str(error))
    return audit.verdict()


def _spends(db: sqlite3.Connection) -> Iterable[tuple[SpendPeriod, int]]:
    for key, period, start, spent in db.execute(sql("all_spends")):
        yield (key, LimitPeriod(period), start), spent
