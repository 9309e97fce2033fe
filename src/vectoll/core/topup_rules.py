"""The rules of top-ups that need neither chain nor store: what may be tried, and what a credit looks like."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from vectoll.core.payment_header import check_terms, render_payment
from vectoll.domain.errors import RateLimited, Unavailable, VectollError
from vectoll.domain.ids import AccountId, TransferId
from vectoll.domain.ledger import Transfer, TransferCode, system_account
from vectoll.domain.payments import (
    MAX_OPEN_PER_PAYER,
    MAX_TIMEOUT_S,
    MAX_VALIDITY_S,
    MIN_VALIDITY_S,
    REVERTED,
    Arrived,
    Intent,
    IntentState,
    Payment,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    PaymentRefused,
    TransferAuthorization,
    usdc_amount,
)
from vectoll.ports.payment_metrics import TopUpOutcome


def credit_of(intent: Intent, arrived: Arrived, now: datetime) -> tuple[Intent, Transfer]:
    """The intent as credited, and the transfer that credits exactly what the chain says arrived."""
    credited = replace(
        intent,
        state=IntentState.CREDITED,
        tx=arrived.tx,
        base_units=arrived.base_units,
        log_index=arrived.log_index,
        is_final=arrived.is_final,
        updated_at=now,
        reason="",
    )
    transfer = Transfer(
        id=intent.transfer_id,
        debit=system_account("usdc", now),
        credit=AccountId(intent.payer),
        amount=usdc_amount(arrived.base_units),
        code=TransferCode.TOP_UP,
        created_at=now,
        note=f"{intent.network} {arrived.tx}",
    )
    return credited, transfer


def reversal_of(intent: Intent, reason: str, now: datetime) -> tuple[Intent, Transfer]:
    """The intent as reversed, and the transfer that takes the whole credit back."""
    transfer = Transfer(
        id=intent.reversal_id,
        debit=AccountId(intent.payer),
        credit=system_account("usdc", now),
        amount=usdc_amount(intent.base_units),
        code=TransferCode.REVERSAL,
        created_at=now,
        note=f"{intent.network} {intent.tx}: {reason}",
    )
    return replace(intent, state=IntentState.REVERSED, reason=reason, updated_at=now), transfer


def restoral_of(
    intent: Intent, reversal: Transfer, arrived: Arrived, now: datetime
) -> tuple[Intent, Transfer]:
    """The intent as credited again, and the transfer that gives back what its reversal took, which may be less."""
    credited, transfer = credit_of(intent, arrived, now)
    return credited, replace(transfer, id=TransferId(f"{intent.id}_restored"), amount=reversal.amount)


def original_result(earlier: Intent, payment: Payment) -> Intent:
    """Only who shows the very same signature learns the result."""
    if earlier.payload != render_payment(payment):
        raise PaymentInProgress(payment.id)
    return earlier


def has_failed_after_sending(earlier: Intent, payment: Payment) -> bool:
    """Whether this very payment was sent and has failed, as far as a node could tell.

    Only one whose transaction is known: a stranger could make the search for any other as long as he likes.
    """
    was_sent = earlier.tx is not None
    return was_sent and earlier.state is IntentState.FAILED and earlier.payload == render_payment(payment)


def reopened_as(fresh: Intent, earlier: Intent) -> Intent:
    """The intent of a new attempt. What was sent once stays on record: it says where the payment may be found."""
    return replace(
        fresh,
        created_at=earlier.created_at,
        since_block=earlier.since_block,
        tx=earlier.tx,
        raw_tx=earlier.raw_tx,
    )


def check_times(payment: Payment, now: datetime) -> None:
    """A Solana transaction carries no times: its blockhash lapses by itself."""
    if not isinstance(payment.authorization, TransferAuthorization):
        return
    auth, unix_s = payment.authorization, int(now.timestamp())
    if auth.valid_after >= unix_s:
        raise PaymentRefused("not_yet_valid", "The payment is not valid yet: check validAfter and the clock.")
    if auth.valid_before < unix_s + MIN_VALIDITY_S:
        raise PaymentRefused("expired", "The payment has expired, or is about to: check validBefore.")
    if auth.valid_before > unix_s + MAX_VALIDITY_S:
        raise PaymentRefused(
            "valid_too_long",
            f"The payment is valid for more than {MAX_VALIDITY_S // 60} minutes: sign one that is valid for "
            f"{MAX_TIMEOUT_S} seconds.",
        )


def check_open(others: Sequence[Intent]) -> None:
    """Whether a payer may have another payment beside ``others`` that are open. Raises PaymentRefused."""
    if len(others) >= MAX_OPEN_PER_PAYER:
        raise PaymentRefused(
            "too_many_open",
            f"{MAX_OPEN_PER_PAYER} payments of this wallet are open: wait until one is settled.",
        )

    if any(other.reason == REVERTED for other in others):
        raise PaymentRefused(
            "earlier_payment_failed",
            "The chain did not execute this wallet's last payment: wait until it lapses.",
        )


def check_covered(payment: Payment, others: Sequence[Intent], balance: int) -> None:
    """Whether the payer has enough for this payment and the open ones. Raises PaymentRefused."""
    if balance < payment.base_units + sum(other.base_units for other in others):
        raise PaymentRefused(
            "insufficient_funds", "The payer has too little USDC for this payment beside those that are open."
        )


def is_timely(payment: Payment, now: datetime) -> bool:
    """Whether the payment can still reach its chain in time."""
    try:
        check_times(payment, now)
    except PaymentRefused:
        return False
    return True


def is_on_terms(payment: Payment) -> bool:
    """Whether the payment is what is still asked for: the operator may have changed recipient or fee payer since."""
    try:
        check_terms(payment)
    except PaymentRefused:
        return False
    return True


def outcome_of(error: VectollError) -> TopUpOutcome:
    """What an error of a top-up counts as."""
    match error:
        case PaymentInProgress():
            return TopUpOutcome.IN_PROGRESS
        case PaymentOutcomeUnknown():
            return TopUpOutcome.UNKNOWN
        case RateLimited():
            return TopUpOutcome.LIMITED
        case Unavailable():
            return TopUpOutcome.UNAVAILABLE
        case _:
            return TopUpOutcome.REFUSED


def may_be_contract(payment: Payment) -> bool:
    """Whether only the chain can judge the signature."""
    return isinstance(payment.authorization, TransferAuthorization)
