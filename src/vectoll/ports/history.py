"""An account's movements, newest first, each with the balance it left; and what was charged in total."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from vectoll.domain.ids import AccountId, KeyId, ModelId
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


@dataclass(frozen=True, slots=True)
class ChargeTotal:
    """What one key of one account was charged for one model."""

    account: AccountId
    key: KeyId | None
    model: ModelId | None
    requests: int
    tokens: int
    amount: Amount


class AccountHistory(Protocol):
    """Reads only."""

    async def page(self, account: AccountId, limit: int, offset: int) -> HistoryPage:
        """``limit`` entries, skipping the newest ``offset``. Costs as much as ``offset + limit`` entries."""
        ...

    async def charge_totals(self, start: datetime, account: AccountId | None = None) -> Sequence[ChargeTotal]:
        """Charges since ``start``, of one account or all, summed where they are stored.

        A row for each account, key and model that has any, in the order of ``largest_first``. Amounts are exact
        however large the sum.
        """
        ...


def largest_first(totals: Iterable[ChargeTotal]) -> Sequence[ChargeTotal]:
    """The largest amount first; equal ones by account, key and model."""
    return sorted(totals, key=lambda t: (-t.amount, t.account, t.key or "", t.model or ""))


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
