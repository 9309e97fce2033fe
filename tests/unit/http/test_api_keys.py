"""/api_keys: what an ADMIN key may do to its own account, and nothing else."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from tests.fakes import FakeServer
from tests.ledger import NOON, FixedClock
from tests.unit.http.conftest import Client

from vectoll.domain.identity import KeyKind, LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId
from vectoll.domain.money import usd

Connect = Callable[..., Client]
URL = "/api/v1/api_keys"


@pytest.fixture
def server() -> FakeServer:
    return FakeServer(clock=FixedClock())


@pytest.fixture
async def admin(server: FakeServer, connect: Connect) -> Client:
    await server.open()
    return connect(server, await server.key(kind=KeyKind.ADMIN))


async def create(client: Client, **fields: Any) -> Any:
    return await client.post(URL, json={"apiKeyType": "INFERENCE", "description": "ci", **fields})


async def test_create_list_get_use_delete(admin: Client, server: FakeServer, connect: Connect) -> None:
    response = await create(admin, consumptionLimit={"usd": 0.5}, limitPeriod="MONTH", expiresAt="2027-01-02")
    assert response.status_code == 200
    assert response.json()["success"] is True
    created = response.json()["data"]
    secret, key_id = created.pop("apiKey"), created["id"]
    assert created == {
        "apiKeyType": "INFERENCE",
        "consumptionLimit": {"usd": 0.5, "diem": None, "vcu": None},
        "description": "ci",
        "expiresAt": "2027-01-02T00:00:00.000Z",
        "id": key_id,
        "limitPeriod": "MONTH",
        "modelPrivacy": "ALL",
    }
    assert (await connect(server, secret).embed("one two")).status_code == 200
    body = (await admin.get(URL)).json()
    assert body["object"] == "list"
    listed = next(key for key in body["data"] if key["id"] == key_id)
    assert listed == {
        "apiKeyType": "INFERENCE",
        "consumptionLimits": {"usd": 0.5, "diem": None, "vcu": None},
        "createdAt": "2026-11-18T12:00:00.000Z",
        "currentPeriodUsage": {"usd": "0.000000", "diem": "0"},
        "description": "ci",
        "expiresAt": "2027-01-02T00:00:00.000Z",
        "id": key_id,
        "last6Chars": secret[-6:],
        "lastUsedAt": "2026-11-18T12:00:00.000Z",
        "limitPeriod": "MONTH",
        "modelPrivacy": "ALL",
        "usage": {"trailingSevenDays": {"usd": "0.000000", "vcu": "0", "diem": "0"}},
    }
    assert (await admin.get(f"{URL}/{key_id}")).json() == {"data": listed}
    assert secret not in (await admin.get(URL)).text
    assert (await admin.delete(URL, params={"id": key_id})).json() == {"success": True}
    assert (await connect(server, secret).embed()).status_code == 401
    assert key_id not in (await admin.get(URL)).text
    assert (await admin.get(f"{URL}/{key_id}")).status_code == 404
    assert (await admin.delete(URL, params={"id": key_id})).status_code == 404


async def test_key_without_limit_shows_no_period(admin: Client) -> None:
    first, only = (await admin.get(URL)).json()["data"]
    assert (first["apiKeyType"], only["apiKeyType"]) == ("INFERENCE", "ADMIN")
    assert only["lastUsedAt"] is None
    assert "currentPeriodUsage" not in only
    assert only["consumptionLimits"] == {"usd": None, "diem": None, "vcu": None}


async def test_inference_keys_may_not(server: FakeServer, connect: Connect) -> None:
    client = connect(server, await server.open())
    assert (await client.get(URL)).json()["code"] == "FORBIDDEN"
    for response in (
        await client.get(URL),
        await create(client),
        await client.delete(URL, params={"id": "x"}),
        await client.get(f"{URL}/x"),
    ):
        assert response.status_code == 403


async def test_other_accounts_keys_do_not_exist(admin: Client, server: FakeServer, connect: Connect) -> None:
    await server.key("acct_2")
    (other,) = await server.store.keys.list(AccountId("acct_2"))
    assert other.id not in (await admin.get(URL)).text
    assert (await admin.get(f"{URL}/{other.id}")).status_code == 404
    assert (await admin.delete(URL, params={"id": other.id})).status_code == 404
    (still,) = await server.store.keys.list(AccountId("acct_2"))
    assert still.revoked_at is None


@pytest.mark.parametrize("key_id", ["none", "%00", "x" * 500, "a%20b", "é"])
async def test_ids_that_are_none(admin: Client, key_id: str) -> None:
    assert (await admin.get(f"{URL}/{key_id}")).status_code == 404
    assert (await admin.delete(f"{URL}?id={key_id}")).status_code == 404


async def test_delete_needs_an_id(admin: Client) -> None:
    response = await admin.delete(URL)
    assert response.status_code == 400
    assert response.json()["details"]["id"]["_errors"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"apiKeyType": "ROOT"}, "apiKeyType"),
        ({"apiKeyType": None}, "apiKeyType"),
        ({"description": "x" * 65}, "description"),
        ({"description": 5}, "description"),
        ({"description": "a\0b"}, "description"),
        ({"consumptionLimit": {"usd": -1}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"usd": "5"}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"usd": True}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"usd": 9_000_001}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"usd": 1e-13}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"usd": 1e300}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"diem": 5}}, "consumptionLimit.diem"),
        ({"consumptionLimit": {"vcu": 0}}, "consumptionLimit.vcu"),
        ({"consumptionLimit": {"eur": 5}}, "consumptionLimit"),
        ({"consumptionLimit": 5}, "consumptionLimit"),
        ({"limitPeriod": "WEEK"}, "limitPeriod"),
        ({"modelPrivacy": "PRIVATE_ONLY"}, "modelPrivacy"),
        ({"modelPrivacy": "NONE"}, "modelPrivacy"),
        ({"expiresAt": "tomorrow"}, "expiresAt"),
        ({"expiresAt": "2027-02-30"}, "expiresAt"),
        ({"expiresAt": "2027-01-01T00:00:00+01:00"}, "expiresAt"),
        ({"expiresAt": "2026-11-18"}, "expiresAt"),
        ({"expiresAt": "2026-11-18T12:00:00Z"}, "expiresAt"),
        ({"expiresAt": 5}, "expiresAt"),
        ({"surprise": 1}, ""),
    ],
)
async def test_what_cannot_be_enforced_is_refused(admin: Client, fields: dict[str, Any], where: str) -> None:
    response = await create(admin, **fields)
    assert response.status_code == 400, response.text
    node = response.json()["details"]
    for step in where.split(".") if where else ():
        node = node[step]
    assert node["_errors"]
    assert len((await admin.get(URL)).json()["data"]) == 2


async def test_a_body_that_is_too_large_is_not_told_of_inputs(admin: Client) -> None:
    answer = await create(admin, description="x" * 20_000)
    assert (answer.status_code, answer.json()["error"]) == (413, "The request body exceeds 16384 bytes.")


async def test_a_missing_field_is_named_under_its_name(admin: Client) -> None:
    for body, name in (({"description": "x"}, "apiKeyType"), ({"apiKeyType": "ADMIN"}, "description")):
        answer = await admin.post(URL, json=body)
        assert answer.status_code == 400
        assert answer.json()["details"] == {"_errors": [], name: {"_errors": ["Field is required"]}}
        assert answer.json()["error"] == f"{name}: Field is required"


@pytest.mark.parametrize("kind", ["ADMIN", "INFERENCE"])
async def test_a_key_with_a_spend_limit_makes_no_key(server: FakeServer, connect: Connect, kind: str) -> None:
    limit = SpendLimit(usd("1"), LimitPeriod.LIFETIME)
    limited = connect(server, await server.key(kind=KeyKind.ADMIN, limit=limit))
    answer = await create(limited, apiKeyType=kind, consumptionLimit={"usd": 0.5})
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert "spend limit" in answer.json()["error"]
    assert len(await server.store.keys.list()) == 1


@pytest.mark.parametrize(
    ("expires_at", "status"),
    [(None, 400), ("", 400), ("2027-01-02", 200), ("2027-01-02T00:00:00.001Z", 400), ("2026-12-01", 200)],
)
async def test_a_key_is_not_outlived_by_those_it_makes(
    server: FakeServer, connect: Connect, expires_at: str | None, status: int
) -> None:
    expiring = connect(
        server, await server.key(kind=KeyKind.ADMIN, expires_at=datetime(2027, 1, 2, tzinfo=UTC))
    )
    answer = await create(expiring, expiresAt=expires_at)
    assert answer.status_code == status
    if status == 400:
        [message] = answer.json()["details"]["expiresAt"]["_errors"]
        assert "2027-01-02T00:00:00.000Z" in message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (URL, b'{"apiKeyType": "ADMIN", "description": "heir"}'),
        ("/v1/embeddings", b'{"model": "fake-model", "input": "hello"}'),
    ],
)
async def test_a_key_that_is_revoked_while_its_request_comes_makes_no_key_and_buys_nothing(
    admin: Client, server: FakeServer, path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectoll.http.entry.REMEMBERED_S", 0.0)
    before = await server.store.keys.list()

    async def come() -> AsyncIterator[bytes]:
        yield body[:-1]
        for key in before:
            await server.store.keys.revoke(key.id, NOON)
        yield body[-1:]

    answer = await admin.post(path, content=come(), headers={"content-type": "application/json"})
    assert (answer.status_code, "revoked" in answer.text) == (401, True)
    assert len(await server.store.keys.list()) == len(before)
    assert not server.model.embedded


@pytest.mark.parametrize(
    ("expires_at", "shown"),
    [
        ("", None),
        (None, None),
        ("2027-01-01", "2027-01-01T00:00:00.000Z"),
        ("2027-01-01T10:20:30Z", "2027-01-01T10:20:30.000Z"),
        ("2027-01-01T10:20:30.123Z", "2027-01-01T10:20:30.123Z"),
    ],
)
async def test_expiry_formats(admin: Client, expires_at: str | None, shown: str | None) -> None:
    assert (await create(admin, expiresAt=expires_at)).json()["data"]["expiresAt"] == shown


@pytest.mark.parametrize("dollars", ["0", "0.1", "50", "9000000", "0.000000000001"])
async def test_limits_are_exact(admin: Client, server: FakeServer, dollars: str) -> None:
    body = b'{"apiKeyType":"ADMIN","description":"","consumptionLimit":{"usd":%b}}' % dollars.encode()
    response = await admin.post(URL, content=body, headers={"content-type": "application/json"})
    key = await server.store.keys.get(response.json()["data"]["id"])
    assert key is not None
    assert key.limit == SpendLimit(usd(dollars), LimitPeriod.EPOCH)
    shown = json.loads(response.text, parse_float=Decimal, parse_int=Decimal)["data"]["consumptionLimit"][
        "usd"
    ]
    assert shown == Decimal(dollars)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"\xff":1}',
        b'{"description":' + b"[" * 10_000,
        b'{"apiKeyType":"ADMIN","apiKeyType":"ADMIN","description":""}',
    ],
)
async def test_malformed_bodies(admin: Client, body: bytes) -> None:
    response = await admin.post(URL, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400


async def test_content_type_and_size(admin: Client) -> None:
    assert (await admin.post(URL, content=b"{}")).status_code == 415
    headers = {"content-type": "application/json"}
    assert (await admin.post(URL, content=b" " * 20_000, headers=headers)).status_code == 413


async def test_twenty_new_keys_a_minute(admin: Client) -> None:
    assert [(await create(admin)).status_code for _ in range(21)] == [200] * 20 + [429]
    refused = await create(admin)
    assert refused.json()["code"] == "RATE_LIMIT_EXCEEDED"
    assert int(refused.headers["retry-after"]) >= 1


async def test_five_hundred_active_keys(admin: Client, server: FakeServer) -> None:
    for _ in range(499 - 1):
        await server.key()  # with the admin's and the one that `open` made: 500
    response = await create(admin)
    assert response.status_code == 400
    assert "500" in response.json()["error"]
    victim = (await server.store.keys.list(AccountId("acct_1")))[0]
    await admin.delete(URL, params={"id": victim.id})
    assert (await create(admin)).status_code == 200


async def test_rate_limits(server: FakeServer, connect: Connect) -> None:
    key = await server.open()
    body = (await connect(server, key).get(f"{URL}/rate_limits")).json()
    assert body == {
        "data": {
            "accessPermitted": True,
            "apiTier": {"id": "paid", "isCharged": True},
            "balances": {"USD": 5, "DIEM": 0},
            "keyExpiration": None,
            "nextEpochBegins": "2026-11-19T00:00:00.000Z",
            "rateLimits": [
                {
                    "apiModelId": "fake-model",
                    "rateLimits": [{"amount": 500, "type": "RPM"}, {"amount": 10_000_000, "type": "TPM"}],
                }
            ],
        }
    }
    expiring = await server.key(expires_at=NOON.replace(year=2027))
    body = (await connect(server, expiring).get(f"{URL}/rate_limits")).json()
    assert body["data"]["keyExpiration"] == "2027-11-18T12:00:00.000Z"
    poor = connect(server, await server.open("poor", "0"))
    assert (await poor.get(f"{URL}/rate_limits")).json()["data"]["accessPermitted"] is False


async def test_the_same_under_v1(admin: Client) -> None:
    assert (await admin.get("/v1/api_keys")).status_code == 200
    response = await admin.post("/v1/api_keys", json={"apiKeyType": "ADMIN"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
