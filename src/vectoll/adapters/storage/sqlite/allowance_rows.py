"""What a transaction of the writer does to daily allowances."""

import sqlite3
from dataclasses import dataclass

from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.domain.allowances import Day, granted_amount
from vectoll.domain.ids import AccountId


@dataclass(slots=True)
class AllowanceRow:
    """One account's day."""

    staked: int
    granted: int
    spent: int


class AllowanceRows:
    """Rows are read once and changed here; what changed is written by ``flush``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: dict[tuple[AccountId, Day], AllowanceRow] = {}
        self._changed: set[tuple[AccountId, Day]] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, account: AccountId, day: Day) -> AllowanceRow:
        """The day's row; where there is none yet, what the standing grant makes of it."""
        row = self._rows.get((account, day))
        if row is None:
            stored = self._connection.execute(sql("allowance"), (account, day)).fetchone()
            row = AllowanceRow(*stored) if stored else AllowanceRow(0, self.per_day(account), 0)
            self._rows[account, day] = row
        return row

    def left(self, account: AccountId, day: Day) -> int:
        """What a day's charges may still take."""
        row = self.of(account, day)
        return row.granted - row.spent

    def spend(self, account: AccountId, day: Day, amount: int) -> None:
        """Count ``amount``, which is left; below zero what is given back."""
        self._change(account, day).spent += amount

    def set_per_day(self, account: AccountId, per_day: int, day: Day) -> AllowanceRow:
        """Grant from ``day`` on; returns that day's row."""
        self._rows = {key: self._rows[key] for key in self._changed}  # others may follow the standing grant
        row = self._change(account, day)
        if per_day:
            self._connection.execute(sql("set_daily_grant"), (account, per_day))
        else:
            self._connection.execute(sql("end_daily_grant"), (account,))
        row.granted = granted_amount(per_day, row.staked, row.spent)
        return row

    def set_staked(self, account: AccountId, staked: int, day: Day) -> None:
        """Grant what a stake gives for ``day``."""
        row = self._change(account, day)
        row.staked = staked
        row.granted = granted_amount(self.per_day(account), staked, row.spent)

    def per_day(self, account: AccountId) -> int:
        """The standing grant."""
        row = self._connection.execute(sql("daily_grant"), (account,)).fetchone()
        return row[0] if row else 0

    def flush(self) -> None:
        """Write what changed."""
        rows = [(key, self._rows[key]) for key in self._changed]
        self._connection.executemany(
            sql("set_allowance"), [(*key, row.staked, row.granted, row.spent) for key, row in rows]
        )
        self._changed.clear()

    def _change(self, account: AccountId, day: Day) -> AllowanceRow:
        row = self.of(account, day)
        self._changed.add((account, day))
        return row
