"""A remote facilitator that is slow, silent or lying: the chain alone says what became of the money."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from eth_account import Account
from solders.keypair import Keypair
from solders.token.associated import get_associated_token_address
from tests.chains.anvil import USDC, Anvil, authorize, run_anvil, transfer_call
from tests.chains.svm import MINT, Svm, pay, run_svm
from tests.integration.payments import Service, base_option, encode, header, service

from vectoll.adapters.chains.rpc import JsonRpc, RpcError
from vectoll.adapters.payments.eip3009 import Eip3009
from vectoll.adapters.payments.facilitator import FacilitatorRail
from vectoll.adapters.payments.spl import Spl
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.domain.money import usd
from vectoll.domain.payments import IntentState, PaymentOption, PaymentOutcomeUnknown, RailUnavailable
from vectoll.domain.payments_solana import parse_transfer
from vectoll.domain.siwx import SOLANA

TEN = 10_000_000


@dataclass
class Facilitator:
    """Settles on the test's chain, and answers what the test wants."""

    settles: bool = True
    answers: bool = True
    claims: dict[str, Any] = field(default_factory=lambda: {"success": True, "transaction": "0x00"})
    seen: list[Any] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    settle: Any = None

    async def handle(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers.get("authorization"))
        body = await request.json()
        self.seen.append(body)
        if self.settles:
            await asyncio.to_thread(self.settle, body["paymentPayload"]["payload"])
        if not self.answers:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(self.claims)


@pytest.fixture(scope="module")
def evm() -> Iterator[Anvil]:
    with run_anvil() as chain:
        yield chain


@pytest.fixture(scope="module")
def svm() -> Iterator[Svm]:
    with run_svm() as chain:
        yield chain


@pytest.fixture
async def facilitator() -> AsyncIterator[tuple[Facilitator, str]]:
    facilitator = Facilitator()
    app = web.Application()
    app.router.add_post("/x402/settle", facilitator.handle)
    async with TestServer(app) as server:
        yield facilitator, str(server.make_url("/x402"))


@pytest.fixture
def pay_to() -> str:
    return str(Account.create().address)


@pytest.fixture
async def vectoll(evm: Anvil, facilitator: tuple[Facilitator, str], pay_to: str) -> AsyncIterator[Service]:
    double, url = facilitator
    double.settle = lambda payload: evm.send(USDC, transfer_call(payload))
    rpc = JsonRpc(evm.url)
    token = Eip3009(rpc, base_option(USDC, pay_to), confirmations=1)
    rail = FacilitatorRail(url, {"Authorization": "Bearer secret"}, token, rpc)
    yield service([rail], MemoryStore(), timeout_s=0.5)
    await rail.close()


async def test_a_facilitator_settles_and_the_chain_is_believed(
    vectoll: Service, evm: Anvil, facilitator: tuple[Facilitator, str], pay_to: str
) -> None:
    payer = Account.create()
    evm.fund(payer.address, TEN)
    payload = authorize(payer, pay_to, TEN)
    document = {"x402Version": 2, "scheme": "exact", "network": "base", "payload": payload}
    outcome = await vectoll.top_ups.top_up(encode(document))
    assert outcome.intent.tx != "0x00", "the hash is the chain's own"
    assert await vectoll.balance(payer.address.lower()) == usd("10")
    sent = facilitator[0].seen[0]
    assert sent["x402Version"] == sent["paymentPayload"]["x402Version"] == 2
    assert sent["paymentRequirements"] == sent["paymentPayload"]["accepted"]
    assert sent["paymentRequirements"]["amount"] == str(TEN)
    assert sent["paymentRequirements"]["payTo"] == pay_to
    assert facilitator[0].authorizations == ["Bearer secret"]


@pytest.mark.parametrize("claims", [{"success": False, "errorReason": "timeout"}, {}])
async def test_money_that_moved_is_credited_whatever_the_facilitator_says(
    vectoll: Service, evm: Anvil, facilitator: tuple[Facilitator, str], pay_to: str, claims: dict[str, Any]
) -> None:
    facilitator[0].claims = claims
    facilitator[0].answers = bool(claims)
    payer = Account.create()
    evm.fund(payer.address, TEN)
    await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    assert await vectoll.balance(payer.address.lower()) == usd("10")


async def test_a_claimed_success_without_money_is_no_credit(
    vectoll: Service, evm: Anvil, facilitator: tuple[Facilitator, str], pay_to: str
) -> None:
    facilitator[0].settles = False
    payer = Account.create()
    evm.fund(payer.address, TEN)
    with pytest.raises(PaymentOutcomeUnknown):
        await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN)))
    assert await vectoll.balance(payer.address.lower()) == 0
    assert len(facilitator[0].seen) == 1
    await vectoll.top_ups.reconcile()
    assert len(facilitator[0].seen) == 1, "never asked to settle twice"
    assert (await vectoll.store.payments.list())[0].state is IntentState.UNKNOWN


async def test_a_facilitator_that_is_not_there_was_sent_nothing_and_the_payment_may_come_again(
    vectoll: Service, evm: Anvil, pay_to: str
) -> None:
    payer = Account.create()
    evm.fund(payer.address, TEN)
    payment = header(authorize(payer, pay_to, TEN))
    rpc = JsonRpc(evm.url)
    token = Eip3009(rpc, base_option(USDC, pay_to), confirmations=1)
    nowhere = service([FacilitatorRail("http://127.0.0.1:1", {}, token, rpc)], vectoll.store)
    with pytest.raises(RailUnavailable):
        await nowhere.top_ups.top_up(payment)
    assert (await vectoll.store.payments.list())[0].state is IntentState.FAILED
    assert (await vectoll.top_ups.top_up(payment)).is_new
    assert await vectoll.balance(payer.address.lower()) == usd("10")
    await rpc.close()


@pytest.mark.parametrize("allowed", [1, 10, 700])
async def test_a_node_that_shows_logs_of_few_blocks_at_a_time_shows_them_all_the_same(
    vectoll: Service,
    evm: Anvil,
    facilitator: tuple[Facilitator, str],
    pay_to: str,
    allowed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payer, double = Account.create(), facilitator[0]
    evm.fund(payer.address, 2 * TEN)
    real_call, refused = JsonRpc.call, []

    def settle_among_others(payload: dict[str, Any]) -> None:
        evm.mine(100)
        evm.send(USDC, transfer_call(payload))
        evm.mine(20)

    async def refuse_many(rpc: JsonRpc, method: str, *params: Any) -> Any:
        if method == "eth_getLogs":
            blocks = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
            if blocks > allowed:
                refused.append(blocks)
                raise RpcError(-32600, "up to a few block range")
        return await real_call(rpc, method, *params)

    double.settle = settle_among_others
    monkeypatch.setattr(JsonRpc, "call", refuse_many)
    await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN, now=evm.now())))
    learnt = len(refused)
    await vectoll.top_ups.top_up(header(authorize(payer, pay_to, TEN, now=evm.now())))
    assert await vectoll.balance(payer.address.lower()) == usd("20")
    assert len(refused) - learnt <= 1, "what worked is remembered"


@pytest.mark.parametrize("crowd", [0, 150])
async def test_on_solana_the_message_is_found_although_the_signature_is_the_facilitators(
    svm: Svm, facilitator: tuple[Facilitator, str], crowd: int
) -> None:
    """Also where others have named the payer's address in many transactions since."""
    double, url = facilitator
    fee, payer, seller = Keypair(), Keypair(), Keypair().pubkey()
    svm.fund(fee.pubkey(), lamports=10**9)
    svm.fund(payer.pubkey(), usdc=TEN)
    account = svm.fund(seller)

    def settle(payload: dict[str, str]) -> None:
        transfer = parse_transfer(_decode(payload["transaction"]))
        raw = transfer.signed_by_fee_payer(bytes(fee.sign_message(transfer.message)))
        svm.rpc("sendTransaction", _encode(raw), {})

    def settle_in_a_crowd(payload: dict[str, str]) -> None:
        settle(payload)
        svm.rpc("test_crowd", str(payer.pubkey()), crowd)

    double.settle, double.answers = settle_in_a_crowd, False
    assert account == str(get_associated_token_address(seller, MINT))
    option = PaymentOption(SOLANA, str(MINT), str(seller), {"feePayer": str(fee.pubkey())}, account)
    rpc = JsonRpc(svm.url)
    rail = FacilitatorRail(url, {}, Spl(rpc, option), rpc)
    vectoll = service([rail], MemoryStore())
    payment = {"transaction": pay(payer, seller, fee.pubkey(), TEN, svm.blockhash())}
    document = {"x402Version": 2, "accepted": {"scheme": "exact", "network": SOLANA}, "payload": payment}
    outcome = await vectoll.top_ups.top_up(encode(document))
    assert outcome.intent.state is IntentState.CREDITED
    assert svm.usdc(seller) == TEN
    await rail.close()


def _decode(text: str) -> bytes:
    return base64.b64decode(text)


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
