"""What surrounds the API: ids, logs, metrics, probes, unknown routes, headers."""

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import structlog
from tests.fakes import SPEC, FakeServer
from tests.unit.http.conftest import OPENAI_URL, SPEC_URL, Client

from vectoll.core.models import ModelRegistry
from vectoll.domain.catalog import Catalog
from vectoll.domain.ids import ModelId
from vectoll.http.openapi_operations import OPERATIONS
from vectoll.http.record import BASES
from vectoll.http.services import Phase

Connect = Callable[..., Client]


async def test_request_id_is_taken_over_or_made(client: Client) -> None:
    for offered in ("abc", "A-b_c.9", "x" * 128):
        response = await client.get("/health", headers={"x-request-id": offered})
        assert response.headers["x-request-id"] == offered
    made = set()
    for offered in ("", "x" * 129, "a b", "a\\n", "a/b", "'; --"):
        response = await client.get("/health", headers={"x-request-id": offered})
        made.add(response.headers["x-request-id"])
    assert len(made) == 6
    assert all(request_id.startswith("req_") for request_id in made)


async def test_request_id_reaches_the_ledger(client: Client, server: FakeServer) -> None:
    await client.post(SPEC_URL, json={"model": "fake", "input": "x"}, headers={"x-request-id": "mine"})
    history = (await client.get("/api/v1/billing/usage-history")).json()
    assert history["data"][0]["inferenceDetails"]["requestId"] == "mine"


async def test_one_log_line_without_secrets(client: Client, server: FakeServer) -> None:
    with structlog.testing.capture_logs() as lines:
        response = await client.embed("very private text")
        await client.embed(["", "very private text"])
        await client.post(SPEC_URL, json={"model": "very private", "input": "x"})
        await client.get("/api/v1/very/private", headers={"x-request-id": "given"})
    good, bad, unknown, nowhere = lines
    assert good["event"] == "request"
    assert good["request_id"] == response.headers["x-request-id"]
    assert (good["method"], good["route"], good["status"]) == ("POST", SPEC_URL, 200)
    assert (good["model"], good["tokens"], good["account"]) == ("fake-model", 5, "acct_1")
    assert good["key"].startswith("key_")
    assert good["duration_ms"] > 0
    assert good["code"] is None
    assert (bad["status"], bad["code"], bad["tokens"]) == (400, "INVALID_REQUEST", None)
    assert (unknown["status"], unknown["code"], unknown["model"]) == (400, "INVALID_MODEL", "-")
    assert (nowhere["status"], nowhere["route"], nowhere["request_id"]) == (404, "", "given")
    text = str(lines)
    assert "private" not in text
    assert client.headers["authorization"].removeprefix("Bearer ") not in text


async def test_metrics(client: Client) -> None:
    await client.embed()
    await client.embed("")
    await client.get("/api/v1/models/fake")
    await client.get("/api/v1/nowhere/at/all")
    response = await client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'route="/api/v1/embeddings",status="200"' in response.text
    assert 'route="/api/v1/embeddings",status="400"' in response.text
    assert 'route="/api/v1/models/{model_id}",status="200"' in response.text
    assert "nowhere" not in response.text


async def test_probes(client: Client, server: FakeServer) -> None:
    readiness = server.services.readiness
    for phase, status in ((Phase.STARTING, 503), (Phase.READY, 200), (Phase.DRAINING, 503)):
        readiness.phase = phase
        assert (await client.get("/health")).json() == {"status": "ok"}
        response = await client.get("/ready")
        assert (response.status_code, response.json()) == (status, {"status": phase.value})
    assert (await client.head("/health")).status_code == 200


async def test_not_ready_while_no_model_can_be_served(connect: Connect) -> None:
    server = FakeServer(first_offline := replace(SPEC, id=ModelId("other"), aliases=()))
    client = connect(server)
    offline: dict[ModelId, str] = {first_offline.id: "it could not be loaded"}
    registry = ModelRegistry(Catalog([SPEC, first_offline]), server.models, offline)
    server.app.services = replace(server.services, models=registry)
    assert (await client.get("/ready")).status_code == 200
    offline[SPEC.id] = "it has 8 dims"
    answer = await client.get("/ready")
    assert answer.status_code == 503
    reason = "no model can be served: fake-model: it has 8 dims; other: it could not be loaded"
    assert answer.json() == {"status": "unavailable", "reason": reason}
    server.app.services = replace(server.services, models=ModelRegistry(Catalog([SPEC]), {}))
    assert "no model is switched on" in (await client.get("/ready")).json()["reason"]


async def test_not_ready_while_the_store_is_lost(client: Client, server: FakeServer) -> None:
    server.services.readiness.is_store_lost = lambda: True
    answer = await client.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "reason": "the database cannot be reached"}
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/api/v1/none", 404),
        ("POST", "/api/v1/", 404),
        ("GET", "/api/v1", 404),
        ("POST", "/api/v1/embeddings/", 404),
        ("GET", "/api/v1/embeddings", 405),
        ("PUT", "/api/v1/api_keys", 405),
    ],
)
async def test_wrong_routes_in_the_specs_shape(client: Client, method: str, url: str, status: int) -> None:
    response = await client.request(method, url)
    assert response.status_code == status
    error, code = response.json().values()
    assert code == {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}[status]
    assert ("/v1" if status == 404 else response.headers["allow"]) in error


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/v1/none", 404),
        ("GET", OPENAI_URL, 405),
        ("GET", "/v1", 404),
        ("POST", "/embeddings", 404),
        ("GET", "/", 404),
        ("POST", "/health", 405),
    ],
)
async def test_wrong_routes_elsewhere_in_openais_shape(
    client: Client, method: str, url: str, status: int
) -> None:
    """OpenAI's clients show no other, and a base URL without its /v1 is what people get wrong most."""
    response = await client.request(method, url)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert ("/v1" if status == 404 else response.headers["allow"]) in error["message"]


async def test_v1_is_a_whole_segment(client: Client) -> None:
    assert isinstance((await client.get("/api/v1x/none")).json()["error"], dict)
    assert "x-ratelimit-limit-requests" not in (await client.get("/api/v1x")).headers


async def test_allow_names_every_method(client: Client) -> None:
    assert (await client.put("/api/v1/api_keys")).headers["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"
    assert (await client.options("/v1/api_keys")).headers["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"


async def test_security_headers(client: Client) -> None:
    for url in ("/api/v1/models", "/health", "/docs", "/api/v1/none"):
        headers = (await client.get(url)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert (await client.get("/api/v1/models")).headers["cache-control"] == "no-store"
    assert (
        "access-control-allow-origin"
        not in (await client.get("/api/v1/models", headers={"origin": "x"})).headers
    )


def refs(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*map(refs, node.values()))
    return set[str]().union(*map(refs, node)) if isinstance(node, list) else set()


async def test_openapi_document(client: Client, server: FakeServer) -> None:
    response = await client.get("/openapi.json")
    document = response.json()
    assert document["openapi"].startswith("3.1")
    for ref in refs(document):
        node = document
        for step in ref.removeprefix("#/").split("/"):
            node = node[step]
    ids = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(ids) == len(set(ids))
    embeddings = document["paths"][SPEC_URL]["post"]
    statuses = {int(status) for status in embeddings["responses"]}
    assert statuses == {200, 400, 401, 402, 408, 409, 413, 414, 415, 429, 431, 500, 501, 503, 504, 505}
    assert set(document["paths"][OPENAI_URL]["post"]["responses"]) == {*embeddings["responses"], "404"}
    refused = document["paths"]["/health"]["get"]["responses"]["400"]["content"]["application/json"]["schema"]
    assert refused == {"$ref": "#/components/schemas/OpenAIError"}
    assert {"BearerAuth": []} in embeddings["security"]
    assert '"decimal"' not in response.text
    fields = document["components"]["schemas"]["CreateEmbeddingRequest"]["properties"]
    assert [form["type"] for form in fields["input"]["anyOf"]] == ["string", "array", "array", "array"]
    assert fields["model"]["anyOf"][1] == {"enum": ["fake-model"]}


async def test_generators_of_clients_can_read_the_document(client: Client) -> None:
    """openapi-python-client takes the first form of an answer, and drops a model that has an enum of true."""
    document = (await client.get("/openapi.json")).json()
    history = document["paths"]["/v1/billing/usage-history"]["get"]["responses"]["200"]["content"]
    assert list(history) == ["application/json", "text/csv"]
    assert '"enum":[true]' not in (await client.get("/openapi.json")).text


def test_every_route_is_documented_and_the_other_way_round(server: FakeServer) -> None:
    unlisted = {"/openapi.json", "/docs"}
    routes = {
        (method.lower(), route.path_format)
        for route in server.app.routes
        if route.path_format not in unlisted
        for method in route.methods or ()
        if method != "HEAD"
    }
    documented = {
        (op.method, base + op.path) for op in OPERATIONS for base in (BASES if op.is_api else ("",))
    }
    assert routes == documented


class Links(HTMLParser):
    """Collects everything that a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href")]


async def test_docs_page_shows_this_server_and_every_credential(client: Client) -> None:
    page = (await client.get("/docs", headers={"host": "10.0.0.1:9100"})).text
    assert "curl http://10.0.0.1:9100/api/v1/embeddings" in page
    for header in ("Authorization: Bearer", "api-key", "SIGN-IN-WITH-X"):
        assert f"<code>{header}</code>" in page
    assert "<script>" not in (await client.get("/docs", headers={"host": "<script>"})).text


async def test_docs_page_needs_nothing_from_anywhere(client: Client) -> None:
    response = await client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    links = Links()
    links.feed(response.text)
    assert links.urls == ["/openapi.json"]
    assert not {"script", "img", "link", "iframe"} & set(links.tags)
    for operation in OPERATIONS:
        assert operation.summary.replace("'", "&#x27;") in response.text
    assert json.dumps("maxItems")[1:-1] in response.text
