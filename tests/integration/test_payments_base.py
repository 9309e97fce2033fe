"""The risk table of payments on a real EVM chain: money moves on anvil, and the ledger equals the chain."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from tests.chains.anvil import USDC, Anvil, authorize, call_data, erc6492, run_anvil, transfer_call
from tests.integration.payments import Service, base_rail, encode, header, service

from vectoll.adapters.payments.base import BaseRail
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core.topup import Outcome
from vectoll.domain.errors import RateLimited
from vectoll.domain.money import usd
from vectoll.domain.payments import (
    Intent,
    IntentState,
    Payment,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    PaymentRefused,
    RailUnavailable,
)

GAS_KEY = bytes([9]) * 32
GAS = Account.from_key(GAS_KEY).address
TEN = 10_000_000


@pytest.fixture(scope="module")
def shared_chain() -> Iterator[Anvil]:
    with run_anvil() as chain:
        chain.rpc("anvil_setBalance", GAS, hex(10**18))
        yield chain


@pytest.fixture
def chain(shared_chain: Anvil) -> Iterator[Anvil]:
    """The chain as it was: each test's blocks are undone."""
    snapshot = shared_chain.rpc("evm_snapshot")
    yield shared_chain
    shared_chain.set_automine(True)
    shared_chain.rpc("evm_revert", snapshot)


@pytest.fixture
def payer(chain: Anvil) -> LocalAccount:
    account: LocalAccount = Account.create()
    chain.fund(account.address, 100 * TEN)
    return account


@pytest.fixture
def pay_to() -> str:
    address: str = Account.create().address
    return address


@pytest.fixture
async def rail(chain: Anvil, pay_to: str) -> AsyncIterator[BaseRail]:
    rail = base_rail(chain.url, USDC, pay_to, GAS_KEY)
    yield rail
    await rail.close()


@pytest.fixture
def vectoll(rail: BaseRail) -> Service:
    return service([rail], MemoryStore())


async def refused(vectoll: Service, payment: str) -> str:
    with pytest.raises(PaymentRefused) as error:
        await vectoll.top_ups.top_up(payment)
    return error.value.reason


async def open_intent(vectoll: Service) -> Intent:
    return (await vectoll.store.payments.list())[0]


async def test_a_payment_moves_usdc_and_credits_what_arrived(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    credited = (await vectoll.top_ups.top_up(header(authorize(payer, pay_to, 12_345_678)))).intent
    assert chain.usdc(pay_to) == 12_345_678
    assert credited.balance_after == usd("12.345678")
    assert await vectoll.balance(payer.address.lower()) == usd("12.345678")
    assert credited.tx is not None
    assert chain.receipt(credited.tx)["status"] == "0x1"


@pytest.mark.parametrize(
    "shape",
    [
        {"x402Version": 1, "scheme": "exact", "network": "base"},
        {"x402Version": 2, "scheme": "exact", "network": "base"},
        {"x402Version": 2, "accepted": {"scheme": "exact", "network": "eip155:8453", "amount": "1"}},
        {"x402Version": 2, "accepted": {"scheme": "exact", "network": "base", "asset": USDC.lower()}},
        {},
    ],
)
async def test_versions_one_and_two_and_their_mixture_are_read(
    vectoll: Service, payer: LocalAccount, pay_to: str, shape: dict[str, Any]
) -> None:
    payment = encode({**shape, "payload": authorize(payer, pay_to, TEN)})
    assert (await vectoll.top_ups.top_up(payment)).intent.state is IntentState.CREDITED


async def test_a_replay_finds_the_first_result_and_no_second_credit(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    payload = authorize(payer, pay_to, TEN)
    first = (await vectoll.top_ups.top_up(header(payload))).intent
    again = (
        await vectoll.top_ups.top_up(encode({"x402Version": 1, "network": "base", "payload": payload}))
    ).intent
    assert again == first
    assert await vectoll.balance(payer.address.lower()) == usd("10")
    assert chain.usdc(pay_to) == TEN
    with pytest.raises(PaymentInProgress):
        await vectoll.top_ups.top_up(header(payload | {"signature": "0x" + "11" * 65}))


async def test_of_eight_concurrent_submissions_one_settles_and_one_is_credited(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    payment = header(authorize(payer, pay_to, TEN))
    before = chain.transactions_of(GAS)
    outcomes = await asyncio.gather(
        *(vectoll.top_ups.top_up(payment) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(o, Outcome) for o in outcomes) == 1
    assert sum(isinstance(o, PaymentInProgress) for o in outcomes) == 7
    assert chain.transactions_of(GAS) - before == 1
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_different_payments_settle_side_by_side(vectoll: Service, chain: Anvil, pay_to: str) -> None:
    payers = [Account.create() for _ in range(6)]
    for one in payers:
        chain.fund(one.address, TEN)
    await asyncio.gather(*(vectoll.top_ups.top_up(header(authorize(one, pay_to, TEN))) for one in payers))
    assert chain.usdc(pay_to) == 6 * TEN
    assert [await vectoll.balance(one.address.lower()) for one in payers] == [usd("10")] * 6


async def test_what_does_not_fit_our_own_terms_is_refused_before_any_rpc(
    payer: LocalAccount, pay_to: str
) -> None:
    unreachable = base_rail("http://127.0.0.1:1", USDC, pay_to, GAS_KEY)
    vectoll = service([unreachable], MemoryStore())
    good = authorize(payer, pay_to, TEN)

    def changed(**fields: str) -> str:
        return header(good | {"authorization": good["authorization"] | fields})

    cases = {
        header(authorize(payer, Account.create().address, TEN)): "recipient_mismatch",
        header(
            good, accepted={"scheme": "exact", "network": "base", "payTo": payer.address}
        ): "recipient_mismatch",
        header(good, accepted={"scheme": "exact", "network": "base", "asset": pay_to}): "asset_mismatch",
        header(good, accepted={"scheme": "exact", "network": "eip155:1"}): "unsupported_network",
        header(good, accepted={"scheme": "upto", "network": "base"}): "unsupported_scheme",
        header(good, x402Version=3): "unsupported_scheme",
        header(authorize(payer, pay_to, 4_999_999)): "amount_out_of_range",
        header(authorize(payer, pay_to, 10_000_000_001)): "amount_out_of_range",
        header(authorize(payer, pay_to, TEN, valid_for_s=5)): "expired",
        header(authorize(payer, pay_to, TEN, valid_for_s=960)): "valid_too_long",
        header(authorize(payer, pay_to, TEN, valid_after=2**40)): "not_yet_valid",
        changed(value="1e7"): "malformed",
        changed(value="10000000.0"): "malformed",
        changed(value="-1"): "malformed",
        changed(value="٠"): "malformed",
        changed(value="9" * 78): "malformed",
        changed(nonce="0x00"): "malformed",
    }
    for payment, reason in cases.items():
        assert await refused(vectoll, payment) == reason
    with pytest.raises(RailUnavailable):
        await vectoll.top_ups.top_up(header(good))
    assert (await open_intent(vectoll)).state is IntentState.FAILED
    await unreachable.close()


async def test_a_signature_for_other_terms_is_refused_by_the_chain(
    vectoll: Service, payer: LocalAccount, pay_to: str
) -> None:
    good = authorize(payer, pay_to, TEN)
    tampered = good | {"authorization": good["authorization"] | {"value": str(2 * TEN)}}
    assert await refused(vectoll, header(tampered)) == "invalid_signature"
    other_asset = authorize(payer, pay_to, TEN, asset=pay_to)
    assert await refused(vectoll, header(other_asset)) == "invalid_signature"
    other_chain = authorize(payer, pay_to, TEN, chain_id=1)
    assert await refused(vectoll, header(other_chain)) == "invalid_signature"
    assert await vectoll.balance(payer.address.lower()) == 0


async def test_a_payer_without_funds_is_refused_and_may_send_the_same_payment_later(
    vectoll: Service, chain: Anvil, pay_to: str
) -> None:
    poor = Account.create()
    payment = header(authorize(poor, pay_to, TEN))
    assert await refused(vectoll, payment) == "insufficient_funds"
    chain.fund(poor.address, TEN)
    assert (await vectoll.top_ups.top_up(payment)).intent.state is IntentState.CREDITED


async def test_an_authorisation_that_somebody_used_before_is_no_payment_to_us(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """It paid for something else: a transfer to the same recipient that was never submitted here."""
    payload = authorize(payer, pay_to, TEN)
    chain.send(USDC, transfer_call(payload))
    assert await refused(vectoll, header(payload)) == "authorization_used"
    assert await vectoll.balance(payer.address.lower()) == 0


async def submitted_unmined(vectoll: Service, chain: Anvil, payment: str) -> Intent:
    """Submit while no block is made: the outcome stays unknown."""
    chain.set_automine(False)
    with pytest.raises(PaymentOutcomeUnknown):
        await service([*vectoll.top_ups._rails.values()], vectoll.store, timeout_s=0.3).top_ups.top_up(
            payment
        )
    intent = await open_intent(vectoll)
    assert intent.state is IntentState.UNKNOWN
    return intent


async def test_an_unknown_outcome_is_credited_once_it_shows(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    payment = header(authorize(payer, pay_to, TEN))
    await submitted_unmined(vectoll, chain, payment)
    with pytest.raises(PaymentInProgress):
        await vectoll.top_ups.top_up(payment)
    assert await vectoll.top_ups.reconcile() == []
    chain.set_automine(True)
    chain.mine()
    changed = await vectoll.top_ups.reconcile()
    assert [intent.state for intent in changed] == [IntentState.CREDITED]
    assert await vectoll.balance(payer.address.lower()) == usd("10")
    assert (await vectoll.top_ups.top_up(payment)).intent.state is IntentState.CREDITED


async def test_a_payment_that_is_open_outlives_a_new_settlement_key_and_a_new_recipient(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, TEN)))
    rail = base_rail(chain.url, USDC, Account.create().address, Account.create().key)
    later = service([rail], vectoll.store)
    assert await later.top_ups.reconcile() == []
    chain.set_automine(True)
    chain.mine()
    assert [intent.state for intent in await later.top_ups.reconcile()] == [IntentState.CREDITED]
    assert await vectoll.balance(payer.address.lower()) == usd("10")
    await rail.close()


async def test_a_payment_that_never_reached_a_block_fails_only_after_it_lapsed_by_a_final_one(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    intent = await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, TEN)))
    chain.rpc("anvil_dropTransaction", intent.tx)
    dead = replace(intent, raw_tx=None)
    assert await vectoll.store.payments.advance(intent, dead)
    chain.mine(seconds=400)
    assert await vectoll.top_ups.reconcile() == [], "the block in which it lapsed is not final yet"
    chain.mine(4)
    assert await vectoll.top_ups.reconcile() == [], "one look at a chain may miss it"
    changed = await vectoll.top_ups.reconcile()
    assert [(i.state, i.reason) for i in changed] == [(IntentState.FAILED, "expired")]
    assert chain.usdc(pay_to) == 0
    assert await vectoll.balance(payer.address.lower()) == 0


async def test_a_dropped_transaction_is_sent_again_the_very_same(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    intent = await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, TEN)))
    chain.rpc("anvil_dropTransaction", intent.tx)
    assert await vectoll.top_ups.reconcile() == []
    chain.set_automine(True)
    chain.mine()
    changed = await vectoll.top_ups.reconcile()
    assert [i.tx for i in changed] == [intent.tx]
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_one_balance_is_not_taken_for_several_payments_that_are_open(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """Each alone would pass its simulation until the first is in a block."""
    await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, 60 * TEN)))
    assert await refused(vectoll, header(authorize(payer, pay_to, 41 * TEN))) == "insufficient_funds"
    payment = header(authorize(payer, pay_to, 40 * TEN))
    await submitted_unmined(vectoll, chain, payment)
    chain.set_automine(True)
    chain.mine()
    assert len(await vectoll.top_ups.reconcile()) == 2
    assert await vectoll.balance(payer.address.lower()) == usd("1000")


async def front_run(chain: Anvil, intent: Intent, data: str, to: str = USDC) -> None:
    """Somebody else's transaction is mined first; ours then reverts."""
    chain.rpc("anvil_dropTransaction", intent.tx)
    chain.set_automine(True)
    chain.send(to, data)
    assert intent.raw_tx is not None
    chain.rpc("eth_sendRawTransaction", f"0x{intent.raw_tx.hex()}")
    assert intent.tx is not None
    assert chain.receipt(intent.tx)["status"] == "0x0"


async def test_a_payment_that_a_stranger_carried_out_is_credited_by_its_log(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    payload = authorize(payer, pay_to, TEN)
    intent = await submitted_unmined(vectoll, chain, header(payload))
    await front_run(chain, intent, transfer_call(payload))
    changed = await vectoll.top_ups.reconcile()
    assert [i.state for i in changed] == [IntentState.CREDITED]
    assert changed[0].tx != intent.tx
    assert chain.usdc(pay_to) == TEN
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_payment_that_arrives_while_it_is_looked_for_is_not_taken_for_one_that_never_can(
    vectoll: Service, chain: Anvil, rail: BaseRail, payer: LocalAccount, pay_to: str
) -> None:
    """The newest block is asked for first; until the last question blocks are made, and even become final."""
    payload = authorize(payer, pay_to, TEN)
    intent = await submitted_unmined(vectoll, chain, header(payload))
    real_call = rail._rpc.call

    async def carry_out_after_the_first_look(method: str, *params: object) -> Any:
        answer = await real_call(method, *params)
        rail._rpc.call = real_call  # type: ignore[method-assign]
        await asyncio.to_thread(chain.rpc, "anvil_dropTransaction", intent.tx)
        chain.set_automine(True)
        await asyncio.to_thread(chain.send, USDC, transfer_call(payload))
        chain.mine(4)
        return answer

    rail._rpc.call = carry_out_after_the_first_look  # type: ignore[method-assign]
    await vectoll.top_ups.reconcile()
    await vectoll.top_ups.reconcile()
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_used_authorisation_is_no_proof_without_its_own_transfer(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """The decoy: the nonce is burnt on a transfer to the attacker himself, beside a real payment to us of the same
    amount, in one transaction. That payment's own intent is credited, the decoy's is not."""
    friend, nonce = Account.create().address, secrets.token_bytes(32)
    decoyed = await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, TEN, nonce=nonce)))
    real = authorize(payer, pay_to, TEN)
    batch = chain_batch(chain)
    calls = [transfer_call(authorize(payer, friend, TEN, nonce=nonce)), transfer_call(real)]
    run = call_data("Batch", "run(address,bytes[])", USDC, [bytes.fromhex(call[2:]) for call in calls])
    await front_run(chain, decoyed, run, to=batch)
    assert chain.usdc(pay_to) == TEN
    sent = chain.transactions_of(GAS)
    assert await vectoll.top_ups.reconcile() == []
    assert chain.transactions_of(GAS) == sent, "no gas is spent on what cannot be"
    chain.mine(4)
    changed = await vectoll.top_ups.reconcile()
    assert [(i.state, i.reason) for i in changed] == [(IntentState.FAILED, "authorization_used_otherwise")]
    assert await vectoll.balance(payer.address.lower()) == 0


@pytest.mark.parametrize(
    "hidden", [{"eth_getTransactionReceipt"}, {"eth_getTransactionReceipt", "eth_getLogs"}]
)
@pytest.mark.parametrize("is_credited", [False, True])
async def test_a_node_that_lacks_receipts_or_logs_cannot_say_that_a_payment_went_elsewhere(
    vectoll: Service, chain: Anvil, rail: BaseRail, payer: LocalAccount, pay_to: str, hidden: set[str],
    is_credited: bool,
) -> None:  # fmt: skip
    """Its block is final and its state is known; its transaction's index lags."""
    payment = header(authorize(payer, pay_to, TEN))
    if is_credited:
        await vectoll.top_ups.top_up(payment)
    else:
        await submitted_unmined(vectoll, chain, payment)
        chain.set_automine(True)
    chain.mine(5)
    real_call = rail._rpc.call

    async def lag(method: str, *params: object) -> Any:
        if method in hidden:
            return [] if method == "eth_getLogs" else None
        return await real_call(method, *params)

    rail._rpc.call = lag  # type: ignore[method-assign]
    assert await vectoll.top_ups.reconcile() == []
    rail._rpc.call = real_call  # type: ignore[method-assign]
    assert [i.state for i in await vectoll.top_ups.reconcile()] == [IntentState.CREDITED]
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def assert_used_otherwise(vectoll: Service, chain: Anvil, payer: LocalAccount) -> None:
    assert await vectoll.top_ups.reconcile() == []
    chain.mine(4)
    changed = await vectoll.top_ups.reconcile()
    assert [(i.state, i.reason) for i in changed] == [(IntentState.FAILED, "authorization_used_otherwise")]
    assert await vectoll.balance(payer.address.lower()) == 0


async def test_a_payment_that_a_wrong_node_let_fail_is_credited_when_it_is_sent_again(
    vectoll: Service, rail: BaseRail, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    real_call, payment = rail._rpc.call, header(authorize(payer, pay_to, TEN))

    async def deny(method: str, *params: object) -> Any:
        answer = await real_call(method, *params)
        if method == "eth_getTransactionReceipt":
            return None
        return f"0x{bytes(32).hex()}" if method == "eth_call" else answer

    rail._rpc.call = deny  # type: ignore[method-assign]
    quick = service([rail], vectoll.store, timeout_s=0.3)
    with pytest.raises(PaymentOutcomeUnknown):
        await quick.top_ups.top_up(payment)
    chain.mine(5, seconds=2000)
    for _ in range(2):
        changed = await quick.top_ups.reconcile()
    assert [(i.state, i.reason) for i in changed] == [(IntentState.FAILED, "expired")]
    rail._rpc.call = real_call  # type: ignore[method-assign]
    outcome = await vectoll.top_ups.top_up(payment)
    assert (outcome.intent.state, outcome.is_new) == (IntentState.CREDITED, False)
    assert await vectoll.balance(payer.address.lower()) == usd("10")
    assert not (await vectoll.top_ups.top_up(payment)).is_new
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_smaller_payment_with_the_same_nonce_is_not_credited_as_the_larger_one(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """The payer signs twice with one nonce, submits the large authorisation here and the small one to the chain."""
    nonce = secrets.token_bytes(32)
    large = await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, 10 * TEN, nonce=nonce)))
    await front_run(chain, large, transfer_call(authorize(payer, pay_to, 1, nonce=nonce)))
    assert chain.usdc(pay_to) == 1
    await assert_used_otherwise(vectoll, chain, payer)


async def test_events_of_another_token_prove_nothing(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """The nonce is burnt on a transfer to a friend, beside the right pair of events from a token that anybody mints."""
    nonce, fake = secrets.token_bytes(32), "0x" + "fa" * 20
    chain.put_code(fake, "Token")
    chain.send(fake, call_data("Token", "mint(address,uint256)", payer.address, TEN))
    decoyed = await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, TEN, nonce=nonce)))
    burn = transfer_call(authorize(payer, Account.create().address, TEN, nonce=nonce))
    play = transfer_call(authorize(payer, pay_to, TEN, nonce=nonce, asset=fake))
    batch = chain_batch(chain)
    calls = [
        call_data("Batch", "run(address,bytes[])", target, [bytes.fromhex(call[2:])])
        for target, call in ((USDC, burn), (fake, play))
    ]
    run = call_data("Batch", "run(address,bytes[])", batch, [bytes.fromhex(call[2:]) for call in calls])
    await front_run(chain, decoyed, run, to=batch)
    assert chain.usdc(pay_to) == 0
    await assert_used_otherwise(vectoll, chain, payer)


def chain_batch(chain: Anvil) -> str:
    chain.put_code("0x" + "ba" * 20, "Batch")
    return "0x" + "ba" * 20


async def test_a_cancelled_authorisation_is_no_payment(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    payload = authorize(payer, pay_to, TEN)
    intent = await submitted_unmined(vectoll, chain, header(payload))
    nonce = bytes.fromhex(payload["authorization"]["nonce"][2:])
    types = {
        "CancelAuthorization": [
            {"name": "authorizer", "type": "address"},
            {"name": "nonce", "type": "bytes32"},
        ]
    }
    domain = {"name": "USD Coin", "version": "2", "chainId": 8453, "verifyingContract": USDC}
    message = encode_typed_data(domain, types, {"authorizer": payer.address, "nonce": nonce})
    signature = bytes(payer.sign_message(message).signature)
    cancel = "cancelAuthorization(address,bytes32,bytes)"
    await front_run(chain, intent, call_data("Token", cancel, payer.address, nonce, signature))
    chain.mine(4)
    changed = await vectoll.top_ups.reconcile()
    assert [i.state for i in changed] == [IntentState.FAILED]
    assert await vectoll.balance(payer.address.lower()) == 0


async def test_credit_waits_for_the_configured_depth(chain: Anvil, payer: LocalAccount, pay_to: str) -> None:
    rail = base_rail(chain.url, USDC, pay_to, GAS_KEY, confirmations=3)
    vectoll = service([rail], MemoryStore(), timeout_s=0.2)
    with pytest.raises(PaymentOutcomeUnknown):
        await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    chain.mine(1)
    assert await vectoll.top_ups.reconcile() == []
    chain.mine(1)
    assert [i.state for i in await vectoll.top_ups.reconcile()] == [IntentState.CREDITED]
    await rail.close()


async def test_a_credit_becomes_final_and_is_then_left_alone(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    chain.mine(4)
    changed = await vectoll.top_ups.reconcile()
    assert [(i.state, i.is_final) for i in changed] == [(IntentState.CREDITED, True)]
    assert await vectoll.store.payments.open() == []


async def test_a_reorganised_chain_takes_the_credit_back_when_the_payment_cannot_return(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    credited = (await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN, valid_for_s=60)))).intent
    assert await vectoll.balance(payer.address.lower()) == usd("10")
    chain.rpc("anvil_reorg", 1, [])
    chain.rpc("anvil_dropAllTransactions")
    assert chain.usdc(pay_to) == 0
    chain.mine(4, seconds=400)
    for _ in range(4):
        assert await vectoll.top_ups.reconcile() == []
    changed = await vectoll.top_ups.reconcile()
    assert [(i.id, i.state) for i in changed] == [(credited.id, IntentState.REVERSED)]
    assert await vectoll.balance(payer.address.lower()) == 0
    assert (await vectoll.store.ledger.verify()).is_clean


async def test_a_reorganised_payment_that_is_still_valid_is_sent_again_and_stays_credited(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    chain.rpc("anvil_reorg", 1, [])
    chain.rpc("anvil_dropAllTransactions")
    assert chain.usdc(pay_to) == 0
    assert await vectoll.top_ups.reconcile() == []
    chain.mine(4)
    assert chain.usdc(pay_to) == TEN
    assert [i.is_final for i in await vectoll.top_ups.reconcile()] == [True]
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_receipt_of_a_block_that_the_chain_has_dropped_proves_nothing(
    vectoll: Service, rail: BaseRail, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """A provider's cache, or a node that is stuck on another fork, still shows it."""
    first = (await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))).intent
    assert first.tx is not None
    kept, real_call = chain.receipt(first.tx), rail._rpc.call

    async def remember(method: str, *params: object) -> Any:
        return kept if method == "eth_getTransactionReceipt" else await real_call(method, *params)

    chain.rpc("anvil_reorg", 1, [])
    chain.rpc("anvil_dropAllTransactions")
    chain.mine(4)
    rail._rpc.call = remember  # type: ignore[method-assign]
    assert await vectoll.top_ups.reconcile() == []
    rail._rpc.call = real_call  # type: ignore[method-assign]
    assert chain.usdc(pay_to) == TEN, "sent again"
    chain.mine(4)
    assert [i.is_final for i in await vectoll.top_ups.reconcile()] == [True]


async def test_a_reorganised_payment_whose_gas_nonce_is_used_since_is_signed_anew_and_stays_credited(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    first = (await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))).intent
    chain.rpc("anvil_reorg", 1, [])
    chain.rpc("anvil_dropAllTransactions")
    chain.rpc("anvil_setNonce", GAS, hex(chain.transactions_of(GAS) + 1))
    assert await vectoll.top_ups.reconcile() == []
    [again] = await vectoll.store.payments.list()
    assert again.state is IntentState.CREDITED
    assert again.tx not in (None, first.tx)
    chain.mine(4)
    assert chain.usdc(pay_to) == TEN
    assert [i.is_final for i in await vectoll.top_ups.reconcile()] == [True]
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_failed_send_leaves_no_gap_in_the_gas_keys_nonces(
    vectoll: Service, chain: Anvil, rail: BaseRail, payer: LocalAccount, pay_to: str
) -> None:
    first = header(authorize(payer, pay_to, TEN))
    real_call = rail._rpc.call

    async def refuse_once(method: str, *params: object) -> Any:
        if method == "eth_sendRawTransaction":
            rail._rpc.call = real_call  # type: ignore[method-assign]
            params = ("0xdeadbeef",)
        return await real_call(method, *params)

    rail._rpc.call = refuse_once  # type: ignore[method-assign]
    quick = service([rail], vectoll.store, timeout_s=0.3)
    with pytest.raises(PaymentOutcomeUnknown):
        await quick.top_ups.top_up(first)
    second = (await vectoll.top_ups.top_up(header(authorize(payer, pay_to, 2 * TEN)))).intent
    assert second.state is IntentState.CREDITED
    assert await vectoll.balance(payer.address.lower()) == usd("20")


async def test_a_transaction_is_on_record_before_the_first_byte_leaves(
    vectoll: Service, rail: BaseRail, payer: LocalAccount, pay_to: str
) -> None:
    recorded: list[Intent] = []
    real_call = rail._rpc.call

    async def look_when_it_is_sent(method: str, *params: object) -> Any:
        if method == "eth_sendRawTransaction":
            recorded.append(await open_intent(vectoll))
        return await real_call(method, *params)

    rail._rpc.call = look_when_it_is_sent  # type: ignore[method-assign]
    credited = (await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))).intent
    assert [(i.state, i.tx, i.raw_tx) for i in recorded] == [
        (IntentState.SUBMITTING, credited.tx, credited.raw_tx)
    ]


async def test_four_processes_with_one_gas_key_settle_all_their_payments(
    vectoll: Service, chain: Anvil, rail: BaseRail, pay_to: str
) -> None:
    """All ask for the next nonce at the same moment; those that are too late take another.

    Two of one nonce are sometimes accepted both, when the later one pays more for its gas: it replaces the other, which
    is signed anew a second later.
    """
    rails = [rail, *(base_rail(chain.url, USDC, pay_to, GAS_KEY) for _ in range(3))]
    async with AsyncExitStack() as stack:
        for other in rails[1:]:
            stack.push_async_callback(other.close)
        services = [service([each], vectoll.store, timeout_s=3) for each in rails] * 4
        payers = [Account.create() for _ in services]
        for each in payers:
            chain.fund(each.address, TEN)
        payments = [header(authorize(each, pay_to, TEN)) for each in payers]
        calls = (s.top_ups.top_up(p) for s, p in zip(services, payments, strict=True))
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, Outcome | PaymentOutcomeUnknown)
        async with asyncio.timeout(30):
            while sum([await vectoll.balance(each.address.lower()) for each in payers]) < usd("160"):
                await vectoll.top_ups.reconcile()
    assert chain.usdc(pay_to) == 16 * TEN
    assert [await vectoll.balance(each.address.lower()) for each in payers] == [usd("10")] * 16


async def test_a_nonce_that_others_are_quicker_to_use_ten_times_is_no_reason_to_fail(
    vectoll: Service, rail: BaseRail, payer: LocalAccount, pay_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where many gateways share a key."""
    await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    nonces, late = rail._nonces, iter([0] * 10)
    counted = nonces._pending

    async def pending() -> int:
        nonces._ours = 0  # nor does it know better by itself
        stale = next(late, None)
        return await counted() if stale is None else stale

    monkeypatch.setattr(nonces, "_pending", pending)
    await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    assert next(late, None) is None
    assert await vectoll.balance(payer.address.lower()) == usd("20")


async def test_a_transaction_whose_nonce_somebody_else_used_is_signed_anew(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """It was taken by a node and dropped again; then the key sent something else with the same nonce."""
    intent = await submitted_unmined(vectoll, chain, header(authorize(payer, pay_to, TEN)))
    chain.rpc("anvil_dropTransaction", intent.tx)
    chain.rpc("anvil_setNonce", GAS, hex(chain.transactions_of(GAS) + 1))
    chain.set_automine(True)
    [again] = await vectoll.top_ups.reconcile()
    assert again.state is IntentState.SUBMITTING
    assert again.tx is not None
    assert chain.receipt(again.tx)["status"] == "0x1"
    changed = await vectoll.top_ups.reconcile()
    assert [i.state for i in changed] == [IntentState.CREDITED]
    assert changed[0].tx != intent.tx
    assert chain.usdc(pay_to) == TEN
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_client_whose_transaction_was_replaced_waits_a_second_for_another_one(
    vectoll: Service, chain: Anvil, rail: BaseRail, payer: LocalAccount, pay_to: str
) -> None:
    """Another gateway with the same key was quicker to use its nonce."""
    chain.set_automine(False)
    waiting = asyncio.create_task(vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN))))
    async with asyncio.timeout(5):
        while not chain.rpc("txpool_content")["pending"]:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.02)
    first = await open_intent(vectoll)
    chain.rpc("anvil_dropTransaction", first.tx)
    chain.rpc("anvil_setNonce", GAS, hex(chain.transactions_of(GAS) + 1))
    chain.set_automine(True)
    outcome = await asyncio.wait_for(waiting, 3)
    assert outcome.intent.tx != first.tx
    assert chain.usdc(pay_to) == TEN
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_the_settlement_keys_funds_are_known(rail: BaseRail) -> None:
    assert Decimal("0.9") < await rail.funds() <= 1


async def test_a_client_that_goes_away_is_credited_all_the_same(
    vectoll: Service, rail: BaseRail, payer: LocalAccount, pay_to: str
) -> None:
    verified, verify = asyncio.Event(), rail.verify

    async def verify_and_tell(payment: Payment) -> int:
        verified.set()
        return await verify(payment)

    rail.verify = verify_and_tell  # type: ignore[method-assign]
    request = asyncio.create_task(vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN))))
    await asyncio.wait_for(verified.wait(), 5)
    request.cancel()
    await vectoll.top_ups.close()
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_node_that_quotes_an_absurd_gas_price_is_not_believed(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(60 * 10**9))
    chain.mine()
    with pytest.raises(RailUnavailable):
        await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    assert chain.usdc(pay_to) == 0


async def test_gas_that_becomes_dearer_while_a_payment_is_valid_does_not_hold_up_the_payments_behind_it(
    vectoll: Service, rail: BaseRail, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    def mine_at(base_fee: int) -> None:
        chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
        chain.mine()

    mine_at(10**9)
    chain.set_automine(False)
    quick = service([rail], vectoll.store, timeout_s=0.3)
    for _ in range(2):
        with pytest.raises(PaymentOutcomeUnknown):
            await quick.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
        mine_at(16 * 10**9)
    assert chain.usdc(pay_to) == 2 * TEN


async def test_a_settlement_key_with_little_ether_pays_at_the_present_price(
    chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    key = bytes([7]) * 32
    chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(10**9))
    chain.mine()
    chain.rpc("anvil_setBalance", Account.from_key(key).address, hex(4 * 10**9 * 400_000))
    rail = base_rail(chain.url, USDC, pay_to, key)
    vectoll = service([rail], MemoryStore())
    assert (await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))).is_new
    await rail.close()


async def test_a_settlement_key_without_ether_is_found_out_before_anything_is_sent(
    chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    rail = base_rail(chain.url, USDC, pay_to, bytes([8]) * 32)
    vectoll = service([rail], MemoryStore())
    with pytest.raises(RailUnavailable):
        await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    await rail.close()


async def test_a_contract_wallet_pays(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    wallet = chain.deploy("Wallet", "address", payer.address)
    chain.fund(wallet, TEN)
    payload = authorize(payer, pay_to, TEN, holder=wallet)
    assert (await vectoll.top_ups.top_up(header(payload))).intent.payer == wallet.lower()
    assert await vectoll.balance(wallet.lower()) == usd("10")


HEAVY = "614e205b600190038060035750" + "631626ba7e60e01b60005260206000f3"
"""A wallet that says yes to everything, after work for 520,000 gas."""
TWO_FACED = "3a15600657fe5b" + "631626ba7e60e01b60005260206000f3"
"""One that says yes where gas costs nothing, which is in a simulation, and burns all of it elsewhere."""
WILLING = "631626ba7e60e01b60005260206000f3"


async def pays_from(wallet: str, vectoll: Service, pay_to: str) -> str:
    payload = authorize(Account.create(), pay_to, TEN, holder=wallet) | {"signature": f"0x{'ab' * 66}"}
    return await refused(vectoll, header(payload))


@pytest.mark.parametrize("code", [HEAVY, TWO_FACED])
async def test_a_wallet_that_fails_with_the_real_transactions_gas_fails_before_it_is_sent(
    vectoll: Service, chain: Anvil, pay_to: str, code: str
) -> None:
    wallet, sent = Account.create().address, chain.transactions_of(GAS)
    chain.rpc("anvil_setCode", wallet, f"0x{code}")
    chain.fund(wallet, TEN)
    assert await pays_from(wallet, vectoll, pay_to) in {"simulation_failed", "invalid_signature"}
    assert chain.transactions_of(GAS) == sent


async def test_a_wallet_whose_payment_reverted_pays_no_more_until_that_has_lapsed(
    vectoll: Service, chain: Anvil, pay_to: str
) -> None:
    """It knows a simulation in a way of its own, and would burn our gas each time."""
    wallet = Account.create().address
    chain.rpc("anvil_setCode", wallet, f"0x{WILLING}")
    chain.fund(wallet, 9 * TEN)
    payload = authorize(Account.create(), pay_to, TEN, holder=wallet) | {"signature": f"0x{'ab' * 66}"}
    await submitted_unmined(vectoll, chain, header(payload))
    chain.rpc("anvil_setCode", wallet, "0xfe")
    chain.set_automine(True)
    chain.mine()
    assert await vectoll.top_ups.reconcile() == []
    chain.rpc("anvil_setCode", wallet, f"0x{WILLING}")
    assert await pays_from(wallet, vectoll, pay_to) == "earlier_payment_failed"
    chain.mine(4, seconds=400)
    await vectoll.top_ups.reconcile()
    assert [i.state for i in await vectoll.top_ups.reconcile()] == [IntentState.FAILED]


def counterfactual(chain: Anvil, owner: LocalAccount) -> tuple[str, str, str]:
    """A wallet's address before it is there, the factory that makes it, and the call that does."""
    factory = chain.deploy("Factory")
    asked = {"to": factory, "data": call_data("Factory", "addressOf(address)", owner.address)}
    address = to_checksum_address(f"0x{chain.rpc('eth_call', asked, 'latest')[-40:]}")
    return address, factory, call_data("Factory", "deploy(address)", owner.address)


async def test_a_wallet_that_is_not_deployed_is_told_so_and_pays_once_it_is(
    vectoll: Service, chain: Anvil, payer: LocalAccount, pay_to: str
) -> None:
    """ERC-6492: the token asks the wallet itself, in code that does not exist yet; the chain refuses, not we."""
    wallet, factory, deployment = counterfactual(chain, payer)
    chain.fund(wallet, TEN)
    payload = authorize(payer, pay_to, TEN, holder=wallet)
    plain = bytes.fromhex(payload["signature"][2:])
    wrapped = erc6492(factory, deployment, plain)
    payment = header(payload | {"signature": f"0x{wrapped.hex()}"})
    with pytest.raises(AssertionError, match="ECRecover: invalid signature length"):
        chain.rpc("eth_call", {"to": USDC, "data": transfer_call(payload | {"signature": wrapped.hex()})})
    assert await refused(vectoll, payment) == "wallet_not_deployed"
    assert chain.usdc(pay_to) == 0
    chain.send(factory, deployment)
    assert (await vectoll.top_ups.top_up(payment)).intent.payer == wallet.lower()
    assert chain.usdc(pay_to) == TEN
    assert await vectoll.balance(wallet.lower()) == usd("10")


async def test_a_broken_wrapping_is_an_invalid_signature(
    vectoll: Service, payer: LocalAccount, pay_to: str
) -> None:
    payload = authorize(payer, pay_to, TEN)
    for body in (b"", b"\xff" * 96, bytes.fromhex(payload["signature"][2:])):
        changed = payload | {"signature": f"0x{(body + bytes.fromhex('6492' * 16)).hex()}"}
        assert await refused(vectoll, header(changed)) == "invalid_signature"


async def test_one_wallet_starts_at_most_ten_top_ups_a_minute(vectoll: Service, pay_to: str) -> None:
    poor = Account.create()
    for _ in range(10):
        assert await refused(vectoll, header(authorize(poor, pay_to, TEN))) == "insufficient_funds"
    with pytest.raises(RateLimited):
        await vectoll.top_ups.top_up(header(authorize(poor, pay_to, TEN)))
