"""The ledger and the keys in plain dictionaries: the reference that the databases are tested against."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.audit import Audit, SpendPeriod
from vectoll.adapters.storage.holds import Holds
from vectoll.adapters.storage.memory_allowances import AllowanceBook, MemoryAllowances
from vectoll.adapters.storage.memory_wallets import MemoryHistory, MemoryNonceStore, MemoryPayments
from vectoll.adapters.storage.times import period_starts, to_micros
from vectoll.domain.allowances import Day, day_of
from vectoll.domain.errors import IdempotencyConflict, InvalidRequest
from vectoll.domain.identity import ApiKey, LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId, TransferId
from vectoll.domain.ledger import Balance, Hold, Transfer, TransferCode, Verification
from vectoll.domain.money import ZERO, Amount
from vectoll.ports.clock import Clock, SystemClock
from vectoll.ports.ledger import Funds, KeyUsage, PaidCharge, UsageQuery


class MemoryStore:
    """Every port, in memory. Every method runs in one step of the event loop, so nothing interleaves."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.ledger = MemoryLedger(clock or SystemClock())
        self.keys = MemoryKeys(self.ledger)
        self.payments = MemoryPayments(self.ledger)
        self.nonces = MemoryNonceStore()
        self.history = MemoryHistory(self.ledger, self.ledger.transfers)
        self.allowances = self.ledger.allowances
        self.is_lost = False

    async def close(self) -> None:
        """Nothing to free."""


class MemoryLedger:
    """See ``vectoll.ports.ledger.Ledger`` for what each method promises."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holds = Holds()
        self._transfers: dict[TransferId, Transfer] = {}
        self._balances: dict[AccountId, int] = {}
        self._spent: defaultdict[SpendPeriod, int] = defaultdict(int)
        self._allowances = AllowanceBook()
        self.allowances = MemoryAllowances(self._allowances, clock, self._balances, self.open_account)

    async def hold(self, hold: Hold) -> Transfer | None:
        """Set the quote aside, or return the earlier charge."""
        rules.check_holder(hold.principal.account)
        if existing := self._transfers.get(hold.id):
            return rules.earlier_charge(existing, hold)
        account, today = hold.principal.account, day_of(self._clock.now())
        funds = self._balances.get(account, ZERO) + self._allowances.left(account, today)
        self._holds.take(hold, funds, self._spent_by(hold), today)
        return None

    async def charge(self, hold: Hold, tokens: int, duration_ms: int) -> Transfer:
        """Charge what was used; the hold is gone afterwards."""
        now = self._clock.now()
        day = self._holds.claim(hold)
        if day is not None:
            self._holds.settle(hold)
        charge = rules.charge_of(hold, tokens, duration_ms, now)
        if existing := self._transfers.get(hold.id):
            return rules.earlier_charge(existing, hold)
        if limited := rules.limited_key(hold):
            rules.check_limit(limited[1], self._spent_by(hold), charge.amount)
        for spend in self._spends_of(charge):
            rules.check_countable(self._spent[spend] + charge.amount)
        self._pay_from_allowance(charge, day or day_of(now))
        return self._apply(charge)

    async def release(self, hold: Hold) -> None:
        """Give the hold back."""
        self._holds.release(hold)

    async def post(self, transfer: Transfer) -> Transfer:
        """Apply a transfer that is not a charge, once."""
        rules.check_post(transfer)
        if existing := self._transfers.get(transfer.id):
            return rules.earlier_post(existing, transfer)
        return self._apply(transfer)

    async def balance(self, account: AccountId) -> Balance:
        """What an account has and what is held of it."""
        granted, spent = self._allowances.granted(account, day_of(self._clock.now()))
        return Balance(
            Amount(self._balances.get(account, ZERO)),
            self._holds.held(account),
            Amount(granted - spent),
            Amount(granted),
        )

    async def balances(self) -> Mapping[AccountId, Balance]:
        """Every customer's."""
        return {account: await self.balance(account) for account in await self.allowances.accounts()}

    async def transfer(self, transfer_id: TransferId) -> Transfer | None:
        """One transfer by id."""
        return self._transfers.get(transfer_id)

    async def usage(self, query: UsageQuery) -> Sequence[Transfer]:
        """A page of an account's transfers."""
        rules.check_query(query)
        matching = [
            transfer
            for transfer in self._transfers.values()
            if query.account in (transfer.debit, transfer.credit)
            and transfer.seq > query.after_seq
            and (query.start is None or transfer.created_at >= query.start)
            and (query.end is None or transfer.created_at < query.end)
            and (query.code is None or transfer.code is query.code)
        ]
        return matching[: query.limit]

    async def charges(self, query: UsageQuery, funds: Funds | None = None) -> Sequence[PaidCharge]:
        """A page of an account's charges."""
        everything = replace(query, code=TransferCode.CHARGE, limit=len(self._transfers) + 1)
        found = [self._paid(charge) for charge in await self.usage(everything)]
        return [paid for paid in found if funds is None or paid.is_paid_from(funds)][: query.limit]

    def _paid(self, charge: Transfer) -> PaidCharge:
        part = self._transfers.get(rules.allowance_id(charge.id))
        return PaidCharge(charge, part.amount if part else ZERO)

    async def key_usage(
        self,
        account: AccountId,  # noqa: ARG002 - who waits for a turn elsewhere
        limits: Mapping[KeyId, SpendLimit | None],
        now: datetime,
    ) -> Mapping[KeyId, KeyUsage]:
        """What keys have spent lately."""
        return {key: self._key_usage(key, limit, now) for key, limit in limits.items()}

    def _key_usage(self, key: KeyId, limit: SpendLimit | None, now: datetime) -> KeyUsage:
        days = rules.trailing_days(now)
        trailing = sum(self._spent.get((key, LimitPeriod.EPOCH, to_micros(day)), 0) for day in days)
        current = self._spent.get((key, *rules.period_of(limit, now)), 0)
        used_at = [t.created_at for t in self._transfers.values() if t.key == key]
        return KeyUsage(Amount(trailing), Amount(current), used_at[-1] if used_at else None)

    async def verify(self) -> Verification:
        """Recompute the books."""
        audit = Audit()
        audit.read(
            (t.seq, t.debit, t.credit, t.amount, t.code, t.key, to_micros(t.created_at), t.note)
            for t in self._transfers.values()
        )
        audit.compare(self._balances.items(), self._spent.items(), self._allowances.rows())
        return audit.verdict()

    def transfers(self) -> Iterable[Transfer]:
        """Every transfer, in order."""
        return self._transfers.values()

    def open_account(self, account: AccountId) -> None:
        """Make an account with nothing in it, if it does not exist."""
        self._balances.setdefault(account, ZERO)

    def _pay_from_allowance(self, charge: Transfer, day: Day) -> None:
        """Move the allowance's part of a charge into the account; nothing when the charge is going to be refused."""
        account = charge.debit
        balance = self._balances.get(account, ZERO)
        part = rules.allowance_part(charge, self._allowances.left(account, day), balance, day)
        if part is None:
            return
        rules.check_movement(charge, balance + part.amount, self._balances.get(charge.credit, ZERO))
        if part.id in self._transfers:
            raise IdempotencyConflict
        self._apply(part)
        self._allowances.spend(account, day, part.amount)

    def _apply(self, transfer: Transfer) -> Transfer:
        debit = self._balances.get(transfer.debit, ZERO)
        credit = self._balances.get(transfer.credit, ZERO)
        rules.check_movement(transfer, debit, credit)
        self._balances[transfer.debit] = debit - transfer.amount
        self._balances[transfer.credit] = credit + transfer.amount
        for spend in self._spends_of(transfer):
            self._spent[spend] += transfer.amount
        stored = replace(transfer, seq=len(self._transfers) + 1)
        self._transfers[transfer.id] = stored
        return stored

    def _spends_of(self, transfer: Transfer) -> Sequence[SpendPeriod]:
        if transfer.key is None or transfer.code is not TransferCode.CHARGE:
            return ()
        return [(transfer.key, *period) for period in period_starts(transfer.created_at)]

    def _spent_by(self, hold: Hold) -> int:
        if limited := rules.limited_key(hold):
            key, limit = limited
            return self._spent.get((key, *rules.period_of(limit, self._clock.now())), ZERO)
        return ZERO


class MemoryKeys:
    """See ``vectoll.ports.keys.KeyStore`` for what each method promises."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._by_id: dict[KeyId, ApiKey] = {}

    async def add(self, key: ApiKey) -> None:
        """Store a new key."""
        rules.check_key(key)
        if key.id in self._by_id or await self.by_digest(key.digest):
            raise InvalidRequest("an API key with this id or secret exists already")
        self._ledger.open_account(key.account)
        self._by_id[key.id] = key

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """The key with this digest."""
        return next((key for key in self._by_id.values() if key.digest == digest), None)

    async def get(self, key_id: KeyId) -> ApiKey | None:
        """The key of this id."""
        return self._by_id.get(key_id)

    async def list(self, account: AccountId | None = None) -> Sequence[ApiKey]:
        """An account's keys, or all, oldest first."""
        keys = [key for key in self._by_id.values() if account in (None, key.account)]
        return sorted(keys, key=lambda key: key.created_at)

    async def active(self, account: AccountId, now: datetime) -> Sequence[ApiKey]:
        """An account's keys that can be used."""
        return [key for key in await self.list(account) if key.is_active(now)]

    async def revoke(self, key_id: KeyId, now: datetime) -> bool:
        """Whether a key that was not yet revoked now is."""
        key = self._by_id.get(key_id)
        if key is None or key.revoked_at is not None:
            return False
        self._by_id[key_id] = replace(key, revoked_at=now.astimezone(UTC))
        return True
