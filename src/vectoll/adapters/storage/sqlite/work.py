"""What a transaction of the writer does to accounts, transfers and key spends."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.rows import from_transfer
from vectoll.adapters.storage.sqlite.allowance_rows import AllowanceRows
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.rows import read_transfer
from vectoll.adapters.storage.times import period_starts, to_micros
from vectoll.domain.allowances import Day, day_of
from vectoll.domain.errors import IdempotencyConflict, VectollError
from vectoll.domain.identity import SpendLimit
from vectoll.domain.ids import AccountId, KeyId
from vectoll.domain.ledger import Hold, Transfer, TransferCode
from vectoll.domain.money import Amount

_Spend = tuple[KeyId, str, int]
"""A key, the kind of a period, and when the period started."""

PAGE = 64
"""Transfers in a page of an account's history, as the migrations have it."""

MAX_REMEMBERED = 50_000
"""Accounts, spends and allowances that are remembered from one transaction to the next."""


@dataclass(slots=True)
class _Account:
    """One account as it will be stored."""

    is_stored: bool = False
    balance: int = 0
    transfers: int = 0
    last_seq: int = 0
    earliest: int = 0
    latest: int = 0
    """Of its newest page, in microseconds."""

    def move(self, amount: int, seq: int, micros: int) -> None:
        """The next transfer."""
        if self.transfers % PAGE == 0:
            self.earliest = self.latest = micros
        elif micros < self.earliest:
            self.earliest = micros
        elif micros > self.latest:
            self.latest = micros
        self.balance += amount
        self.transfers += 1
        self.last_seq = seq


class Work:
    """One connection's transactions, one at a time. Each is opened by ``begin`` and written by ``flush``.

    Accounts and spends are read once and changed here, so the house's account, which every charge credits, is
    written once per transaction. They are remembered for the next, as long as no other connection has written
    meanwhile and it is the same day. After a transaction that was not committed, discard this object. A method that
    raises a VectollError has changed nothing.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._data_version: int | None = None
        self._last_seq = 0
        """Of the last transfer that was stored here: the next is probably one more."""

    def begin(self, now: datetime) -> None:
        """Open a transaction, the only one that writes."""
        self.connection.execute("BEGIN IMMEDIATE")
        version = self.connection.execute("PRAGMA data_version").fetchone()[0]
        self.now = now
        today = day_of(now)
        if version != self._data_version or today != self.today or self._remembered() > MAX_REMEMBERED:
            self._forget(today)
            self._data_version = version

    def _remembered(self) -> int:
        return len(self._accounts) + len(self._spent) + len(self.allowances)

    def _forget(self, today: Day) -> None:
        """Drop what was remembered of the file."""
        self.today = today
        self.allowances = AllowanceRows(self.connection)
        self._periods = [(period, period.value, start) for period, start in period_starts(self.now)]
        self._accounts: dict[AccountId, _Account] = {}
        self._changed: set[AccountId] = set()
        self._spent: dict[_Spend, int] = {}
        self._changed_spends: set[_Spend] = set()

    def charge(self, hold: Hold, tokens: int, duration_ms: int, day: Day | None) -> Transfer:
        """Apply a charge, or find the one that was applied. Raises as ``Ledger.charge`` does.

        ``day`` is when the hold was taken, None where it is not active.
        """
        charge = rules.charge_of(hold, tokens, duration_ms, self.now, self._last_seq + 1)
        limited = rules.limited_key(hold)
        limit = None if limited is None else limited[1]
        day = day or self.today
        left = self.allowances.left(charge.debit, day)
        part = rules.allowance_part(charge, left, self.balance(charge.debit), day) if left else None
        if part is not None:
            if existing := read_transfer(self.connection, charge.id):
                return rules.earlier_charge(existing, hold)
            self._spends(charge, limit)  # whatever refuses the charge refuses before the first change
            funds = self.balance(charge.debit) + part.amount
            rules.check_movement(charge, funds, self.balance(charge.credit))
            self._apply(part, None, _conflict)
            self.allowances.spend(charge.debit, day, part.amount)
        return self._apply(charge, limit, lambda existing: rules.earlier_charge(existing, hold))

    def post(self, transfer: Transfer) -> Transfer:
        """Apply any other transfer, or find the one that was applied. Raises as ``Ledger.post`` does."""
        return self._apply(transfer, None, lambda existing: rules.earlier_post(existing, transfer))

    def undo(self, hold: Hold) -> None:
        """Give back the charge under a hold's id; without one, make a charge of nothing, so that none can follow."""
        charge = self.charge(hold, 0, 0, None)
        if not charge.amount:
            return
        part = read_transfer(self.connection, rules.allowance_id(charge.id))
        refund, *rest = rules.given_back(charge, part)
        if read_transfer(self.connection, refund.id):
            return
        for transfer in (refund, *rest):
            self._apply(transfer, None, _conflict)
        if part is not None:
            self.allowances.spend(charge.debit, Day(part.note), -part.amount)

    def balance(self, account: AccountId) -> Amount:
        """What the account has, with this transaction's changes."""
        return Amount(self._account(account).balance)

    def open_account(self, account: AccountId) -> None:
        """Make an account with nothing in it, if it does not exist."""
        self._store(account, self._account(account))

    def flush(self) -> None:
        """Write what changed. Must be the last call before the commit."""
        spent, now = self._spent, to_micros(self.now)
        accounts = [(account_id, self._accounts[account_id]) for account_id in self._changed]
        self.connection.executemany(
            sql("set_account"),
            [
                (a.balance, a.transfers, a.last_seq, a.earliest, a.latest, account_id)
                for account_id, a in accounts
            ],
        )
        self.connection.executemany(
            sql("set_spent"), [(*spend, spent[spend], now) for spend in self._changed_spends]
        )
        self._changed.clear()
        self._changed_spends.clear()
        self.allowances.flush()

    def _apply(
        self, transfer: Transfer, limit: SpendLimit | None, earlier: Callable[[Transfer], Transfer]
    ) -> Transfer:
        try:
            spends = self._spends(transfer, limit)
            debit, credit = self._account(transfer.debit), self._account(transfer.credit)
            rules.check_movement(transfer, debit.balance, credit.balance)
        except VectollError:
            if existing := read_transfer(self.connection, transfer.id):
                return earlier(existing)
            raise
        row = (*from_transfer(transfer), debit.last_seq, credit.last_seq)
        cursor = self.connection.execute(sql("insert_transfer"), row)
        if not cursor.rowcount:
            return earlier(self._existing(transfer))
        assert cursor.lastrowid is not None
        self._last_seq = seq = cursor.lastrowid
        micros = to_micros(transfer.created_at)
        self._move(transfer.debit, debit, -transfer.amount, seq, micros)
        self._move(transfer.credit, credit, transfer.amount, seq, micros)
        self._spent.update(spends)
        self._changed_spends.update(spends)
        return transfer if transfer.seq == seq else replace(transfer, seq=seq)

    def _existing(self, transfer: Transfer) -> Transfer:
        existing = read_transfer(self.connection, transfer.id)
        assert existing is not None
        return existing

    def _spends(self, transfer: Transfer, limit: SpendLimit | None) -> dict[_Spend, int]:
        """The key's spends as they will be after a charge."""
        if transfer.key is None or transfer.code is not TransferCode.CHARGE:
            return {}
        spends = {}
        for period, name, start in self._periods:
            entry = (transfer.key, name, start)
            spent = self._spent_in(entry)
            if limit is not None and limit.period is period:
                rules.check_limit(limit, spent, transfer.amount)
            rules.check_countable(spent + transfer.amount)
            spends[entry] = spent + transfer.amount
        return spends

    def _spent_in(self, entry: _Spend) -> int:
        spent = self._spent.get(entry)
        if spent is None:
            row = self.connection.execute(sql("spent"), entry).fetchone()
            spent = self._spent[entry] = row[0] if row else 0
        return spent

    def _account(self, account_id: AccountId) -> _Account:
        account = self._accounts.get(account_id)
        if account is None:
            row = self.connection.execute(sql("account"), (account_id,)).fetchone()
            account = self._accounts[account_id] = _Account(True, *row) if row else _Account()
        return account

    def _move(self, account_id: AccountId, account: _Account, amount: int, seq: int, micros: int) -> None:
        account.move(amount, seq, micros)
        self._store(account_id, account)
        if account.transfers % PAGE == 0:
            page = (account_id, seq, account.earliest, account.latest)
            self.connection.execute(sql("insert_history_page"), page)

    def _store(self, account_id: AccountId, account: _Account) -> None:
        if not account.is_stored:
            self.connection.execute(sql("open_account"), (account_id,))
            account.is_stored = True
        self._changed.add(account_id)


def _conflict(_: Transfer) -> Transfer:
    raise IdempotencyConflict
