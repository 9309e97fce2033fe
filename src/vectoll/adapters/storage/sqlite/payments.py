"""Payments in SQLite: each step one durable change, the credit in the same transaction as its transfer."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.rows import changeable, from_intent, to_intent
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import Amount
from vectoll.domain.payments import Intent, IntentState, PaymentId
from vectoll.ports.payments import EvidenceConsumed


class SqlitePayments:
    """See ``vectoll.ports.payments.PaymentStore`` for what each method promises."""

    def __init__(self, writer: GroupWriter, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def insert(self, intent: Intent) -> Intent | None:
        """None when written, else what is stored under this id."""

        def insert(work: Work) -> Intent | None:
            row = from_intent(intent)
            if work.connection.execute(sql("insert_payment"), row).rowcount:
                return None
            return _stored(work, intent.id)

        return await self._writer.submit(insert)

    async def get(self, payment: PaymentId) -> Intent | None:
        """One intent."""
        row = self._reader.read(lambda db: db.execute(sql("payment"), (payment,)).fetchone())
        return to_intent(row) if row else None

    async def advance(self, old: Intent, new: Intent) -> Intent | None:
        """Replace ``old`` by ``new``, unless it is outdated."""
        return await self._writer.submit(lambda work: _advance(work, old, new))

    async def credit(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """Advance and post the transfer, or do neither."""
        rules.check_post(transfer)

        def credit(work: Work) -> Intent | EvidenceConsumed | None:
            if not _is_current(work, old):
                return None
            evidence = (new.network, new.tx, new.log_index, new.id)
            if work.connection.execute(sql("evidence_consumed"), evidence).fetchone():
                return EvidenceConsumed()
            work.post(transfer)
            return _advance(work, old, replace(new, balance_after=work.balance(transfer.credit)))

        outcome = await self._writer.submit(credit)
        if isinstance(outcome, EvidenceConsumed):
            raise outcome
        return outcome

    async def reverse(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """Advance and take back what is left, or do neither."""
        rules.check_post(transfer)

        def reverse(work: Work) -> Intent | None:
            if not _is_current(work, old):
                return None
            left = min(transfer.amount, work.balance(transfer.debit))
            work.post(replace(transfer, amount=Amount(left)))
            return _advance(work, old, new)

        return await self._writer.submit(reverse)

    async def open(self) -> Sequence[Intent]:
        """What has still to be watched, oldest first."""
        return await self._reader.read_in_thread(
            lambda db: [to_intent(row) for row in db.execute(sql("open_payments"))]
        )

    async def open_of(self, network: str, payer: str) -> Sequence[Intent]:
        """One payer's intents whose outcome is not known."""
        return self._reader.read(
            lambda db: [to_intent(row) for row in db.execute(sql("open_payments_of"), (network, payer))]
        )

    async def reversed_since(self, since: datetime) -> Sequence[Intent]:
        """Whose credit was taken back after that."""
        return await self._reader.read_in_thread(
            lambda db: [to_intent(row) for row in db.execute(sql("reversed_payments"), (to_micros(since),))]
        )

    async def forget_failed(self, unsent_before: datetime, sent_before: datetime) -> int:
        """Drop failed payments that were not touched since."""
        before = (to_micros(unsent_before), to_micros(sent_before))
        return await self._writer.submit(
            lambda work: work.connection.execute(sql("forget_failed"), before).rowcount
        )

    async def list(self, state: IntentState | None = None, limit: int = 100) -> Sequence[Intent]:
        """The newest intents, newest first."""
        wanted = (None if state is None else state.value, limit)
        return await self._reader.read_in_thread(
            lambda db: [to_intent(row) for row in db.execute(sql("list_payments"), wanted)]
        )


def _is_current(work: Work, old: Intent) -> bool:
    stored = _stored(work, old.id)
    return stored is not None and stored.version == old.version


def _advance(work: Work, old: Intent, new: Intent) -> Intent | None:
    advanced = replace(new, version=old.version + 1)
    row = (*changeable(advanced), old.id, old.version)
    return advanced if work.connection.execute(sql("update_payment"), row).rowcount else None


def _stored(work: Work, payment: PaymentId) -> Intent | None:
    row = work.connection.execute(sql("payment"), (payment,)).fetchone()
    return to_intent(row) if row else None
