"""GET /models."""

from collections.abc import Callable
from dataclasses import replace

from tests.fakes import SPEC, FakeServer
from tests.unit.http.conftest import Client

from vectoll.domain.ids import ModelId

Connect = Callable[..., Client]


async def test_models_in_the_neighbours_shape(server: FakeServer, connect: Connect) -> None:
    stranger = connect(server)
    body = (await stranger.get("/api/v1/models")).json()
    assert (body["object"], body["type"]) == ("list", "all")
    (model,) = body["data"]
    assert model.pop("created") > 0
    assert model == {
        "id": "fake-model",
        "object": "model",
        "owned_by": "vectoll",
        "type": "embedding",
        "model_spec": {
            "name": "Fake",
            "privacy": "private",
            "offline": False,
            "pricing": {"input": {"usd": 0.0125, "diem": 0.0125}, "output": {"usd": 0, "diem": 0}},
            "embeddingDimensions": 384,
            "maxInputTokens": 64,
            "supportsCustomDimensions": True,
            "pooling": "mean",
        },
    }
    assert '"usd":0.0125' in (await stranger.get("/v1/models")).text


async def test_filter_by_type(client: Client) -> None:
    for wanted, count in (("all", 1), ("embedding", 1), ("text", 0), ("image", 0), ("code", 0)):
        body = (await client.get("/api/v1/models", params={"type": wanted})).json()
        assert (len(body["data"]), body["type"]) == (count, wanted)
    for url in ("/api/v1/models", "/v1/models"):
        assert (await client.get(url, params={"type": "nonsense"})).status_code == 400
    assert "type" in (await client.get("/api/v1/models?type=")).json()["details"]


async def test_one_model_by_id_alias_and_with_slashes(connect: Connect) -> None:
    server = FakeServer(replace(SPEC, id=ModelId("org/model/v2"), aliases=("org/old",)))
    client = connect(server)
    for name, model_id in (
        ("fake-model", "fake-model"),
        ("fake", "fake-model"),
        ("org/model/v2", "org/model/v2"),
    ):
        for base in ("/api/v1", "/v1"):
            assert (await client.get(f"{base}/models/{name}")).json()["id"] == model_id
    assert (await client.get("/v1/models/org%2Fold")).json()["id"] == "org/model/v2"


async def test_unknown_model(client: Client) -> None:
    response = await client.get("/api/v1/models/none")
    assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")
    assert "fake-model" in response.json()["error"]
    response = await client.get("/v1/models/none")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_offline_model_is_listed_as_such(client: Client, server: FakeServer) -> None:
    server.services.models._models.clear()
    (model,) = (await client.get("/api/v1/models")).json()["data"]
    assert model["model_spec"]["offline"] is True
