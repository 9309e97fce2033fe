"""Daily allowances in PostgreSQL."""

from collections.abc import Mapping, Sequence

from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.rules import check_holder
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.allowances import DailyAllowance, Day, StakeSnapshot, day_of
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount
from vectoll.ports.clock import Clock


class PostgresAllowances:
    """See ``vectoll.ports.allowances.Allowances``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def grant(self, account: AccountId, per_day: Amount) -> DailyAllowance:
        """Grant from today on; 0 ends it."""
        check_holder(account)
        rows = await self._database.fetch("grant_allowance", account, per_day, day_of(self._clock.now()))
        return DailyAllowance(account, per_day, *map(Amount, rows[0]))

    async def list(self) -> Sequence[DailyAllowance]:
        """Today's allowances."""
        rows = await self._database.fetch("allowances_of_day", day_of(self._clock.now()))
        return [DailyAllowance(*row) for row in rows]

    async def snapshot(self, day: Day) -> StakeSnapshot | None:
        """The day's snapshot."""
        block = await self._database.value("stake_snapshot", day)
        return None if block is None else StakeSnapshot(day, block)

    async def record(self, snapshot: StakeSnapshot, stakes: Mapping[AccountId, Amount]) -> bool:
        """Store it and grant, unless the day has one."""
        taken_at = to_micros(self._clock.now())
        stored = (snapshot.day, snapshot.block, taken_at, list(stakes), list(stakes.values()))
        return bool(await self._database.value("record_stakes", *stored))

    async def accounts(self) -> Sequence[AccountId]:
        """Every customer's account."""
        return [AccountId(account) for (account,) in await self._database.fetch("customers")]
