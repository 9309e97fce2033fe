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
        """Whose credit was taken back after that."""
        ...

    async def forget_failed(self, unsent_before: datetime, sent_before: datetime) -> int:
        """Drop failed payments that were not touched since; how many there were.

        Nothing is lost with them. What was refused before it was sent is judged anew when it comes again; what failed
        after that can reach its chain no more, which refuses it.
        """
        ...

    async def list(self, state: IntentState | None = None, limit: int = 100) -> Sequence[Intent]:
        """The newest intents, newest first."""
        ...


class EvidenceConsumed(Exception):
    """The log that proves this payment has been credited as another one."""


class NothingSent(RpcUnavailable):
    """Who was to send the payment could not be reached at all: not a byte of it has left this process."""


Record = Callable[[Submission], Awaitable[None]]
"""Writes a submission down, durably. Raises when the payment is no longer this caller's to submit."""


class Token(Protocol):
    """What is paid with, on one network: what is asked for, and what the chain says. All may raise RpcUnavailable."""

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
        """Make sure that the chain would accept the payment now; the block after which it can arrive.

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

        A return, and RpcUnavailable after ``record``, say nothing about what became of it: ``look`` does. But for
        NothingSent.
        """
        ...

    async def resend(self, intent: Intent) -> bool:
        """Send the very same transaction again, where there is one. Errors of the node mean nothing, but one.

        False when another transaction has taken its place, so that it can never happen: the payment may be settled
        by a new one, for the chain accepts each payment once, in whichever transaction.
        """
        ...

    async def funds(self) -> Decimal | None:
        """What our settlement key has for fees, in whole coins of the chain; None where somebody else pays them."""
        ...

    async def close(self) -> None:
        """Free what is held."""
        ...
