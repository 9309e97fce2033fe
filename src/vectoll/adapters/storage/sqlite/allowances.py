"""Daily allowances in SQLite."""

from collections.abc import Mapping, Sequence

from vectoll.adapters.storage.rules import check_holder
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.allowances import DailyAllowance, Day, StakeSnapshot, day_of
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount
from vectoll.ports.clock import Clock


class SqliteAllowances:
    """See ``vectoll.ports.allowances.Allowances``."""

    def __init__(self, writer: GroupWriter, reader: Reader, clock: Clock) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock

    async def grant(self, account: AccountId, per_day: Amount) -> DailyAllowance:
        """Grant from today on; 0 ends it."""
        check_holder(account)

        def grant(work: Work) -> DailyAllowance:
            work.open_account(account)
            row = work.allowances.set_per_day(account, per_day, work.today)
            return DailyAllowance(
                account, per_day, Amount(row.staked), Amount(row.granted), Amount(row.spent)
            )

        return await self._writer.submit(grant)

    async def list(self) -> Sequence[DailyAllowance]:
        """Today's allowances."""
        today = day_of(self._clock.now())
        return await self._reader.read_in_thread(
            lambda db: [DailyAllowance(*row) for row in db.execute(sql("allowances_of_day"), (today,))]
        )

    async def snapshot(self, day: Day) -> StakeSnapshot | None:
        """The day's snapshot."""
        row = self._reader.read(lambda db: db.execute(sql("stake_snapshot"), (day,)).fetchone())
        return StakeSnapshot(day, row[0]) if row else None

    async def record(self, snapshot: StakeSnapshot, stakes: Mapping[AccountId, Amount]) -> bool:
        """Store it and grant, unless the day has one."""

        def record(work: Work) -> bool:
            row = (snapshot.day, snapshot.block, to_micros(work.now))
            if not work.connection.execute(sql("insert_stake_snapshot"), row).rowcount:
                return False
            for account, amount in stakes.items():
                work.allowances.set_staked(account, amount, snapshot.day)
            return True

        return await self._writer.submit(record)

    async def accounts(self) -> Sequence[AccountId]:
        """Every customer's account."""
        return await self._reader.read_in_thread(
            lambda db: [AccountId(account) for (account,) in db.execute(sql("customers"))]
        )
