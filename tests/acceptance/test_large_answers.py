"""Answers that are streamed, read by clients that know nothing of it."""

import json
import socket
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
import requests
from openai import AsyncOpenAI, OpenAI
from tests.acceptance.expected import Floats, assert_same_vectors
from tests.live import MODEL, Key, Server

TEXTS = [f"sentence number {n} of a large request" for n in range(200)]
ASKING = {"model": MODEL, "input": TEXTS}
CODINGS = pytest.mark.parametrize("coding", ["identity", "gzip", "br"])


@pytest.fixture(scope="module")
def expected(server: Server, key: Key) -> Floats:
    """The same texts in requests that are small enough to be answered whole."""
    vectors: list[list[float]] = []
    with server.client(key) as client:
        for at in range(0, len(TEXTS), 50):
            answer = client.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS[at : at + 50]})
            assert "content-length" in answer.headers
            vectors += (item["embedding"] for item in answer.json()["data"])
    return np.array(vectors, np.float32)


def check(body: Any, expected: Floats) -> None:
    assert [item["index"] for item in body["data"]] == list(range(len(TEXTS)))
    assert_same_vectors([item["embedding"] for item in body["data"]], expected)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_openai_python(server: Server, key: Key, expected: Floats, encoding_format: Any) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key=key.secret, max_retries=0) as client:
        raw = client.embeddings.with_raw_response.create(
            model=MODEL, input=TEXTS, encoding_format=encoding_format
        )
        assert raw.headers["transfer-encoding"] == "chunked"
        if encoding_format == "float":
            check(raw.http_response.json(), expected)
        parsed = client.embeddings.create(model=MODEL, input=TEXTS)
    assert_same_vectors([item.embedding for item in parsed.data], expected)


async def test_async_openai_python(server: Server, key: Key, expected: Floats) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key.secret, max_retries=0) as client:
        answer = await client.embeddings.create(model=MODEL, input=TEXTS)
    assert_same_vectors([item.embedding for item in answer.data], expected)


@CODINGS
def test_httpx(server: Server, key: Key, expected: Floats, coding: str) -> None:
    with server.client(key) as client:
        for _ in range(2):  # the connection is good for another
            answer = client.post("/v1/embeddings", json=ASKING, headers={"accept-encoding": coding})
            assert answer.headers.get("content-encoding", "identity") == coding
            check(answer.json(), expected)


@CODINGS
async def test_aiohttp(server: Server, key: Key, expected: Floats, coding: str) -> None:
    headers = {**key.headers, "accept-encoding": coding}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/v1/embeddings", json=ASKING, headers=headers) as answer,
    ):
        assert answer.headers.get("content-encoding", "identity") == coding
        check(await answer.json(), expected)


def test_requests(server: Server, key: Key, expected: Floats) -> None:
    answer = requests.post(f"{server.url}/v1/embeddings", json=ASKING, headers=key.headers, timeout=60)
    assert answer.headers["content-encoding"] == "gzip"
    check(answer.json(), expected)


def test_http_1_0_client(server: Server, key: Key, expected: Floats) -> None:
    """Some proxies still speak it."""
    host, port = httpx.URL(server.url).host, httpx.URL(server.url).port
    body = json.dumps(ASKING).encode()
    lines = f"POST /v1/embeddings HTTP/1.0\r\nauthorization: Bearer {key.secret}\r\n"
    lines += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(lines.encode() + body)
        with connection.makefile("rb") as answer:
            head, _, received = answer.read().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    check(json.loads(received), expected)
