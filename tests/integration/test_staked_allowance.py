"""Staked tokens on a real chain: the attack of moving a stake between wallets within a day, and a chain that fails."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.chains.anvil import DIEM, USDC, Anvil, call_data, run_anvil
from tests.ledger import FixedClock, make_credit, make_hold

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.chains.stakes import EvmStakes
from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.sqlite import SqliteStore, open_sqlite
from vectoll.core.stakes import StakedAllowances
from vectoll.domain.allowances import StakeSnapshot
from vectoll.domain.errors import InsufficientBalance
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount, Price, usd
from vectoll.domain.wallets import parse_wallet
from vectoll.ports.wallets import RpcUnavailable
from vectoll.settings import load_settings
from vectoll.wallets import open_wallets

FIRST, SECOND = AccountId("0x" + "1a" * 20), AccountId("0x" + "2b" * 20)
TOKEN = 10**18
DOLLAR = Price(10**12)
MORNING = datetime(2026, 11, 18, 0, 0, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with run_anvil() as chain:
        yield chain


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(MORNING)


@pytest.fixture
async def store(tmp_path: Path, clock: FixedClock) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path, clock)
    for account in (FIRST, SECOND):
        await store.ledger.post(make_credit(0, account))
    yield store
    await store.close()


@pytest.fixture
async def stakes(chain: Anvil) -> AsyncIterator[EvmStakes]:
    rpc = JsonRpc(chain.url)
    yield EvmStakes(rpc, DIEM)
    await rpc.close()


def stake(chain: Anvil, wallet: str, units: int) -> None:
    chain.send(DIEM, call_data("Staking", "set(address,uint256)", wallet, units))


async def spend(store: SqliteStore, account: AccountId, dollars: int) -> None:
    hold = make_hold(dollars, account, price=DOLLAR)
    await store.ledger.hold(hold)
    await store.ledger.charge(hold, dollars, 1)


async def test_a_stake_that_moves_within_a_day_is_worth_one_allowance(
    chain: Anvil, store: SqliteStore, stakes: EvmStakes, clock: FixedClock, tmp_path: Path
) -> None:
    stake(chain, FIRST, 5 * TOKEN)
    staked = StakedAllowances(store.allowances, stakes, clock, minimum=TOKEN // 10)
    assert await staked.refresh()
    await spend(store, FIRST, 5)

    stake(chain, FIRST, 0)
    stake(chain, SECOND, 5 * TOKEN)
    chain.mine(3)
    clock.advance(hours=6)
    assert not await staked.refresh()
    restarted = await open_sqlite(tmp_path, clock)  # and another process
    assert not await StakedAllowances(restarted.allowances, stakes, clock, minimum=1).refresh()
    await restarted.close()
    newcomer = AccountId("0x" + "3c" * 20)
    await store.ledger.post(make_credit(0, newcomer))
    stake(chain, newcomer, 5 * TOKEN)
    assert not await staked.refresh()
    for account in (FIRST, SECOND, newcomer):
        with pytest.raises(InsufficientBalance):
            await store.ledger.hold(make_hold(1, account, price=DOLLAR))

    clock.advance(hours=18)
    assert await staked.refresh()
    assert (await store.ledger.balance(FIRST)).granted == 0
    assert (await store.ledger.balance(SECOND)).granted == usd(5)
    assert (await store.ledger.verify()).is_clean


async def test_all_stakes_are_of_one_block_though_one_moves_between_two_reads(
    chain: Anvil, stakes: EvmStakes
) -> None:
    stake(chain, FIRST, 5 * TOKEN)
    stake(chain, SECOND, 0)
    block = await stakes.block()
    assert await stakes.staked(parse_wallet(FIRST), block) == 5 * TOKEN
    stake(chain, FIRST, 0)
    stake(chain, SECOND, 5 * TOKEN)
    assert await stakes.staked(parse_wallet(SECOND), block) == 0
    assert await stakes.staked(parse_wallet(SECOND), await stakes.block()) == 5 * TOKEN


async def test_a_chain_that_cannot_say_is_unknown(
    chain: Anvil, store: SqliteStore, clock: FixedClock
) -> None:
    for url, contract in ((chain.url, USDC), (chain.url, SECOND), ("http://127.0.0.1:9", DIEM)):
        rpc = JsonRpc(url)
        with pytest.raises(RpcUnavailable):
            await StakedAllowances(store.allowances, EvmStakes(rpc, contract), clock, minimum=1).refresh()
        await rpc.close()
    assert await store.allowances.list() == []


async def test_the_server_takes_the_snapshot_by_itself(
    chain: Anvil, store: SqliteStore, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stake(chain, FIRST, 3 * TOKEN)
    base = {"rpc_url": chain.url, "pay_to": SECOND, "settlement_key": "11" * 32}
    tables = {
        "public_url": "http://test",
        "x402": {"enabled": True, "base": base},
        "allowance": {"enabled": True, "minimum_units": "3.0"},
    }
    recorded: asyncio.Queue[None] = asyncio.Queue()
    record = store.allowances.record

    async def tell(snapshot: StakeSnapshot, stakes: Mapping[AccountId, Amount]) -> bool:
        done = await record(snapshot, stakes)
        await recorded.put(None)
        return done

    monkeypatch.setattr(store.allowances, "record", tell)
    async with (
        asyncio.timeout(10),
        open_wallets(load_settings(Path("/dev/null"), tables, {}), store, MemoryRateLimiter(), clock),
    ):
        await recorded.get()
    assert (await store.ledger.balance(FIRST)).granted == usd(3)
