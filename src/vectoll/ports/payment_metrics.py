"""What wallets and payments report about themselves: counts and sums, never whose they are."""

from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from vectoll.domain.money import Amount
from vectoll.domain.payments import IntentState
from vectoll.domain.siwx import SignInRule
from vectoll.domain.wallets import Family


class TopUpOutcome(StrEnum):
    """What a client that sent a payment was answered."""

    CREDITED = "credited"
    REPEATED = "repeated"
    """The result of an earlier request."""
    REFUSED = "refused"
    LIMITED = "limited"
    IN_PROGRESS = "in_progress"
    UNKNOWN = "unknown"
    UNAVAILABLE = "unavailable"


class PaymentMetrics(Protocol):
    """Each call is cheap and never raises. A rail is named by its family of chains: there is one each."""

    def top_up(self, rail: Family | None, outcome: TopUpOutcome) -> None:
        """A payment was answered; no rail for one that fits none."""
        ...

    def credited(self, rail: Family, amount: Amount) -> None:
        """A payment arrived, and was credited."""
        ...

    def reversed(self, rail: Family, amount: Amount) -> None:
        """A credit was taken back, because its chain dropped the payment. ``amount`` is the whole payment's."""
        ...

    def reconciled(self, rail: Family, state: IntentState, is_final: bool) -> None:
        """The watch over open payments has brought one further."""
        ...

    def open_payments(self, rail: Family, count: int) -> None:
        """How many payments have an outcome that is not known now."""
        ...

    def settlement_funds(self, rail: Family, coins: Decimal) -> None:
        """What the settlement key has for fees, in ether or SOL."""
        ...

    def sign_in_refused(self, rule: SignInRule) -> None:
        """A sign-in, or a request for a wallet's API key, did not hold."""
        ...


class NoPaymentMetrics:
    """Reports nothing."""

    def top_up(self, rail: Family | None, outcome: TopUpOutcome) -> None:
        """Ignored."""

    def credited(self, rail: Family, amount: Amount) -> None:
        """Ignored."""

    def reversed(self, rail: Family, amount: Amount) -> None:
        """Ignored."""

    def reconciled(self, rail: Family, state: IntentState, is_final: bool) -> None:
        """Ignored."""

    def open_payments(self, rail: Family, count: int) -> None:
        """Ignored."""

    def settlement_funds(self, rail: Family, coins: Decimal) -> None:
        """Ignored."""

    def sign_in_refused(self, rule: SignInRule) -> None:
        """Ignored."""


NO_PAYMENT_METRICS = NoPaymentMetrics()
