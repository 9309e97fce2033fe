"""Who may come in: authentication, the limits, and what the headers say about both."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from tests.fakes import SPEC, FakeServer, limited
from tests.unit.http.conftest import OPENAI_URL, SPEC_URL, Client, embedding_body

from vectoll.core import admission
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import ModelId
from vectoll.domain.limits import LimitState, RateLimit
from vectoll.domain.money import Price, usd
from vectoll.http.record import stranger

Connect = Callable[..., Client]

LIMIT_HEADERS = {
    f"x-ratelimit-{what}-{unit}"
    for what in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
}


@pytest.mark.parametrize("off", ["requests_per_minute", "tokens_per_minute"])
async def test_a_limit_that_is_off_has_no_headers_and_costs_no_look_at_the_other(
    connect: Connect, off: str
) -> None:
    server = FakeServer(settings=limited(**{off: 0}))
    client = connect(server, await server.open())
    limiter = server.services.admission.limiter
    peek, peeks = limiter.peek, []

    async def counted(limit: RateLimit, *key: str) -> LimitState:
        peeks.append(key)
        return await peek(limit, *key)

    limiter.peek = counted  # type: ignore[method-assign]
    response = await client.embed()
    assert response.status_code == 200
    unit = off.split("_", maxsplit=1)[0]
    assert {n for n in response.headers if n.startswith("x-ratelimit")} == {
        name for name in LIMIT_HEADERS if not name.endswith(unit)
    }
    assert peeks == []


async def test_no_credentials(server: FakeServer, connect: Connect) -> None:
    stranger = connect(server)
    response = await stranger.embed()
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == "AUTHENTICATION_FAILED"
    openai = (await stranger.embed(url=OPENAI_URL)).json()["error"]
    assert (openai["type"], openai["code"], openai["param"]) == (
        "authentication_error",
        "invalid_api_key",
        None,
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer vtk_wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dTpw"},
        {"authorization": "Bearer something-else"},
        {"api-key": "vtk_wrong"},
        {"authorization": "Bearer vtk_" + "x" * 20_000},
    ],
)
async def test_bad_credentials(server: FakeServer, connect: Connect, headers: dict[str, str]) -> None:
    for method, url in (("POST", SPEC_URL), ("GET", "/api/v1/models"), ("GET", "/api/v1/api_keys")):
        response = await connect(server).request(method, url, headers=headers)
        assert response.status_code == 401, url


@pytest.mark.parametrize("name", ["authorization", "content-type", "api-key", "idempotency-key"])
@pytest.mark.parametrize("url", [SPEC_URL, OPENAI_URL])
async def test_a_header_of_which_one_can_be_meant_is_given_once(
    server: FakeServer, connect: Connect, name: str, url: str
) -> None:
    key = await server.open()
    given = {"authorization": f"Bearer {key}", "content-type": "application/json", "idempotency-key": "k"}
    for first, second in (("same", "same"), ("other", "same"), ("same", "other")):
        values = {"same": given.get(name, key), "other": "other"}
        twice = [(name, values[first]), (name, values[second])]
        lines = [*((n, v) for n, v in given.items() if n != name), *twice]
        response = await connect(server).post(url, content=embedding_body(), headers=lines)
        assert response.status_code == 400
        assert name in response.text
        assert "at most once" in response.text


async def test_key_in_either_header(server: FakeServer, connect: Connect) -> None:
    key = await server.open()
    for headers in ({"authorization": f"bearer {key}"}, {"api-key": key}):
        assert (await connect(server, headers=headers).embed()).status_code == 200


async def test_expired_and_revoked_keys(server: FakeServer, connect: Connect) -> None:
    expired = await server.key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    response = await connect(server, expired).embed()
    assert response.status_code == 401
    assert "expired" in response.json()["error"]


async def test_strangers_bodies_are_not_read(server: FakeServer, connect: Connect) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 1000

    response = await connect(server).post(
        SPEC_URL, content=body(), headers={"content-type": "application/json"}
    )
    assert response.status_code == 401
    assert sent <= 1


async def test_headers_on_every_answer_of_the_api(
    client: Client, server: FakeServer, connect: Connect
) -> None:
    answers = [
        await client.embed(),
        await client.embed(""),
        await client.embed(url=OPENAI_URL),
        await client.send_raw(b"{"),
        await client.send_raw(b"{}", content_type="text/plain"),
        await client.get("/api/v1/models"),
        await client.get("/api/v1/billing/balance"),
        await client.get("/api/v1/api_keys"),
        await client.get("/api/v1/nothing"),
        await client.delete("/api/v1/embeddings"),
        await connect(server).embed(),
        await connect(server).get("/v1/models"),
    ]
    assert [a.status_code for a in answers] == [200, 400, 200, 400, 415, 200, 200, 403, 404, 405, 401, 200]
    for answer in answers:
        assert set(answer.headers) >= LIMIT_HEADERS, answer.url
        unit = "s" if answer.url.path.startswith("/v1") else ""
        for name in LIMIT_HEADERS:
            assert re.fullmatch("[0-9]+" + (unit if "reset" in name else ""), answer.headers[name]), name
    assert LIMIT_HEADERS.isdisjoint((await client.get("/health")).headers)


async def test_headers_count_down(connect: Connect) -> None:
    server = FakeServer(settings=limited(requests_per_minute=10, tokens_per_minute=100))
    client = connect(server, await server.open())
    for n in range(1, 4):
        headers = (await client.embed("one two")).headers
        assert headers["x-ratelimit-limit-requests"] == "10"
        assert headers["x-ratelimit-remaining-requests"] == str(10 - n)
        assert 0 < int(headers["x-ratelimit-reset-requests"]) <= 60
        assert headers["x-ratelimit-limit-tokens"] == "100"
        assert headers["x-ratelimit-remaining-tokens"] == str(100 - 4 * n)
        assert 0 < int(headers["x-ratelimit-reset-tokens"]) <= 60


async def test_no_limits_no_headers(connect: Connect) -> None:
    server = FakeServer(settings=limited(requests_per_minute=0, tokens_per_minute=0))
    response = await connect(server, await server.open()).embed()
    assert LIMIT_HEADERS.isdisjoint(response.headers)


async def test_too_many_requests(connect: Connect) -> None:
    server = FakeServer(settings=limited(requests_per_minute=2))
    client = connect(server, await server.open())
    assert [(await client.embed()).status_code for _ in range(3)] == [200, 200, 429]
    response = await client.embed()
    assert response.json()["code"] == "RATE_LIMIT_EXCEEDED"
    assert 1 <= int(response.headers["retry-after"]) <= 59, "a minute is more than most clients heed"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    openai = (await client.embed(url=OPENAI_URL)).json()["error"]
    assert (openai["type"], openai["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    other = connect(server, await server.key())
    assert (await other.embed()).status_code == 200


async def test_too_many_tokens(connect: Connect) -> None:
    server = FakeServer(settings=limited(tokens_per_minute=10))
    client = connect(server, await server.open())
    assert (await client.embed("a b c d e f")).status_code == 200
    response = await client.embed("a b c")
    assert response.status_code == 429
    assert response.headers["retry-after"]
    assert response.headers["x-ratelimit-remaining-tokens"] == "2"
    assert (await client.embed([1, 2])).status_code == 200


async def test_invalid_requests_have_a_bucket_of_their_own(connect: Connect) -> None:
    server = FakeServer(settings=limited(requests_per_minute=3, failures_before_block=0))
    client = connect(server, await server.open())
    bad = embedding_body(input="")
    unknown = embedding_body(model="none")
    statuses = [(await client.send_raw(body)).status_code for body in (bad, unknown, b"{", bad, bad)]
    assert statuses == [400, 400, 400, 429, 429]
    assert (await client.embed()).status_code == 200


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:dead:beef:0:7", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("nonsense:", "nonsense:", True),
    ],
)
def test_a_stranger_is_an_ipv4_address_or_an_ipv6_network(one: str, other: str, *, is_same: bool) -> None:
    assert (stranger({"client": (one, 1)}) == stranger({"client": (other, 2)})) is is_same


def test_strangers_of_no_address_are_one() -> None:
    assert stranger({}) == stranger({"client": None}) == "address:unknown"


async def test_strangers_are_limited_too(connect: Connect) -> None:
    server = FakeServer(settings=limited(requests_per_minute=3, failures_before_block=0))
    stranger = connect(server)
    assert [(await stranger.embed()).status_code for _ in range(4)] == [401, 401, 401, 429]
    assert (await connect(server, await server.open()).embed()).status_code == 200


async def test_callers_who_keep_failing_are_blocked(connect: Connect) -> None:
    server = FakeServer(settings=limited(failures_before_block=3))
    client = connect(server, await server.open())
    assert [(await client.embed("")).status_code for _ in range(4)] == [400] * 4
    blocked = await client.embed()
    assert blocked.status_code == 429
    assert 1 <= int(blocked.headers["retry-after"]) <= 30
    assert "blocked" in blocked.json()["error"]
    assert set(blocked.headers) >= LIMIT_HEADERS
    assert (await connect(server, await server.key()).embed()).status_code == 200


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415])
async def test_which_failures_count(connect: Connect, status: int) -> None:
    settings = limited(failures_before_block=1, max_body_bytes=1000)
    server = FakeServer(settings=settings)
    key = await server.open()
    client = connect(server, key)
    headers = {"idempotency-key": "k"}
    if status == 409:
        await client.post(SPEC_URL, json={"model": "fake-model", "input": "first"}, headers=headers)
    senders: dict[int, Callable[[], Awaitable[httpx.Response]]] = {
        400: lambda: client.embed(""),
        401: lambda: connect(server).embed(),
        403: lambda: client.get("/api/v1/api_keys"),
        404: lambda: client.get("/api/v1/models/none"),
        405: lambda: client.delete("/api/v1/models"),
        409: lambda: client.post(SPEC_URL, json={"model": "fake-model", "input": "x"}, headers=headers),
        413: lambda: client.embed("x" * 2000),
        415: lambda: client.send_raw(b"{}", content_type="text/plain"),
    }
    send = senders[status]
    assert [(await send()).status_code for _ in range(2)] == [status, status]
    prober = connect(server) if status == 401 else client
    counts = (await prober.get("/api/v1/models")).status_code == 429
    assert counts is (status != 405)


async def test_missing_credit_limits_and_our_failures_do_not_count(connect: Connect) -> None:
    server = FakeServer(settings=limited(failures_before_block=1, tokens_per_minute=5))
    poor = connect(server, await server.open("poor", "0"))
    rich = connect(server, await server.open())
    assert [(await poor.embed([1])).status_code for _ in range(4)] == [402] * 4
    assert [(await rich.embed("a b c d e f")).status_code for _ in range(4)] == [429] * 4
    server.model.error = ZeroDivisionError()
    assert [(await rich.embed([1])).status_code for _ in range(4)] == [500] * 4


async def test_spend_limit_of_a_key(server: FakeServer, connect: Connect) -> None:
    await server.open()
    key = await server.key(limit=SpendLimit(usd("0.0000001"), LimitPeriod.LIFETIME))
    client = connect(server, key)
    assert (await client.embed("a b c d e f")).status_code == 200
    response = await client.embed("a b c d e f")
    assert (response.status_code, response.json()["code"]) == (402, "API_KEY_SPEND_LIMIT_REACHED")


async def test_requests_in_flight_are_capped(connect: Connect) -> None:
    import asyncio

    server = FakeServer(settings=limited(requests_in_flight=1))
    server.model.gate = asyncio.Event()
    client = connect(server, await server.open())
    first = asyncio.create_task(client.embed())
    await server.model.started.wait()
    second = await client.embed()
    assert second.status_code == 429
    assert second.headers["retry-after"] == "1"
    server.model.gate.set()
    assert (await first).status_code == 200
    assert (await client.embed()).status_code == 200


async def test_memory_of_requests_in_flight_is_capped_and_single_queries_are_let_in(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setattr(admission, "MAX_BYTES_EACH", 200_000)
    server = FakeServer(settings=limited())
    server.model.gate = asyncio.Event()
    client = connect(server, await server.open())
    vectors_of_154_kb = ["x"] * 100
    first = asyncio.create_task(client.embed(vectors_of_154_kb))
    await server.model.started.wait()
    second = await client.embed(vectors_of_154_kb)
    body = await client.embed("x" * 100_000)
    assert (second.status_code, body.status_code) == (429, 429)
    assert second.headers["retry-after"] == "1"
    single = asyncio.create_task(client.embed("x"))
    server.model.gate.set()
    assert [(await answer).status_code for answer in (first, single)] == [200, 200]
    assert (await client.embed(vectors_of_154_kb)).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
async def test_a_large_request_of_who_can_pay_for_nothing_is_not_read(
    connect: Connect, *, announced: bool
) -> None:
    server = FakeServer()
    client = connect(server, await server.open(dollars="0"))
    was_read = False

    async def come() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield b'{"model": "fake-model", "input": "hello"}'.rjust(5_000)

    headers = {"content-type": "application/json"} | ({"content-length": "5000"} if announced else {})
    answer = await client.post("/api/v1/embeddings", content=come(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (402, "INSUFFICIENT_BALANCE")
    assert not was_read
    small = await client.embed()
    assert "this request costs" in small.json()["error"]


async def test_a_large_request_that_was_paid_for_with_the_last_credit_can_be_asked_for_again(
    connect: Connect,
) -> None:
    server = FakeServer()
    client = connect(server, await server.open(dollars="0.0000000375"))  # what three tokens cost
    answers = [
        await client.send_raw(embedding_body().rjust(100_000), idempotency_key=key) for key in ("a", "a", "b")
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 402]


async def test_a_large_request_needs_no_credit_where_a_model_is_free(connect: Connect) -> None:
    server = FakeServer(replace(SPEC, id=ModelId("free"), price=Price(0), aliases=()))
    client = connect(server, await server.open(dollars="0"))
    answer = await client.send_raw(embedding_body(model="free").rjust(100_000))
    assert answer.status_code == 200
