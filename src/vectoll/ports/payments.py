"""Payments: where they are written down, and how they reach a chain."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from vectoll.domain.ledger import Transfer
from vectoll.domain.payments import (
    Intent,
    IntentState,
    Payment,
    PaymentId,
    PaymentOption,
    Sighting,
    Submission,
)
from vectoll.ports.wallets import RpcUnavailable


class PaymentStore(Protocol):
    """Durable, atomic, shared by all processes. What returns is on disk."""

    async def insert(self, intent: Intent) -> Intent | None:
        """None when written; the stored intent when one of this id exists already."""
        ...

    async def get(self, payment: PaymentId) -> Intent | None:
        """One intent."""
        ...

    async def advance(self, old: Intent, new: Intent) -> Intent | None:
        """Replace ``old`` by ``new``, its version one higher. None, changing nothing, when ``old`` is outdated."""
        ...

    async def credit(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """``advance`` and post ``transfer``, in one transaction; fills ``balance_after``.

        Raises EvidenceConsumed, changing nothing, when another intent was credited from the same log.
        """
        ...

    async def reverse(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """``advance`` and post ``transfer``, lowered to what its debited account has, in one transaction.

        A customer's balance never goes below zero: what was spent already is the house's loss.
        """
        ...

    async def open(self) -> Sequence[Intent]:
        """Every intent that is not settled, and every credited one that is not final; oldest first."""
        ...

    async def open_of(self, network: str, payer: str) -> Sequence[Intent]:
        """One payer's intents that the chain accepted and whose outcome is not known; oldest first."""
        ...

    async def reversed_since(self, since: datetime) -> Sequence[Intent]:
        """Intents whose credit was taken back after ``since``."""
        ...

    async def forget_failed(self, unsent_before: datetime, sent_before: datetime) -> int:
        """Delete failed payments that were last changed before these times; how many.

        Nothing is lost with them. What was refused before it was sent is judged anew should it come again; what failed
        after it was sent, the chain itself will refuse.
        """
        ...

    async def list(self, state: IntentState | None = None, limit: int = 100) -> Sequence[Intent]:
        """The newest intents, newest first."""
        ...


class EvidenceConsumed(Exception):
    """The log that proves this payment was already credited as another payment."""


class NothingSent(RpcUnavailable):
    """Who was to send the payment could not be reached at all: not a byte of it has left this process."""


Record = Callable[[Submission], Awaitable[None]]
"""Writes a submission down, durably. Raises when the payment is no longer this caller's to submit."""


class Token(Protocol):
    """A currency on one network: what is asked for, and what the chain says. All may raise RpcUnavailable."""

    @property
    def option(self) -> PaymentOption:
        """What is asked for."""
        ...

    @property
    def confirmations(self) -> int:
        """How many blocks deep a payment must be before it is credited."""
        ...

    def check_signature(self, payment: Payment) -> bool:
        """Whether the payer's own key signed, as far as arithmetic can tell. No I/O.

        False for the signature of a contract wallet: only the chain can judge that.
        """
        ...

    async def verify(self, payment: Payment) -> int:
        """Make sure that the chain would accept the payment now; returns the block after which it can arrive.

        Raises PaymentRefused.
        """
        ...

    async def balance(self, payment: Payment) -> int:
        """What there is where the payment comes from, in base units."""
        ...

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        """What the chain shows: by the receipt of ``intent.tx``, else by searching since ``intent.since_block``."""
        ...


class Rail(Token, Protocol):
    """One network's way from a signed payment to money received. Every method may raise RpcUnavailable."""

    async def settle(self, payment: Payment, record: Record) -> None:
        """Send the payment to its chain, once. ``record`` is awaited before the first byte leaves.

        Neither a return nor RpcUnavailable after ``record`` says what became of it: only ``look`` does. NothingSent
        alone says that it was not sent.
        """
        ...

    async def resend(self, intent: Intent) -> bool:
        """Send the very same transaction again, where there is one. A node's refusals mean nothing, except one.

        False when another transaction has taken its place, so that this one can never happen: the payment may then be
        settled by a new one. The chain accepts each payment once, in whichever transaction.
        """
        ...

    async def funds(self) -> Decimal | None:
        """What our settlement key has for fees, in whole coins of the chain; None where somebody else pays them."""
        ...

    async def close(self) -> None:
        """Free what is held."""
        ...
