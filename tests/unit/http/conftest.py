import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from tests.fakes import FakeServer

SPEC_URL = "/api/v1/embeddings"
OPENAI_URL = "/v1/embeddings"


class Client(httpx.AsyncClient):
    """Talks to a FakeServer without a socket."""

    def __init__(self, server: FakeServer, key: str | None, **options: Any) -> None:
        headers = options.pop("headers", {}) | ({"authorization": f"Bearer {key}"} if key else {})
        # raise_app_exceptions stays on: a test fails where a client would see a broken connection
        super().__init__(
            transport=httpx.ASGITransport(server.app), base_url="http://test", headers=headers, **options
        )

    async def embed(self, given: Any = "hello world", url: str = SPEC_URL, **fields: Any) -> httpx.Response:
        return await self.post(url, json={"model": "fake-model", "input": given, **fields})

    async def send_raw(
        self, body: bytes, url: str = SPEC_URL, content_type: str = "application/json", **headers: str
    ) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.post(url, content=body, headers={"content-type": content_type, **names})


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[Client]:
    async with Client(server, await server.open()) as client:
        yield client


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Client]]:
    """Clients of other servers, or with other keys, closed at the end."""
    clients: list[Client] = []

    def connect(server: FakeServer, key: str | None = None, **options: Any) -> Client:
        clients.append(Client(server, key, **options))
        return clients[-1]

    yield connect
    for each in clients:
        await each.aclose()


def embedding_body(**fields: Any) -> bytes:
    return json.dumps({"model": "fake-model", "input": "hello", **fields}).encode()
