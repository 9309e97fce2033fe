"""What every Ledger does with transfers that are not charges, and what it reports."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from tests.ledger import ALICE, BOB, NOON, TOKEN, FixedClock, make_credit, make_debit, make_hold

from vectoll.domain.errors import IdempotencyConflict, InsufficientBalance, InvalidRequest
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId, TransferId
from vectoll.domain.ledger import Balance, Transfer, TransferCode
from vectoll.domain.money import MAX_AMOUNT, ZERO, Amount, Price, usd
from vectoll.ports.ledger import KeyUsage, Ledger, UsageQuery
from vectoll.ports.store import Store

KEY_1, KEY_2 = KeyId("key_1"), KeyId("key_2")


async def test_post_credits_an_account_that_is_new(ledger: Ledger) -> None:
    credit = replace(make_credit("5"), note="welcome ☃", request_id=None)
    stored = await ledger.post(credit)
    assert (stored, stored.seq) == (credit, 1)
    assert await ledger.transfer(credit.id) == credit
    assert await ledger.balance(ALICE) == Balance(usd(5), ZERO)
    assert (await ledger.balance(AccountId("$credit:2026-11"))).balance == -usd(5)


async def test_post_is_applied_once(ledger: Ledger) -> None:
    credit = make_credit("5")
    outcomes = await asyncio.gather(*(ledger.post(credit) for _ in range(8)))
    assert {stored.seq for stored in outcomes} == {1}
    assert await ledger.post(replace(credit, note="again")) == credit
    assert await ledger.balance(ALICE) == Balance(usd(5), ZERO)


@pytest.mark.parametrize(
    "change",
    [{"amount": usd(6)}, {"credit": BOB}, {"code": TransferCode.TOP_UP}, {"debit": "$revenue:2026-11"}],
)
async def test_post_of_something_else_under_a_used_id_is_refused(
    ledger: Ledger, change: dict[str, object]
) -> None:
    credit = make_credit("5")
    await ledger.post(credit)
    with pytest.raises(IdempotencyConflict):
        await ledger.post(replace(credit, **change))  # type: ignore[arg-type]
    assert await ledger.balance(BOB) == Balance(ZERO, ZERO)
    assert (await ledger.verify()).accounts == 2


async def test_post_is_applied_once_also_across_the_end_of_a_month(ledger: Ledger) -> None:
    credit = make_credit("5")
    await ledger.post(credit)
    in_december = replace(credit, debit=AccountId("$credit:2026-12"), created_at=NOON + timedelta(days=20))
    assert await ledger.post(in_december) == credit
    assert await ledger.balance(ALICE) == Balance(usd(5), ZERO)
    debit = make_debit(2)
    await ledger.post(debit)
    assert await ledger.post(replace(debit, credit=AccountId("$credit:2026-12"))) == debit
    assert (await ledger.verify()).is_clean


async def test_a_charge_under_a_posted_id_is_refused(ledger: Ledger) -> None:
    await ledger.post(make_credit("5", transfer_id="one"))
    for attempt in (ledger.hold(make_hold(charge_id="one")), ledger.charge(make_hold(charge_id="one"), 1, 0)):
        with pytest.raises(IdempotencyConflict):
            await attempt


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": Amount(-1)},
        {"amount": Amount(MAX_AMOUNT + 1)},
        {"amount": Amount(2**63)},
        {"debit": ALICE},
        {"credit": AccountId("")},
        {"code": TransferCode.CHARGE},
        {"tokens": -1},
    ],
    ids=str,
)
async def test_post_refuses_what_no_ledger_may_hold(ledger: Ledger, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await ledger.post(replace(make_credit("5"), **wrong))  # type: ignore[arg-type]
    assert (await ledger.verify()).transfers == 0


async def test_a_customer_cannot_be_debited_below_zero(ledger: Ledger) -> None:
    await ledger.post(make_credit(10))
    await ledger.post(make_debit(10))
    with pytest.raises(InsufficientBalance):
        await ledger.post(make_debit(1))
    with pytest.raises(InsufficientBalance):
        await ledger.post(make_debit(1, BOB))
    assert (await ledger.verify()).is_clean


async def test_balances_stay_within_64_bits(ledger: Ledger) -> None:
    await ledger.post(make_credit(MAX_AMOUNT))
    with pytest.raises(InvalidRequest, match="cannot hold more than"):
        await ledger.post(make_credit(1, at=NOON + timedelta(days=30)))  # alice would have too much
    with pytest.raises(InvalidRequest, match="cannot hold more than"):
        await ledger.post(make_credit(1, BOB))  # the house would have granted too much in a month
    assert await ledger.balance(ALICE) == Balance(MAX_AMOUNT, ZERO)
    assert (await ledger.verify()).is_clean


async def test_a_whole_largest_balance_can_be_charged(ledger: Ledger) -> None:
    await ledger.post(make_credit(MAX_AMOUNT))
    hold = make_hold(1, price=Price(MAX_AMOUNT), key="key_1")
    await ledger.hold(hold)
    await ledger.charge(hold, 1, 0)
    assert await ledger.balance(ALICE) == Balance(ZERO, ZERO)
    assert (await ledger.verify()).is_clean


async def test_transfer_of_an_unknown_id(ledger: Ledger) -> None:
    assert await ledger.transfer(TransferId("nothing")) is None


async def test_times_come_back_to_the_microsecond_and_in_utc(ledger: Ledger) -> None:
    instant = datetime(2026, 3, 1, 2, 3, 4, 567_891, tzinfo=timezone(timedelta(hours=2)))
    credit = make_credit("1", at=instant)
    await ledger.post(credit)
    stored = await ledger.transfer(credit.id)
    assert stored is not None
    assert stored.created_at == instant


async def test_usage_pages_through_everything_that_touches_an_account(ledger: Ledger) -> None:
    posted = [await ledger.post(make_credit(n + 1, (ALICE, BOB)[n % 2])) for n in range(10)]
    debit = await ledger.post(make_debit(5, ALICE))
    mine = [transfer for transfer in [*posted, debit] if ALICE in (transfer.debit, transfer.credit)]
    pages: list[Transfer] = []
    after = 0
    while page := await ledger.usage(UsageQuery(ALICE, after_seq=after, limit=2)):
        assert len(page) <= 2
        pages += page
        after = page[-1].seq
    assert pages == mine
    assert [transfer.seq for transfer in pages] == [1, 3, 5, 7, 9, 11]
    assert await ledger.usage(UsageQuery(AccountId("nobody"))) == []
    assert len(await ledger.usage(UsageQuery(AccountId("$credit:2026-11")))) == 11


async def test_usage_by_time_is_half_open_in_any_order_of_time(ledger: Ledger) -> None:
    hours = [3, 1, 2, 0, 4]
    for hour in hours:
        await ledger.post(make_credit(hour + 1, at=NOON + timedelta(hours=hour)))
    query = UsageQuery(ALICE, start=NOON + timedelta(hours=1), end=NOON + timedelta(hours=4))
    assert [t.amount - 1 for t in await ledger.usage(query)] == [3, 1, 2]
    assert [t.amount - 1 for t in await ledger.usage(replace(query, limit=1, after_seq=1))] == [1]
    assert [t.amount - 1 for t in await ledger.usage(replace(query, start=None))] == [3, 1, 2, 0]
    assert [t.amount - 1 for t in await ledger.usage(replace(query, end=None))] == [3, 1, 2, 4]


async def test_a_history_of_any_length_is_read_in_pages_from_both_ends(store: Store) -> None:
    rng, ledger = random.Random(7), store.ledger
    await ledger.post(make_credit("5", BOB))
    stored = [await ledger.post(make_credit("5"))]
    for n in range(300):
        at = NOON + timedelta(minutes=rng.randrange(300))
        if n % 3 == 0:
            stored.append(await ledger.post(make_credit(n, at=at)))
        elif n % 3 == 1:
            hold = make_hold(1)
            stored.append(await ledger.charge(hold, 1, 0))
        else:
            await ledger.post(make_credit(n, BOB, at=at))
    assert await ledger.usage(UsageQuery(ALICE)) == stored
    last = max(t.created_at for t in stored)
    for _ in range(60):
        query = UsageQuery(
            ALICE,
            after_seq=rng.choice([0, rng.randrange(310)]),
            start=rng.choice([None, last, NOON + timedelta(minutes=rng.randrange(300))]),
            end=rng.choice([None, NOON + timedelta(minutes=rng.randrange(300))]),
            code=rng.choice([None, TransferCode.CHARGE, TransferCode.CREDIT]),
            limit=rng.choice([1, 10, 1000]),
        )
        wanted = [
            t
            for t in stored
            if t.seq > query.after_seq
            and (query.start is None or t.created_at >= query.start)
            and (query.end is None or t.created_at < query.end)
        ]
        of_code = [t for t in wanted if query.code in (None, t.code)]
        assert await ledger.usage(query) == of_code[: query.limit], query
        charges = [t for t in wanted if t.code is TransferCode.CHARGE]
        assert [paid.charge for paid in await ledger.charges(query)] == charges[: query.limit], query
        offset = rng.randrange(210)
        page = await store.history.page(ALICE, query.limit, offset)
        newest = stored[::-1][offset : offset + query.limit]
        assert [entry.transfer for entry in page.entries] == newest
        assert page.has_more is (len(stored) > offset + query.limit)
    (total,) = await store.history.charge_totals(NOON, ALICE)
    assert (total.requests, total.tokens) == (100, 100)


async def test_usage_by_code(ledger: Ledger) -> None:
    await ledger.post(make_credit("1"))
    await ledger.post(make_credit("2", code=TransferCode.TOP_UP))
    hold = make_hold()
    await ledger.charge(hold, 1, 0)
    charges = await ledger.usage(UsageQuery(ALICE, code=TransferCode.CHARGE))
    assert [transfer.id for transfer in charges] == [hold.id]


@pytest.mark.parametrize(
    "query", [UsageQuery(ALICE, limit=0), UsageQuery(ALICE, limit=-1), UsageQuery(ALICE, -1)]
)
async def test_usage_refuses_pages_that_are_none(ledger: Ledger, query: UsageQuery) -> None:
    with pytest.raises(InvalidRequest):
        await ledger.usage(query)


async def test_key_usage_of_a_key_that_was_never_used(ledger: Ledger) -> None:
    assert await ledger.key_usage(ALICE, {}, NOON) == {}
    assert await ledger.key_usage(ALICE, {KEY_1: None}, NOON) == {KEY_1: KeyUsage(ZERO, ZERO, None)}


async def test_key_usage_by_period(ledger: Ledger, clock: FixedClock) -> None:
    await ledger.post(make_credit("5"))
    month_start = datetime(2026, 11, 1, 9, tzinfo=UTC)
    for day, count in ((-1, 1), (0, 2), (5, 4), (11, 8), (17, 16)):
        clock.time = month_start + timedelta(days=day)
        await ledger.charge(make_hold(count, key="key_1"), count, 0)
        await ledger.charge(make_hold(count, key="key_2"), count, 0)
    now = month_start + timedelta(days=17, hours=3)
    used_at = month_start + timedelta(days=17)
    for period, tokens in ((LimitPeriod.EPOCH, 16), (LimitPeriod.MONTH, 30), (LimitPeriod.LIFETIME, 31)):
        usage = await ledger.key_usage(ALICE, {KEY_1: SpendLimit(usd(1), period)}, now)
        assert usage == {KEY_1: KeyUsage(Amount(24 * TOKEN), Amount(tokens * TOKEN), used_at)}


async def test_key_usage_of_several_keys(ledger: Ledger, clock: FixedClock) -> None:
    await ledger.post(make_credit("5"))
    for day in (1, 2):
        clock.time = datetime(2026, 11, day, 9, tzinfo=UTC)
        await ledger.charge(make_hold(day, key="key_1"), day, 0)
    await ledger.charge(make_hold(5, key="key_2"), 5, 0)
    today = SpendLimit(usd(1), LimitPeriod.EPOCH)
    assert await ledger.key_usage(ALICE, {KEY_2: None, KeyId("key_3"): today, KEY_1: today}, clock.time) == {
        KEY_1: KeyUsage(Amount(3 * TOKEN), Amount(2 * TOKEN), clock.time),
        KEY_2: KeyUsage(Amount(5 * TOKEN), Amount(5 * TOKEN), clock.time),
        KeyId("key_3"): KeyUsage(ZERO, ZERO, None),
    }
    assert (await ledger.verify()).is_clean


async def test_verify_of_a_busy_ledger_is_clean(ledger: Ledger, clock: FixedClock) -> None:
    await ledger.post(make_credit("1"))
    for n in range(20):
        clock.advance(hours=9)
        hold = make_hold(n, key=f"key_{n % 3}")
        await ledger.hold(hold)
        await ledger.charge(hold, n, 0)
    verification = await ledger.verify()
    assert verification.disagreements == ()
    assert verification.transfers == 21
    assert verification.accounts == 3  # alice, the house's grants, the house's revenue of November
