"""A node that answers nonsense is a node that does not answer: never a defect of ours, never a credit."""

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.chains.svm import MINT
from tests.wallets import OPTION, Wallet

from vectoll.adapters.chains.rpc import JsonRpc, RpcError, _result
from vectoll.adapters.chains.secp256k1 import SigningKey
from vectoll.adapters.payments.base import BaseRail
from vectoll.adapters.payments.eip3009 import Eip3009
from vectoll.adapters.payments.spl import Spl
from vectoll.core.payment_header import parse_payment_header
from vectoll.domain.payments import Arrived, Intent, IntentState, Payment, PaymentOption, PaymentRefused
from vectoll.domain.payments_solana import SolanaTransfer
from vectoll.domain.siwx import SOLANA
from vectoll.domain.wallets import Family, WalletAddress, base58_decode, base58_encode
from vectoll.ports.clock import SystemClock
from vectoll.ports.wallets import RpcSilent, RpcUnavailable

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["0x", "0x1", "0xzz", "", "finalized", "0x" + "00" * 32, "0x" + "00" * 31 + "01"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "value",
                    "err",
                    "number",
                    "timestamp",
                    "status",
                    "logs",
                    "blockNumber",
                    "transactionHash",
                    "meta",
                    "transaction",
                    "message",
                    "accountKeys",
                    "confirmationStatus",
                    "signature",
                    "preTokenBalances",
                    "postTokenBalances",
                    "baseFeePerGas",
                    "blockTime",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)


class Babbling(JsonRpc):
    """Answers each call with the next thing that it was given."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__("http://127.0.0.1:1")
        self._answers = answers

    async def call(self, method: str, *params: object) -> Any:
        return self._answers.pop(0) if self._answers else None


def evm_payment() -> Payment:
    return parse_payment_header(Wallet().payment()["payment-signature"], [OPTION])


ACCOUNT = base58_encode(bytes([5]) * 32)
SOLANA_OPTION = PaymentOption(SOLANA, str(MINT), base58_encode(bytes([4]) * 32), {}, ACCOUNT)


def solana_payment() -> Payment:
    payer = WalletAddress(Family.SOLANA, base58_encode(bytes([2]) * 32))
    return Payment(
        SOLANA_OPTION,
        SolanaTransfer(
            payer=payer,
            value=5_000_000,
            fee_payer=bytes([1]) * 32,
            mint=base58_decode(str(MINT)),
            source=bytes([3]) * 32,
            destination=base58_decode(ACCOUNT),
            decimals=6,
            blockhash=base58_encode(bytes(32)),
            message=b"message",
            signatures=(bytes(64), bytes(64)),
        ),
    )


def intent_of(payment: Payment, tx: str | None) -> Intent:
    now = SystemClock().now()
    return Intent(
        payment.id,
        payment.option.network,
        payment.payer.text,
        5_000_000,
        b"",
        IntentState.UNKNOWN,
        now,
        now,
        tx=tx,
    )


@FUZZ
@given(st.lists(JSON, max_size=8), st.booleans())
async def test_any_answers_of_an_evm_node(answers: list[Any], is_known: bool) -> None:
    payment = evm_payment()
    rpc = Babbling([*answers])
    rail = BaseRail(rpc, Eip3009(rpc, OPTION, 1), SigningKey(bytes([9]) * 32))
    with contextlib.suppress(RpcUnavailable):
        assert not isinstance(
            await rail.look(payment, intent_of(payment, "0x00" if is_known else None)), Arrived
        )
    rpc._answers = [*answers]
    with contextlib.suppress(RpcUnavailable):
        assert isinstance(await rail.balance(payment), int)
    rpc._answers = [*answers]
    with contextlib.suppress(RpcUnavailable, PaymentRefused):
        assert await rail.verify(payment) >= 0


@FUZZ
@given(st.lists(JSON, max_size=8), st.booleans())
async def test_any_answers_of_a_solana_node(answers: list[Any], is_known: bool) -> None:
    payment = solana_payment()
    spl = Spl(Babbling([*answers]), SOLANA_OPTION)
    with contextlib.suppress(RpcUnavailable):
        assert not isinstance(
            await spl.look(payment, intent_of(payment, "sig" if is_known else None)), Arrived
        )
    with contextlib.suppress(RpcUnavailable):
        assert isinstance(await Spl(Babbling([*answers]), SOLANA_OPTION).balance(payment), int)
    with contextlib.suppress(RpcUnavailable, PaymentRefused):
        await Spl(Babbling([*answers]), SOLANA_OPTION).verify(payment)


@pytest.mark.parametrize("raw", [b'{"result":' + b"[" * 1500, b'{"result":"\xff"}', b"", b"[]", b"{}"])
def test_what_is_not_json_rpc_is_no_answer(raw: bytes) -> None:
    with pytest.raises(RpcUnavailable):
        _result(raw)


async def test_an_endpoint_that_is_not_there_is_silent() -> None:
    rpc = JsonRpc("http://127.0.0.1:1")
    with pytest.raises(RpcSilent):
        await rpc.call("eth_chainId")
    await rpc.close()


@pytest.mark.parametrize(
    "message", ["execution reverted", "out of gas", "EVM error OutOfGas", "invalid opcode: INVALID"]
)
def test_code_that_fails_is_an_answer(message: str) -> None:
    assert RpcError(-32000, message).is_revert
    assert not RpcError(-32000, "header not found").is_revert


@pytest.mark.parametrize("error", ["Pausable: paused", "Blacklistable: account is blacklisted"])
async def test_a_token_that_is_paused_says_nothing_about_the_payment(error: str) -> None:
    from vectoll.adapters.payments.eip3009 import _refusal

    assert _refusal(error).reason == "simulation_failed"
