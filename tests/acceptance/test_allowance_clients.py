"""Unmodified clients spend a daily allowance, staked or granted, and see it in the neighbours' shapes."""

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from eth_account import Account
from eth_account.messages import encode_defunct
from openai import OpenAI
from tests.acceptance.shop import FEE, GAS, PAY_TO, Shop, key_of, open_shop
from tests.chains.anvil import DIEM, Anvil, call_data
from tests.live import DIMS, MODEL, UNITS_PER_TOKEN, Vectoll
from tests.wallets import Wallet

SCHEMAS = yaml.safe_load((Path(__file__).parents[1] / "chains/account.schema.yaml").read_text())
STAKED, GRANTED = Wallet(Account.from_key(bytes([21]) * 32)), Wallet(Account.from_key(bytes([22]) * 32))
TINY = 2 * UNITS_PER_TOKEN
"""The granted allowance, in units: two tokens, less than any request."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from open_shop(tmp_path_factory.mktemp("allowance"), staking=True, prepare=prepare)


def prepare(vectoll: Vectoll, chain: Anvil) -> None:
    """One wallet has two tokens staked; the other one was granted a little, and has a dollar of credit."""
    vectoll.run("keys", "create", "--name", "known", "--account", STAKED.id)
    chain.send(DIEM, call_data("Staking", "set(address,uint256)", STAKED.address, 2 * 10**18))
    vectoll.run("credit", "add", "--account", GRANTED.id, "--usd", "1", "--create")
    per_day = str(Decimal(TINY).scaleb(-12))
    vectoll.run("allowance", "set", "--account", GRANTED.address, "--usd-per-day", per_day)


def cost(tokens: int) -> Decimal:
    return Decimal(tokens * UNITS_PER_TOKEN).scaleb(-12)


def shaped(answer: httpx.Response, schema: str) -> Any:
    """The answer, which is as the neighbours' schema draws it, with exact numbers."""
    assert answer.status_code == 200, answer.text
    jsonschema.validate(answer.json(), SCHEMAS[schema])
    return json.loads(answer.text, parse_float=Decimal)


def signed_in(shop: Shop, wallet: Wallet, path: str) -> httpx.Response:
    return httpx.get(f"{shop.url}/api/v1{path}", headers=wallet.sign_in(domain="127.0.0.1"))


def mint_key(shop: Shop, wallet: Wallet) -> str:
    """The wallet makes itself an API key."""
    url = f"{shop.url}/api/v1/api_keys/generate_web3_key"
    token = httpx.get(url).json()["data"]["token"]
    signature = bytes(wallet.account.sign_message(encode_defunct(text=token)).signature).hex()
    body = {
        "apiKeyType": "INFERENCE",
        "address": wallet.address,
        "token": token,
        "signature": f"0x{signature}",
    }
    return str(httpx.post(url, json=body).json()["data"]["apiKey"])


def test_venice_x402_client_spends_a_staked_allowance_without_any_credit(shop: Shop) -> None:
    out = shop.node("venice.mjs", key_of(STAKED.account), "embed")
    assert "error" not in out, out
    assert out["dims"] == DIMS
    assert out["requests"][0].endswith("embeddings 200")
    spent = cost(out["tokens"])
    assert (out["balance"]["balanceUsd"], out["balance"]["canConsume"]) == (0, True)
    assert out["balance"]["diemBalanceUsd"] == pytest.approx(float(2 - spent), abs=1e-12)
    entries = out["transactions"]["transactions"]
    assert [(entry["type"], entry["balanceAfter"]) for entry in entries][:1] == [("CHARGE", 0)]
    assert [entry["amount"] for entry in entries] == pytest.approx([float(-spent), float(spent)], abs=1e-12)

    balance = shaped(signed_in(shop, STAKED, f"/x402/balance/{STAKED.address}"), "WalletBalance")
    assert balance["data"]["diemBalanceUsd"] == 2 - spent
    history = shaped(signed_in(shop, STAKED, f"/x402/transactions/{STAKED.address}"), "WalletTransactions")
    assert history["data"]["currentBalance"] == 0


def test_the_openai_client_spends_a_granted_allowance_and_then_credit(shop: Shop) -> None:
    key = mint_key(shop, GRANTED)
    with OpenAI(base_url=f"{shop.url}/v1", api_key=key, max_retries=0) as client:
        tokens = [
            client.embeddings.create(model=MODEL, input=text).usage.total_tokens for text in ("one", "two")
        ]
    spent = [cost(n) for n in tokens]
    granted, left = Decimal(TINY).scaleb(-12), 1 - sum(spent) + Decimal(TINY).scaleb(-12)
    bearer = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{shop.url}/api/v1/billing", headers=bearer) as client:
        balance = shaped(client.get("/balance"), "BillingBalance")
        entries = shaped(client.get("/usage-history"), "UsageHistory")["data"]
        by_diem = shaped(client.get("/usage-history", params={"currency": "DIEM"}), "UsageHistory")["data"]
        text = client.get("/usage-history", headers={"accept": "text/csv"}).text
    assert (balance["consumptionCurrency"], balance["canConsume"]) == ("USD", True)
    assert balance["balances"]["diem"] == 0
    assert balance["balances"]["usd"] == left.quantize(Decimal("1e-6"), "ROUND_DOWN")
    assert [(entry["currency"], -entry["amount"]) for entry in entries] == [
        ("DIEM", granted),
        ("USD", spent[0] - granted),
        ("USD", spent[1]),
    ]
    assert sum(entry["units"] for entry in entries) == Decimal(sum(tokens)).scaleb(-6)
    assert by_diem == entries[:1]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["currency"], Decimal(row["amount"])) for row in rows] == [
        (entry["currency"], entry["amount"]) for entry in entries
    ]


def test_neither_log_nor_metrics_have_keys_urls_or_wallets(shop: Shop) -> None:
    log, metrics = shop.server.log.read_text(), httpx.get(f"{shop.url}/metrics").text
    assert "vectoll_settlement_funds" in metrics
    for secret in (GAS.key.hex(), str(FEE), shop.evm.url, shop.svm.url):
        assert secret.removeprefix("0x") not in log + metrics
    for wallet in (STAKED.id, GRANTED.id, PAY_TO):
        assert wallet.lower() not in metrics.lower()


def test_the_books_agree(shop: Shop) -> None:
    found = {each["account"]: each for each in shop.vectoll.json("allowance", "list")}
    assert found[STAKED.id]["staked_usd"] == 2
    assert found[GRANTED.id]["spent_today_usd"] == found[GRANTED.id]["granted_today_usd"]
    shop.vectoll.verify()
