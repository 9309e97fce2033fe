"""Payments in USDC: what is asked for, what a client sent, and how far its settlement has come."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from vectoll.domain.errors import Unavailable, VectollError
from vectoll.domain.ids import TransferId
from vectoll.domain.money import Amount, usd
from vectoll.domain.payments_solana import SolanaTransfer
from vectoll.domain.wallets import Family, WalletAddress

PaymentId = NewType("PaymentId", str)
"""``pay_`` and 64 hex digits that follow from what can happen only once on the chain."""

MIN_TOP_UP = usd("5")
MAX_TOP_UP = usd("10000")
SUGGESTED_TOP_UP = usd("10")
MIN_WALLET_BALANCE = usd("0.10")
"""What a wallet must have before a request of its is served."""

USDC_DECIMALS = 6
UNITS_PER_USDC_UNIT = 10**6
"""One base unit of USDC is 10⁻⁶ USD: a million units of money."""

MAX_TIMEOUT_S = 300
"""How long a client's signature should stay valid: goes into every requirement."""
MAX_OPEN_PER_PAYER = 3
"""How many payments of one wallet may be open at once: each is watched until it arrives or lapses."""

MIN_VALIDITY_S = 10
"""A payment must stay valid this long yet when it comes in, or it may lapse on its way to the chain."""
MAX_VALIDITY_S = 900
"""Longer than is asked for, as clocks may be off; but open payments are watched, and strangers could fill the watch."""


def usdc_amount(base_units: int) -> Amount:
    """Money from base units of USDC."""
    return Amount(base_units * UNITS_PER_USDC_UNIT)


def usdc_base_units(amount: Amount) -> int:
    """Base units of USDC for money, rounded up."""
    return -(-amount // UNITS_PER_USDC_UNIT)


@dataclass(frozen=True, slots=True)
class PaymentOption:
    """One way to pay: an entry of ``accepts``, all of it from this server's own configuration."""

    network: str
    """A CAIP-2 id."""
    asset: str
    """The USDC contract, or the mint."""
    pay_to: str
    extra: Mapping[str, str] = field(default_factory=dict)
    """``name`` and ``version`` of the token's EIP-712 domain; ``feePayer`` on Solana."""
    token_account: str | None = None
    """Where ``pay_to`` receives the asset, where that is another address (Solana)."""

    @property
    def family(self) -> Family:
        """Which family of chains the network belongs to."""
        return Family(self.network.partition(":")[0])


@dataclass(frozen=True, slots=True)
class TransferAuthorization:
    """An EIP-3009 ``transferWithAuthorization``, signed. Addresses are lower-case."""

    payer: WalletAddress
    to: str
    value: int
    valid_after: int
    valid_before: int
    """Unix seconds; the transfer may happen strictly between the two."""
    nonce: bytes
    """32 bytes, chosen by the payer; the token accepts each once."""
    signature: bytes


@dataclass(frozen=True, slots=True)
class Payment:
    """What a client sent, matched to one of our own options."""

    option: PaymentOption
    authorization: TransferAuthorization | SolanaTransfer

    @property
    def payer(self) -> WalletAddress:
        """Whose money it is, and whose credit it becomes."""
        return self.authorization.payer

    @property
    def base_units(self) -> int:
        """What the signature moves, in base units of USDC."""
        return self.authorization.value

    @property
    def id(self) -> PaymentId:
        """The same for every way to write down the same movement of money; different for any other."""
        match self.authorization:
            case TransferAuthorization(payer=payer, nonce=nonce):
                unique = f"{self.option.network}:{self.option.asset.lower()}:{payer.text}:{nonce.hex()}"
            case SolanaTransfer(message=message):
                unique = f"{self.option.network}:{hashlib.sha256(message).hexdigest()}"
        return PaymentId(f"pay_{hashlib.sha256(unique.encode()).hexdigest()}")


class IntentState(StrEnum):
    """How far a payment has come."""

    RECEIVED = "received"
    """Written down; nothing was asked of the chain yet."""
    VERIFIED = "verified"
    """The chain would accept it; nothing was sent."""
    SUBMITTING = "submitting"
    """About to be sent, or sent: from here on the money may have moved."""
    UNKNOWN = "unknown"
    """Sent, and nobody said in time what became of it. Watched until it arrives or never can."""
    CREDITED = "credited"
    """It arrived, and the wallet's account was credited in the same database transaction."""
    FAILED = "failed"
    """Nothing arrived, and nothing can."""
    REVERSED = "reversed"
    """It had arrived, and the chain dropped it; the credit was taken back."""


UNSETTLED = (IntentState.RECEIVED, IntentState.VERIFIED, IntentState.SUBMITTING, IntentState.UNKNOWN)
"""Neither credited nor failed yet."""

PENDING = (IntentState.VERIFIED, IntentState.SUBMITTING, IntentState.UNKNOWN)
"""The chain would have accepted it, and what became of it is not known."""


@dataclass(frozen=True, slots=True)
class Intent:
    """The durable record of one payment."""

    id: PaymentId
    network: str
    payer: str
    base_units: int
    payload: bytes
    """The payment in x402 v2 JSON, as ``vectoll.core.payment_header`` reads it."""
    state: IntentState
    created_at: datetime
    updated_at: datetime
    since_block: int = 0
    """No block before this one can hold the payment."""
    tx: str | None = None
    raw_tx: bytes | None = None
    """The signed transaction: sent again, it is the same one."""
    log_index: int | None = None
    is_final: bool = False
    """Whether the chain can no longer drop it."""
    balance_after: Amount | None = None
    """The wallet's balance right after the credit: what the client was told."""
    reason: str = ""
    version: int = 0
    """Counts the changes; a change that was based on an older version is not made."""

    @property
    def transfer_id(self) -> TransferId:
        """The ledger transfer that credits this payment."""
        return TransferId(self.id)

    @property
    def reversal_id(self) -> TransferId:
        """The transfer that takes the credit back."""
        return TransferId(f"{self.id}_reversal")


@dataclass(frozen=True, slots=True)
class Arrived:
    """The chain shows the payment, paired with its own authorisation."""

    tx: str
    base_units: int
    log_index: int
    confirmations: int
    is_final: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """Not there, but it may still come."""

    reason: str = ""


REVERTED = "failed_on_chain"
"""The reason where a transaction is in a block, but failed: it cost its fee and moved nothing."""


@dataclass(frozen=True, slots=True)
class Never:
    """Not there, and by final blocks it never can be."""

    reason: str
    by_absence: bool = False
    """Whether that follows from not finding it after it lapsed, and not from something found: a node may have gaps."""


Sighting = Arrived | Missing | Never


@dataclass(frozen=True, slots=True)
class Submission:
    """What is about to be sent. A facilitator signs on its own: then both are None."""

    tx: str | None
    raw_tx: bytes | None


class PaymentRefused(VectollError):
    """The payment cannot be accepted; no money moves. ``reason`` is a stable word for programs."""

    code = "X402_INVALID_PAYMENT"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PaymentInProgress(VectollError):
    """The same payment is being settled by another request, or its outcome is being watched."""

    code = "PAYMENT_IN_PROGRESS"

    def __init__(self, payment: PaymentId) -> None:
        super().__init__(
            "This payment is being settled. Do not sign another one; send the same one again in a minute."
        )
        self.payment = payment


class PaymentAlreadyCredited(VectollError):
    """The payment was credited by an earlier request; its credit is spent by signing in."""

    code = "PAYMENT_ALREADY_CREDITED"

    def __init__(self, payment: PaymentId) -> None:
        super().__init__("This payment was credited before. Sign in with SIGN-IN-WITH-X to spend the credit.")
        self.payment = payment


class PaymentOutcomeUnknown(VectollError):
    """The payment was sent to the chain, and no answer came in time. It is watched, and credited if it arrives."""

    code = "PAYMENT_OUTCOME_UNKNOWN"

    def __init__(self, payment: PaymentId) -> None:
        super().__init__(
            "The payment was submitted and its outcome is not known yet. Do not pay again: it is credited "
            "automatically when it arrives. Send the same payment again to see its result."
        )
        self.payment = payment


class RailUnavailable(Unavailable):
    """The chain or facilitator did not answer before anything was sent."""

    code = "X402_RAIL_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("The payment network does not answer. No money moved; try again.", 5)


class PaymentHeaderNotAccepted(VectollError):
    """Payments are made at the top-up URL, not with a request for embeddings."""

    code = "PAYMENT_HEADER_NOT_ACCEPTED"

    def __init__(self, top_up_url: str) -> None:
        super().__init__(f"Payment headers are not accepted here. Send the payment to POST {top_up_url}.")
