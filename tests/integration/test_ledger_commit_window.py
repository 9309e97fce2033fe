"""While a charge is being committed: never counted too little, never refused for being counted twice."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.ledger import ALICE, TOKEN, make_credit, make_hold

from vectoll.adapters.storage.sqlite import SqliteStore, open_sqlite
from vectoll.domain.errors import InsufficientBalance
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ledger import Balance, Hold, Transfer
from vectoll.domain.money import ZERO, Amount


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Alice has credit for 10 tokens."""
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit(10 * TOKEN))
    yield store
    await store.close()


@contextmanager
def held_up(store: SqliteStore) -> Iterator[None]:
    """Nothing can be committed meanwhile: another process has the write lock."""
    with closing(sqlite3.connect(store.path, isolation_level=None)) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        yield


async def start_charge(store: SqliteStore, hold: Hold, tokens: int | None = None) -> "asyncio.Task[Transfer]":
    """A charge that the writer's thread has been given."""
    used = hold.quote.tokens if tokens is None else tokens
    charging = asyncio.create_task(store.ledger.charge(hold, used, 0))
    for _ in range(3):  # the task's first step, the handover that it scheduled, and one to spare
        await asyncio.sleep(0)
    assert not store._writer.is_quiet
    return charging


async def commit_unseen(store: SqliteStore, hold: Hold) -> "asyncio.Task[Transfer]":
    """A charge that is committed, and whose delivery waits for the caller to let the event loop run."""
    with held_up(store):
        charging = await start_charge(store, hold)
    with closing(sqlite3.connect(store.path)) as db:
        while not db.execute("SELECT 1 FROM transfers WHERE id = ?", (hold.id,)).fetchone():
            time.sleep(0.001)  # noqa: ASYNC251  the loop must not run: that is the point
    assert not charging.done()
    return charging


async def test_a_charge_on_its_way_stays_held(store: SqliteStore) -> None:
    paid = make_hold(6)
    await store.ledger.hold(paid)
    with held_up(store):
        charging = await start_charge(store, paid)
        greedy = asyncio.create_task(store.ledger.hold(make_hold(5)))
        assert await store.ledger.hold(make_hold(1)) is None  # what fits beside it need not wait
        await asyncio.sleep(0)
        assert not greedy.done()  # nobody knows yet
    with pytest.raises(InsufficientBalance):
        await greedy
    await charging
    assert await store.ledger.balance(ALICE) == Balance(Amount(4 * TOKEN), Amount(1 * TOKEN))


async def test_a_hold_waits_for_a_charge_that_turns_out_to_be_smaller(store: SqliteStore) -> None:
    paid = make_hold(6)
    await store.ledger.hold(paid)
    with held_up(store):
        charging = await start_charge(store, paid, 2)
        waiting = asyncio.create_task(store.ledger.hold(make_hold(8)))
        await asyncio.sleep(0)
    assert await waiting is None
    await charging
    assert await store.ledger.balance(ALICE) == Balance(Amount(8 * TOKEN), Amount(8 * TOKEN))


async def test_a_committed_charge_is_not_counted_twice(store: SqliteStore) -> None:
    paid = make_hold(6)
    await store.ledger.hold(paid)
    charging = await commit_unseen(store, paid)
    assert await store.ledger.hold(make_hold(4)) is None
    await charging
    assert await store.ledger.balance(ALICE) == Balance(Amount(4 * TOKEN), Amount(4 * TOKEN))


async def test_a_committed_charge_is_not_counted_twice_against_a_limit(store: SqliteStore) -> None:
    limit = SpendLimit(Amount(10 * TOKEN), LimitPeriod.LIFETIME)
    await store.ledger.post(make_credit("1"))
    paid = make_hold(6, key="key_1", limit=limit)
    await store.ledger.hold(paid)
    charging = await commit_unseen(store, paid)
    assert await store.ledger.hold(make_hold(4, key="key_1", limit=limit)) is None
    await charging


async def test_balance_counts_a_committed_charge_once(store: SqliteStore) -> None:
    paid = make_hold(6)
    await store.ledger.hold(paid)
    charging = await commit_unseen(store, paid)
    assert await store.ledger.balance(ALICE) == Balance(Amount(4 * TOKEN), ZERO)
    await charging


async def test_a_hold_cancelled_while_it_waits_holds_nothing(store: SqliteStore) -> None:
    paid = make_hold(6)
    await store.ledger.hold(paid)
    with held_up(store):
        charging = await start_charge(store, paid, 0)
        holding = asyncio.create_task(store.ledger.hold(make_hold(8)))
        await asyncio.sleep(0)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
    await charging
    assert holding.cancelled()
    assert await store.ledger.balance(ALICE) == Balance(Amount(10 * TOKEN), ZERO)


async def test_a_hold_cancelled_with_its_answer_on_the_way_holds_nothing(store: SqliteStore) -> None:
    paid = make_hold(6)
    await store.ledger.hold(paid)
    with held_up(store):
        charging = await start_charge(store, paid, 2)
        holding = asyncio.create_task(store.ledger.hold(make_hold(8)))
        await asyncio.sleep(0)
        cancelling = store._writer.when_quiet(holding.cancel)  # in the step in which the hold is granted
    assert await cancelling is True
    with pytest.raises(asyncio.CancelledError):
        await holding
    await charging
    assert await store.ledger.balance(ALICE) == Balance(Amount(8 * TOKEN), ZERO)


async def test_a_cancelled_charge_stays_held_until_it_is_committed(store: SqliteStore) -> None:
    paid = make_hold(6)
    await store.ledger.hold(paid)
    with held_up(store):
        charging = await start_charge(store, paid)
        charging.cancel()
        await asyncio.gather(charging, return_exceptions=True)
        greedy = asyncio.create_task(store.ledger.hold(make_hold(5)))
        await asyncio.sleep(0)
        assert not greedy.done()
    with pytest.raises(InsufficientBalance):
        await greedy
    assert await store.ledger.transfer(paid.id) is not None
