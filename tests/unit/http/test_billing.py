"""/billing: the balance, and the history of charges in pages."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import SPEC, FakeServer
from tests.ledger import FixedClock
from tests.unit.http.conftest import Client

from vectoll.domain.errors import InvalidRequest
from vectoll.domain.ids import AccountId, ModelId
from vectoll.domain.money import Amount, Price, usd
from vectoll.http.cursor import Walk, read_cursor, write_cursor

Connect = Callable[..., Client]
HISTORY = "/api/v1/billing/usage-history"


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def server(clock: FixedClock) -> FakeServer:
    return FakeServer(clock=clock)


@pytest.fixture
async def used(client: Client, clock: FixedClock) -> Client:
    """25 charges, a minute apart from 12:00, of 3 to 27 tokens."""
    for n in range(25):
        assert (await client.embed([1] * (n + 3))).status_code == 200
        clock.advance(minutes=1)
    return client


async def test_balance_with_an_allowance(client: Client, server: FakeServer) -> None:
    await server.store.allowances.grant(AccountId("acct_1"), usd("0.000001"))
    await client.embed([1] * 10)  # 0.000000125 dollars
    response = await client.get("/api/v1/billing/balance")
    assert json.loads(response.text, parse_float=Decimal) == {
        "balances": {"diem": 0, "usd": 5},
        "canConsume": True,
        "consumptionCurrency": "DIEM",
        "diemEpochAllocation": Decimal("0.000001"),
    }
    for _ in range(4):
        assert (await client.embed([1] * 30)).status_code == 200
    body = (await client.get("/api/v1/billing/balance")).json()
    assert (body["consumptionCurrency"], body["balances"]) == ("USD", {"diem": 0, "usd": 4.999999})
    await server.store.allowances.grant(AccountId("acct_1"), usd(3))
    limits = (await client.get("/api/v1/api_keys/rate_limits")).json()["data"]
    assert limits["balances"] == {"USD": 4.999999, "DIEM": 2.999999}


async def test_balance(client: Client, server: FakeServer, connect: Connect) -> None:
    await client.embed([1] * 10)
    response = await client.get("/api/v1/billing/balance")
    assert response.json() == {
        "balances": {"diem": None, "usd": 4.999999},
        "canConsume": True,
        "consumptionCurrency": "USD",
        "diemEpochAllocation": 0,
    }
    assert '"usd":4.999999' in response.text  # $4.999999875, rounded down
    poor = connect(server, await server.open("poor", "0"))
    body = (await poor.get("/v1/billing/balance")).json()
    assert (body["canConsume"], body["consumptionCurrency"], body["balances"]["usd"]) == (False, None, 0)
    assert (await connect(server).get("/api/v1/billing/balance")).status_code == 401


async def test_history_in_the_neighbours_shape(client: Client) -> None:
    request_id = (await client.embed([1] * 10)).headers["x-request-id"]
    response = await client.get(HISTORY)
    body = json.loads(response.text, parse_float=Decimal)
    assert body == {
        "data": [
            {
                "amount": Decimal("-0.000000125"),
                "currency": "USD",
                "inferenceDetails": {
                    "completionTokens": None,
                    "inferenceExecutionTime": body["data"][0]["inferenceDetails"]["inferenceExecutionTime"],
                    "promptTokens": 10,
                    "requestId": request_id,
                },
                "notes": "API Inference",
                "pricePerUnitUsd": Decimal("0.0125"),
                "sku": "fake-model-embedding-input-mtoken",
                "timestamp": "2026-11-18T12:00:00.000Z",
                "units": Decimal("0.00001"),
            }
        ],
        "nextCursor": None,
    }
    entry = body["data"][0]
    assert entry["units"] * entry["pricePerUnitUsd"] == -entry["amount"]


async def walk(client: Client, **first: Any) -> tuple[list[int], int]:
    """The tokens of every entry of a walk, and how many pages it took."""
    tokens, pages = [], 0
    params = first
    while True:
        response = await client.get(HISTORY, params=params)
        assert response.status_code == 200, response.text
        body = response.json()
        pages += 1
        tokens += [entry["inferenceDetails"]["promptTokens"] for entry in body["data"]]
        if body["nextCursor"] is None:
            return tokens, pages
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,512}", body["nextCursor"])
        params = {"cursor": body["nextCursor"]}


async def test_pages(used: Client) -> None:
    everything = list(range(3, 28))
    assert await walk(used) == (everything, 1)
    assert await walk(used, pageSize=10) == (everything, 3)
    assert await walk(used, pageSize=25) == (everything, 1)
    assert await walk(used, currency="USD") == (everything, 1)
    assert await walk(used, currency="DIEM") == ([], 1)
    start, end = "2026-11-18T12:05:00Z", "2026-11-18T12:20:00.000Z"
    assert await walk(used, startTimestamp=start) == (everything[5:], 1)
    assert await walk(used, endTimestamp=end) == (everything[:20], 1)
    assert await walk(used, startTimestamp=start, endTimestamp=end, pageSize=10) == (everything[5:20], 2)


@pytest.fixture
async def mixed(client: Client, server: FakeServer) -> Client:
    """25 charges of 4 tokens: 10 from the day's allowance, one from both, and the rest from credit."""
    await server.store.allowances.grant(AccountId("acct_1"), Amount(43 * 12_500))
    for _ in range(25):
        assert (await client.embed([1] * 4)).status_code == 200
    return client


async def entries(client: Client, **first: Any) -> list[Any]:
    """Every entry of a walk, and that no page is too long."""
    found: list[Any] = []
    params: dict[str, Any] | None = first
    while params is not None:
        response = await client.get(HISTORY, params=params)
        assert response.status_code == 200, response.text
        body = json.loads(response.text, parse_float=Decimal)
        assert len(body["data"]) <= int(first.get("pageSize", 1000))
        found += body["data"]
        params = {"cursor": body["nextCursor"]} if body["nextCursor"] else None
    return found


@pytest.mark.parametrize("page_size", [10, 11, 12, 1000])
async def test_what_an_allowance_paid_is_in_its_own_currency(mixed: Client, page_size: int) -> None:
    everything = await entries(mixed, pageSize=page_size)
    assert [entry["currency"] for entry in everything] == ["DIEM"] * 11 + ["USD"] * 15
    by_diem, by_usd = everything[10:12]
    assert (by_diem["amount"], by_usd["amount"]) == (Decimal("-0.0000000375"), Decimal("-0.0000000125"))
    assert (by_diem["units"], by_usd["units"]) == (Decimal("0.000003"), Decimal("0.000001"))
    assert by_diem["inferenceDetails"] == by_usd["inferenceDetails"], "one request"
    for entry in everything:
        assert entry["units"] * entry["pricePerUnitUsd"] == -entry["amount"]
    assert sum(entry["units"] for entry in everything) == Decimal("0.0001")
    assert await entries(mixed, pageSize=page_size, currency="DIEM") == everything[:11]
    assert await entries(mixed, pageSize=page_size, currency="USD") == everything[11:]
    assert await entries(mixed, pageSize=page_size, currency="BUNDLED_CREDITS") == []


async def test_csv_has_the_currency(mixed: Client) -> None:
    response = await mixed.get(HISTORY, headers={"accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [(row["currency"], row["amount"], row["units"]) for row in rows[9:13]] == [
        ("DIEM", "-0.000000050000", "0.000004"),
        ("DIEM", "-0.000000037500", "0.000003000000"),
        ("USD", "-0.000000012500", "0.000001000000"),
        ("USD", "-0.000000050000", "0.000004"),
    ]


async def test_a_share_that_has_no_end_is_rounded_and_the_rest_is_the_others(
    client: Client, server: FakeServer
) -> None:
    await server.store.allowances.grant(AccountId("acct_1"), Amount(1))
    await client.embed([1] * 3)
    by_diem, by_usd = await entries(client)
    assert (by_diem["amount"], by_usd["amount"]) == (Decimal("-0.000000000001"), Decimal("-0.000000037499"))
    assert by_diem["units"] + by_usd["units"] == Decimal("0.000003")


async def test_a_free_model_has_units_too(connect: Connect) -> None:
    server = FakeServer(replace(SPEC, id=ModelId("free-model"), aliases=(), price=Price(0)))
    client = connect(server, await server.open())
    await client.post("/v1/embeddings", json={"model": "free-model", "input": [1] * 3})
    [entry] = await entries(client)
    assert (entry["amount"], entry["currency"], entry["units"]) == (0, "USD", Decimal("0.000003"))


async def test_other_accounts_see_nothing(used: Client, server: FakeServer, connect: Connect) -> None:
    other = connect(server, await server.open("acct_2"))
    assert await walk(other) == ([], 1)
    cursor = (await used.get(HISTORY, params={"pageSize": 10})).json()["nextCursor"]
    refused = await other.get(HISTORY, params={"cursor": cursor})
    assert refused.status_code == 400
    assert refused.json()["details"]["cursor"]["_errors"]


@pytest.mark.parametrize(
    "query",
    [
        {"pageSize": "9"},
        {"pageSize": "1001"},
        {"pageSize": "ten"},
        {"pageSize": "１０"},
        {"pageSize": "-10"},
        {"pageSize": ""},
        {"currency": "EUR"},
        {"currency": ""},
        {"startTimestamp": "yesterday"},
        {"startTimestamp": "2026-11-18"},
        {"startTimestamp": "2026-11-18T12:00:00+00:00"},
        {"endTimestamp": "2026-13-01T00:00:00Z"},
        {"startTimestamp": "2026-11-18T12:00:00Z", "endTimestamp": "2026-11-18T12:00:00Z"},
        {"cursor": ""},
        {"cursor": "AAAA"},
        {"cursor": "!!!"},
        {"cursor": "é"},
        {"cursor": "A" * 600},
    ],
)
async def test_bad_queries_are_400(client: Client, query: dict[str, str]) -> None:
    response = await client.get(HISTORY, params=query)
    assert response.status_code == 400
    assert any("_errors" in node for name, node in response.json()["details"].items() if name in query)


@pytest.mark.parametrize(
    "walk",
    [
        (9,),
        (1001,),
        (10**9,),
        (-1,),
        (10, -1),
        (10, 2**63),
        (2**63, 0),
        (10, 0, "2026-01-01T00:00:00"),
        (10, 0, "0001-01-01T00:00:00+14:00"),
        (10, 0, None, "9999-12-31T23:59:59-14:00"),
        (10, 0, "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"),
        (10, 0, None, None, "EUR"),
        (10, 0, None, None, "USD", 1),
    ],
    ids=str,
)
async def test_forged_cursors_are_refused(used: Client, walk: tuple[object, ...]) -> None:
    """The check is no signature: anybody can make one."""
    response = await used.get(HISTORY, params={"cursor": write_cursor(walk, AccountId("acct_1"))})  # type: ignore[arg-type]
    assert response.status_code == 400
    assert response.json()["details"]["cursor"]["_errors"]


async def test_filters_beside_a_cursor_are_refused(used: Client) -> None:
    cursor = (await used.get(HISTORY, params={"pageSize": 10})).json()["nextCursor"]
    response = await used.get(HISTORY, params={"cursor": cursor, "pageSize": 10})
    assert response.status_code == 400


async def test_csv(used: Client) -> None:
    response = await used.get(HISTORY, params={"pageSize": 20}, headers={"accept": "text/csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    disposition = r"attachment; filename=billing-usage-history-\d{8}T\d{9}Z\.csv"
    assert re.fullmatch(disposition, response.headers["content-disposition"])
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert len(rows) == 20
    assert rows[0]["timestamp"] == "2026-11-18T12:00:00.000Z"
    assert rows[0]["amount"] == "-0.000000037500"
    assert rows[0]["promptTokens"] == "3"
    rest = await used.get(
        HISTORY, params={"cursor": response.headers["x-next-cursor"]}, headers={"accept": "text/csv"}
    )
    assert len(list(csv.DictReader(io.StringIO(rest.text)))) == 5
    assert "x-next-cursor" not in rest.headers


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("application/json, text/csv;q=0", False),
        ("text/csv; q=0.0", False),
        ("application/json, text/csv", True),
        ("TEXT/CSV;q=0.1", True),
        ("text/csv-schema", False),
        ("*/*", False),
    ],
)
async def test_csv_is_sent_to_who_accepts_it(used: Client, accept: str, *, is_csv: bool) -> None:
    response = await used.get(HISTORY, headers={"accept": accept})
    assert response.headers["content-type"].startswith("text/csv") is is_csv


WALKS = st.builds(Walk, st.integers(10, 1000), st.integers(0, 2**62), currency=st.sampled_from([None, "USD"]))


@given(WALKS, st.text("ab", min_size=1, max_size=2), st.text("ab", min_size=1, max_size=2))
def test_cursors_are_bound_to_their_account(walk: Walk, account: str, other: str) -> None:
    token = write_cursor(walk, AccountId(account))
    assert read_cursor(token, AccountId(account)) == walk
    if other != account:
        with pytest.raises(InvalidRequest):
            read_cursor(token, AccountId(other))


@given(WALKS, st.data())
def test_changed_cursors_are_refused(walk: Walk, data: st.DataObject) -> None:
    token = write_cursor(walk, AccountId("a"))
    at = data.draw(st.integers(0, len(token) - 2))
    new = data.draw(st.sampled_from([c for c in "ABCxyz019_-" if c != token[at]]))
    with pytest.raises(InvalidRequest):
        read_cursor(token[:at] + new + token[at + 1 :], AccountId("a"))


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_refused(token: str) -> None:
    with pytest.raises(InvalidRequest):
        read_cursor(token, AccountId("a"))
