"""Who just had something to spend is not asked for again at once; who had nothing is."""

from datetime import UTC, datetime

import pytest

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core import recent_funds as module
from vectoll.core.recent_funds import RecentFunds
from vectoll.domain.ids import AccountId, TransferId
from vectoll.domain.ledger import Balance, Transfer, TransferCode, system_account
from vectoll.domain.money import usd
from vectoll.ports.clock import SystemClock

RICH, POOR = AccountId("acct_rich"), AccountId("acct_poor")


class Counted:
    """A ledger that counts who asks for a balance."""

    def __init__(self) -> None:
        self.ledger = MemoryStore(SystemClock()).ledger
        self.asked: list[AccountId] = []

    async def balance(self, account: AccountId) -> Balance:
        self.asked.append(account)
        return await self.ledger.balance(account)

    async def credit(self, account: AccountId) -> None:
        now = datetime.now(UTC)
        source = system_account("credit", now)
        await self.ledger.post(
            Transfer(TransferId(f"crd_{account}"), source, account, usd("1"), TransferCode.CREDIT, now)
        )


@pytest.fixture
def ledger() -> Counted:
    return Counted()


@pytest.fixture
def funds(ledger: Counted) -> RecentFunds:
    return RecentFunds(ledger)  # type: ignore[arg-type]


async def test_who_has_something_is_asked_for_once(ledger: Counted, funds: RecentFunds) -> None:
    await ledger.credit(RICH)
    assert [await funds.has_any(RICH) for _ in range(3)] == [True] * 3
    assert ledger.asked == [RICH]


async def test_who_has_nothing_is_asked_for_each_time_and_may_send_once_they_have(
    ledger: Counted, funds: RecentFunds
) -> None:
    assert not await funds.has_any(POOR)
    await ledger.credit(POOR)
    assert await funds.has_any(POOR)


async def test_what_is_remembered_ends(
    ledger: Counted, funds: RecentFunds, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.credit(RICH)
    monkeypatch.setattr(module, "REMEMBERED_S", 0.0)
    await funds.has_any(RICH)
    await funds.has_any(RICH)
    assert ledger.asked == [RICH, RICH]


async def test_no_more_accounts_than_some_are_remembered(
    ledger: Counted, funds: RecentFunds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    accounts = [AccountId(f"acct_{n}") for n in range(5)]
    for account in accounts:
        await ledger.credit(account)
        assert await funds.has_any(account)
    assert len(funds._until) <= 2
