"""Sign-in nonces and payments in memory: the reference that the databases are tested against."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from vectoll.domain.ids import AccountId, KeyId, ModelId
from vectoll.domain.ledger import Transfer, TransferCode
from vectoll.domain.money import Amount
from vectoll.domain.payments import PENDING, UNSETTLED, Intent, IntentState, PaymentId
from vectoll.ports.history import ChargeTotal, HistoryPage, history_page, largest_first
from vectoll.ports.ledger import Ledger, UsageQuery
from vectoll.ports.payments import EvidenceConsumed


class MemoryNonceStore:
    """Forgets what lapsed at the next use."""

    def __init__(self) -> None:
        self._good_until: dict[tuple[AccountId, str], datetime] = {}

    async def consume(self, wallet: AccountId, nonce: str, now: datetime, good_until: datetime) -> bool:
        """True for the first use of this wallet's nonce."""
        self._good_until = {key: until for key, until in self._good_until.items() if until > now}
        if (wallet, nonce) in self._good_until:
            return False
        self._good_until[wallet, nonce] = good_until
        return True


class MemoryPayments:
    """See ``vectoll.ports.payments.PaymentStore``. Over the in-memory ledger no method suspends: one step."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._intents: dict[PaymentId, Intent] = {}

    async def insert(self, intent: Intent) -> Intent | None:
        """None when written, else what is stored under this id."""
        if stored := self._intents.get(intent.id):
            return stored
        self._intents[intent.id] = intent
        return None

    async def get(self, payment: PaymentId) -> Intent | None:
        """One intent."""
        return self._intents.get(payment)

    async def advance(self, old: Intent, new: Intent) -> Intent | None:
        """Replace ``old`` by ``new``, unless it is outdated."""
        if not self._is_current(old):
            return None
        self._intents[old.id] = advanced = replace(new, version=old.version + 1)
        return advanced

    async def credit(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """Advance and post the transfer, or do neither."""
        if not self._is_current(old):
            return None
        evidence = (new.network, new.tx, new.log_index)
        if any((i.network, i.tx, i.log_index) == evidence and i.id != new.id for i in self._intents.values()):
            raise EvidenceConsumed
        await self._ledger.post(transfer)
        balance = (await self._ledger.balance(transfer.credit)).balance
        return await self.advance(old, replace(new, balance_after=balance))

    async def reverse(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        """Advance and take back what is left, or do neither."""
        if not self._is_current(old):
            return None
        left = min(transfer.amount, (await self._ledger.balance(transfer.debit)).balance)
        await self._ledger.post(replace(transfer, amount=Amount(left)))
        return await self.advance(old, new)

    async def open(self) -> Sequence[Intent]:
        """What has still to be watched, oldest first."""
        return [i for i in self._intents.values() if i.state in UNSETTLED or _is_provisional(i)]

    async def open_of(self, network: str, payer: str) -> Sequence[Intent]:
        """One payer's intents whose outcome is not known."""
        mine = (i for i in self._intents.values() if (i.network, i.payer) == (network, payer))
        return [i for i in mine if i.state in PENDING]

    async def reversed_since(self, since: datetime) -> Sequence[Intent]:
        """Whose credit was taken back after that."""
        return [i for i in self._intents.values() if i.state is IntentState.REVERSED and i.updated_at > since]

    async def forget_failed(self, unsent_before: datetime, sent_before: datetime) -> int:
        """Drop failed payments that were not touched since."""
        failed = [i for i in self._intents.values() if i.state is IntentState.FAILED]
        old = [i.id for i in failed if i.updated_at < (sent_before if _was_sent(i) else unsent_before)]
        for payment in old:
            del self._intents[payment]
        return len(old)

    async def list(self, state: IntentState | None = None, limit: int = 100) -> Sequence[Intent]:
        """The newest intents, newest first."""
        return [i for i in reversed(self._intents.values()) if state in (None, i.state)][:limit]

    def _is_current(self, old: Intent) -> bool:
        stored = self._intents.get(old.id)
        return stored is not None and stored.version == old.version


class MemoryHistory:
    """See ``vectoll.ports.history.AccountHistory``."""

    def __init__(self, ledger: Ledger, transfers: Callable[[], Iterable[Transfer]]) -> None:
        self._ledger = ledger
        self._transfers = transfers

    async def page(self, account: AccountId, limit: int, offset: int) -> HistoryPage:
        """A page, newest first."""
        transfers = await self._ledger.usage(UsageQuery(account, limit=1_000_000))
        balance = (await self._ledger.balance(account)).balance
        return history_page(transfers[::-1][: offset + limit + 1], account, balance, limit, offset)

    async def charge_totals(self, start: datetime, account: AccountId | None = None) -> Sequence[ChargeTotal]:
        """Sums by account, key and model."""
        groups: defaultdict[tuple[AccountId, KeyId | None, ModelId | None], list[Transfer]] = defaultdict(
            list
        )
        for t in self._transfers():
            if t.code is TransferCode.CHARGE and t.created_at >= start and account in (None, t.debit):
                groups[t.debit, t.key, t.model].append(t)
        return largest_first(
            ChargeTotal(
                *group, len(charges), sum(c.tokens for c in charges), Amount(sum(c.amount for c in charges))
            )
            for group, charges in groups.items()
        )


def _is_provisional(intent: Intent) -> bool:
    return intent.state is IntentState.CREDITED and not intent.is_final


def _was_sent(intent: Intent) -> bool:
    """As far as the record goes: it was verified."""
    return intent.since_block > 0 or intent.tx is not None
