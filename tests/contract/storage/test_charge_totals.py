"""What every AccountHistory adds up."""

from datetime import timedelta

import pytest
from tests.ledger import ALICE, BOB, NOON, TOKEN, FixedClock, make_credit, make_debit, make_hold

from vectoll.domain.ids import AccountId, KeyId, ModelId
from vectoll.domain.money import MAX_AMOUNT, Amount, Price
from vectoll.ports.history import ChargeTotal
from vectoll.ports.ledger import Ledger
from vectoll.ports.store import Store

MINILM = ModelId("minilm")


async def _spend(ledger: Ledger, account: AccountId, key: str | None, *tokens: int) -> None:
    for count in tokens:
        hold = make_hold(count, account, key=key)
        await ledger.hold(hold)
        await ledger.charge(hold, count, 1)


async def test_charges_add_up_by_account_key_and_model_the_largest_first(store: Store) -> None:
    for account in (ALICE, BOB):
        await store.ledger.post(make_credit("5", account))
    await _spend(store.ledger, ALICE, "k1", 1, 2)
    await _spend(store.ledger, ALICE, None, 7)
    await _spend(store.ledger, BOB, "k2", 10)
    assert await store.history.charge_totals(NOON) == [
        ChargeTotal(BOB, KeyId("k2"), MINILM, 1, 10, Amount(10 * TOKEN)),
        ChargeTotal(ALICE, None, MINILM, 1, 7, Amount(7 * TOKEN)),
        ChargeTotal(ALICE, KeyId("k1"), MINILM, 2, 3, Amount(3 * TOKEN)),
    ]
    assert [t.key for t in await store.history.charge_totals(NOON, ALICE)] == [None, "k1"]
    assert await store.history.charge_totals(NOON, AccountId("nobody")) == []


async def test_equal_amounts_are_ordered_by_account_and_key(store: Store) -> None:
    for account in (ALICE, BOB):
        await store.ledger.post(make_credit("5", account))
    await _spend(store.ledger, BOB, "k1", 4)
    await _spend(store.ledger, ALICE, "k3", 4)
    await _spend(store.ledger, ALICE, "k2", 4)
    totals = await store.history.charge_totals(NOON)
    assert [(t.account, t.key) for t in totals] == [(ALICE, "k2"), (ALICE, "k3"), (BOB, "k1")]


async def test_charges_before_start_and_other_transfers_are_not_counted(
    store: Store, clock: FixedClock
) -> None:
    await store.ledger.post(make_credit("5"))
    await store.allowances.grant(ALICE, Amount(2 * TOKEN))
    await _spend(store.ledger, ALICE, "k", 3)
    clock.advance(days=40)
    await _spend(store.ledger, ALICE, "k", 5)
    assert [(t.requests, t.tokens) for t in await store.history.charge_totals(NOON)] == [(2, 8)]
    later = NOON + timedelta(days=40)
    assert [(t.requests, t.tokens) for t in await store.history.charge_totals(later)] == [(1, 5)]
    assert await store.history.charge_totals(later + timedelta(microseconds=1)) == []


@pytest.mark.parametrize("account", [None, ALICE])
async def test_a_sum_beyond_64_bits_is_exact(
    store: Store, clock: FixedClock, account: AccountId | None
) -> None:
    """Each month has an account of its own, so the sum over months has no bound."""
    for _ in range(2):
        await store.ledger.post(make_credit(MAX_AMOUNT, at=clock.now()))
        hold = make_hold(1, price=Price(MAX_AMOUNT - 1))
        await store.ledger.hold(hold)
        await store.ledger.charge(hold, 1, 1)
        clock.advance(days=31)
        await store.ledger.post(make_debit(1))
    [total] = await store.history.charge_totals(NOON, account)
    assert total.amount == 2 * (MAX_AMOUNT - 1)
