"""Several gateways' stores on one database, doing everything at once to a few accounts."""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.ledger import TOKEN, make_credit, make_debit, make_hold
from tests.postgres import PostgresServer, make_schema, run_apart

from vectoll.adapters.storage.postgres import PoolSettings, PostgresStore, open_postgres
from vectoll.domain.errors import IdempotencyConflict, InsufficientBalance, SpendLimitReached
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId
from vectoll.domain.limits import RateLimit
from vectoll.domain.money import Amount

ACCOUNTS = [AccountId(f"account_{n}") for n in range(4)]
LIMIT = SpendLimit(Amount(300 * TOKEN), LimitPeriod.EPOCH)
PATIENT = PoolSettings(connections=5, timeout_s=30)
STEPS = 40


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    url = postgres.new_database()
    run_apart(make_schema(url))
    before = postgres.log.read_text().count("deadlock detected")
    yield url
    assert postgres.log.read_text().count("deadlock detected") == before


async def act(store: PostgresStore, rng: random.Random) -> None:
    """One thing that a gateway or an operator may do."""
    account = rng.choice(ACCOUNTS)
    match rng.randrange(8):
        case 0:
            await store.ledger.post(make_credit(rng.randrange(20) * TOKEN, account))
        case 1:
            await store.ledger.post(make_debit(rng.randrange(5) * TOKEN, account))
        case 2:
            await store.allowances.grant(account, Amount(rng.randrange(30) * TOKEN))
        case 3:
            await store.limiter.hit(RateLimit(rng.choice([50, 20_000])), account)
        case _:
            await request(store, account, rng)


async def request(store: PostgresStore, account: AccountId, rng: random.Random) -> None:
    is_limited = rng.random() < 0.5
    hold = make_hold(
        rng.randrange(1, 6),
        account,
        key=f"key_{account}_{is_limited}",
        limit=LIMIT if is_limited else None,
        charge_id=f"idem_{rng.randrange(30)}" if rng.random() < 0.3 else None,
    )
    if await store.ledger.hold(hold) is not None:
        return
    if rng.random() < 0.2:
        await store.ledger.release(hold)
    else:
        await store.ledger.charge(hold, rng.randint(0, hold.quote.tokens), 1)


async def work(store: PostgresStore, seed: int) -> int:
    """How many things were refused."""
    rng, refused = random.Random(seed), 0
    for _ in range(STEPS):
        try:
            await act(store, rng)
        except (InsufficientBalance, SpendLimitReached, IdempotencyConflict):
            refused += 1
    return refused


async def test_three_gateways_at_once_never_deadlock_and_keep_the_books(url: str) -> None:
    stores = [await open_postgres(url, None, PATIENT) for _ in range(3)]
    for account in ACCOUNTS:
        await stores[0].ledger.post(make_credit(40 * TOKEN, account))
    refusals = await asyncio.gather(*(work(store, seed) for seed, store in enumerate(stores * 10)))
    assert 0 < sum(refusals) < 30 * STEPS // 2
    verification = await stores[0].ledger.verify()
    assert verification.disagreements == ()
    for account in ACCOUNTS:
        balance = await stores[1].ledger.balance(account)
        assert balance.held == 0
        assert balance.balance >= 0
        key = KeyId(f"key_{account}_True")
        usage = await stores[2].ledger.key_usage(account, {key: LIMIT}, datetime.now(UTC))
        assert usage[key].current_period <= LIMIT.amount
    for store in stores:
        await store.close()


async def test_a_balance_is_spent_to_the_last_unit_by_three_gateways(url: str) -> None:
    """500 at once on a balance for 137, without HTTP in between: many rounds of holds and charges overlap."""
    stores = [await open_postgres(url, None, PATIENT) for _ in range(3)]
    await stores[0].ledger.post(make_credit(137 * TOKEN, ACCOUNTS[0]))

    async def one(store: PostgresStore) -> bool:
        hold = make_hold(1, ACCOUNTS[0])
        try:
            await store.ledger.hold(hold)
        except InsufficientBalance:
            return False
        await store.ledger.charge(hold, 1, 1)
        return True

    outcomes = await asyncio.gather(*(one(stores[n % 3]) for n in range(500)))
    assert sum(outcomes) == 137
    assert (await stores[1].ledger.balance(ACCOUNTS[0])).total == 0
    assert (await stores[2].ledger.verify()).is_clean
    for store in stores:
        await store.close()
