"""What every Ledger does with holds and charges."""

import asyncio
from datetime import timedelta

import pytest
from tests.ledger import ALICE, BOB, NOON, TOKEN, FixedClock, make_credit, make_debit, make_hold

from vectoll.domain.errors import (
    Forbidden,
    IdempotencyConflict,
    InsufficientBalance,
    SpendLimitReached,
    Unavailable,
)
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Balance, Hold, Transfer, TransferCode
from vectoll.domain.money import MAX_AMOUNT, ZERO, Amount, Price
from vectoll.ports.ledger import Ledger
from vectoll.ports.store import Store


def tokens(n: int) -> Amount:
    return Amount(n * TOKEN)


async def fund(ledger: Ledger, n: int) -> None:
    await ledger.post(make_credit(tokens(n)))


async def test_hold_sets_the_quote_aside(ledger: Ledger) -> None:
    await fund(ledger, 10)
    assert await ledger.hold(make_hold(4)) is None
    assert await ledger.balance(ALICE) == Balance(tokens(10), tokens(4))


async def test_hold_may_take_everything_and_not_one_unit_more(ledger: Ledger) -> None:
    await ledger.post(make_credit(10))
    unit = Price(1)
    with pytest.raises(InsufficientBalance) as refused:
        await ledger.hold(make_hold(11, price=unit))
    assert (refused.value.required, refused.value.available) == (11, 10)
    await ledger.hold(make_hold(10, price=unit))
    with pytest.raises(InsufficientBalance) as refused:
        await ledger.hold(make_hold(1, price=unit))
    assert refused.value.available == 0


async def test_hold_on_an_account_nobody_credited_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InsufficientBalance):
        await ledger.hold(make_hold(1, BOB))
    assert await ledger.balance(BOB) == Balance(ZERO, ZERO)


async def test_hold_of_nothing_fits_an_empty_account(ledger: Ledger) -> None:
    free = make_hold(7, BOB, price=Price(0))
    assert await ledger.hold(free) is None
    charge = await ledger.charge(free, 7, 1)
    assert (charge.amount, charge.tokens) == (0, 7)
    assert (await ledger.verify()).is_clean


async def test_hold_larger_than_any_balance_is_refused(ledger: Ledger) -> None:
    await ledger.post(make_credit(MAX_AMOUNT))
    with pytest.raises(InsufficientBalance):
        await ledger.hold(make_hold(10**15, price=Price(10**15)))


@pytest.mark.parametrize("beyond", [1, MAX_AMOUNT // 2], ids=["the bound", "64 bits"])
async def test_a_charge_beyond_what_the_house_can_hold_fails_alone(ledger: Ledger, beyond: int) -> None:
    await ledger.post(make_credit(MAX_AMOUNT))
    await ledger.post(make_credit(MAX_AMOUNT, BOB, at=NOON + timedelta(days=30)))
    whole = make_hold(1, price=Price(MAX_AMOUNT))
    await ledger.hold(whole)
    await ledger.charge(whole, 1, 0)
    large, nothing = make_hold(1, BOB, price=Price(beyond)), make_hold(1, ALICE, price=Price(0))
    await ledger.hold(large)
    await ledger.hold(nothing)
    outcomes = await asyncio.gather(
        ledger.charge(large, 1, 0), ledger.charge(nothing, 1, 0), return_exceptions=True
    )
    assert isinstance(outcomes[0], Unavailable)
    assert isinstance(outcomes[1], Transfer)
    assert await ledger.balance(BOB) == Balance(MAX_AMOUNT, ZERO)
    assert (await ledger.verify()).is_clean


@pytest.mark.parametrize("beyond", [1, MAX_AMOUNT // 2], ids=["the bound", "64 bits"])
async def test_a_key_that_has_spent_all_that_can_be_counted_is_told_so(
    store: Store, clock: FixedClock, beyond: int
) -> None:
    for spent in (int(MAX_AMOUNT), beyond):
        await store.ledger.post(make_credit(spent, at=clock.now()))
        hold = make_hold(1, key="key_1", price=Price(spent))
        await store.ledger.hold(hold)
        if spent == beyond:
            with pytest.raises(Unavailable, match="This API key has spent all that can be counted"):
                await store.ledger.charge(hold, 1, 0)
        else:
            await store.ledger.charge(hold, 1, 0)
        clock.advance(days=30)
    assert (await store.ledger.balance(ALICE)).balance == beyond


async def test_the_same_hold_twice_counts_once(ledger: Ledger) -> None:
    await fund(ledger, 10)
    hold = make_hold(6)
    await ledger.hold(hold)
    assert await ledger.hold(hold) is None
    assert (await ledger.balance(ALICE)).held == tokens(6)


async def test_house_accounts_cannot_spend(ledger: Ledger) -> None:
    with pytest.raises(Forbidden):
        await ledger.hold(make_hold(1, AccountId("$revenue:2026-11")))


async def test_release_gives_the_hold_back_once(ledger: Ledger) -> None:
    await fund(ledger, 10)
    first, second = make_hold(4), make_hold(5)
    await ledger.hold(first)
    await ledger.hold(second)
    await ledger.release(first)
    await ledger.release(first)
    assert await ledger.balance(ALICE) == Balance(tokens(10), tokens(5))


async def test_charge_takes_what_was_used_and_releases_the_rest(ledger: Ledger, clock: FixedClock) -> None:
    await fund(ledger, 10)
    hold = make_hold(8, request_id="req_1", key="key_1", fingerprint=b"f" * 32)
    await ledger.hold(hold)
    clock.advance(seconds=2)
    charge = await ledger.charge(hold, 3, 42)
    assert await ledger.balance(ALICE) == Balance(tokens(7), ZERO)
    assert charge == await ledger.transfer(hold.id)
    assert charge.seq == 2
    assert (charge.id, charge.debit, charge.credit) == (hold.id, ALICE, "$revenue:2026-11")
    assert (charge.amount, charge.code, charge.tokens, charge.model) == (
        tokens(3),
        TransferCode.CHARGE,
        3,
        "minilm",
    )
    assert (charge.request_id, charge.key, charge.duration_ms) == ("req_1", "key_1", 42)
    assert (charge.fingerprint, charge.created_at) == (b"f" * 32, NOON + timedelta(seconds=2))


async def test_charge_of_more_than_the_quote_is_a_bug_and_drops_the_hold(ledger: Ledger) -> None:
    await fund(ledger, 10)
    hold = make_hold(3)
    await ledger.hold(hold)
    with pytest.raises(ValueError, match="cannot be charged 4"):
        await ledger.charge(hold, 4, 0)
    assert await ledger.balance(ALICE) == Balance(tokens(10), ZERO)


async def test_charge_is_applied_once(ledger: Ledger) -> None:
    await fund(ledger, 10)
    hold = make_hold(3)
    await ledger.hold(hold)
    first = await ledger.charge(hold, 3, 1)
    again = await ledger.charge(hold, 2, 9)
    assert again == first
    assert again.seq == first.seq
    assert await ledger.balance(ALICE) == Balance(tokens(7), ZERO)


async def test_hold_of_a_request_that_was_paid_for_returns_the_charge(ledger: Ledger) -> None:
    await fund(ledger, 10)
    hold = make_hold(3, charge_id="idem_1", fingerprint=b"same")
    await ledger.hold(hold)
    charge = await ledger.charge(hold, 3, 1)
    retry = make_hold(3, charge_id="idem_1", fingerprint=b"same")
    assert await ledger.hold(retry) == charge
    assert (await ledger.balance(ALICE)).held == 0


async def test_hold_of_a_paid_request_needs_no_credit(ledger: Ledger) -> None:
    await fund(ledger, 3)
    hold = make_hold(3, charge_id="idem_1")
    await ledger.hold(hold)
    charge = await ledger.charge(hold, 3, 1)
    assert await ledger.hold(make_hold(3, charge_id="idem_1")) == charge


@pytest.mark.parametrize(
    "other",
    [
        make_hold(charge_id="idem_1", fingerprint=b"other"),
        make_hold(account=BOB, charge_id="idem_1", fingerprint=b"f"),
    ],
    ids=["another request", "another account"],
)
async def test_an_id_names_one_request(ledger: Ledger, other: Hold) -> None:
    await fund(ledger, 10)
    await ledger.post(make_credit(tokens(10), BOB))
    hold = make_hold(charge_id="idem_1", fingerprint=b"f")
    await ledger.hold(hold)
    await ledger.charge(hold, 1, 0)
    with pytest.raises(IdempotencyConflict):
        await ledger.hold(other)
    with pytest.raises(IdempotencyConflict):
        await ledger.charge(other, 1, 0)
    assert await ledger.balance(ALICE) == Balance(tokens(9), ZERO)
    assert await ledger.balance(BOB) == Balance(tokens(10), ZERO)


async def test_active_holds_under_one_id_must_agree(ledger: Ledger) -> None:
    await fund(ledger, 10)
    await ledger.hold(make_hold(charge_id="idem_1", fingerprint=b"one"))
    with pytest.raises(IdempotencyConflict):
        await ledger.hold(make_hold(charge_id="idem_1", fingerprint=b"two"))
    assert (await ledger.balance(ALICE)).held == tokens(1)


async def test_of_two_holds_under_one_id_the_first_charge_wins(ledger: Ledger) -> None:
    await fund(ledger, 10)
    one, two = (make_hold(4, charge_id="idem_1", request_id=f"req_{n}", fingerprint=b"f") for n in (1, 2))
    await ledger.hold(one)
    await ledger.hold(two)
    assert (await ledger.balance(ALICE)).held == tokens(8)
    charges = await asyncio.gather(ledger.charge(two, 4, 2), ledger.charge(one, 4, 1))
    assert charges[0] == charges[1]
    assert charges[0].request_id == "req_2"
    assert await ledger.balance(ALICE) == Balance(tokens(6), ZERO)


async def test_release_of_one_hold_under_an_id_keeps_the_other(ledger: Ledger) -> None:
    await fund(ledger, 10)
    one, two = (make_hold(n, charge_id="idem_1", request_id=f"req_{n}") for n in (1, 2))
    await ledger.hold(one)
    await ledger.hold(two)
    await ledger.release(one)
    assert (await ledger.balance(ALICE)).held == tokens(2)


async def test_release_does_nothing_once_a_charge_was_asked_for(ledger: Ledger) -> None:
    await fund(ledger, 10)
    hold = make_hold(3)
    await ledger.hold(hold)
    charging = asyncio.create_task(ledger.charge(hold, 3, 0))
    await asyncio.sleep(0)
    await ledger.release(hold)
    await charging
    await ledger.release(hold)
    assert await ledger.balance(ALICE) == Balance(tokens(7), ZERO)


async def test_charge_fails_when_the_balance_was_lowered_behind_its_back(ledger: Ledger) -> None:
    await fund(ledger, 10)
    hold = make_hold(8)
    await ledger.hold(hold)
    await ledger.post(make_debit(tokens(5)))
    with pytest.raises(InsufficientBalance):
        await ledger.charge(hold, 8, 0)
    assert await ledger.balance(ALICE) == Balance(tokens(5), ZERO)
    assert await ledger.transfer(hold.id) is None


async def test_64_concurrent_holds_on_a_balance_for_10(ledger: Ledger) -> None:
    await fund(ledger, 10)

    async def pay() -> None:
        hold = make_hold(1)
        await ledger.hold(hold)
        await ledger.charge(hold, 1, 0)

    outcomes = await asyncio.gather(*(pay() for _ in range(64)), return_exceptions=True)
    assert outcomes.count(None) == 10
    assert sum(isinstance(outcome, InsufficientBalance) for outcome in outcomes) == 54
    assert await ledger.balance(ALICE) == Balance(ZERO, ZERO)


async def test_no_hold_is_refused_for_a_charge_that_is_on_its_way(ledger: Ledger) -> None:
    """Each round needs exactly what the round before leaves: counting its charge twice would refuse it."""
    await fund(ledger, 64)
    for _ in range(16):
        holds = [make_hold(2) for _ in range(2)]
        for hold in holds:
            await ledger.hold(hold)
        charges = [asyncio.create_task(ledger.charge(hold, 2, 0)) for hold in holds]
        remaining = (await ledger.balance(ALICE)).available
        for _ in range(3):
            probe = make_hold(1, price=Price(remaining))
            await ledger.hold(probe)
            await ledger.release(probe)
            await asyncio.sleep(0)
        await asyncio.gather(*charges)
    assert await ledger.balance(ALICE) == Balance(ZERO, ZERO)


async def test_a_cancelled_charge_is_applied_and_its_hold_gone(ledger: Ledger) -> None:
    await fund(ledger, 10)
    hold = make_hold(3)
    await ledger.hold(hold)
    charging = asyncio.create_task(ledger.charge(hold, 3, 0))
    await asyncio.sleep(0)
    charging.cancel()
    await asyncio.gather(charging, return_exceptions=True)
    assert await ledger.charge(hold, 3, 0) == await ledger.transfer(hold.id)
    assert await ledger.balance(ALICE) == Balance(tokens(7), ZERO)


async def test_a_cancelled_hold_holds_nothing(ledger: Ledger) -> None:
    """Whenever the cancellation comes: before the first step, while it waits, or with the answer on its way."""
    await fund(ledger, 10)
    for steps in range(8):
        paid = make_hold(1, price=Price(0))
        charging = asyncio.create_task(ledger.charge(paid, 1, 0))
        blocker = make_hold(10)
        await ledger.hold(blocker)
        await asyncio.sleep(0)
        holding = asyncio.create_task(ledger.hold(make_hold(10)))
        for _ in range(steps):
            await asyncio.sleep(0)
        await ledger.release(blocker)
        await asyncio.sleep(0)
        was_cancelled = holding.cancel()
        outcome = (await asyncio.gather(holding, return_exceptions=True))[0]
        held = (await ledger.balance(ALICE)).held
        assert held == (tokens(10) if not was_cancelled and outcome is None else 0)
        await charging
        if held:
            return


LIMIT = SpendLimit(Amount(5 * TOKEN), LimitPeriod.EPOCH)


async def test_a_keys_limit_counts_holds_and_charges(ledger: Ledger) -> None:
    await fund(ledger, 100)
    first, second = make_hold(3, key="key_1", limit=LIMIT), make_hold(2, key="key_1", limit=LIMIT)
    await ledger.hold(first)
    await ledger.charge(first, 3, 0)
    await ledger.hold(second)
    with pytest.raises(SpendLimitReached):
        await ledger.hold(make_hold(1, key="key_1", limit=LIMIT))
    await ledger.release(second)
    assert await ledger.hold(make_hold(1, key="key_1", limit=LIMIT)) is None


async def test_a_limit_binds_its_own_key_only(ledger: Ledger) -> None:
    await fund(ledger, 100)
    await ledger.hold(make_hold(5, key="key_1", limit=LIMIT))
    assert await ledger.hold(make_hold(5, key="key_2", limit=LIMIT)) is None
    assert await ledger.hold(make_hold(50, limit=LIMIT)) is None  # no key: the limit is nobody's


@pytest.mark.parametrize(
    ("period", "later"),
    [(LimitPeriod.EPOCH, timedelta(hours=12)), (LimitPeriod.MONTH, timedelta(days=12, hours=12))],
)
async def test_a_limit_starts_again_with_its_period(
    ledger: Ledger, clock: FixedClock, period: LimitPeriod, later: timedelta
) -> None:
    await fund(ledger, 100)
    limit = SpendLimit(tokens(5), period)
    hold = make_hold(5, key="key_1", limit=limit)
    await ledger.hold(hold)
    await ledger.charge(hold, 5, 0)
    clock.time = NOON + later - timedelta(microseconds=1)
    with pytest.raises(SpendLimitReached):
        await ledger.hold(make_hold(1, key="key_1", limit=limit))
    clock.time = NOON + later
    assert await ledger.hold(make_hold(5, key="key_1", limit=limit)) is None


async def test_a_lifetime_limit_never_starts_again(ledger: Ledger, clock: FixedClock) -> None:
    await fund(ledger, 100)
    limit = SpendLimit(tokens(5), LimitPeriod.LIFETIME)
    hold = make_hold(5, key="key_1", limit=limit)
    await ledger.hold(hold)
    await ledger.charge(hold, 5, 0)
    clock.advance(days=4000)
    with pytest.raises(SpendLimitReached):
        await ledger.hold(make_hold(1, key="key_1", limit=limit))


async def test_a_limit_that_is_set_or_changed_later_counts_what_was_spent_before(ledger: Ledger) -> None:
    await fund(ledger, 100)
    free = make_hold(5, key="key_1")
    await ledger.hold(free)
    await ledger.charge(free, 5, 0)
    for period in LimitPeriod:
        with pytest.raises(SpendLimitReached):
            await ledger.hold(make_hold(1, key="key_1", limit=SpendLimit(tokens(5), period)))


async def test_charge_fails_when_the_limit_was_used_up_behind_its_back(ledger: Ledger) -> None:
    await fund(ledger, 100)
    hold = make_hold(5, key="key_1", limit=LIMIT)
    await ledger.hold(hold)
    rival = make_hold(3, key="key_1")
    await ledger.charge(rival, 3, 0)
    with pytest.raises(SpendLimitReached):
        await ledger.charge(hold, 5, 0)
    assert await ledger.balance(ALICE) == Balance(tokens(97), ZERO)


async def test_64_concurrent_holds_on_a_limit_for_5(ledger: Ledger) -> None:
    await fund(ledger, 100)

    async def pay() -> None:
        hold = make_hold(1, key="key_1", limit=LIMIT)
        await ledger.hold(hold)
        await ledger.charge(hold, 1, 0)

    outcomes = await asyncio.gather(*(pay() for _ in range(64)), return_exceptions=True)
    assert outcomes.count(None) == 5
    assert sum(isinstance(outcome, SpendLimitReached) for outcome in outcomes) == 59


async def test_64_holds_that_come_together_on_a_limit_for_5(ledger: Ledger) -> None:
    await fund(ledger, 100)
    holds = [make_hold(1, key="key_1", limit=LIMIT) for _ in range(64)]
    outcomes = await asyncio.gather(*map(ledger.hold, holds), return_exceptions=True)
    assert outcomes.count(None) == 5
    assert (await ledger.balance(ALICE)).held == tokens(5)


async def test_64_charges_that_come_together_on_a_limit_for_5(ledger: Ledger) -> None:
    """None of them has a hold: the charges themselves must not add up to more."""
    await fund(ledger, 100)
    charges = (ledger.charge(make_hold(1, key="key_1", limit=LIMIT), 1, 0) for _ in range(64))
    outcomes = await asyncio.gather(*charges, return_exceptions=True)
    assert sum(isinstance(outcome, SpendLimitReached) for outcome in outcomes) == 59
    assert await ledger.balance(ALICE) == Balance(tokens(95), ZERO)


async def test_64_charges_that_come_together_on_a_balance_for_10(ledger: Ledger) -> None:
    await fund(ledger, 10)
    charges = (ledger.charge(make_hold(1), 1, 0) for _ in range(64))
    outcomes = await asyncio.gather(*charges, return_exceptions=True)
    assert sum(isinstance(outcome, InsufficientBalance) for outcome in outcomes) == 54
    assert await ledger.balance(ALICE) == Balance(ZERO, ZERO)


async def test_one_failing_charge_leaves_its_neighbours_alone(ledger: Ledger) -> None:
    await fund(ledger, 10)
    poor, broken, good = make_hold(1, BOB), make_hold(1, request_id="\ud800"), make_hold(1)
    outcomes = await asyncio.gather(
        ledger.charge(poor, 1, 0),
        ledger.charge(broken, 1, 0),
        ledger.charge(good, 1, 0),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], InsufficientBalance)
    assert await ledger.transfer(good.id) == outcomes[2]
    assert (await ledger.verify()).is_clean


async def test_a_hold_knows_of_what_was_taken_back_and_granted_since_the_last(
    store: Store, ledger: Ledger
) -> None:
    await ledger.post(make_credit(100))
    await ledger.hold(make_hold(1, price=Price(1)))
    await ledger.post(make_debit(95))
    with pytest.raises(InsufficientBalance):
        await ledger.hold(make_hold(10, price=Price(1)))
    await store.allowances.grant(ALICE, Amount(6))
    await ledger.hold(make_hold(10, price=Price(1)))
    await store.allowances.grant(ALICE, Amount(0))
    await ledger.post(make_credit(3))
    with pytest.raises(InsufficientBalance):
        await ledger.hold(make_hold(1, price=Price(1)))
