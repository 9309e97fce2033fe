"""Any body and any headers over a real socket: a documented status in the right shape, and never a 5xx."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.http.conftest import Live

BASES = st.sampled_from(["/api/v1", "/v1"])
DOCUMENTED = {200, 400, 401, 402, 404, 409, 413, 415, 429}
BOUNDED = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
INPUTS = TEXTS | st.lists(TEXTS, max_size=4) | st.lists(st.integers(-1, 9)) | JSON
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("fake-model") | JSON,
        "input": TEXTS | st.lists(TEXTS, max_size=4) | st.lists(st.integers(-1, 9)) | JSON,
    },
    optional={"dimensions": JSON | st.just(8), "encoding_format": JSON, "user": JSON, "x": JSON},
)
RAW = BODIES.map(lambda body: json.dumps(body).encode()) | BODIES.map(
    lambda body: json.dumps(body, ensure_ascii=False, allow_nan=True).encode("utf-8", "surrogatepass")
)


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {live.key}", "content-type": "application/json"}
    with httpx.Client(base_url=live.url, headers=headers) as client:
        yield client


def check(response: httpx.Response, base: str) -> None:
    assert response.status_code in DOCUMENTED
    body: Any = response.json()
    if response.status_code == 200:
        assert set(body) == {"object", "data", "model", "usage"}
        assert all(len(item["embedding"]) for item in body["data"])
    elif base == "/v1":
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"]
    else:
        assert isinstance(body["error"], str)
        assert set(body) == (
            {"error", "code", "details"} if response.status_code == 400 else {"error", "code"}
        )


@BOUNDED
@given(BASES, RAW)
def test_any_json_object(client: httpx.Client, base: str, raw: bytes) -> None:
    check(client.post(f"{base}/embeddings", content=raw), base)


@BOUNDED
@given(BASES, RAW, st.data())
def test_damaged_json(client: httpx.Client, base: str, raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw)))
    raw = raw[:at] + data.draw(st.binary(max_size=4)) + raw[at + data.draw(st.integers(0, 4)) :]
    check(client.post(f"{base}/embeddings", content=raw), base)


@BOUNDED
@given(BASES, st.binary(max_size=300))
def test_any_bytes(client: httpx.Client, base: str, raw: bytes) -> None:
    check(client.post(f"{base}/embeddings", content=raw), base)


HEADER = st.binary(max_size=60).map(lambda raw: bytes(b for b in raw if b >= 0x20 and b != 0x7F).strip())


@BOUNDED
@given(
    BASES,
    st.sampled_from(
        [
            "accept-encoding",
            "authorization",
            "api-key",
            "idempotency-key",
            "content-type",
            "x-request-id",
            "accept",
        ]
    ),
    HEADER,
)
def test_any_header(client: httpx.Client, base: str, name: str, value: bytes) -> None:
    for request in (
        client.build_request("POST", f"{base}/embeddings", json={"model": "fake", "input": "x"}),
        client.build_request("GET", f"{base}/billing/usage-history"),
    ):
        others = [header for header in request.headers.raw if header[0].lower() != name.encode()]
        request.headers = httpx.Headers([*others, (name.encode(), value)])
        assert client.send(request).status_code in DOCUMENTED


@BOUNDED
@given(st.binary(max_size=30), st.binary(max_size=30))
def test_any_path_and_query(client: httpx.Client, path: bytes, query: bytes) -> None:
    for base in ("/api/v1/models/", "/v1/api_keys/", "/api/v1/billing/usage-history?cursor=", "/v1/", "/"):
        url = base + quote_from_bytes(path, safe="") + "?" + quote_from_bytes(query, safe="&=")
        assert client.get(url).status_code < 500


def test_a_body_over_the_limit_is_told_so(client: httpx.Client) -> None:
    response = client.post("/api/v1/embeddings", content=b" " * (33_554_432 + 1))
    assert (response.status_code, response.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_client_that_hangs_up_is_noticed(live: Live) -> None:
    body = json.dumps({"model": "fake-model", "input": "x"}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {live.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body[:-1])
    assert live.answers.seen("POST", "/v1/embeddings", 499)
