"""The ledger in PostgreSQL: holds are rows, charges are group-committed, and every step is one statement."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.postgres.charges import ChargeRequest, Charges
from vectoll.adapters.storage.postgres.database import LONG_S, Database, sql
from vectoll.adapters.storage.postgres.holds import HoldRows, key_of
from vectoll.adapters.storage.postgres.verification import verify
from vectoll.adapters.storage.rows import from_transfer, to_transfer
from vectoll.adapters.storage.times import from_micros, to_micros
from vectoll.adapters.storage.undecided import UndecidedCharges
from vectoll.domain.allowances import day_of
from vectoll.domain.errors import InsufficientBalance, Unavailable
from vectoll.domain.identity import SpendLimit
from vectoll.domain.ids import AccountId, KeyId, TransferId
from vectoll.domain.ledger import Balance, Hold, Transfer, Verification
from vectoll.domain.money import MAX_AMOUNT, ZERO, Amount
from vectoll.ports.clock import Clock
from vectoll.ports.ledger import Funds, KeyUsage, PaidCharge, UsageQuery

_BEGINNING, _END = -(2**63), 2**63 - 1


class PostgresLedger:
    """See ``vectoll.ports.ledger.Ledger`` for what each method promises."""

    def __init__(
        self, database: Database, holds: HoldRows, charges: Charges, undecided: UndecidedCharges, clock: Clock
    ) -> None:
        self._database = database
        self._holds = holds
        self._charges = charges
        self._undecided = undecided
        self._clock = clock

    async def hold(self, hold: Hold) -> Transfer | None:
        """Set the quote aside, or return the earlier charge."""
        rules.check_holder(hold.principal.account)
        await self._check_size(hold, hold.quote.amount)
        if await self._holds.take(hold, self._clock.now()):
            return None
        existing = await self.transfer(hold.id)
        assert existing is not None
        return rules.earlier_charge(existing, hold)

    async def charge(self, hold: Hold, tokens: int, duration_ms: int) -> Transfer:
        """Charge what was used, durably; the hold is gone afterwards.

        Without an active hold (it was released, or has lapsed) the charge is applied if the account's balance and
        the key's limit allow it, as a transfer that is posted would be.
        """
        was_active = self._holds.claim(hold)
        try:
            await self._check_size(hold, rules.charged_amount(hold, tokens))
            charging = self._charges.submit(ChargeRequest(hold, tokens, duration_ms))
        except BaseException:
            if was_active:
                await self._holds.forget(key_of(hold))
            raise
        try:
            return await charging
        except Unavailable:
            await self._holds.forget(key_of(hold))  # or as soon as that is possible
            raise

    async def release(self, hold: Hold) -> None:
        """Give the hold back."""
        await self._holds.release(hold)

    async def post(self, transfer: Transfer) -> Transfer:
        """Apply a transfer that is not a charge, once."""
        rules.check_post(transfer)
        rows = await self._database.fetch("post", (0, *from_transfer(transfer)))
        outcome, seq, debit, credit = rows[0]
        match outcome:
            case "applied":
                return replace(transfer, seq=seq)
            case "exists":
                existing = await self.transfer(transfer.id)
                assert existing is not None
                return rules.earlier_post(existing, transfer)
            case _:
                rules.check_movement(transfer, debit, credit)
                raise AssertionError("the database refused what the rules allow")

    async def balance(self, account: AccountId) -> Balance:
        """What an account has and what is held of it, from one moment."""
        [row] = await self._database.fetch("balance", account, day_of(self._clock.now()))
        return _balance(*row)

    async def balances(self) -> Mapping[AccountId, Balance]:
        """Every customer's, from one moment."""
        async with self._database.snapshot() as db:
            rows = await db.fetch(sql("balances"), day_of(self._clock.now()), timeout=LONG_S)
        return {AccountId(account): _balance(*facts) for account, *facts in rows}

    async def transfer(self, transfer_id: TransferId) -> Transfer | None:
        """One transfer by id."""
        rows = await self._database.fetch("transfer", transfer_id)
        return to_transfer(rows[0]) if rows else None

    async def usage(self, query: UsageQuery) -> Sequence[Transfer]:
        """A page of an account's transfers."""
        rules.check_query(query)
        code = None if query.code is None else query.code.value
        rows = await self._database.read(query.account, "usage", *_window(query), code, query.limit)
        return [to_transfer(row) for row in rows]

    async def charges(self, query: UsageQuery, funds: Funds | None = None) -> Sequence[PaidCharge]:
        """A page of an account's charges."""
        rules.check_query(query)
        read, window = self._database.read, _window(query)
        if funds is Funds.ALLOWANCE:
            rows = await read(query.account, "charges_by_allowance", *window, query.limit)
        else:
            rows = await read(query.account, "charges", *window, funds, query.limit)
        return [PaidCharge(to_transfer(row[:-1]), Amount(row[-1])) for row in map(tuple, rows)]

    async def key_usage(
        self, account: AccountId, limits: Mapping[KeyId, SpendLimit | None], now: datetime
    ) -> Mapping[KeyId, KeyUsage]:
        """What keys have spent lately."""
        days = [to_micros(day) for day in rules.trailing_days(now)]
        periods = [rules.period_of(limit, now) for limit in limits.values()]
        names, starts = [period.value for period, _ in periods], [start for _, start in periods]
        parameters = list(limits), names, starts, min(days), max(days)
        rows = await self._database.read(account, "key_usage", *parameters)
        return {
            KeyId(key): KeyUsage(
                trailing_seven_days=Amount(int(trailing)),
                current_period=Amount(current or ZERO),
                last_used_at=None if used_at is None else from_micros(used_at),
            )
            for key, trailing, current, used_at in rows
        }

    async def verify(self) -> Verification:
        """Recompute the books, from one snapshot."""
        async with self._database.snapshot() as connection:
            return await verify(connection)

    async def undo_undelivered(self) -> None:
        """Find out what became of charges that were given up, and undo those that were made and not delivered.

        A charge of nothing takes the place of one that was not made, so that it cannot be made later; one that was
        made is refunded: what an allowance paid to its day, the rest to the account.
        """
        for group in self._undecided.groups():
            for hold in group:
                charge = await self._charges.settle(hold)
                if charge.amount:
                    await self._database.fetch("give_back", charge.id, rules.UNDELIVERED)

    async def _check_size(self, hold: Hold, amount: Amount) -> None:
        """An amount that no account can have is refused here: it may not fit the database's integers."""
        if amount > MAX_AMOUNT:
            raise InsufficientBalance(amount, (await self.balance(hold.principal.account)).available)


def _balance(*facts: int | Decimal) -> Balance:
    """From what the database says, whose sums are decimals."""
    balance, held, allowance, granted = (Amount(int(value)) for value in facts)
    return Balance(balance, held, allowance, granted)


def _window(query: UsageQuery) -> tuple[AccountId, int, int, int]:
    start = _BEGINNING if query.start is None else to_micros(query.start)
    return query.account, query.after_seq, start, _END if query.end is None else to_micros(query.end)
