"""Accounts, immutable transfers and holds: double entry in TigerBeetle's words.

The invariants, checked by ``vectoll ledger verify`` and by property tests:

1. A transfer moves ``amount >= 0`` from ``debit`` to ``credit``, which differ. It is never changed or deleted.
2. A balance is the sum of the transfers that credit an account less those that debit it; all balances sum to 0.
3. A customer's balance is never below zero, by a database constraint. System accounts may be negative.
4. ``available = balance + what is left of the day's allowance − active holds``; a hold is granted only when it
   fits, in one atomic step.
5. A transfer's id is an idempotency key: the same id is applied once, whoever retries.
6. What a day's allowance pays of a charge moves into the account by a transfer of its own in the same transaction,
   before the charge: so a charge is always the full price. Never more than was granted for that day.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from vectoll.domain.identity import Principal
from vectoll.domain.ids import AccountId, KeyId, ModelId, RequestId, TransferId
from vectoll.domain.money import ZERO, Amount, Quote


class TransferCode(StrEnum):
    """Why money moved."""

    CREDIT = "CREDIT"
    """An operator granted prepaid credit, or took it back: then the customer is debited."""
    TOP_UP = "TOP_UP"
    """A payment arrived."""
    CHARGE = "CHARGE"
    """Embeddings were delivered."""
    REFUND = "REFUND"
    """A charge was given back."""
    REVERSAL = "REVERSAL"
    """A payment was undone by its chain."""
    ALLOWANCE = "ALLOWANCE"
    """A day's allowance paid a charge, in part or whole, or got back what it paid. ``note`` is the day."""


def system_account(name: str, at: datetime) -> AccountId:
    """The house's side of a transfer, one account per UTC month: ``$revenue:2026-11``.

    A month is the period that an accountant asks for. Like every balance, each of them is ``MAX_AMOUNT`` at most:
    what would make it more, $9,000,000 charged or credited in one month, is refused until the next begins.
    ``$`` cannot start a customer's id.
    """
    return AccountId(f"${name}:{at.year:04}-{at.month:02}")


def is_system(account: AccountId) -> bool:
    """Whether this is one of the house's own accounts."""
    return account.startswith("$")


def kind_of(account: AccountId) -> str:
    """A system account without its month, ``$revenue``; a customer's as it is."""
    return account.partition(":")[0] if is_system(account) else account


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has, and how much of it is held for requests in flight."""

    balance: Amount
    held: Amount
    allowance: Amount = ZERO
    """What is left of today's allowance; comes on top of ``balance``, and is spent first."""
    granted: Amount = ZERO
    """Today's whole allowance."""

    @property
    def total(self) -> Amount:
        """Credit and allowance, held or not."""
        return Amount(self.balance + self.allowance)

    @property
    def available(self) -> Amount:
        """What a new hold may take. More may be held than there is, where an allowance ended at midnight or credit was
        taken back; then it is nothing.
        """
        return Amount(max(ZERO, self.total - self.held))

    @property
    def available_allowance(self) -> Amount:
        """The part of ``available`` that is allowance."""
        return Amount(max(ZERO, self.allowance - self.held))

    @property
    def available_credit(self) -> Amount:
        """The part of ``available`` that was paid for."""
        return Amount(self.available - self.available_allowance)


@dataclass(frozen=True, slots=True)
class Hold:
    """Credit set aside for one request until it is charged or released."""

    id: TransferId
    """Becomes the id of the charge, so a charge that is retried is applied once."""
    principal: Principal
    quote: Quote
    request_id: RequestId
    fingerprint: bytes | None = None
    """SHA-256 of the request when an Idempotency-Key was sent; two requests under one id must agree.

    None says that the id was made for this hold: no charge of this id can exist yet.
    """


@dataclass(frozen=True, slots=True)
class Transfer:
    """One immutable movement of money."""

    id: TransferId
    debit: AccountId
    credit: AccountId
    amount: Amount
    code: TransferCode
    created_at: datetime
    request_id: RequestId | None = None
    key: KeyId | None = None
    model: ModelId | None = None
    tokens: int = 0
    duration_ms: int | None = None
    fingerprint: bytes | None = None
    note: str = ""
    seq: int = field(default=0, compare=False)
    """Assigned by the store, ascending; 0 until stored."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One thing that ``verify`` found wrong."""

    subject: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` saw."""

    accounts: int
    transfers: int
    disagreements: tuple[Disagreement, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing disagrees."""
        return not self.disagreements
