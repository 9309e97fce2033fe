"""Payments in PostgreSQL: each step one statement, the credit in the same transaction as its transfer."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.rows import from_intent, from_transfer, to_intent
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.errors import IdempotencyConflict, OutcomeUnknown
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import Amount
from vectoll.domain.payments import Intent, IntentState, PaymentId
from vectoll.ports.payments import EvidenceConsumed


class PostgresPayments:
    """See ``vectoll.ports.payments.PaymentStore`` for what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, intent: Intent) -> Intent | None:
        """None when written, else what is stored under this id."""
        try:
            if await self._database.fetch("insert_payment", *from_intent(intent), is_repeatable=False):
                return None
        except OutcomeUnknown:
            stored = await self.get(intent.id)
            if stored is None:  # not now, and not known whether it still comes
                raise
            return None if stored == intent else stored
        return await self.get(intent.id)

    async def get(self, payment: PaymentId) -> Intent | None:
        """One intent."""
        rows = await self._database.fetch("payment", payment)
        return to_intent(rows[0]) if rows else None

    async def advance(self, old: Intent, new: Intent) -> Intent | None:
        """Replace ``old`` by ``new``, unless it is outdated."""
        advanced = replace(new, version=old.version + 1)
        try:
            row = (0, *from_intent(new))
            done = await self._database.value("advance_payment", row, old.version, is_repeatable=False)
        except OutcomeUnknown:
            done = await self.get(old.id) == advanced
        return advanced if done else None

    async def credit(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """Advance and post the transfer, or do neither."""
        return await self._settle(old, new, transfer, is_credit=True)

    async def reverse(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """Advance and take back what is left, or do neither."""
        return await self._settle(old, new, transfer, is_credit=False)

    async def open(self) -> Sequence[Intent]:
        """What has still to be watched, oldest first."""
        return [to_intent(row) for row in await self._database.fetch("open_payments")]

    async def open_of(self, network: str, payer: str) -> Sequence[Intent]:
        """One payer's intents whose outcome is not known."""
        return [to_intent(row) for row in await self._database.fetch("open_payments_of", network, payer)]

    async def reversed_since(self, since: datetime) -> Sequence[Intent]:
        """Whose credit was taken back after that."""
        rows = await self._database.fetch("reversed_payments", to_micros(since))
        return [to_intent(row) for row in rows]

    async def forget_failed(self, unsent_before: datetime, sent_before: datetime) -> int:
        """Drop failed payments that were not touched since."""
        before = (to_micros(unsent_before), to_micros(sent_before))
        return len(await self._database.fetch("forget_failed", *before))

    async def list(self, state: IntentState | None = None, limit: int = 100) -> Sequence[Intent]:
        """The newest intents, newest first."""
        wanted = None if state is None else state.value
        return [to_intent(row) for row in await self._database.fetch("list_payments", wanted, limit)]

    async def _settle(
        self, old: Intent, new: Intent, transfer: Transfer, *, is_credit: bool
    ) -> Intent | None:
        rules.check_post(transfer)
        rows = await self._database.fetch(
            "settle_payment", (0, *from_intent(new)), old.version, (0, *from_transfer(transfer)), is_credit
        )
        outcome, debit, credit = rows[0]
        match outcome:
            case "done":
                balance_after = Amount(credit) if is_credit else new.balance_after
                return replace(new, version=old.version + 1, balance_after=balance_after)
            case "outdated":
                return None
            case "consumed":
                raise EvidenceConsumed
            case "conflict":
                raise IdempotencyConflict
            case _:
                rules.check_movement(transfer, debit, credit)
                raise AssertionError("the database refused what the rules allow")
