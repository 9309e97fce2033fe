"""An account's movements, newest first, each with the balance it left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import Amount


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One movement as its account sees it: ``amount`` is negative where the account paid."""

    transfer: Transfer
    amount: Amount
    balance_after: Amount


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Entries, newest first, from one moment; ``balance`` is the account's at that moment."""

    balance: Amount
    entries: Sequence[HistoryEntry]
    has_more: bool


class AccountHistory(Protocol):
    """Reads only."""

    async def page(self, account: AccountId, limit: int, offset: int) -> HistoryPage:
        """``limit`` entries after the newest ``offset``. Costs as much as ``offset + limit`` entries."""
        ...


def history_page(
    newest: Sequence[Transfer], account: AccountId, balance: Amount, limit: int, offset: int
) -> HistoryPage:
    """The page from an account's newest ``offset + limit + 1`` transfers and its balance at the same moment."""
    current, entries = balance, []
    for transfer in newest:
        amount = Amount(transfer.amount if transfer.credit == account else -transfer.amount)
        entries.append(HistoryEntry(transfer, amount, balance))
        balance = Amount(balance - amount)
    return HistoryPage(current, entries[offset : offset + limit], len(entries) > offset + limit)
