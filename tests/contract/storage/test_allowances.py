"""Daily allowances: spent before credit, once, for the day they were granted on."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from tests.ledger import ALICE, BOB, NOON, PRICE, TOKEN, FixedClock, make_credit, make_hold
from tests.postgres import execute

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.storage.sqlite import SqliteStore
from vectoll.domain.allowances import DailyAllowance, Day, StakeSnapshot, staked_allowance
from vectoll.domain.errors import Forbidden, InsufficientBalance, InvalidRequest, SpendLimitReached
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Balance, Transfer, TransferCode
from vectoll.domain.money import MAX_AMOUNT, ZERO, Amount, usd
from vectoll.ports.ledger import Funds, UsageQuery
from vectoll.ports.store import Store

TODAY = Day("2026-11-18")


def tokens(n: int) -> Amount:
    return PRICE.of(n)


async def spend(store: Store, n: int, **options: str) -> Transfer:
    hold = make_hold(n, **options)  # type: ignore[arg-type]
    assert await store.ledger.hold(hold) is None
    return await store.ledger.charge(hold, n, 1)


async def check_books(store: Store) -> None:
    assert (await store.ledger.verify()).disagreements == ()


async def test_an_allowance_is_spent_before_credit(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(5))
    await store.ledger.post(make_credit(tokens(10)))
    charge = await spend(store, 3)
    assert charge.amount == tokens(3)
    assert await store.ledger.balance(ALICE) == Balance(tokens(10), ZERO, tokens(2), tokens(5))
    await spend(store, 4)
    assert await store.ledger.balance(ALICE) == Balance(tokens(8), ZERO, ZERO, tokens(5))
    await spend(store, 8)
    with pytest.raises(InsufficientBalance):
        await store.ledger.hold(make_hold(1))
    await check_books(store)


async def test_its_part_is_a_transfer_of_its_own_before_the_charge(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(2))
    await store.ledger.post(make_credit(tokens(9)))
    charge = await spend(store, 5)
    _, part, after = await store.ledger.usage(UsageQuery(ALICE))
    assert after == charge
    assert (part.id, part.code, part.note) == (f"{charge.id}.allowance", TransferCode.ALLOWANCE, TODAY)
    assert (part.debit, part.credit, part.amount) == ("$allowance:2026-11", ALICE, tokens(2))
    assert part.request_id == charge.request_id
    assert part.seq < after.seq
    page = await store.history.page(ALICE, 10, 0)
    assert [entry.balance_after for entry in page.entries] == [tokens(6), tokens(11), tokens(9)]


async def test_charges_say_what_paid_for_them(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(5))
    await store.ledger.post(make_credit(tokens(9)))
    whole, mixed, later = [await spend(store, n) for n in (3, 4, 1)]
    nothing = await spend(store, 0)
    found = await store.ledger.charges(UsageQuery(ALICE))
    assert [(paid.charge, paid.allowance, paid.credit) for paid in found] == [
        (whole, tokens(3), ZERO),
        (mixed, tokens(2), tokens(2)),
        (later, ZERO, tokens(1)),
        (nothing, ZERO, ZERO),
    ]
    assert all(paid.charge.seq for paid in found)
    for funds, expected in ((Funds.ALLOWANCE, [whole, mixed]), (Funds.CREDIT, [mixed, later, nothing])):
        assert [paid.charge for paid in await store.ledger.charges(UsageQuery(ALICE), funds)] == expected
        pages = await store.ledger.charges(UsageQuery(ALICE, after_seq=mixed.seq, limit=1), funds)
        assert [paid.charge for paid in pages] == expected[expected.index(mixed) + 1 :][:1]
    assert await store.ledger.charges(UsageQuery(ALICE, start=NOON + timedelta(hours=1))) == []
    assert await store.ledger.charges(UsageQuery(ALICE, end=NOON)) == []
    assert await store.ledger.charges(UsageQuery(BOB)) == []


async def test_an_account_needs_no_credit_of_its_own(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(5))
    with pytest.raises(InsufficientBalance) as refused:
        await store.ledger.hold(make_hold(6))
    assert refused.value.available == tokens(5)
    await spend(store, 5)
    assert (await store.ledger.balance(ALICE)).available == ZERO
    assert (await store.ledger.balance(BOB)).granted == ZERO
    await check_books(store)


async def test_what_is_left_over_is_not_rolled_over(store: Store, clock: FixedClock) -> None:
    await store.allowances.grant(ALICE, tokens(5))
    await spend(store, 2)
    clock.advance(days=1)
    assert await store.ledger.balance(ALICE) == Balance(ZERO, ZERO, tokens(5), tokens(5))
    await spend(store, 5)
    clock.advance(days=2)
    assert (await store.ledger.balance(ALICE)).available == tokens(5)
    await check_books(store)


async def test_the_day_begins_at_midnight_utc(store: Store, clock: FixedClock) -> None:
    await store.allowances.grant(ALICE, tokens(5))
    await spend(store, 5)
    clock.advance(hours=11, minutes=59, seconds=59)
    with pytest.raises(InsufficientBalance):
        await store.ledger.hold(make_hold(1))
    clock.advance(seconds=1)
    await spend(store, 1)


async def test_a_request_that_runs_past_midnight_is_paid_for_by_the_day_of_its_hold(
    store: Store, clock: FixedClock
) -> None:
    await store.allowances.record(StakeSnapshot(TODAY, 7), await known(store, {ALICE: tokens(5)}))
    hold = make_hold(5)
    assert await store.ledger.hold(hold) is None
    clock.advance(days=1)
    assert (await store.ledger.balance(ALICE)).granted == ZERO
    charge = await store.ledger.charge(hold, 4, 1)
    part = await store.ledger.transfer(type(charge.id)(f"{charge.id}.allowance"))
    assert part is not None
    assert (part.amount, part.note, part.created_at) == (tokens(4), TODAY, clock.now())
    assert await store.ledger.balance(ALICE) == Balance(ZERO, ZERO)
    await check_books(store)


async def test_holds_of_two_days_never_promise_the_same_credit(store: Store, clock: FixedClock) -> None:
    await store.allowances.grant(ALICE, tokens(5))
    await store.ledger.post(make_credit(tokens(3)))
    yesterday = make_hold(8)
    assert await store.ledger.hold(yesterday) is None
    clock.advance(days=1)
    with pytest.raises(InsufficientBalance):
        await store.ledger.hold(make_hold(1))
    await store.ledger.charge(yesterday, 8, 1)
    assert await store.ledger.balance(ALICE) == Balance(ZERO, ZERO, tokens(5), tokens(5))
    await spend(store, 5)
    await check_books(store)


async def test_a_repeated_request_uses_the_allowance_once(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(9))
    hold, again = make_hold(4, charge_id="idem_1"), make_hold(4, charge_id="idem_1")
    assert await store.ledger.hold(hold) is None
    assert await store.ledger.hold(again) is None
    first, second, third = await asyncio.gather(
        store.ledger.charge(hold, 4, 1),
        store.ledger.charge(again, 4, 1),
        store.ledger.charge(hold, 4, 1),
    )
    assert first == second == third
    assert await store.ledger.hold(make_hold(4, charge_id="idem_1")) == first
    assert (await store.ledger.balance(ALICE)).allowance == tokens(5)
    await check_books(store)


async def test_a_refused_charge_uses_none(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(2))
    with pytest.raises(InsufficientBalance) as refused:
        await store.ledger.charge(make_hold(3), 3, 1)
    assert refused.value.available == tokens(2)
    limited = make_hold(2, key="key_1", limit=SpendLimit(tokens(1), LimitPeriod.EPOCH))
    with pytest.raises(SpendLimitReached):
        await store.ledger.charge(limited, 2, 1)
    assert (await store.ledger.balance(ALICE)).allowance == tokens(2)
    await check_books(store)


async def test_a_charge_without_a_hold_takes_todays(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(2))
    await store.ledger.charge(make_hold(2), 2, 1)
    assert (await store.ledger.balance(ALICE)).allowance == ZERO


async def test_64_at_once_spend_allowance_and_credit_exactly(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(30))
    await store.ledger.post(make_credit(tokens(20)))

    async def one() -> bool:
        hold = make_hold(1)
        try:
            await store.ledger.hold(hold)
        except InsufficientBalance:
            return False
        await asyncio.sleep(0)
        await store.ledger.charge(hold, 1, 1)
        return True

    outcomes = await asyncio.gather(*(one() for _ in range(64)))
    assert sum(outcomes) == 50
    assert await store.ledger.balance(ALICE) == Balance(ZERO, ZERO, ZERO, tokens(30))
    await check_books(store)


async def test_a_grant_counts_from_today_on_and_keeps_what_is_spent(store: Store, clock: FixedClock) -> None:
    assert (await store.allowances.grant(ALICE, tokens(10))).left == tokens(10)
    await spend(store, 8)
    lowered = await store.allowances.grant(ALICE, tokens(2))
    assert lowered == DailyAllowance(ALICE, tokens(2), ZERO, tokens(8), tokens(8))
    assert (await store.allowances.grant(ALICE, tokens(10))).left == tokens(2)
    ended = await store.allowances.grant(ALICE, ZERO)
    assert (ended.per_day, ended.left) == (ZERO, ZERO)
    clock.advance(days=1)
    assert (await store.ledger.balance(ALICE)).granted == ZERO
    assert await store.allowances.list() == []
    await check_books(store)


async def test_list_is_of_today(store: Store, clock: FixedClock) -> None:
    await store.allowances.grant(BOB, tokens(1))
    await store.allowances.record(StakeSnapshot(TODAY, 7), await known(store, {ALICE: tokens(2)}))
    await spend(store, 1)
    assert await store.allowances.list() == [
        DailyAllowance(ALICE, ZERO, tokens(2), tokens(2), tokens(1)),
        DailyAllowance(BOB, tokens(1), ZERO, tokens(1), ZERO),
    ]
    clock.advance(days=1)
    assert await store.allowances.list() == [DailyAllowance(BOB, tokens(1), ZERO, tokens(1), ZERO)]


async def test_a_day_has_one_snapshot(store: Store) -> None:
    stakes = await known(store, {ALICE: tokens(2), BOB: tokens(3)})
    assert await store.allowances.snapshot(TODAY) is None
    first, second = await asyncio.gather(
        store.allowances.record(StakeSnapshot(TODAY, 7), {ALICE: stakes[ALICE]}),
        store.allowances.record(StakeSnapshot(TODAY, 8), {BOB: stakes[BOB]}),
    )
    assert (first, second) == (True, False)
    assert await store.allowances.snapshot(TODAY) == StakeSnapshot(TODAY, 7)
    assert (await store.ledger.balance(ALICE)).granted == tokens(2)
    assert (await store.ledger.balance(BOB)).granted == ZERO


async def test_a_stake_comes_on_top_of_a_grant(store: Store) -> None:
    await store.allowances.grant(ALICE, tokens(1))
    await spend(store, 1)
    await store.allowances.record(StakeSnapshot(TODAY, 7), {ALICE: tokens(2)})
    assert await store.ledger.balance(ALICE) == Balance(ZERO, ZERO, tokens(2), tokens(3))


async def test_accounts_are_the_customers(store: Store) -> None:
    await store.ledger.post(make_credit(1))
    await store.allowances.grant(BOB, tokens(1))
    assert sorted(await store.allowances.accounts()) == [ALICE, BOB]


async def test_the_balances_of_all_customers_are_what_each_ones_is(store: Store, clock: FixedClock) -> None:
    await store.ledger.post(make_credit(5 * TOKEN))
    await store.ledger.post(make_credit(TOKEN, AccountId("carol")))
    for account in (ALICE, BOB):
        await store.allowances.grant(account, tokens(3))
    await spend(store, 1)
    await store.ledger.hold(make_hold(4))
    for _ in range(2):  # on the next day nothing is spent, and the grants have no rows of it yet
        balances = await store.ledger.balances()
        assert sorted(balances) == [ALICE, BOB, "carol"]
        for account, balance in balances.items():
            assert balance == await store.ledger.balance(account)
        assert balances[ALICE].held == tokens(4)
        clock.advance(days=1)
    assert balances[ALICE].allowance == tokens(3)


async def test_house_accounts_get_none(store: Store) -> None:
    with pytest.raises(Forbidden):
        await store.allowances.grant(AccountId("$revenue:2026-11"), tokens(1))


async def test_nobody_posts_an_allowance(store: Store) -> None:
    with pytest.raises(InvalidRequest):
        await store.ledger.post(make_credit(1, code=TransferCode.ALLOWANCE))


async def test_a_largest_balance_and_an_allowance_stay_within_64_bits(store: Store) -> None:
    await store.ledger.post(make_credit(MAX_AMOUNT))
    await store.allowances.grant(ALICE, MAX_AMOUNT)
    hold = make_hold(3)
    assert await store.ledger.hold(hold) is None
    await store.ledger.charge(hold, 3, 1)
    assert (await store.ledger.balance(ALICE)).total == 2 * MAX_AMOUNT - 3 * TOKEN
    await check_books(store)


async def test_verify_finds_an_allowance_that_was_changed(store: Store, database_url: str) -> None:
    if isinstance(store, MemoryStore):
        store.ledger._allowances.spend(ALICE, TODAY, 1)
    else:
        await store.ledger.post(make_credit(1))
        await store.allowances.grant(ALICE, tokens(1))
        if isinstance(store, SqliteStore):
            with closing(sqlite3.connect(store.path)) as db, db:
                db.execute("UPDATE allowances SET spent = 1")
        else:
            await execute(database_url, "UPDATE vectoll.allowances SET spent = 1")
    found = {d.found for d in (await store.ledger.verify()).disagreements}
    assert "1 spent" in found


@pytest.mark.parametrize(
    ("base_units", "amount"),
    [
        (0, ZERO),
        (10**17 - 1, ZERO),
        (10**17, usd("0.1")),
        (5 * 10**18, usd(5)),
        (1_234_567_890_123_456_789, usd("1.234567890123")),
        (2**256 - 1, MAX_AMOUNT),
    ],
)
def test_a_stake_gives_a_dollar_for_each_token(base_units: int, amount: Amount) -> None:
    assert staked_allowance(base_units, minimum=10**17) == amount


async def known(store: Store, stakes: dict[AccountId, Amount]) -> dict[AccountId, Amount]:
    """These stakes, of accounts that exist."""
    for account in stakes:
        await store.ledger.post(make_credit(0, account))
    return stakes


def test_available_is_split_with_the_allowance_first() -> None:
    balance = Balance(Amount(10), Amount(3), Amount(5), Amount(8))
    assert (balance.total, balance.available) == (15, 12)
    assert (balance.available_allowance, balance.available_credit) == (2, 10)
    more = Balance(Amount(10), Amount(7), Amount(5), Amount(8))
    assert (more.available_allowance, more.available_credit) == (0, 8)
