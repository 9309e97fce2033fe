"""Two gateways, processes of their own, on one database: one balance, one set of limits, one truth."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from itertools import cycle, islice
from pathlib import Path

import httpx
import pytest
from eth_account import Account
from tests.chains.anvil import Anvil, authorize, run_anvil
from tests.integration.payments import header
from tests.live import MODEL, UNITS_PER_TOKEN, Key, Server, Vectoll
from tests.postgres import PostgresServer
from tests.wallets import URL, Wallet

EMBEDDINGS = "/api/v1/embeddings"
TEXT = "one text"
REQUEST = {"model": MODEL, "input": TEXT}
TOKENS_PER_MINUTE = 2400
GAS = Account.from_key(bytes([9]) * 32)
PAY_TO = "0x" + "5e" * 20
TEN = 10_000_000


@dataclass(frozen=True)
class Gateways:
    """What two servers and the commands beside them share."""

    vectoll: Vectoll
    servers: tuple[Server, Server]

    async def ask(
        self, requests: int, key: Key, headers: dict[str, str] | None = None, texts: int = 1
    ) -> list[httpx.Response]:
        """So many requests at once, to each gateway in turn."""
        async with (
            self.servers[0].async_client(key, 250) as one,
            self.servers[1].async_client(key, 250) as two,
        ):
            posts = [
                client.post(EMBEDDINGS, json={**REQUEST, "input": [TEXT] * texts}, headers=headers)
                for client in islice(cycle((one, two)), requests)
            ]
            return await asyncio.gather(*posts)


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with run_anvil() as chain:
        chain.rpc("anvil_setBalance", GAS.address, hex(10**18))
        yield chain


@pytest.fixture(scope="module")
def gateways(
    postgres: PostgresServer, chain: Anvil, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateways]:
    url = postgres.new_database()
    homes = [tmp_path_factory.mktemp("gateway") for _ in range(2)]
    one, two = (installation(home, url, chain) for home in homes)
    one.run("db", "migrate")
    with ExitStack() as stack:
        servers = stack.enter_context(one.serve()), stack.enter_context(two.serve())
        yield Gateways(one, servers)
        one.verify()


def installation(home: Path, url: str, chain: Anvil) -> Vectoll:
    return Vectoll(
        home,
        database__url=url,
        limits__requests_per_minute=510,
        limits__tokens_per_minute=TOKENS_PER_MINUTE,
        public_url=URL,
        x402__enabled=True,
        x402__reconcile_interval_s=0.5,
        x402__base__rpc_url=chain.url,
        x402__base__pay_to=PAY_TO,
        x402__base__settlement_key=GAS.key.hex(),
    )


def tokens_of(gateways: Gateways) -> int:
    with gateways.servers[0].client(gateways.vectoll.create_key()) as client:
        tokens: int = client.post(EMBEDDINGS, json=REQUEST).json()["usage"]["prompt_tokens"]
    return tokens


async def test_500_at_once_on_a_balance_for_137(gateways: Gateways) -> None:
    affordable = Decimal(137 * tokens_of(gateways) * UNITS_PER_TOKEN).scaleb(-12)
    key = gateways.vectoll.create_key(f"{affordable:f}")
    answers = await gateways.ask(500, key)
    assert Counter(answer.status_code for answer in answers) == {200: 137, 402: 363}
    for server in gateways.servers:
        with server.client(key) as client:
            assert client.get("/api/v1/billing/balance").json()["balances"]["usd"] == 0
        assert len(server.charges(key)) == 137
    gateways.vectoll.verify()


async def test_tokens_are_counted_together(gateways: Gateways) -> None:
    texts = TOKENS_PER_MINUTE // 6 // tokens_of(gateways)
    answers = await gateways.ask(10, gateways.vectoll.create_key(), texts=texts)
    assert Counter(answer.status_code for answer in answers) == {200: 6, 429: 4}


async def test_one_idempotency_key_is_charged_once_by_both(gateways: Gateways) -> None:
    key = gateways.vectoll.create_key()
    answers = await gateways.ask(20, key, {"idempotency-key": "order-1"})
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 409}
    assert 6 <= statuses[200] <= 12, "each counts repeats for itself"
    assert len(gateways.servers[0].charges(key)) == 1


def test_a_key_that_is_revoked_is_refused_everywhere_within_a_second(gateways: Gateways) -> None:
    key = gateways.vectoll.create_key()
    with gateways.servers[0].client(key) as one, gateways.servers[1].client(key) as two:
        assert [c.post(EMBEDDINGS, json=REQUEST).status_code for c in (one, two)] == [200, 200]
        gateways.vectoll.run("keys", "revoke", key.id)
        revoked_at = time.monotonic()
        while {c.post(EMBEDDINGS, json=REQUEST).status_code for c in (one, two)} != {401}:
            assert time.monotonic() - revoked_at < 1
        assert [c.post(EMBEDDINGS, json=REQUEST).status_code for c in (one, two)] == [401, 401]


def test_a_key_works_everywhere_as_soon_as_it_is_made(gateways: Gateways) -> None:
    key = gateways.vectoll.create_key()
    for server in gateways.servers:
        with server.client(key) as client:
            assert client.post(EMBEDDINGS, json=REQUEST).status_code == 200


async def test_a_payment_sent_to_both_is_credited_once(gateways: Gateways, chain: Anvil) -> None:
    payer = Account.create()
    chain.fund(payer.address, TEN)
    before = chain.usdc(PAY_TO)
    headers = {"payment-signature": header(authorize(payer, PAY_TO, TEN))}
    async with httpx.AsyncClient(timeout=60) as client:
        urls = [f"{server.url}/api/v1/x402/top-up" for server in gateways.servers] * 4
        answers = await asyncio.gather(*(client.post(url, headers=headers) for url in urls))
        again = [await client.post(url, headers=headers) for url in urls[:2]]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert {answer.json()["data"]["newBalance"] for answer in again} == {10}
    assert chain.usdc(PAY_TO) - before == TEN
    mine = [p for p in gateways.vectoll.json("payments", "list") if p["payer"] == payer.address.lower()]
    assert [p["state"] for p in mine] == ["credited"]
    gateways.vectoll.verify()


async def test_payments_through_both_gateways_at_once_all_arrive(gateways: Gateways, chain: Anvil) -> None:
    payers = [Account.create() for _ in range(6)]
    for payer in payers:
        chain.fund(payer.address, TEN)
    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    f"{server.url}/api/v1/x402/top-up",
                    headers={"payment-signature": header(authorize(payer, PAY_TO, TEN))},
                )
                for payer, server in zip(payers, cycle(gateways.servers))
            )
        )
    assert [answer.status_code for answer in answers] == [200] * 6, [a.text for a in answers]
    gateways.vectoll.verify()


def test_a_sign_in_is_good_once_for_both(gateways: Gateways, chain: Anvil) -> None:
    wallet = Wallet()
    chain.fund(wallet.address, TEN)
    payment = {"payment-signature": header(authorize(wallet.account, PAY_TO, TEN))}
    sign_in = wallet.sign_in()
    with gateways.servers[0].client() as one, gateways.servers[1].client() as two:
        assert one.post("/api/v1/x402/top-up", headers=payment).status_code == 200
        assert one.post(EMBEDDINGS, json=REQUEST, headers=sign_in).status_code == 200
        replayed = two.post(EMBEDDINGS, json=REQUEST, headers=sign_in)
        assert replayed.status_code == 401
        assert two.post(EMBEDDINGS, json=REQUEST, headers=wallet.sign_in()).status_code == 200


def test_failures_are_counted_together_and_block_everywhere(gateways: Gateways) -> None:
    key = gateways.vectoll.create_key()
    with gateways.servers[0].client(key) as one, gateways.servers[1].client(key) as two:
        for client in islice(cycle((one, two)), 21):
            assert client.post(EMBEDDINGS, json={"model": MODEL}).status_code == 400
        assert [c.post(EMBEDDINGS, json=REQUEST).status_code for c in (one, two)] == [429, 429]
