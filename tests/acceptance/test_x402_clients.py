"""Unmodified wallet clients against a real server, with a real chain behind it."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from eth_account import Account
from solders.keypair import Keypair
from tests.acceptance.shop import PAY_TO, SELLER, TEN, Shop, buyer, key_of, open_shop

from vectoll.domain.siwx import BASE, SOLANA


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def paying_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from open_shop(tmp_path_factory.mktemp("paying"), pay_on_inference=True)


def test_venice_x402_client_tops_up_embeds_and_reads_its_account(shop: Shop) -> None:
    before = shop.evm.usdc(PAY_TO)
    account = buyer(shop, TEN)
    out = shop.node("venice.mjs", key_of(account), "all")
    assert "error" not in out, out
    assert out["afterTopUp"] == 10
    assert out["dims"] == 384
    assert shop.evm.usdc(PAY_TO) - before == TEN
    spent = out["tokens"] * 0.0125 / 1e6
    assert out["balance"]["balanceUsd"] == pytest.approx(10 - spent, abs=1e-9)
    assert out["balance"]["canConsume"] is True
    history = out["transactions"]
    assert [entry["type"] for entry in history["transactions"]] == ["CHARGE", "TOP_UP"]
    assert history["transactions"][1]["amount"] == 10
    assert history["pagination"] == {"limit": 10, "offset": 0, "hasMore": False}


def test_venice_x402_client_with_auto_top_up_pays_once(shop: Shop) -> None:
    account = buyer(shop, 5 * TEN)
    out = shop.node("venice.mjs", key_of(account), "auto")
    assert "error" not in out, out
    assert [entry.rpartition("/")[2] for entry in out["requests"][:4]] == [
        "embeddings 402",
        "top-up 402",
        "top-up 200",
        "embeddings 200",
    ]
    assert shop.evm.usdc(account.address) == 4 * TEN, "one payment"


def test_venice_x402_client_without_credit_is_told_what_is_missing(shop: Shop) -> None:
    out = shop.node("venice.mjs", key_of(Account.create()), "embed")
    assert out["error"]["code"] == "INSUFFICIENT_BALANCE"
    assert out["error"]["details"] == {"currentBalance": 0, "suggestedAmount": 10}


def test_the_script_that_the_spec_prints_signs_in_and_once(shop: Shop) -> None:
    out = shop.node("siwe-script.mjs", key_of(Account.create()))
    assert out["first"]["status"] == 200
    assert out["first"]["body"]["data"]["balanceUsd"] == 0
    assert (out["again"]["status"], out["again"]["body"]["code"]) == (401, "X402_SIGN_IN_REPLAYED")


def test_x402_fetch_pays_on_inference_in_one_call(paying_shop: Shop) -> None:
    account = buyer(paying_shop, TEN)
    out = paying_shop.node("x402-fetch.mjs", key_of(account))
    assert out["requests"] == [402, 200], out
    assert out["dims"] == 384
    assert out["settled"]["success"] is True
    assert out["settled"]["payer"] == account.address.lower()
    assert paying_shop.evm.usdc(account.address) == TEN // 2, "the minimum, $5"
    assert out["remaining"].startswith("4.99")


def test_x402_fetch_is_refused_where_inference_takes_no_payments(shop: Shop) -> None:
    account = buyer(shop, TEN)
    out = shop.node("x402-fetch.mjs", key_of(account))
    assert out["requests"] == [402, 400]
    assert f"{shop.url}/api/v1/x402/top-up" in out["error"]
    assert shop.evm.usdc(account.address) == TEN


def test_the_sign_in_extension_of_x402_spends_credit_on_both_chains(shop: Shop) -> None:
    evm, solana = Account.create(), Keypair()
    for wallet in (evm.address.lower(), str(solana.pubkey())):
        shop.vectoll.run("credit", "add", "--account", wallet, "--usd", "1", "--create")
    out = shop.node("siwx-fetch.mjs", key_of(evm), bytes(solana).hex())
    for name in ("evm", "solana"):
        assert out[name]["statuses"] == [402, 200], out
        assert out[name]["dims"] == 384


VENICE_PY_WARNS = pytest.mark.filterwarnings("ignore:pydantic-settings is not installed")


def venice_py() -> tuple[Any, Any, Any]:
    """Its dependencies warn of themselves when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from venice_ai import VeniceClient
        from venice_ai.auth.x402 import X402Auth
        from venice_ai.auth.x402_solana import SolanaX402Auth
    return VeniceClient, X402Auth, SolanaX402Auth


async def account_of(client: Any, auth: Any) -> tuple[float, list[str]]:
    balance = await client.x402.balance(auth=auth)
    transactions = await client.x402.transactions(auth=auth, limit=5)
    return float(balance.data.balanceUsd), [str(entry.type) for entry in transactions.data.transactions]


@VENICE_PY_WARNS
async def test_venice_py_tops_up_from_an_evm_wallet(shop: Shop) -> None:
    client_type, evm_auth, _ = venice_py()
    account = buyer(shop, TEN // 2)
    async with client_type(api_key="x", base_url=f"{shop.url}/api/v1") as client:
        auth = evm_auth(private_key=key_of(account))
        result = await client.x402.top_up_with(auth=auth, amount_usdc=5.0)
        assert float(result.data.amountCredited) == 5
        assert await account_of(client, auth) == (5, ["TOP_UP"])
    assert shop.evm.usdc(account.address) == 0


@VENICE_PY_WARNS
async def test_venice_py_tops_up_from_a_solana_wallet(shop: Shop) -> None:
    client_type, _, solana_auth = venice_py()
    keypair = Keypair()
    shop.svm.fund(keypair.pubkey(), usdc=TEN // 2)
    async with client_type(api_key="x", base_url=f"{shop.url}/api/v1") as client:
        auth = solana_auth(private_key=str(keypair))
        result = await client.x402.top_up_with_solana(auth=auth, amount_usdc=5.0, rpc_url=shop.svm.url)
        assert result.data.walletAddress == str(keypair.pubkey())
        assert await account_of(client, auth) == (5, ["TOP_UP"])
    assert shop.svm.usdc(keypair.pubkey()) == 0


def test_the_ledger_equals_the_chain(shop: Shop) -> None:
    credited = shop.vectoll.json("payments", "list", "--state", "credited")
    assert sum(p["usd"] for p in credited if p["network"] == BASE) * 10**6 == shop.evm.usdc(PAY_TO)
    assert sum(p["usd"] for p in credited if p["network"] == SOLANA) * 10**6 == shop.svm.usdc(SELLER.pubkey())
    assert shop.vectoll.json("payments", "list", "--state", "unknown") == []
