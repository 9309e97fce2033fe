"""Pages of other origins."""

import httpx
import pytest
from tests.fakes import FakeServer

from vectoll.domain.errors import ConfigurationError
from vectoll.server.serving import _application
from vectoll.settings import HttpSettings, Settings, load_settings

ORIGIN = "https://app.example"
ASKS = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


def client(*origins: str) -> httpx.AsyncClient:
    server = FakeServer(settings=Settings(http=HttpSettings(origins)))
    app = _application(server.settings, server.services)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize("allowed", [ORIGIN, "*"])
async def test_a_page_of_a_named_origin_may_call_and_read(allowed: str) -> None:
    async with client(allowed) as http:
        asked = await http.options("/v1/embeddings", headers=ASKS)
        refused = await http.post("/v1/embeddings", headers={"origin": ORIGIN})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == allowed
    assert "x-stainless-lang" in asked.headers["access-control-allow-headers"]
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == allowed
    assert "x-request-id" in refused.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in refused.headers


async def test_a_page_may_read_every_header_that_is_documented() -> None:
    async with client(ORIGIN) as http:
        document = (await http.get("/openapi.json")).json()
        answer = await http.get("/v1/models", headers={"origin": ORIGIN})
    readable = set(answer.headers["access-control-expose-headers"].split(", "))
    for_browsers = {"accept-encoding", "content-disposition", "content-encoding", "www-authenticate"}
    assert readable == set(document["components"]["headers"]) - for_browsers


@pytest.mark.parametrize("origins", [(), ("https://other.example",)])
async def test_other_pages_may_not(origins: tuple[str, ...]) -> None:
    async with client(*origins) as http:
        asked = await http.options("/v1/embeddings", headers=ASKS)
        refused = await http.post("/v1/embeddings", headers={"origin": ORIGIN})
    assert all("access-control-allow-origin" not in each.headers for each in (asked, refused))


@pytest.mark.parametrize("origin", ["app://obsidian.md", "chrome-extension://abcdef", "tauri://localhost"])
async def test_pages_that_came_over_no_network_have_origins_too(origin: str) -> None:
    settings = load_settings(flags={"http": {"cors_origins": [origin]}}, environ={})
    async with client(*settings.http.cors_origins) as http:
        answer = await http.options("/v1/embeddings", headers={**ASKS, "origin": origin})
    assert answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("origin", ["https://app.example/", "app.example", "", "://x", "App://x y"])
def test_what_is_no_origin_ends_the_program(origin: str) -> None:
    with pytest.raises(ConfigurationError, match=r"http\.cors_origins"):
        load_settings(flags={"http": {"cors_origins": [origin]}}, environ={})
