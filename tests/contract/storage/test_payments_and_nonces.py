"""What every payment store and nonce store does."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.ledger import NOON, FixedClock

from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.domain.errors import InvalidRequest, Unavailable
from vectoll.domain.ids import AccountId, TransferId
from vectoll.domain.ledger import Transfer, TransferCode, system_account
from vectoll.domain.money import MAX_AMOUNT, usd
from vectoll.domain.payments import Intent, IntentState, PaymentId
from vectoll.ports.payments import EvidenceConsumed
from vectoll.ports.store import Store

WALLET = AccountId("0x" + "ab" * 20)


def intent(name: str = "a", **changes: object) -> Intent:
    fresh = Intent(
        id=PaymentId(f"pay_{name}"),
        network="eip155:8453",
        payer=WALLET,
        base_units=10_000_000,
        payload=b"{}",
        state=IntentState.RECEIVED,
        created_at=NOON,
        updated_at=NOON,
    )
    return replace(fresh, **changes)  # type: ignore[arg-type]


def credited(old: Intent, log_index: int = 3) -> Intent:
    return replace(old, state=IntentState.CREDITED, tx="0x01", log_index=log_index)


def top_up(old: Intent) -> Transfer:
    return Transfer(
        old.transfer_id, system_account("usdc", NOON), WALLET, usd("10"), TransferCode.TOP_UP, NOON
    )


def reversal(old: Intent) -> Transfer:
    house = system_account("usdc", NOON)
    return Transfer(TransferId(f"{old.id}_r"), WALLET, house, usd("10"), TransferCode.REVERSAL, NOON)


async def test_an_intent_is_kept_whole(store: Store) -> None:
    full = intent(since_block=7, tx="0xaa", raw_tx=b"\x02\xff", reason="why", is_final=False)
    assert await store.payments.insert(full) is None
    assert await store.payments.get(full.id) == full
    assert await store.payments.get(PaymentId("pay_unknown")) is None


async def test_failed_payments_are_forgotten_those_that_were_sent_later(store: Store) -> None:
    old, now = NOON, NOON + timedelta(days=2)
    refused = intent("refused", state=IntentState.FAILED)
    sent = [
        intent("sent", state=IntentState.FAILED, tx="0x01"),
        intent("verified", state=IntentState.FAILED, since_block=7),
    ]
    kept = [
        intent("fresh", state=IntentState.FAILED, updated_at=now),
        intent("open"),
        intent("unknown", state=IntentState.UNKNOWN),
        intent("reversed", state=IntentState.REVERSED, tx="0x02"),
    ]
    for each in (refused, *sent, *kept):
        assert await store.payments.insert(each) is None
    assert await store.payments.forget_failed(old, old) == 0
    assert await store.payments.forget_failed(now, old) == 1
    assert [i.id for i in await store.payments.list()] == [i.id for i in reversed([*sent, *kept])]
    assert await store.payments.insert(refused) is None, "it may come again"
    assert await store.payments.forget_failed(old, now) == 2
    assert [i.id for i in await store.payments.list()] == [i.id for i in (refused, *reversed(kept))]


async def test_of_concurrent_inserts_one_wins_and_the_others_see_it(store: Store) -> None:
    outcomes = await asyncio.gather(*(store.payments.insert(intent(reason=str(i))) for i in range(8)))
    assert outcomes.count(None) == 1
    assert len({outcome for outcome in outcomes if outcome}) == 1


async def test_a_change_based_on_an_outdated_version_is_not_made(store: Store) -> None:
    first = intent()
    await store.payments.insert(first)
    changes = [replace(first, state=IntentState.VERIFIED, reason=str(i)) for i in range(8)]
    outcomes = await asyncio.gather(*(store.payments.advance(first, change) for change in changes))
    winners = [outcome for outcome in outcomes if outcome]
    assert len(winners) == 1
    assert winners[0].version == 1
    assert await store.payments.get(first.id) == winners[0]


async def test_credit_moves_money_and_state_together_and_once(store: Store) -> None:
    old = intent()
    await store.payments.insert(old)
    outcomes = await asyncio.gather(
        *(store.payments.credit(old, credited(old), top_up(old)) for _ in range(8))
    )
    winners = [outcome for outcome in outcomes if outcome]
    assert [w.balance_after for w in winners] == [usd("10")]
    assert (await store.ledger.balance(WALLET)).balance == usd("10")
    assert (await store.ledger.verify()).is_clean


async def test_an_outdated_credit_or_reversal_moves_no_money(store: Store) -> None:
    old = intent()
    await store.payments.insert(old)
    failed = await store.payments.advance(old, replace(old, state=IntentState.FAILED))
    assert await store.payments.credit(old, credited(old), top_up(old)) is None
    assert (await store.ledger.balance(WALLET)).balance == 0
    assert failed
    done = await store.payments.credit(failed, credited(failed), top_up(failed))
    assert done
    assert (
        await store.payments.reverse(failed, replace(failed, state=IntentState.REVERSED), reversal(done))
        is None
    )
    assert (await store.ledger.balance(WALLET)).balance == usd("10")


async def test_a_credit_that_the_ledger_refuses_leaves_the_state_alone(store: Store) -> None:
    await store.ledger.post(
        Transfer(TransferId("t"), system_account("x", NOON), WALLET, MAX_AMOUNT, TransferCode.CREDIT, NOON)
    )
    old = intent()
    await store.payments.insert(old)
    with pytest.raises((InvalidRequest, Unavailable)):
        await store.payments.credit(old, credited(old), top_up(old))
    assert await store.payments.get(old.id) == old


async def test_one_log_proves_one_payment(store: Store) -> None:
    first, second = intent("a"), intent("b")
    for one in (first, second):
        await store.payments.insert(one)
    assert await store.payments.credit(first, credited(first), top_up(first))
    with pytest.raises(EvidenceConsumed):
        await store.payments.credit(second, credited(second), top_up(second))
    assert await store.payments.get(second.id) == second
    assert (await store.ledger.balance(WALLET)).balance == usd("10")
    assert await store.payments.credit(second, credited(second, log_index=5), top_up(second))


@pytest.mark.parametrize(("spent", "left"), [("0", "0"), ("4", "0"), ("10", "0")])
async def test_a_reversal_takes_what_is_left_and_never_more(store: Store, spent: str, left: str) -> None:
    old = intent()
    await store.payments.insert(old)
    done = await store.payments.credit(old, credited(old), top_up(old))
    assert done
    house = system_account("revenue", NOON)
    await store.ledger.post(Transfer(TransferId("s"), WALLET, house, usd(spent), TransferCode.REFUND, NOON))
    reversed_ = replace(done, state=IntentState.REVERSED)
    assert await store.payments.reverse(done, reversed_, reversal(done))
    assert await store.payments.reverse(done, reversed_, reversal(done)) is None
    assert (await store.ledger.balance(WALLET)).balance == usd(left)
    assert (await store.ledger.verify()).is_clean


async def test_a_reversed_payment_is_credited_again_with_what_its_reversal_took(store: Store) -> None:
    old = intent()
    await store.payments.insert(old)
    done = await store.payments.credit(old, credited(old), top_up(old))
    assert done
    house = system_account("revenue", NOON)
    await store.ledger.post(Transfer(TransferId("s"), WALLET, house, usd("4"), TransferCode.REFUND, NOON))
    gone = await store.payments.reverse(done, replace(done, state=IntentState.REVERSED), reversal(done))
    assert gone
    taken = await store.ledger.transfer(reversal(done).id)
    assert taken
    again = replace(top_up(old), id=TransferId("again"), amount=taken.amount)
    restored = await store.payments.credit(gone, credited(gone), again)
    assert restored
    assert (restored.state, restored.balance_after) == (IntentState.CREDITED, usd("6"))
    assert await store.payments.credit(gone, credited(gone), again) is None
    assert (await store.ledger.balance(WALLET)).balance == usd("6")
    assert (await store.ledger.verify()).is_clean


async def test_what_was_reversed_is_found_by_when(store: Store) -> None:
    hour = timedelta(hours=1)
    for name, state, at in (
        ("old", IntentState.REVERSED, NOON - hour),
        ("new", IntentState.REVERSED, NOON + hour),
        ("failed", IntentState.FAILED, NOON + hour),
    ):
        await store.payments.insert(intent(name, state=state, updated_at=at))
    assert [one.id for one in await store.payments.reversed_since(NOON)] == ["pay_new"]


async def test_what_is_open_is_what_is_unsettled_or_not_final(store: Store) -> None:
    states = [state for state in IntentState if state is not IntentState.CREDITED]
    for state in states:
        await store.payments.insert(intent(state.value, state=state))
    for name, is_final in (("provisional", False), ("final", True)):
        old = intent(name)
        await store.payments.insert(old)
        new = replace(credited(old, log_index=len(name)), is_final=is_final)
        assert await store.payments.credit(old, new, top_up(old))
    names = [one.id.removeprefix("pay_") for one in await store.payments.open()]
    assert names == ["received", "verified", "submitting", "unknown", "provisional"]


async def test_payments_are_listed_newest_first_all_or_those_in_a_state(store: Store) -> None:
    for number in range(3):
        for state in (IntentState.UNKNOWN, IntentState.FAILED):
            await store.payments.insert(intent(f"{state.value}{number}", state=state))

    async def listed(state: IntentState | None, limit: int) -> list[str]:
        return [one.id.removeprefix("pay_") for one in await store.payments.list(state, limit)]

    assert await listed(None, 3) == ["failed2", "unknown2", "failed1"]
    assert await listed(IntentState.UNKNOWN, 2) == ["unknown2", "unknown1"]
    assert await listed(IntentState.FAILED, 100) == ["failed2", "failed1", "failed0"]
    assert await listed(IntentState.REVERSED, 100) == []


async def test_what_a_payer_has_open_is_what_the_chain_accepted_and_nobody_saw_arrive(store: Store) -> None:
    for state in IntentState:
        if state is not IntentState.CREDITED:
            await store.payments.insert(intent(state.value, state=state))
    await store.payments.insert(intent("another's", state=IntentState.UNKNOWN, payer="0x" + "cd" * 20))
    await store.payments.insert(intent("elsewhere", state=IntentState.UNKNOWN, network="eip155:1"))
    found = await store.payments.open_of("eip155:8453", WALLET)
    assert [one.id.removeprefix("pay_") for one in found] == ["verified", "submitting", "unknown"]
    assert found[0] == intent("verified", state=IntentState.VERIFIED)


async def test_a_nonce_is_good_once_per_wallet(store: Store) -> None:
    now = datetime.now(UTC)  # PostgreSQL's clock is its own
    until = now + timedelta(minutes=5)
    uses = await asyncio.gather(*(store.nonces.consume(WALLET, "n", now, until) for _ in range(8)))
    assert uses.count(True) == 1
    assert await store.nonces.consume(AccountId("other"), "n", now, until)
    assert not await store.nonces.consume(WALLET, "n", until - timedelta(microseconds=1), until)


async def test_a_nonce_that_lapsed_is_forgotten(store: Store) -> None:
    now = datetime.now(UTC)
    before = now - timedelta(minutes=1)
    assert await store.nonces.consume(WALLET, "n", before, now)
    assert await store.nonces.consume(WALLET, "n", now + timedelta(seconds=5), now + timedelta(minutes=1))


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_a_gateway_whose_clock_is_ahead_forgets_no_nonce(store: Store) -> None:
    now = datetime.now(UTC)
    until = now + timedelta(minutes=5)
    assert await store.nonces.consume(WALLET, "n", now, until)
    ahead = now + timedelta(days=3)
    assert await store.nonces.consume(AccountId("other"), "m", ahead, ahead + timedelta(minutes=5))
    assert not await store.nonces.consume(WALLET, "n", ahead, until)


async def test_nonces_survive_a_restart_and_are_shared(tmp_path: Path, clock: FixedClock) -> None:
    until = NOON + timedelta(minutes=5)
    first, second = await open_sqlite(tmp_path, clock), await open_sqlite(tmp_path, clock)
    assert await first.nonces.consume(WALLET, "n", NOON, until)
    assert not await second.nonces.consume(WALLET, "n", NOON, until)
    await first.close()
    await second.close()
    third = await open_sqlite(tmp_path, clock)
    assert not await third.nonces.consume(WALLET, "n", NOON, until)
    await third.close()
