"""Recomputing the books from the transfers, in Python's unbounded integers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from vectoll.adapters.storage.times import from_micros, period_starts, to_micros
from vectoll.domain.ids import AccountId, KeyId
from vectoll.domain.ledger import Disagreement, TransferCode, Verification, is_system
from vectoll.domain.money import MAX_AMOUNT

Posting = tuple[int, AccountId, AccountId, int, str, KeyId | None, int, str]
"""What an audit reads of a transfer: seq, debit, credit, amount, code, key, created_at in microseconds, note.

The note matters for allowances only: it is their day.
"""

AllowanceOfDay = tuple[AccountId, str, int, int]
"""An account, a day, what was granted and what is spent."""

SpendPeriod = tuple[KeyId, str, int]
"""A key, a kind of period, and the period's start in microseconds: as stored, so it may name no real period."""

MAX_DISAGREEMENTS = 100
"""More than this many are counted, not listed."""

DAY_MICROS = timedelta(days=1) // timedelta(microseconds=1)
_CODES = frozenset(code.value for code in TransferCode)
_EARLIEST, _LATEST = to_micros(datetime(1, 1, 1, tzinfo=UTC)), to_micros(datetime(9999, 12, 31, tzinfo=UTC))


class Audit:
    """Reads each transfer once, in order of ``seq``; keeps one number per account and per key and day."""

    def __init__(self) -> None:
        self._balances: defaultdict[AccountId, int] = defaultdict(int)
        self._spent_by_day: defaultdict[tuple[KeyId, int], int] = defaultdict(int)
        self._allowances: defaultdict[tuple[AccountId, str], int] = defaultdict(int)
        self._accounts = 0
        self._transfers = 0
        self._found: list[Disagreement] = []
        self._unlisted = 0

    def read(self, postings: Iterable[Posting]) -> None:
        """Add up transfers, and note those that are missing or could never have been applied."""
        balances, spent_by_day = self._balances, self._spent_by_day
        count = self._transfers
        charge, allowance = TransferCode.CHARGE.value, TransferCode.ALLOWANCE.value
        previous = count
        for seq, debit, credit, amount, code, key, created_at, note in postings:
            if seq != previous + 1:
                self.disagree(f"transfers after seq {previous}", f"seq {previous + 1}", f"seq {seq}")
            previous = seq
            count += 1
            if debit == credit or not 0 <= amount <= MAX_AMOUNT:
                self.disagree(
                    f"transfer {seq}",
                    "an amount in range between two accounts",
                    f"{amount} from {debit} to {credit}",
                )
            balances[debit] -= amount
            balances[credit] += amount
            if code not in _CODES or not _EARLIEST <= created_at <= _LATEST:
                self.disagree(
                    f"transfer {seq}", "a code and a time that can be read", f"{code} at {created_at}"
                )
                continue
            if key is not None and code == charge:
                spent_by_day[key, created_at // DAY_MICROS] += amount
            elif code == allowance:
                # what was paid for an answer that was not delivered goes back to its day
                if is_system(credit):
                    self._allowances[debit, note] -= amount
                else:
                    self._allowances[credit, note] += amount
        self._transfers = count

    def compare(
        self,
        balances: Iterable[tuple[AccountId, int]],
        spends: Iterable[tuple[SpendPeriod, int]],
        allowances: Iterable[AllowanceOfDay],
    ) -> None:
        """Compare what is stored with what was added up."""
        self._compare_balances(dict(balances))
        expected = self._spends()
        for period, spent in spends:
            if (right := expected.pop(period, 0)) != spent:
                self.disagree(f"spend of {_name(period)}", str(right), str(spent))
        for period, right in expected.items():
            if right:
                self.disagree(f"spend of {_name(period)}", str(right), "none")

        self._compare_allowances(allowances)

    def _compare_allowances(self, stored: Iterable[AllowanceOfDay]) -> None:
        expected = dict(self._allowances)
        for account, day, granted, spent in stored:
            subject = f"allowance of {account} on {day}"
            if (right := expected.pop((account, day), 0)) != spent:
                self.disagree(subject, f"{right} spent", f"{spent} spent")
            if spent > granted:
                self.disagree(subject, f"at most {granted} spent", f"{spent} spent")
        for (account, day), right in expected.items():
            self.disagree(f"allowance of {account} on {day}", f"{right} spent", "none")

    def verdict(self) -> Verification:
        """What was seen."""
        found = list(self._found)
        if self._unlisted:
            found.append(Disagreement("further disagreements", "none", str(self._unlisted)))
        return Verification(self._accounts, self._transfers, tuple(found))

    def _compare_balances(self, stored: Mapping[AccountId, int]) -> None:
        self._accounts = len(stored)
        for account, balance in stored.items():
            if (right := self._balances.get(account, 0)) != balance:
                self.disagree(f"balance of {account}", str(right), str(balance))
            if balance < 0 and not is_system(account):
                self.disagree(f"balance of {account}", "at least 0", str(balance))
        for account in self._balances.keys() - stored.keys():
            self.disagree(f"account {account}", "to exist, because transfers name it", "none")
        if total := sum(stored.values()):
            self.disagree("sum of all balances", "0", str(total))

    def _spends(self) -> dict[SpendPeriod, int]:
        spends: defaultdict[SpendPeriod, int] = defaultdict(int)
        for (key, day), spent in self._spent_by_day.items():
            for period, start in period_starts(from_micros(day * DAY_MICROS)):
                spends[key, period, start] += spent
        return dict(spends)

    def disagree(self, subject: str, expected: str, found: str) -> None:
        """Note one thing that is wrong. Adapters add what they alone can find."""
        if len(self._found) < MAX_DISAGREEMENTS:
            self._found.append(Disagreement(subject, expected, found))
        else:
            self._unlisted += 1


def _name(period: SpendPeriod) -> str:
    key, kind, start = period
    try:
        return f"key {key} in {kind} from {from_micros(start):%Y-%m-%d}"
    except OverflowError:
        return f"key {key} in {kind} from {start}"
