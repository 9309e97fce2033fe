"""Wallets over HTTP: who gets which answer, and that no header breaks anything."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import jsonschema
import pytest
import yaml
from benchmarks.faults.documented import JSON, Documented
from eth_account.messages import encode_defunct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes import FakeServer
from tests.wallets import OPTION, PAY_TO, URL, FakeRail, Wallet, encode

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.metrics import PrometheusMetrics
from vectoll.adapters.wallets.evm import EvmSignatureVerifier
from vectoll.adapters.wallets.solana import SolanaSignatureVerifier
from vectoll.core.admission import Admission
from vectoll.core.auth import Authentication, KeyAuthenticator
from vectoll.core.signin import SiwxAuthenticator
from vectoll.core.topup import TopUps
from vectoll.core.topup_settle import Waiting
from vectoll.core.wallet_keys import WalletKeys
from vectoll.core.wallet_signatures import ContractWallets, WalletSignatures
from vectoll.domain.errors import Unavailable
from vectoll.domain.identity import Caller
from vectoll.domain.ids import AccountId, TransferId, new_id
from vectoll.domain.ledger import Balance, Transfer, TransferCode, system_account
from vectoll.domain.money import usd
from vectoll.domain.payments import Intent, Missing, Payment, Sighting
from vectoll.domain.siwx import SignInRules
from vectoll.domain.wallets import Family, WalletAddress
from vectoll.http.limits import LimitHeaders
from vectoll.http.payment_required import PaymentTerms
from vectoll.http.services import WalletServices
from vectoll.ports.wallets import ContractWalletVerifier, RpcUnavailable, SignatureVerifier
from vectoll.settings import LimitsSettings, Settings, X402Settings

EMBED = "/api/v1/embeddings"
BODY = {"model": "fake-model", "input": "hello world"}
SCHEMAS = yaml.safe_load((Path(__file__).parents[2] / "chains/payment_required.schema.yaml").read_text())
DISCOVERY, WALLET = SCHEMAS["X402InferencePaymentRequired"]["anyOf"]


class Shop:
    """The application with wallets switched on, over the in-memory stores."""

    def __init__(self, **x402: Any) -> None:
        limits = LimitsSettings(failures_before_block=0, requests_per_minute=0)
        self.fake = FakeServer(settings=Settings(limits=limits, x402=X402Settings(enabled=True, **x402)))
        self.rail, store, clock = FakeRail(), self.fake.store, self.fake.clock
        metrics = PrometheusMetrics()
        self.top_ups = TopUps(
            [self.rail], store.payments, store.ledger, MemoryRateLimiter(), clock, metrics=metrics.payments
        )
        verifiers: dict[Family, SignatureVerifier] = {
            Family.EVM: EvmSignatureVerifier(),
            Family.SOLANA: SolanaSignatureVerifier(),
        }
        rules = SignInRules(frozenset({"testserver"}), frozenset({OPTION.network}))
        signatures = WalletSignatures(verifiers)
        siwx = SiwxAuthenticator(rules, signatures, store.nonces, clock, metrics=metrics.payments)
        keys = WalletKeys("testserver", signatures, store.nonces, clock, metrics=metrics.payments)
        self.fake.app.services = replace(
            self.fake.services,
            auth=Authentication([siwx, KeyAuthenticator(store.keys, clock)]),
            metrics=metrics,
            wallets=WalletServices(PaymentTerms(URL, [OPTION]), self.top_ups, keys, store.history),
        )
        self.client = self.client_at("192.0.2.1")

    def client_at(self, address: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.fake.app, client=(address, 50_000))
        return httpx.AsyncClient(transport=transport, base_url=URL)

    async def credit(self, wallet: Wallet, dollars: str) -> None:
        now = datetime.now(UTC)
        account = AccountId(wallet.id)
        await self.fake.store.ledger.post(
            Transfer(
                TransferId(new_id("c")),
                system_account("credit", now),
                account,
                usd(dollars),
                TransferCode.CREDIT,
                now,
            )
        )

    async def embed(self, *headers: dict[str, str], path: str = EMBED) -> httpx.Response:
        merged = {name: value for each in headers for name, value in each.items()}
        return await self.client.post(path, json=BODY, headers=merged)

    async def top_up(self, headers: dict[str, str]) -> httpx.Response:
        return await self.client.post("/api/v1/x402/top-up", headers=headers)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    await shop.client.aclose()


@pytest.fixture
async def paying() -> AsyncIterator[Shop]:
    shop = Shop(pay_on_inference=True)
    yield shop
    await shop.client.aclose()


@pytest.fixture
def wallet() -> Wallet:
    return Wallet()


async def test_a_stranger_discovers_how_to_pay(shop: Shop) -> None:
    answer = await shop.embed()
    assert answer.status_code == 402
    jsonschema.validate(answer.json(), DISCOVERY)
    header = json.loads(base64.b64decode(answer.headers["payment-required"]))
    assert header["accepts"] == answer.json()["accepts"]
    assert header["resource"]["url"] == f"{URL}{EMBED}"


@pytest.mark.parametrize("host", ["[", "evil.example/a", "x?", "x/../y"])
async def test_what_is_to_be_paid_for_does_not_follow_from_the_host_header(shop: Shop, host: str) -> None:
    answer = await shop.top_up({"host": host})
    header = json.loads(base64.b64decode(answer.headers["payment-required"]))
    assert header["resource"]["url"] == f"{URL}/api/v1/x402/top-up"


async def test_a_stranger_on_the_openai_path_gets_openais_error_and_the_header(shop: Shop) -> None:
    answer = await shop.embed(path="/v1/embeddings")
    assert answer.status_code == 402
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("insufficient_quota", "payment_required")
    assert "Authorization: Bearer" in error["message"]
    assert "payment-required" in answer.headers


async def test_a_stranger_elsewhere_is_401_and_told_of_the_sign_in(shop: Shop) -> None:
    paths = ("/api/v1/billing/balance", "/v1/billing/balance", f"/api/v1/x402/balance/{Wallet().address}")
    for path in paths:
        answer = await shop.client.get(path)
        assert answer.status_code == 401
        assert "`Authorization: Bearer <API key>`" in answer.text
        assert "`SIGN-IN-WITH-X`" in answer.text


async def test_bad_credentials_are_401_and_never_a_request_to_pay(shop: Shop, wallet: Wallet) -> None:
    bad_key = await shop.embed({"authorization": "Bearer vtk_wrong"})
    bad_domain = await shop.embed(wallet.sign_in(domain="evil.com"))
    junk = await shop.embed({"x-sign-in-with-x": "junk"})
    assert [a.status_code for a in (bad_key, bad_domain, junk)] == [401, 401, 401]
    assert [a.json()["code"] for a in (bad_domain, junk)] == ["X402_SIGN_IN_DOMAIN", "X402_SIGN_IN_MALFORMED"]
    header = wallet.sign_in()
    await shop.embed(header)
    replayed = await shop.embed(header)
    assert (replayed.status_code, replayed.json()["code"]) == (401, "X402_SIGN_IN_REPLAYED")


@pytest.mark.parametrize("dollars", ["0", "0.09"])
async def test_a_wallet_with_too_little_credit_is_asked_for_more(
    shop: Shop, wallet: Wallet, dollars: str
) -> None:
    await shop.credit(wallet, dollars)
    answer = await shop.embed(wallet.sign_in())
    assert answer.status_code == 402
    jsonschema.validate(answer.json(), WALLET)
    assert answer.json()["currentBalanceUsd"] == float(dollars)
    assert "payment-required" in answer.headers


async def test_a_wallet_with_credit_is_served_and_told_what_is_left(shop: Shop, wallet: Wallet) -> None:
    await shop.credit(wallet, "1")
    answer = await shop.embed(wallet.sign_in())
    assert answer.status_code == 200
    tokens = answer.json()["usage"]["prompt_tokens"]
    assert (
        answer.headers["x-balance-remaining"] == f"{(10**6 * 10**6 - tokens * 12_500) // 10**6 / 10**6:.6f}"
    )


async def test_a_wallet_s_last_credit_buys_an_answer_that_can_be_asked_for_again(
    shop: Shop, wallet: Wallet
) -> None:
    await shop.credit(wallet, "0.10")
    first, again, another = [
        await shop.embed({**wallet.sign_in(), "idempotency-key": key}) for key in ("one", "one", "two")
    ]
    assert [answer.status_code for answer in (first, again, another)] == [200, 200, 402]
    assert again.content == first.content
    assert again.headers["x-balance-remaining"] == first.headers["x-balance-remaining"]


async def test_what_was_paid_is_delivered_also_when_nobody_can_say_what_is_left(
    shop: Shop, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.credit(wallet, "1")
    ledger = shop.fake.store.ledger
    read, charge = ledger.balance, ledger.charge

    async def charge_and_go_away(*used: Any) -> Transfer:
        monkeypatch.setattr(ledger, "balance", AsyncMock(side_effect=Unavailable("The database is away.")))
        return await charge(*used)

    monkeypatch.setattr(ledger, "charge", charge_and_go_away)
    answer = await shop.embed(wallet.sign_in())
    assert answer.status_code == 200
    assert "x-balance-remaining" not in answer.headers
    assert (await read(wallet.account)).balance < usd("1")


async def test_a_key_account_with_too_little_credit_gets_the_standard_error(shop: Shop) -> None:
    key = await shop.fake.open(dollars="0")
    answer = await shop.embed({"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["code"]) == (402, "INSUFFICIENT_BALANCE")
    assert "x-balance-remaining" not in answer.headers


def asks_contracts(shop: Shop, chain: ContractWalletVerifier, limiter: MemoryRateLimiter) -> None:
    """Sign-ins whose signature is no key's are judged by ``chain``."""
    siwx = SiwxAuthenticator(
        SignInRules(frozenset({"testserver"}), frozenset({OPTION.network})),
        WalletSignatures({Family.EVM: EvmSignatureVerifier()}, ContractWallets(chain, limiter)),
        shop.fake.store.nonces,
        shop.fake.clock,
    )
    shop.fake.app.services = replace(shop.fake.app.services, auth=Authentication([siwx]))


def contract_sign_in(wallet: Wallet, signature: str) -> dict[str, str]:
    payload = json.loads(base64.b64decode(wallet.sign_in()["sign-in-with-x"]))
    return {"sign-in-with-x": encode(payload | {"signature": signature})}


async def test_a_stranger_who_names_a_contract_wallet_locks_out_nobody_but_himself(
    shop: Shop, wallet: Wallet
) -> None:
    class Chain:
        asked = 0

        async def is_accepted_by(self, wallet: WalletAddress, text: str, signature: str, chain: str) -> bool:
            self.asked += 1
            return signature == "0xc0ffee"

    chain, limiter = Chain(), MemoryRateLimiter()
    asks_contracts(shop, chain, limiter)
    admission = Admission(limiter, LimitsSettings())
    shop.fake.app.services = replace(shop.fake.app.services, admission=admission)
    shop.fake.app._limits = LimitHeaders(admission)

    async def ask(ip: str, signature: str) -> int:
        async with shop.client_at(ip) as client:
            headers = contract_sign_in(wallet, signature)
            return (await client.post(EMBED, json=BODY, headers=headers)).status_code

    assert [await ask("192.0.2.66", "0x" + "00" * 65) for _ in range(40)] == [401] * 21 + [429] * 19
    assert chain.asked <= 21, "who is blocked makes the server ask nobody"
    assert await ask("192.0.2.1", "0xc0ffee") == 402, "let in, without credit"


@pytest.mark.parametrize("path", [EMBED, "/api/v1/billing/balance", "/api/v1/models"])
async def test_wallets_that_cannot_pay_sign_in_sixty_times_a_minute_from_one_address(
    shop: Shop, wallet: Wallet, path: str
) -> None:
    consumed = 0
    consume = shop.fake.store.nonces.consume

    async def count(*nonce: Any) -> bool:
        nonlocal consumed
        consumed += 1
        return await consume(*nonce)

    shop.fake.store.nonces.consume = count  # type: ignore[method-assign,assignment]
    await shop.credit(wallet, "1")

    async def ask(each: Wallet) -> int:
        if path == EMBED:
            return (await shop.embed(each.sign_in())).status_code
        return (await shop.client.get(path, headers=each.sign_in())).status_code

    assert await ask(wallet) == 200
    first = [await ask(Wallet()) for _ in range(120)]
    assert set(first) == {402 if path == EMBED else 200}
    assert [await ask(Wallet()) for _ in range(5)] == [429] * 5
    assert consumed == 121
    key = await shop.fake.open()
    assert (await shop.embed({"authorization": f"Bearer {key}"})).status_code == 200


async def test_wallets_that_can_pay_sign_in_as_often_as_they_like(shop: Shop, wallet: Wallet) -> None:
    await shop.credit(wallet, "1")
    assert {(await shop.embed(wallet.sign_in())).status_code for _ in range(130)} == {200}


async def test_a_sign_in_is_good_for_a_body_that_comes_slowly(
    shop: Shop, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at again, as a key is, it would be a replay."""
    monkeypatch.setattr("vectoll.http.entry.REMEMBERED_S", 0.0)
    await shop.credit(wallet, "1")
    assert (await shop.embed(wallet.sign_in())).status_code == 200


async def test_a_sign_in_wins_over_a_key(shop: Shop, wallet: Wallet) -> None:
    key = {"authorization": f"Bearer {await shop.fake.open()}"}
    assert (await shop.embed(key, wallet.sign_in())).status_code == 402, "the wallet's credit, not the key's"
    assert (await shop.embed(key, {"sign-in-with-x": "junk"})).status_code == 401


async def test_a_top_up_credits_and_its_replay_says_what_was_credited(shop: Shop, wallet: Wallet) -> None:
    payment = wallet.payment(12_345_678)
    first, again = await shop.top_up(payment), await shop.top_up(payment)
    assert first.status_code == again.status_code == 200
    data = first.json()["data"]
    assert again.json() == first.json()
    assert again.headers["payment-response"] == first.headers["payment-response"]
    assert data["walletAddress"] == wallet.id
    assert data["amountCredited"] == data["newBalance"] == 12.345678
    settled = json.loads(base64.b64decode(first.headers["payment-response"]))
    assert settled["success"] is True
    assert settled["payer"] == wallet.id
    assert len(shop.rail.settled) == 1


async def test_whoever_copies_a_settled_payment_learns_no_balance_and_its_payer_does(
    shop: Shop, wallet: Wallet
) -> None:
    await shop.credit(wallet, "4321")
    payment = wallet.payment()
    first = await shop.top_up(payment)
    assert first.json()["data"]["newBalance"] == 4326
    shop.client = shop.client_at("192.0.2.2")
    for stranger in (
        {},
        Wallet().sign_in(),
        wallet.sign_in(domain="evil.com"),
        {"authorization": "Bearer x"},
    ):
        answer = await shop.top_up(payment | stranger)
        assert answer.status_code == 200
        assert set(answer.json()["data"]) == {"walletAddress", "amountCredited", "paymentId"}
    assert (await shop.top_up(payment | wallet.sign_in())).json() == first.json()


async def test_who_asks_a_chain_in_vain_beside_a_settled_payment_hinders_only_himself(
    shop: Shop, wallet: Wallet
) -> None:
    class Chain:
        async def is_accepted_by(self, wallet: WalletAddress, text: str, signature: str, chain: str) -> bool:
            return signature == "0xc0ffee"

    payment = wallet.payment()
    first = await shop.top_up(payment)
    asks_contracts(shop, Chain(), MemoryRateLimiter())
    shop.client = shop.client_at("192.0.2.66")
    for _ in range(40):
        answer = await shop.top_up(payment | contract_sign_in(wallet, "0x" + "00" * 65))
        assert answer.status_code == 200
        assert "newBalance" not in answer.json()["data"]
    shop.client = shop.client_at("192.0.2.2")
    assert (await shop.top_up(payment | contract_sign_in(wallet, "0xc0ffee"))).json() == first.json()


@pytest.mark.parametrize("path", [EMBED, "/v1/embeddings", "/api/v1/x402/top-up"])
async def test_a_payment_whose_outcome_is_open_is_504_and_then_409_and_never_a_request_to_pay(
    paying: Shop, wallet: Wallet, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(payment: Payment, intent: Intent) -> Sighting:
        return Missing()

    monkeypatch.setattr(paying.rail, "look", look)
    monkeypatch.setattr(paying.top_ups._settlement, "_waiting", Waiting(timeout_s=0, poll_s=0))
    payment = wallet.payment()
    first, again = await paying.embed(payment, path=path), await paying.embed(payment, path=path)
    assert (first.status_code, again.status_code) == (504, 409)
    assert "PAYMENT_OUTCOME_UNKNOWN" in first.text.upper()
    assert "PAYMENT_IN_PROGRESS" in again.text.upper()
    assert "payment-required" not in {*first.headers, *again.headers}
    assert len(paying.rail.settled) == 1
    documented = Documented((await paying.client.get("/openapi.json")).json())
    for answer in (first, again):
        assert documented.problem_of("post", path, answer.status_code, JSON, answer.content) is None


@pytest.mark.parametrize("path", [EMBED, "/v1/embeddings"])
@pytest.mark.parametrize("pays", [True, False])
async def test_what_a_payment_or_a_wallet_is_answered_is_documented(path: str, *, pays: bool) -> None:
    shop, rich = Shop(pay_on_inference=pays), Wallet()
    await shop.credit(rich, "1")
    document = (await shop.client.get("/openapi.json")).json()
    documented = Documented(document)
    senders: dict[str, dict[str, str]] = {
        "nobody": {},
        "no payment": {"payment-signature": "!"},
        "too little": rich.payment(1),
        "a payment": rich.payment(),
        "a wallet": rich.sign_in(),
        "a wallet without credit": Wallet().sign_in(),
    }
    for who, headers in senders.items():
        answer = await shop.embed(headers, path=path)
        status = answer.status_code
        assert documented.problem_of("post", path, status, JSON, answer.content) is None, who
        promised = document["paths"][path]["post"]["responses"][str(status)]["headers"]
        told = {"x-balance-remaining", "payment-response", "payment-required"} & set(answer.headers)
        assert told <= set(promised), who
    await shop.client.aclose()


async def test_a_refused_payment_header_is_named_in_the_details(shop: Shop) -> None:
    answer = await shop.embed({"payment-signature": "!"})
    assert answer.status_code == 400
    assert answer.json()["details"]["PAYMENT-SIGNATURE"]["_errors"] == [answer.json()["error"]]


async def test_a_silent_chain_is_503_before_anything_is_sent(
    shop: Shop, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verify(payment: Payment) -> int:
        raise RpcUnavailable

    monkeypatch.setattr(shop.rail, "verify", verify)
    answer = await shop.top_up(wallet.payment())
    assert (answer.status_code, answer.json()["code"]) == (503, "X402_RAIL_UNAVAILABLE")
    assert shop.rail.settled == []


async def test_top_up_without_a_payment_says_how(shop: Shop) -> None:
    answer = await shop.top_up({"authorization": "Bearer x"})
    assert answer.status_code == 402
    jsonschema.validate(answer.json(), SCHEMAS["TopUpPaymentRequired"])
    assert "payment-required" in answer.headers


async def test_a_refused_payment_has_the_neighbours_shape(shop: Shop, wallet: Wallet) -> None:
    answer = await shop.top_up(wallet.payment(1))
    assert answer.status_code == 400
    assert answer.json()["error"] == "X402_INVALID_PAYMENT"
    assert answer.json()["details"] == {"reason": "amount_out_of_range"}


async def test_a_payment_on_embeddings_is_refused_by_default(shop: Shop, wallet: Wallet) -> None:
    answer = await shop.embed(wallet.payment())
    assert (answer.status_code, answer.json()["code"]) == (400, "PAYMENT_HEADER_NOT_ACCEPTED")
    assert f"{URL}/api/v1/x402/top-up" in answer.json()["error"]
    assert shop.rail.settled == []


async def test_a_payment_on_embeddings_tops_up_and_is_served_once(paying: Shop, wallet: Wallet) -> None:
    payment = wallet.payment()
    first, again = await paying.embed(payment), await paying.embed(payment)
    assert first.status_code == 200
    assert first.headers["x-balance-remaining"].startswith("4.99")
    assert "payment-response" in first.headers
    assert (again.status_code, again.json()["code"]) == (409, "PAYMENT_ALREADY_CREDITED")
    assert len(paying.rail.settled) == 1


@pytest.mark.parametrize("path", [EMBED, "/v1/embeddings"])
async def test_who_has_paid_is_told_so_also_where_the_request_itself_is_refused(
    paying: Shop, wallet: Wallet, path: str
) -> None:
    answer = await paying.client.post(path, json={"model": "none", "input": "a"}, headers=wallet.payment())
    assert answer.status_code in (400, 404)
    settled = json.loads(base64.b64decode(answer.headers["payment-response"]))
    assert (settled["success"], settled["payer"]) == (True, wallet.id)
    document = (await paying.client.get("/openapi.json")).json()
    promised = document["paths"][path]["post"]["responses"][str(answer.status_code)]["headers"]
    assert "payment-response" in promised


async def test_a_payment_that_was_topped_up_before_buys_nobody_in(paying: Shop, wallet: Wallet) -> None:
    """Its signature is on the chain for everybody to copy."""
    payment = wallet.payment()
    await paying.top_up(payment)
    assert (await paying.embed(payment)).status_code == 409


async def test_a_wallet_with_an_allowance_alone_is_served(shop: Shop, wallet: Wallet) -> None:
    await shop.fake.store.allowances.grant(AccountId(wallet.id), usd(1))
    answer = await shop.embed(wallet.sign_in())
    assert (answer.status_code, answer.headers["x-balance-remaining"]) == (200, "0.000000")
    balance = await shop.client.get(f"/api/v1/x402/balance/{wallet.address}", headers=wallet.sign_in())
    data = balance.json()["data"]
    assert (data["balanceUsd"], data["canConsume"]) == (0, True)
    assert 0.99 < data["diemBalanceUsd"] < 1


async def test_balance_and_history_are_the_wallets_own(shop: Shop, wallet: Wallet) -> None:
    await shop.top_up(wallet.payment(5_000_000))
    await shop.embed(wallet.sign_in())
    base = "/api/v1/x402"
    balance = await shop.client.get(f"{base}/balance/{wallet.address}", headers=wallet.sign_in())
    assert balance.status_code == 200
    assert balance.json()["data"]["canConsume"] is True
    url = f"{base}/transactions/{wallet.id}"
    page = (await shop.client.get(url, headers=wallet.sign_in())).json()["data"]
    charge, top_up = page["transactions"]
    assert (charge["type"], top_up["type"]) == ("CHARGE", "TOP_UP")
    assert charge["amount"] < 0
    assert charge["balanceAfter"] == page["currentBalance"] == balance.json()["data"]["balanceUsd"]
    assert (top_up["balanceAfter"], top_up["requestId"]) == (5, None)
    assert charge["modelId"] == "fake-model"
    second = await shop.client.get(url, params={"limit": 1, "offset": 1}, headers=wallet.sign_in())
    assert [t["type"] for t in second.json()["data"]["transactions"]] == ["TOP_UP"]
    first = await shop.client.get(url, params={"limit": 1}, headers=wallet.sign_in())
    assert first.json()["data"]["pagination"] == {"limit": 1, "offset": 0, "hasMore": True}
    for wrong in ("limit=0", "limit=101", "limit=x", "offset=-1", "offset=1e3"):
        assert (await shop.client.get(f"{url}?{wrong}", headers=wallet.sign_in())).status_code == 400


async def test_a_foreign_wallets_account_is_403_and_no_sign_in_401(shop: Shop, wallet: Wallet) -> None:
    for what in ("balance", "transactions"):
        url = f"/api/v1/x402/{what}/{Wallet().address}"
        assert (await shop.client.get(url, headers=wallet.sign_in())).status_code == 403
        assert (await shop.client.get(url)).status_code == 401
        bad = await shop.client.get(f"/api/v1/x402/{what}/nobody", headers=wallet.sign_in())
        assert bad.status_code == 400
        assert "details" in bad.json()


async def test_a_wallet_has_at_most_five_requests_in_flight(shop: Shop, wallet: Wallet) -> None:
    await shop.credit(wallet, "1")
    shop.fake.model.gate = asyncio.Event()
    running = [asyncio.create_task(shop.embed(wallet.sign_in())) for _ in range(5)]
    await shop.fake.model.started.wait()
    async with asyncio.timeout(5):
        while shop.fake.services.admission._in_flight.get(Caller.keyless(wallet.id), 0) < 5:  # noqa: ASYNC110 - counts, and tells nobody
            await asyncio.sleep(0)
    assert (await shop.embed(wallet.sign_in())).status_code == 429
    shop.fake.model.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*running)] == [200] * 5


async def test_requests_of_a_wallet_that_come_at_once_are_capped_too(
    shop: Shop, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the count and the work lies a look at the balance, which may have to wait for a commit."""
    await shop.credit(wallet, "1")
    ledger, arrived = shop.fake.store.ledger, asyncio.Barrier(10)
    look = ledger.balance

    async def look_together(account: AccountId) -> Balance:
        if not arrived.broken and shop.fake.model.gate is not None:
            await arrived.wait()
        return await look(account)

    monkeypatch.setattr(ledger, "balance", look_together)
    shop.fake.model.gate = asyncio.Event()
    running = [asyncio.create_task(shop.embed(wallet.sign_in())) for _ in range(10)]
    async with asyncio.timeout(5):
        while sum(task.done() for task in running) < 5:  # noqa: ASYNC110 - counts, and tells nobody
            await asyncio.sleep(0)
    await arrived.abort()
    shop.fake.model.gate.set()
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*running))
    assert statuses == [200] * 5 + [429] * 5


async def test_metrics_count_payments_and_refusals_and_name_nobody(shop: Shop, wallet: Wallet) -> None:
    payment = wallet.payment(12_000_000)
    for headers in (payment, payment, wallet.payment(1), {"payment-signature": "junk"}):
        await shop.top_up(headers)
    await shop.embed(wallet.sign_in(domain="evil.example"))
    await shop.embed({"sign-in-with-x": "junk"})
    await shop.client.post(WEB3, json=await web3_request(shop, wallet, token="anything"))
    text = (await shop.client.get("/metrics")).text
    for line in (
        'vectoll_top_ups_total{outcome="credited",rail="base"} 1.0',
        'vectoll_top_ups_total{outcome="repeated",rail="base"} 1.0',
        'vectoll_top_ups_total{outcome="refused",rail="base"} 1.0',
        'vectoll_top_ups_total{outcome="refused",rail="none"} 1.0',
        'vectoll_top_ups_credited_usd_total{rail="base"} 12.0',
        'vectoll_sign_ins_refused_total{code="X402_SIGN_IN_DOMAIN"} 1.0',
        'vectoll_sign_ins_refused_total{code="X402_SIGN_IN_MALFORMED"} 1.0',
        'vectoll_sign_ins_refused_total{code="X402_SIGN_IN_MESSAGE"} 1.0',
    ):
        assert line in text
    for secret in (wallet.id, wallet.address, PAY_TO, "evil.example", payment["payment-signature"]):
        assert secret.lower() not in text.lower()


async def test_without_payments_a_stranger_is_401_and_the_routes_are_404() -> None:
    fake = FakeServer()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake.app), base_url=URL) as client:
        assert (await client.post(EMBED, json=BODY)).status_code == 401
        assert (await client.post("/api/v1/x402/top-up")).status_code == 404


WEB3 = "/api/v1/api_keys/generate_web3_key"


async def web3_request(shop: Shop, wallet: Wallet, **changes: Any) -> dict[str, Any]:
    token = (await shop.client.get(WEB3)).json()["data"]["token"]
    signature = bytes(wallet.account.sign_message(encode_defunct(text=token)).signature).hex()
    body = {
        "apiKeyType": "INFERENCE",
        "address": wallet.address,
        "token": token,
        "signature": f"0x{signature}",
    }
    return body | changes


async def test_a_wallet_makes_a_key_that_spends_its_credit(shop: Shop, wallet: Wallet) -> None:
    await shop.credit(wallet, "1")
    body = await web3_request(shop, wallet, consumptionLimit={"usd": 0.5}, limitPeriod="LIFETIME")
    made = await shop.client.post(WEB3, json=body)
    assert made.status_code == 200
    data = made.json()["data"]
    assert (data["description"], data["consumptionLimit"]["usd"]) == ("Web3 API Key", 0.5)
    served = await shop.embed({"authorization": f"Bearer {data['apiKey']}"})
    assert served.status_code == 200
    balance = await shop.client.get(f"/api/v1/x402/balance/{wallet.id}", headers=wallet.sign_in())
    assert 0.99 < balance.json()["data"]["balanceUsd"] < 1
    again = await shop.client.post(WEB3, json=body)
    assert (again.status_code, again.json()["code"]) == (401, "X402_SIGN_IN_REPLAYED")


async def test_keys_of_wallets_are_twenty_a_minute_from_one_address(shop: Shop) -> None:
    async def mint() -> httpx.Response:
        return await shop.client.post(WEB3, json=await web3_request(shop, Wallet()))

    made = [(await mint()).status_code for _ in range(20)]
    refused = await mint()
    assert made == [200] * 20
    assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert "20 API keys of wallets per minute" in refused.json()["error"]
    assert 0 < int(refused.headers["retry-after"]) <= 60
    at_once = await asyncio.gather(*(mint() for _ in range(8)))
    assert {answer.status_code for answer in at_once} == {429}
    assert len(await shop.fake.store.allowances.accounts()) == 20


async def test_keys_that_a_key_without_credit_makes_are_among_the_twenty(shop: Shop, wallet: Wallet) -> None:
    admins = []
    for owner in (Wallet(), wallet):
        request = await web3_request(shop, owner) | {"apiKeyType": "ADMIN"}
        made = (await shop.client.post(WEB3, json=request)).json()["data"]["apiKey"]
        admins.append({"authorization": f"Bearer {made}"})

    async def make(admin: dict[str, str]) -> int:
        body = {"apiKeyType": "INFERENCE", "description": "another"}
        return (await shop.client.post("/api/v1/api_keys", json=body, headers=admin)).status_code

    assert [await make(admin) for admin in admins * 10] == [200] * 18 + [429] * 2
    await shop.credit(wallet, "5")
    assert [await make(admin) for admin in admins] == [429, 200]


async def test_keys_that_are_asked_for_at_once_are_twenty_a_minute_too(shop: Shop) -> None:
    bodies = [await web3_request(shop, Wallet()) for _ in range(23)]
    answers = await asyncio.gather(*(shop.client.post(WEB3, json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [429] * 3


async def test_a_challenge_that_was_not_signed_by_this_wallet_for_this_server_makes_no_key(
    shop: Shop, wallet: Wallet
) -> None:
    good = await web3_request(shop, wallet)
    old = good["token"].replace("Issued At: 2", "Issued At: 1")
    elsewhere = good["token"].replace("testserver", "evil.example")
    cases = {
        "SIGNATURE": {"address": Wallet().address},
        "MALFORMED": {"address": "0x" + "zz" * 20},
        "TOO_OLD": {"token": old},
        "DOMAIN": {"token": elsewhere},
        "MESSAGE": {"token": "anything"},
    }
    for rule, change in cases.items():
        answer = await shop.client.post(WEB3, json=good | change)
        assert (answer.status_code, answer.json()["code"]) == (401, f"X402_SIGN_IN_{rule}")
        assert "header" not in answer.json()["error"], "none is sent here"
    long = await shop.client.post(WEB3, json=good | {"signature": f"0x{'64' * 5_000}"})
    assert long.json()["code"] == "X402_SIGN_IN_SIGNATURE", "as long as ERC-6492 may need"
    assert (await shop.client.post(WEB3, json=good | {"extra": 1})).status_code == 400
    assert (await shop.client.post(WEB3, json=good)).status_code == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=90),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["x402Version", "scheme", "network", "accepted", "payload"])
AUTHORIZATION = st.sampled_from(["from", "to", "value", "validAfter", "validBefore", "nonce"])
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
HEADER = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), min_size=1, max_size=200)


async def rejects(shop: Shop, value: str) -> None:
    """Neither header, on neither route, ever causes a 500 or moves money."""
    raw = value.encode("latin-1")
    for name in (b"sign-in-with-x", b"payment-signature", b"x-payment"):
        for path in (EMBED, "/api/v1/x402/top-up"):
            request = shop.client.build_request("POST", path, json=BODY, headers=[(name, raw)])
            answer = await shop.client.send(request)
            expected = {400, 401} if name != b"sign-in-with-x" or path == EMBED else {402}
            assert answer.status_code in expected, (name, path, answer.text)
            assert (
                path == EMBED
                or answer.status_code == 402
                or set(answer.json()) <= {"error", "message", "details"}
            )
    assert shop.rail.settled == []


@FUZZ
@given(HEADER | st.binary(min_size=1, max_size=200).map(lambda data: base64.b64encode(data).decode()))
async def test_any_header_is_400_or_401(paying: Shop, value: str) -> None:
    await rejects(paying, value)


@pytest.mark.parametrize("base", ["/api/v1", "/v1"])
async def test_json_nested_more_deeply_than_can_be_read_is_malformed(paying: Shop, base: str) -> None:
    value = base64.b64encode(b'{"x":' + b"[" * 1500 + b"}").decode()
    signed_in = await paying.embed({"sign-in-with-x": value}, path=f"{base}/embeddings")
    assert signed_in.status_code == 401
    assert "not base64 of a JSON sign-in payload" in signed_in.text
    for path in ("embeddings", "x402/top-up"):
        paid = await paying.embed({"payment-signature": value}, path=f"{base}/{path}")
        assert paid.status_code == 400
        assert "X402_INVALID_PAYMENT" in paid.text.upper()


@FUZZ
@given(st.dictionaries(FIELDS, VALUES, min_size=1))
async def test_any_json_in_a_payment_is_400(paying: Shop, document: dict[str, Any]) -> None:
    await rejects(paying, encode(document))


@FUZZ
@given(
    AUTHORIZATION,
    st.text(max_size=90) | st.integers().map(str) | st.sampled_from(["1e7", "0x5", "05", "9" * 90]),
)
async def test_any_member_of_an_authorisation_may_be_anything(paying: Shop, member: str, value: str) -> None:
    paying.top_ups._limiter = MemoryRateLimiter()
    answer = await paying.top_up(Wallet().payment(5_000_000, **{member: value}))
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert 5 <= answer.json()["data"]["amountCredited"] <= 10_000
