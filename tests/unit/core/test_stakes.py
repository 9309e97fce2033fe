"""Stakes become allowances by one snapshot a day, and never by half of one."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from tests.ledger import FixedClock, make_credit

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core import stakes
from vectoll.core.stakes import StakedAllowances
from vectoll.domain.allowances import Day, StakeSnapshot
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount, usd
from vectoll.domain.wallets import WalletAddress
from vectoll.ports.wallets import RpcUnavailable

A, B = AccountId("0x" + "aa" * 20), AccountId("0x" + "bb" * 20)
TOKEN = 10**18


class Chain:
    """Stakes by block; every answer comes a step later, and what is asked is kept."""

    def __init__(self) -> None:
        self.now = {A: 5 * TOKEN, B: 0}
        self.number = 7
        self.asked: list[tuple[str, int]] = []
        self.fails: Callable[[str], bool] = lambda wallet: False

    async def block(self) -> int:
        return self.number

    async def staked(self, wallet: WalletAddress, block: int) -> int:
        await asyncio.sleep(0)
        self.asked.append((wallet.text, block))
        if self.fails(wallet.text):
            raise RpcUnavailable("no answer")
        return self.now.get(wallet.account, 0)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def store(clock: FixedClock) -> MemoryStore:
    store = MemoryStore(clock)
    for account in (A, B, AccountId("alice"), AccountId(A.upper().replace("X", "x"))):
        await store.ledger.post(make_credit(0, account))
    return store


def service(store: MemoryStore, chain: Chain, clock: FixedClock) -> StakedAllowances:
    return StakedAllowances(store.allowances, chain, clock, minimum=TOKEN // 10)


async def granted(store: MemoryStore, account: AccountId) -> Amount:
    return (await store.ledger.balance(account)).granted


async def test_every_wallet_is_read_from_one_block_once_a_day(store: MemoryStore, clock: FixedClock) -> None:
    chain = Chain()
    staked = service(store, chain, clock)
    assert await staked.refresh()
    assert sorted(chain.asked) == [(A, 7), (B, 7)]
    assert await granted(store, A) == usd(5)
    chain.now, chain.number = {A: 0, B: 5 * TOKEN}, 8
    assert not await staked.refresh()
    assert not await service(store, chain, clock).refresh()
    assert len(chain.asked) == 2
    assert (await granted(store, A), await granted(store, B)) == (usd(5), 0)
    clock.advance(hours=12)
    assert await granted(store, A) == 0
    assert await staked.refresh()
    assert (await granted(store, A), await granted(store, B)) == (0, usd(5))


async def test_two_at_once_store_one_snapshot(store: MemoryStore, clock: FixedClock) -> None:
    chain = Chain()
    both = [service(store, chain, clock).refresh() for _ in range(2)]
    assert sorted(await asyncio.gather(*both)) == [False, True]


async def test_an_answer_that_is_missing_is_unknown(store: MemoryStore, clock: FixedClock) -> None:
    chain = Chain()
    chain.fails = lambda wallet: wallet == B
    with pytest.raises(RpcUnavailable):
        await service(store, chain, clock).refresh()
    assert await store.allowances.snapshot(Day("2026-11-18")) is None
    assert await granted(store, A) == 0
    chain.fails, chain.number = (lambda wallet: False), 9
    assert await service(store, chain, clock).refresh()
    assert await store.allowances.snapshot(Day("2026-11-18")) == StakeSnapshot(Day("2026-11-18"), 9)
    assert await granted(store, A) == usd(5)


async def test_answers_of_a_block_are_kept_and_only_what_is_missing_is_asked_again(
    store: MemoryStore, clock: FixedClock
) -> None:
    for n in range(40):
        await store.ledger.post(make_credit(0, AccountId(f"0x{n:040x}")))
    chain = Chain()
    staked = service(store, chain, clock)
    chain.fails = lambda wallet: wallet == A
    with pytest.raises(RpcUnavailable):
        await staked.refresh()
    assert len(chain.asked) == 42, "one that fails stops nobody else"
    chain.fails, chain.now, chain.number = (lambda wallet: False), {A: 5 * TOKEN, B: TOKEN}, 9
    assert await staked.refresh()
    assert chain.asked[42:] == [(A, 7)]
    assert await store.allowances.snapshot(Day("2026-11-18")) == StakeSnapshot(Day("2026-11-18"), 7)
    assert (await granted(store, A), await granted(store, B)) == (usd(5), 0)


async def test_a_block_of_which_nothing_more_is_learnt_is_given_up(
    store: MemoryStore, clock: FixedClock
) -> None:
    chain = Chain()
    staked = service(store, chain, clock)
    chain.fails = lambda wallet: wallet == B
    for _ in range(2):
        with pytest.raises(RpcUnavailable):
            await staked.refresh()
    chain.fails, chain.number = (lambda wallet: False), 9
    assert await staked.refresh()
    assert await store.allowances.snapshot(Day("2026-11-18")) == StakeSnapshot(Day("2026-11-18"), 9)


async def test_what_was_read_yesterday_is_not_todays(store: MemoryStore, clock: FixedClock) -> None:
    chain = Chain()
    staked = service(store, chain, clock)
    chain.fails = lambda wallet: wallet == B
    with pytest.raises(RpcUnavailable):
        await staked.refresh()
    clock.advance(hours=12)
    chain.fails, chain.number = (lambda wallet: False), 9
    assert await staked.refresh()
    assert sorted(chain.asked[2:]) == [(A, 9), (B, 9)]


async def test_a_chain_that_does_not_answer_is_asked_a_few_times_only(
    store: MemoryStore, clock: FixedClock
) -> None:
    for n in range(40):
        await store.ledger.post(make_credit(0, AccountId(f"0x{n:040x}")))
    chain = Chain()
    chain.fails = lambda wallet: True
    with pytest.raises(RpcUnavailable):
        await service(store, chain, clock).refresh()
    assert len(chain.asked) == stakes.AT_ONCE


async def test_many_wallets_are_asked_a_few_at_a_time(store: MemoryStore, clock: FixedClock) -> None:
    for n in range(40):
        await store.ledger.post(make_credit(0, AccountId(f"0x{n:040x}")))
    chain = Chain()
    assert await service(store, chain, clock).refresh()
    assert len(chain.asked) == 42


async def test_the_watch_outlives_failures_and_takes_each_day(
    store: MemoryStore, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stakes, "RETRY_S", 0)
    chain = Chain()
    failures = [ValueError("a defect"), RpcUnavailable("no answer")]

    def fails(wallet: str) -> bool:
        if failures:
            raise failures.pop(0)
        return False

    chain.fails = fails
    recorded: asyncio.Queue[Day] = asyncio.Queue()
    record = store.allowances.record

    async def tell(snapshot: StakeSnapshot, amounts: Mapping[AccountId, Amount]) -> bool:
        await recorded.put(snapshot.day)
        return await record(snapshot, amounts)

    monkeypatch.setattr(store.allowances, "record", tell)
    watch = asyncio.create_task(service(store, chain, clock).watch())
    async with asyncio.timeout(5):
        assert await recorded.get() == "2026-11-18"
        clock.advance(days=1)
        assert await recorded.get() == "2026-11-19"
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
    assert "stakes_failed" in caplog.messages
