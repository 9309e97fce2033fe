"""The ledger: where money is. Invariants in ``vectoll.domain.ledger``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from vectoll.domain.identity import SpendLimit
from vectoll.domain.ids import AccountId, KeyId, TransferId
from vectoll.domain.ledger import Balance, Hold, Transfer, TransferCode, Verification
from vectoll.domain.money import Amount


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """A page of an account's transfers, ascending by ``seq``: ``after_seq`` exclusive, times half-open."""

    account: AccountId
    after_seq: int = 0
    start: datetime | None = None
    end: datetime | None = None
    code: TransferCode | None = None
    limit: int = 1000


class Funds(StrEnum):
    """What pays for a charge."""

    ALLOWANCE = "allowance"
    CREDIT = "credit"


@dataclass(frozen=True, slots=True)
class PaidCharge:
    """A charge, and what of it the day's allowance paid; the rest was prepaid credit."""

    charge: Transfer
    allowance: Amount

    @property
    def credit(self) -> Amount:
        """What was paid from credit."""
        return Amount(self.charge.amount - self.allowance)

    def is_paid_from(self, funds: Funds) -> bool:
        """Whether these funds paid any of it; a charge of nothing counts as credit."""
        return self.allowance > 0 if funds is Funds.ALLOWANCE else self.credit > 0 or not self.charge.amount


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What one key has spent."""

    trailing_seven_days: Amount
    current_period: Amount
    last_used_at: datetime | None


class Ledger(Protocol):
    """Every method is atomic and safe to call concurrently; what returns is durable."""

    async def hold(self, hold: Hold) -> Transfer | None:
        """Set ``hold.quote.amount`` aside, in one atomic step over the account and the key's spend limit.

        It may take the balance and what is left of today's allowance. Returns None when held. Returns the earlier
        charge, and holds nothing, when a charge of this id exists already with an equal fingerprint: the request was
        paid for and may be answered again. Two holds under one id (told apart by ``request_id``) may be active at
        once; the first charge wins. A cancelled call holds nothing. Raises InsufficientBalance, SpendLimitReached,
        or IdempotencyConflict (the id exists with another fingerprint).
        """
        ...

    async def charge(self, hold: Hold, tokens: int, duration_ms: int) -> Transfer:
        """Turn a hold into a charge of ``tokens`` (at most the quote's) and release the rest. Durable on return.

        The allowance pays first, as far as it goes: that of the day on which the hold was taken, so that a request
        that runs past midnight is paid for by what it was granted on; of today where there is no active hold.

        It runs to its end even when the awaiting task is cancelled, and the hold is gone afterwards whatever the
        outcome. A charge whose id exists with an equal fingerprint is not applied again: the first is
        returned. Raises IdempotencyConflict for another fingerprint, InsufficientBalance or SpendLimitReached,
        charging nothing, when the balance was lowered or the limit used up behind the hold's back.
        """
        ...

    async def release(self, hold: Hold) -> None:
        """Give a hold back. Idempotent; does nothing after a charge."""
        ...

    async def post(self, transfer: Transfer) -> Transfer:
        """Apply a credit, top-up, refund or reversal. Creates customer accounts as needed.

        The same id is applied once: returns what is stored. Raises IdempotencyConflict when the id was used for
        a different amount, account or code, InsufficientBalance when the debited customer has too little.
        """
        ...

    async def balance(self, account: AccountId) -> Balance:
        """Zero for an account that nobody has credited yet."""
        ...

    async def balances(self) -> Mapping[AccountId, Balance]:
        """Every customer's, from one moment. Reads all accounts: for commands, not for requests."""
        ...

    async def transfer(self, transfer_id: TransferId) -> Transfer | None:
        """One transfer by id."""
        ...

    async def usage(self, query: UsageQuery) -> Sequence[Transfer]:
        """A page of transfers that touch the account."""
        ...

    async def charges(self, query: UsageQuery, funds: Funds | None = None) -> Sequence[PaidCharge]:
        """A page of the account's charges (``query.code`` does not matter), all or those that ``funds`` paid for."""
        ...

    async def key_usage(
        self, account: AccountId, limits: Mapping[KeyId, SpendLimit | None], now: datetime
    ) -> Mapping[KeyId, KeyUsage]:
        """What keys of an account were charged in the seven UTC days that end with today, and in the period that holds
        ``now``.

        The period is that of a key's limit, or all time where it has none. Refunds do not count. Raises Unavailable
        when too many look at once: an account may have hundreds of keys.
        """
        ...

    async def verify(self) -> Verification:
        """Recompute every balance and key spend from the transfers, and say what disagrees. Reads only."""
        ...
