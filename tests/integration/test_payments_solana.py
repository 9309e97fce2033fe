"""The risk table of payments on a real Solana runtime: money moves on litesvm, and the ledger equals the chain."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address
from tests.chains.svm import MEMO, MINT, TOKEN, Svm, pay, run_svm
from tests.integration.payments import Service, encode, service, solana_rail

from vectoll.adapters.chains.solana import token_account
from vectoll.adapters.payments.solana import SolanaRail
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core.topup import Outcome
from vectoll.domain.errors import RateLimited
from vectoll.domain.money import usd
from vectoll.domain.payments import (
    Intent,
    IntentState,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    PaymentRefused,
    RailUnavailable,
)
from vectoll.domain.payments_solana import parse_transfer
from vectoll.domain.siwx import SOLANA

TEN = 10_000_000
FEE = Keypair.from_seed(bytes([3]) * 32)


@pytest.fixture(scope="module")
def chain() -> Iterator[Svm]:
    with run_svm() as svm:
        svm.fund(FEE.pubkey(), lamports=10**10)
        yield svm


@pytest.fixture
def payer(chain: Svm) -> Keypair:
    keypair = Keypair()
    chain.fund(keypair.pubkey(), usdc=100 * TEN)
    return keypair


@pytest.fixture
def pay_to(chain: Svm) -> Pubkey:
    owner = Keypair().pubkey()
    chain.fund(owner)
    return owner


@pytest.fixture
async def rail(chain: Svm, pay_to: Pubkey) -> AsyncIterator[SolanaRail]:
    rail = solana_rail(chain.url, str(MINT), str(pay_to), bytes(FEE))
    yield rail
    await rail.close()


@pytest.fixture
def vectoll(rail: SolanaRail) -> Service:
    return service([rail], MemoryStore())


def header(transaction: str, network: str = SOLANA, **changes: Any) -> str:
    document = {
        "x402Version": 2,
        "accepted": {"scheme": "exact", "network": network},
        "payload": {"transaction": transaction},
    }
    return encode(document | changes)


async def refused(vectoll: Service, transaction: str) -> str:
    with pytest.raises(PaymentRefused) as error:
        await vectoll.top_ups.top_up(header(transaction))
    return error.value.reason


@pytest.mark.parametrize("network", [SOLANA, "solana"])
async def test_a_payment_moves_usdc_and_credits_the_base58_account(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey, network: str
) -> None:
    transaction = pay(payer, pay_to, FEE.pubkey(), 12_345_678, chain.blockhash())
    outcome = await vectoll.top_ups.top_up(header(transaction, network))
    assert outcome.intent.balance_after == usd("12.345678")
    assert chain.usdc(pay_to) == 12_345_678
    assert await vectoll.balance(str(payer.pubkey())) == usd("12.345678")
    assert await vectoll.balance(str(payer.pubkey()).lower()) == 0


async def test_version_one_is_read(vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey) -> None:
    transaction = pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())
    document = {
        "x402Version": 1,
        "scheme": "exact",
        "network": "solana",
        "payload": {"transaction": transaction},
    }
    assert (await vectoll.top_ups.top_up(encode(document))).is_new


async def test_of_eight_concurrent_submissions_one_is_credited_and_a_replay_finds_it(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    payment = header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash()))
    outcomes = await asyncio.gather(
        *(vectoll.top_ups.top_up(payment) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(o, Outcome) for o in outcomes) == 1
    assert sum(isinstance(o, PaymentInProgress) for o in outcomes) == 7
    assert not (await vectoll.top_ups.top_up(payment)).is_new
    assert chain.usdc(pay_to) == TEN
    assert await vectoll.balance(str(payer.pubkey())) == usd("10")


async def test_what_stands_where_the_fee_payer_is_to_sign_does_not_make_it_another_payment(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    transaction = pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())
    await vectoll.top_ups.top_up(header(transaction))
    raw = bytearray(base64.b64decode(transaction))
    raw[1] ^= 1
    with pytest.raises(PaymentInProgress):
        await vectoll.top_ups.top_up(header(base64.b64encode(raw).decode()))
    assert chain.usdc(pay_to) == TEN
    assert await vectoll.balance(str(payer.pubkey())) == usd("10")


async def test_a_transaction_that_is_not_one_plain_transfer_to_us_is_refused(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    stranger, blockhash, fee = Keypair(), chain.blockhash(), FEE.pubkey()
    chain.fund(stranger.pubkey())

    def paid(**changes: Any) -> str:
        arguments: dict[str, Any] = {"payer": payer, "pay_to": pay_to, "fee_payer": fee}
        arguments |= {"value": TEN, "blockhash": blockhash}
        return pay(**(arguments | changes))

    drain = Instruction(Pubkey.default(), bytes([2, 0, 0, 0]) + bytes(8), [AccountMeta(fee, True, True)])
    advance_nonce = Instruction(
        Pubkey.default(), bytes([4, 0, 0, 0]), [AccountMeta(payer.pubkey(), True, True)]
    )
    second = Instruction(TOKEN, bytes([12]) + TEN.to_bytes(8, "little") + bytes([6]), [])
    cases = {
        paid(pay_to=stranger.pubkey()): "recipient_mismatch",
        paid(fee_payer=stranger.pubkey()): "fee_payer_mismatch",
        paid(mint=stranger.pubkey()): "asset_mismatch",
        paid(value=4_999_999): "amount_out_of_range",
        paid(value=10_000_000_001): "amount_out_of_range",
        paid(extra=(drain,)): "invalid_transaction",
        paid(first=(advance_nonce,)): "invalid_transaction",
        paid(extra=(second,)): "invalid_transaction",
        paid(unit_price=10**10): "invalid_transaction",
        paid(extra=(Instruction(MEMO, b"m", []),) * 5): "invalid_transaction",
        paid(
            extra=(Instruction(MEMO, b"m", [AccountMeta(stranger.pubkey(), True, False)]),)
        ): "invalid_transaction",
        paid(extra=(Instruction(MEMO, b"m", [AccountMeta(fee, True, True)]),)): "invalid_transaction",
        paid()[:-8]: "invalid_transaction",
        base64.b64encode(base64.b64decode(paid()) + b"x").decode(): "invalid_transaction",
    }
    for transaction, reason in cases.items():
        assert await refused(vectoll, transaction) == reason
    assert await vectoll.store.payments.list() == []
    assert chain.usdc(pay_to) == 0


async def test_a_forged_or_missing_signature_of_the_payer_is_refused(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    raw = bytearray(base64.b64decode(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    raw[65] ^= 1
    assert await refused(vectoll, base64.b64encode(raw).decode()) == "invalid_signature"


async def test_a_payer_without_funds_or_with_a_lapsed_blockhash_is_refused(
    vectoll: Service, chain: Svm, pay_to: Pubkey, payer: Keypair
) -> None:
    poor = Keypair()
    chain.fund(poor.pubkey(), usdc=1)
    transaction = pay(poor, pay_to, FEE.pubkey(), TEN, chain.blockhash())
    assert await refused(vectoll, transaction) == "insufficient_funds"
    assert await refused(vectoll, pay(payer, pay_to, FEE.pubkey(), TEN, Hash.default())) == "expired"
    for _ in range(9):
        await refused(vectoll, transaction)
    with pytest.raises(RateLimited):
        await vectoll.top_ups.top_up(header(transaction))


async def submitted_unseen(vectoll: Service, chain: Svm, payment: str) -> Intent:
    quick = service([*vectoll.top_ups._rails.values()], vectoll.store, timeout_s=0.3)
    with pytest.raises(PaymentOutcomeUnknown):
        await quick.top_ups.top_up(payment)
    intent = (await vectoll.store.payments.list())[0]
    assert intent.state is IntentState.UNKNOWN
    return intent


async def test_a_lost_answer_with_money_moved_is_credited_by_the_signature_known_beforehand(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    chain.rpc("test_swallow", True)
    outcome = await vectoll.top_ups.top_up(header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    chain.rpc("test_swallow", False)
    assert outcome.intent.state is IntentState.CREDITED
    assert chain.usdc(pay_to) == TEN


async def test_an_unknown_outcome_is_credited_once_it_shows(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    chain.rpc("test_hold", True)
    await submitted_unseen(vectoll, chain, header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    assert await vectoll.top_ups.reconcile() == []
    chain.rpc("test_hold", False)
    assert [i.state for i in await vectoll.top_ups.reconcile()] == [IntentState.CREDITED]
    assert await vectoll.balance(str(payer.pubkey())) == usd("10")


async def test_a_payment_that_is_open_outlives_a_new_settlement_key_and_a_new_recipient(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    chain.rpc("test_hold", True)
    await submitted_unseen(vectoll, chain, header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    elsewhere = Keypair().pubkey()
    chain.fund(elsewhere)
    rail = solana_rail(chain.url, str(MINT), str(elsewhere), bytes(Keypair()))
    later = service([rail], vectoll.store)
    assert await later.top_ups.reconcile() == []
    chain.rpc("test_hold", False)
    assert [i.state for i in await later.top_ups.reconcile()] == [IntentState.CREDITED]
    assert await vectoll.balance(str(payer.pubkey())) == usd("10")
    await rail.close()


async def test_one_balance_is_not_taken_for_several_payments_that_are_open(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    chain.rpc("test_hold", True)
    for value in (60 * TEN, 40 * TEN):
        payment = pay(payer, pay_to, FEE.pubkey(), value, chain.blockhash())
        await submitted_unseen(vectoll, chain, header(payment))
    third = pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())
    assert await refused(vectoll, third) == "insufficient_funds"
    chain.rpc("test_hold", False)
    assert len(await vectoll.top_ups.reconcile()) == 2
    assert await vectoll.balance(str(payer.pubkey())) == usd("1000")


async def test_a_transaction_that_never_landed_fails_only_after_its_blockhash_lapsed_for_good(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    chain.rpc("test_hold", True)
    await submitted_unseen(vectoll, chain, header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    chain.rpc("test_advance", 152, False)
    assert await vectoll.top_ups.reconcile() == [], "lapsed, but not by a final block"
    chain.rpc("test_advance", 1, True)
    assert await vectoll.top_ups.reconcile() == [], "one look at a chain may miss it"
    changed = await vectoll.top_ups.reconcile()
    chain.rpc("test_drop")
    assert [(i.state, i.reason) for i in changed] == [(IntentState.FAILED, "expired")]
    assert chain.usdc(pay_to) == 0


async def test_a_node_that_lags_behind_cannot_say_that_a_payment_will_never_come(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    """One node of a provider's knows the newest final block, another one has not seen the transaction."""
    chain.rpc("test_hold", True)
    await submitted_unseen(vectoll, chain, header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    chain.rpc("test_hold", False)
    chain.rpc("test_advance", 300)
    chain.rpc("test_lag", 250)
    unchanged = await vectoll.top_ups.reconcile()
    chain.rpc("test_lag", 0)
    assert unchanged == []
    assert [i.state for i in await vectoll.top_ups.reconcile()] == [IntentState.CREDITED]
    assert await vectoll.balance(str(payer.pubkey())) == usd("10")


STATUS, TRANSACTION, LIST = "getSignatureStatuses", "getTransaction", "getSignaturesForAddress"


@pytest.mark.parametrize("holes", [{STATUS}, {STATUS, TRANSACTION}, {STATUS, LIST}])
@pytest.mark.parametrize("is_credited", [False, True])
async def test_a_node_with_holes_in_its_history_cannot_say_that_a_payment_will_never_come(
    vectoll: Service, chain: Svm, rail: SolanaRail, payer: Keypair, pay_to: Pubkey, holes: set[str],
    is_credited: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It was restored from a snapshot, and has seen the newest final block. Two holes are believed in the second
    round for what was not credited, and not at all for what was."""
    payment = header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash()))
    if is_credited:
        await vectoll.top_ups.top_up(payment)
    else:
        chain.rpc("test_hold", True)
        await submitted_unseen(vectoll, chain, payment)
        chain.rpc("test_hold", False)
    chain.rpc("test_advance", 400)
    real_call = rail._rpc.call

    async def answer(method: str, *params: Any) -> Any:
        found = await real_call(method, *params)
        if method not in holes:
            return found
        return found | {"value": [None]} if method == STATUS else [] if method == LIST else None

    monkeypatch.setattr(rail._rpc, "call", answer)
    for _ in range(9 if is_credited else 1):
        assert await vectoll.top_ups.reconcile() == []
    monkeypatch.setattr(rail._rpc, "call", real_call)
    assert [i.state for i in await vectoll.top_ups.reconcile()] == [IntentState.CREDITED]
    assert await vectoll.balance(str(payer.pubkey())) == usd("10")


async def test_the_fee_payers_funds_are_known(rail: SolanaRail) -> None:
    assert Decimal(9) < await rail.funds() <= 10


async def test_a_transaction_that_failed_on_chain_is_no_payment_although_it_has_a_signature(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    """The payer empties the account between simulation and execution: it is in a block, with an error."""
    chain.rpc("test_hold", True)
    intent = await submitted_unseen(
        vectoll, chain, header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash()))
    )
    chain.fund(payer.pubkey(), usdc=1)
    chain.rpc("test_hold", False)
    status = chain.rpc("getSignatureStatuses", [intent.tx])["value"][0]
    assert status["err"] is not None
    assert await vectoll.top_ups.reconcile() == []
    chain.rpc("test_advance", 1)
    changed = await vectoll.top_ups.reconcile()
    assert [(i.state, i.reason) for i in changed] == [(IntentState.FAILED, "failed_on_chain")]
    assert await vectoll.balance(str(payer.pubkey())) == 0


@pytest.mark.parametrize(("in_meta", "in_balances"), [(False, False), (True, False), (False, True)])
async def test_a_failed_transaction_that_is_reported_as_a_success_is_no_payment(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey, in_meta: bool, in_balances: bool
) -> None:
    """Status, error and balances must all say that the money is there."""
    chain.rpc("test_hold", True)
    intent = await submitted_unseen(
        vectoll, chain, header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash()))
    )
    chain.fund(payer.pubkey(), usdc=1)
    chain.rpc("test_hold", False)
    account = str(get_associated_token_address(pay_to, MINT)) if in_balances else None
    chain.rpc("test_lie", intent.tx, in_meta, account)
    assert await vectoll.top_ups.reconcile() == []
    chain.rpc("test_advance", 1)
    changed = await vectoll.top_ups.reconcile()
    assert [(i.state, i.reason) for i in changed] == [(IntentState.FAILED, "amount_mismatch")]
    assert await vectoll.balance(str(payer.pubkey())) == 0


async def test_a_dropped_fork_takes_the_credit_back(
    vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey
) -> None:
    payment = header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash()))
    intent = (await vectoll.top_ups.top_up(payment)).intent
    chain.rpc("test_forget", intent.tx)
    chain.rpc("test_advance", 160)
    for _ in range(4):
        assert await vectoll.top_ups.reconcile() == []
    changed = await vectoll.top_ups.reconcile()
    assert [i.state for i in changed] == [IntentState.REVERSED]
    assert await vectoll.balance(str(payer.pubkey())) == 0
    with pytest.raises(PaymentRefused, match="sign a new one"):
        await vectoll.top_ups.top_up(payment)
    assert (await vectoll.store.ledger.verify()).is_clean


async def test_a_credit_becomes_final(vectoll: Service, chain: Svm, payer: Keypair, pay_to: Pubkey) -> None:
    await vectoll.top_ups.top_up(header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    assert await vectoll.top_ups.reconcile() == []
    chain.rpc("test_advance", 1)
    assert [i.is_final for i in await vectoll.top_ups.reconcile()] == [True]
    assert await vectoll.store.payments.open() == []


async def test_an_unreachable_node_is_503_and_nothing_is_sent(
    payer: Keypair, pay_to: Pubkey, chain: Svm
) -> None:
    rail = solana_rail("http://127.0.0.1:1", str(MINT), str(pay_to), bytes(FEE))
    vectoll = service([rail], MemoryStore())
    with pytest.raises(RailUnavailable):
        await vectoll.top_ups.top_up(header(pay(payer, pay_to, FEE.pubkey(), TEN, chain.blockhash())))
    await rail.close()


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_token_accounts_are_where_solders_says(owner: bytes, mint: bytes) -> None:
    expected = get_associated_token_address(Pubkey(owner), Pubkey(mint))
    assert token_account(owner, mint) == bytes(expected)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_transaction_with_any_byte_changed_is_refused_or_still_means_what_it_says(
    data: st.DataObject,
) -> None:
    payer, pay_to = Keypair.from_seed(bytes([1]) * 32), Keypair.from_seed(bytes([2]) * 32).pubkey()
    raw = bytearray(base64.b64decode(pay(payer, pay_to, FEE.pubkey(), TEN, Hash.default())))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(len(raw) - 3, len(raw))) :]
    try:
        transfer = parse_transfer(bytes(raw))
    except ValueError:
        return
    assert transfer.signed_by_fee_payer(transfer.signatures[0]) == bytes(raw)
    assert transfer.fee_payer != transfer.payer.raw


@given(st.binary(max_size=1300))
def test_any_bytes_are_no_transaction(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_transfer(raw)
