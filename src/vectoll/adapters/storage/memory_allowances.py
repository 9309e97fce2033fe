"""Daily allowances in memory: the reference that the databases are tested against."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vectoll.adapters.storage.audit import AllowanceOfDay
from vectoll.adapters.storage.rules import check_holder
from vectoll.domain.allowances import DailyAllowance, Day, StakeSnapshot, day_of, granted_amount
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import is_system
from vectoll.domain.money import ZERO, Amount
from vectoll.ports.clock import Clock


@dataclass(slots=True)
class _Row:
    staked: int
    granted: int
    spent: int


class AllowanceBook:
    """What is granted and spent. A day's row is made from the standing grant when it is first changed."""

    def __init__(self) -> None:
        self.per_day: dict[AccountId, int] = {}
        self._rows: dict[tuple[AccountId, Day], _Row] = {}

    def granted(self, account: AccountId, day: Day) -> tuple[int, int]:
        """What was granted for a day, and what is spent of it."""
        row = self._rows.get((account, day))
        return (row.granted, row.spent) if row else (self.per_day.get(account, 0), 0)

    def left(self, account: AccountId, day: Day) -> int:
        """What a day's charges can still take."""
        granted, spent = self.granted(account, day)
        return granted - spent

    def spend(self, account: AccountId, day: Day, amount: int) -> None:
        """Count ``amount``, which is left."""
        self._row(account, day).spent += amount

    def set_per_day(self, account: AccountId, per_day: int, day: Day) -> None:
        """Grant from ``day`` on."""
        row = self._row(account, day)
        self.per_day[account] = per_day
        if not per_day:
            del self.per_day[account]
        row.granted = granted_amount(per_day, row.staked, row.spent)

    def set_staked(self, account: AccountId, staked: int, day: Day) -> None:
        """Grant what a stake gives for ``day``."""
        row = self._row(account, day)
        row.staked = staked
        row.granted = granted_amount(self.per_day.get(account, 0), staked, row.spent)

    def describe(self, account: AccountId, day: Day) -> DailyAllowance:
        """An account's allowance on a day."""
        granted, spent = self.granted(account, day)
        row = self._rows.get((account, day))
        return DailyAllowance(
            account,
            Amount(self.per_day.get(account, ZERO)),
            Amount(row.staked if row else ZERO),
            Amount(granted),
            Amount(spent),
        )

    def rows(self) -> Iterable[AllowanceOfDay]:
        """For the audit."""
        return [(account, day, row.granted, row.spent) for (account, day), row in self._rows.items()]

    def holders(self, day: Day) -> set[AccountId]:
        """Who may have an allowance on a day."""
        return {account for account, of in self._rows if of == day} | set(self.per_day)

    def _row(self, account: AccountId, day: Day) -> _Row:
        return self._rows.setdefault((account, day), _Row(0, self.per_day.get(account, 0), 0))


class MemoryAllowances:
    """See ``vectoll.ports.allowances.Allowances``."""

    def __init__(
        self,
        book: AllowanceBook,
        clock: Clock,
        balances: Mapping[AccountId, int],
        open_account: Callable[[AccountId], None],
    ) -> None:
        self._book = book
        self._clock = clock
        self._balances = balances
        self._open_account = open_account
        self._snapshots: dict[Day, StakeSnapshot] = {}

    async def grant(self, account: AccountId, per_day: Amount) -> DailyAllowance:
        """Grant from today on; 0 ends it."""
        check_holder(account)
        self._open_account(account)
        today = day_of(self._clock.now())
        self._book.set_per_day(account, per_day, today)
        return self._book.describe(account, today)

    async def list(self) -> Sequence[DailyAllowance]:
        """Today's allowances."""
        today = day_of(self._clock.now())
        found = [self._book.describe(account, today) for account in sorted(self._book.holders(today))]
        return [allowance for allowance in found if allowance.granted]

    async def snapshot(self, day: Day) -> StakeSnapshot | None:
        """The day's snapshot."""
        return self._snapshots.get(day)

    async def record(self, snapshot: StakeSnapshot, stakes: Mapping[AccountId, Amount]) -> bool:
        """Store it and grant, unless the day has one."""
        if snapshot.day in self._snapshots:
            return False
        self._snapshots[snapshot.day] = snapshot
        for account, amount in stakes.items():
            self._book.set_staked(account, amount, snapshot.day)
        return True

    async def accounts(self) -> Sequence[AccountId]:
        """Every customer's account."""
        return [account for account in self._balances if not is_system(account)]
