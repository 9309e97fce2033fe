"""Money under concurrency, through the real server: no overspend, no double charge, no charge for the absent."""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest
from tests.live import MODEL, UNITS_PER_TOKEN, Key, Server, Vectoll

TEXT = "a text of some length, as documents have them, " * 16
EMBEDDINGS = "/api/v1/embeddings"


@pytest.fixture(scope="module")
def vectoll(tmp_path_factory: pytest.TempPathFactory) -> Vectoll:
    return Vectoll(tmp_path_factory.mktemp("vectoll"))


@pytest.fixture(scope="module")
def server(vectoll: Vectoll) -> Iterator[Server]:
    with vectoll.serve() as server:
        yield server
        vectoll.verify()


def price_usd(tokens: int) -> str:
    return f"{Decimal(tokens * UNITS_PER_TOKEN).scaleb(-12):f}"


def tokens_of(server: Server, vectoll: Vectoll, inputs: list[str]) -> int:
    with server.client(vectoll.create_key()) as client:
        usage = client.post(EMBEDDINGS, json={"model": MODEL, "input": inputs}).json()["usage"]
    tokens: int = usage["prompt_tokens"]
    return tokens


async def test_64_at_once_on_a_balance_for_10(server: Server, vectoll: Vectoll) -> None:
    """Exactly ten are answered, and nothing is encoded for the others."""
    inputs = [TEXT] * 8
    tokens = tokens_of(server, vectoll, inputs)
    key = vectoll.create_key(price_usd(10 * tokens))
    encoded_before = await server.metric("vectoll_batch_tokens_total")
    async with server.async_client(key) as client:
        answers = await asyncio.gather(
            *(client.post(EMBEDDINGS, json={"model": MODEL, "input": inputs}) for _ in range(64))
        )
        balance = await client.get("/api/v1/billing/balance")
    assert Counter(answer.status_code for answer in answers) == {200: 10, 402: 54}
    assert balance.json()["balances"]["usd"] == 0
    assert len(server.charges(key)) == 10
    assert await server.metric("vectoll_batch_tokens_total") - encoded_before == 10 * tokens
    vectoll.verify()


def test_credit_added_by_command_counts_at_once(server: Server, vectoll: Vectoll) -> None:
    key = vectoll.create_key("0")
    with server.client(key) as client:
        assert client.post(EMBEDDINGS, json={"model": MODEL, "input": "x"}).status_code == 402
        vectoll.run("credit", "add", "--key", key.id, "--usd", "1")
        assert client.post(EMBEDDINGS, json={"model": MODEL, "input": "x"}).status_code == 200


async def test_credit_added_by_command_while_the_account_spends(server: Server, vectoll: Vectoll) -> None:
    """Two processes write to one ledger, and nothing is lost on either side."""
    key = vectoll.create_key("1")
    async with server.async_client(key) as client:
        posts = [client.post(EMBEDDINGS, json={"model": MODEL, "input": f"text {i}"}) for i in range(200)]
        adding = [
            asyncio.to_thread(vectoll.run, "credit", "add", "--key", key.id, "--usd", "1") for _ in range(4)
        ]
        *answers, _, _, _, _ = await asyncio.gather(*posts, *adding)
        balance = await client.get("/api/v1/billing/balance")
    assert all(isinstance(answer, httpx.Response) and answer.status_code == 200 for answer in answers)
    spent = sum(charge.amount for charge in server.charges(key))
    left = json.loads(balance.text, parse_float=Decimal)["balances"]["usd"]
    assert 0 <= 5 - spent - left < Decimal("0.000001")  # shown rounded down
    vectoll.verify()


def test_a_key_revoked_by_command_is_refused_within_a_second(server: Server, vectoll: Vectoll) -> None:
    key = vectoll.create_key()
    with server.client(key) as client:
        assert client.post(EMBEDDINGS, json={"model": MODEL, "input": "x"}).status_code == 200
        vectoll.run("keys", "revoke", key.id)
        revoked_at = time.monotonic()
        while (answer := client.post(EMBEDDINGS, json={"model": MODEL, "input": "x"})).status_code == 200:
            assert time.monotonic() < revoked_at + 1
    assert answer.status_code == 401
    assert "revoked" in answer.json()["error"]


async def test_one_idempotency_key_is_charged_once(server: Server, vectoll: Vectoll) -> None:
    """In turn and side by side."""
    key = vectoll.create_key()
    headers = {"idempotency-key": "order-1"}
    body = {"model": MODEL, "input": ["first", "second"]}
    async with server.async_client(key) as client:
        first = await client.post(EMBEDDINGS, json=body, headers=headers)
        again = await asyncio.gather(*(client.post(EMBEDDINGS, json=body, headers=headers) for _ in range(5)))
        spent = await client.post(EMBEDDINGS, json=body, headers=headers)
        other = await client.post(EMBEDDINGS, json={**body, "input": "other"}, headers=headers)
        race = {"idempotency-key": "order-2"}
        raced = await asyncio.gather(*(client.post(EMBEDDINGS, json=body, headers=race) for _ in range(16)))
    assert {answer.status_code for answer in (first, *again)} == {200}
    assert (spent.status_code, spent.json()["code"]) == (409, "IDEMPOTENCY_KEY_SPENT")
    assert Counter(answer.status_code for answer in raced) == {200: 6, 409: 10}
    assert {answer.text for answer in again} == {first.text}
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert len(server.charges(key)) == 2


def test_idempotency_keys_of_two_accounts_are_two(server: Server, vectoll: Vectoll) -> None:
    keys = [vectoll.create_key(), vectoll.create_key()]
    for key in keys:
        with server.client(key) as client:
            body = {"model": MODEL, "input": f"of {key.id}"}
            answer = client.post(EMBEDDINGS, json=body, headers={"idempotency-key": "the same"})
            assert answer.status_code == 200
    assert [len(server.charges(key)) for key in keys] == [1, 1]


async def test_a_caller_who_leaves_is_not_charged_and_frees_its_place(
    server: Server, vectoll: Vectoll
) -> None:
    """Half a minute's work, paid for by all the credit there is; its client hangs up once it is under way."""
    inputs = [TEXT] * 2048
    tokens = 2048 * tokens_of(server, vectoll, [TEXT])
    key = vectoll.create_key(price_usd(tokens))
    connection = send(server, key, {"model": MODEL, "input": inputs})
    await server.until_queued(lambda waiting: waiting > tokens // 2)
    with server.client(key) as client:
        assert (
            client.post(EMBEDDINGS, json={"model": MODEL, "input": "x"}).status_code == 402
        )  # all of it is held
        connection.close()
        await server.until_queued(lambda waiting: waiting < tokens // 100)
        assert client.post(EMBEDDINGS, json={"model": MODEL, "input": "x"}).status_code == 200
    assert [charge.tokens for charge in server.charges(key)] == [3]


def send(server: Server, key: Key, body: object) -> socket.socket:
    """A request on a bare socket, whose answer nobody reads."""
    url = httpx.URL(server.url)
    data = json.dumps(body).encode()
    head = (
        f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {key.secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection((url.host, url.port or 80))
    connection.sendall(head.encode() + data)
    return connection
