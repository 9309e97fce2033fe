"""POST /embeddings: what comes back, for every form of input."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.types import Message
from tests.fakes import SPEC, FakeServer, limited
from tests.unit.http.conftest import OPENAI_URL, SPEC_URL, Client, embedding_body

from vectoll.domain.embedding import Embeddings, Encoding, Usage
from vectoll.domain.errors import AtCapacity, InferenceFailed
from vectoll.domain.ids import AccountId, ModelId
from vectoll.http.services import Phase
from vectoll.ports.model import BilledUsage

BOTH = pytest.mark.parametrize("url", [SPEC_URL, OPENAI_URL])
Connect = Callable[..., Client]


def expected(server: FakeServer, text: str, dims: int = 384) -> list[float]:
    encoding = server.model._encode(text)
    vector: list[float] = np.frombuffer(server.model.vector(encoding, dims), "<f4").tolist()
    return vector


def as_float32(numbers: list[float]) -> list[float]:
    """What the numbers of an answer are once a client has stored them as float32."""
    stored: list[float] = np.array(numbers, np.float32).tolist()
    return stored


@BOTH
async def test_answer_has_exactly_the_specs_shape(client: Client, server: FakeServer, url: str) -> None:
    response = await client.embed("hello world", url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["object", "data", "model", "usage"]
    assert body["object"] == "list"
    assert body["model"] == "fake-model"
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    (item,) = body["data"]
    assert list(item) == ["object", "index", "embedding"]
    assert (item["object"], item["index"]) == ("embedding", 0)
    assert as_float32(item["embedding"]) == expected(server, "hello world")


async def test_base64_is_little_endian_float32(client: Client, server: FakeServer) -> None:
    body = (await client.embed(encoding_format="base64")).json()
    raw = base64.b64decode(body["data"][0]["embedding"], validate=True)
    assert np.frombuffer(raw, "<f4").tolist() == expected(server, "hello world")


@pytest.mark.parametrize("encoding_format", ["float", None])
async def test_float_is_the_default(client: Client, encoding_format: str | None) -> None:
    body = (await client.embed(encoding_format=encoding_format)).json()
    assert isinstance(body["data"][0]["embedding"], list)
    assert isinstance((await client.embed()).json()["data"][0]["embedding"], list)


async def test_inputs_keep_their_order(client: Client, server: FakeServer) -> None:
    texts = [f"text {'x' * n}" for n in range(1, 20)]
    data = (await client.embed(texts)).json()["data"]
    assert [item["index"] for item in data] == list(range(19))
    assert [as_float32(item["embedding"]) for item in data] == [expected(server, t) for t in texts]


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"),
    [
        ("one two", 1, 4),
        (["one", "two three"], 2, 7),
        ([101, 5, 102], 1, 3),
        ([[101, 0, 102], [7]], 2, 4),
        ([1], 1, 1),
    ],
)
async def test_four_forms_of_input(client: Client, given: Any, vectors: int, tokens: int) -> None:
    body = (await client.embed(given)).json()
    assert len(body["data"]) == vectors
    assert body["usage"]["prompt_tokens"] == tokens


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_2048_inputs_are_written_off_the_loop(client: Client, encoding_format: str) -> None:
    body = (await client.embed(["a", "b"] * 1024, encoding_format=encoding_format)).json()
    assert [item["index"] for item in body["data"]] == list(range(2048))


async def test_dimensions_are_honoured(client: Client) -> None:
    assert len((await client.embed(dimensions=8)).json()["data"][0]["embedding"]) == 8
    assert len((await client.embed(dimensions=384)).json()["data"][0]["embedding"]) == 384
    assert len((await client.embed(dimensions=None)).json()["data"][0]["embedding"]) == 384
    refused = await client.embed(dimensions=9)
    assert refused.status_code == 400
    assert refused.json()["details"]["dimensions"]["_errors"]


async def test_user_is_ignored_and_alias_answers_with_the_id(client: Client) -> None:
    response = await client.post(SPEC_URL, json={"model": "fake", "input": "hi", "user": "someone"})
    assert response.json()["model"] == "fake-model"


async def test_a_large_body_of_token_ids_means_what_a_small_one_does(client: Client) -> None:
    arrays = [[1000 + i] * 60 for i in range(2048)]
    large = (await client.embed(arrays)).json()
    assert large["usage"]["prompt_tokens"] == 2048 * 60
    small = (await client.embed(arrays[-1:])).json()
    assert large["data"][-1]["embedding"] == small["data"][0]["embedding"]
    refused = await client.embed([*arrays[:-1], [0, -1]])
    assert refused.status_code == 400
    assert "input[2047][1]" in refused.text


async def test_charge_equals_usage(client: Client, server: FakeServer) -> None:
    before = (await server.store.ledger.balance(AccountId("acct_1"))).balance
    await client.embed(["one two", "three"])
    after = (await server.store.ledger.balance(AccountId("acct_1"))).balance
    assert before - after == SPEC.price.of(7)


async def test_unknown_model(client: Client) -> None:
    response = await client.post(SPEC_URL, json={"model": "no such", "input": "hi"})
    assert response.status_code == 400
    assert response.json()["code"] == "INVALID_MODEL"
    assert "fake-model" in response.json()["error"]
    assert "fake-model" in response.json()["details"]["model"]["_errors"][0]
    response = await client.post(OPENAI_URL, json={"model": "no such", "input": "hi"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["param"] == "model"


async def test_over_length_input_names_index_count_and_limit(client: Client) -> None:
    response = await client.embed(["short", "word " * 70])
    assert response.status_code == 400
    assert response.json()["code"] == "CONTEXT_LENGTH_EXCEEDED"
    assert response.json()["error"].startswith(
        "This model's maximum context length is 64 tokens, but input 1 has 73"
    )
    assert "maximum" in response.json()["details"]["input"]["1"]["_errors"][0]


async def test_insufficient_credit_encodes_nothing(server: FakeServer, connect: Connect) -> None:
    poor = connect(server, await server.open("poor", "0"))
    response = await poor.embed()
    assert response.status_code == 402
    assert response.json()["code"] == "INSUFFICIENT_BALANCE"
    assert set(response.json()) == {"error", "code"}
    assert server.model.embedded == 0
    openai = (await poor.embed(url=OPENAI_URL)).json()["error"]
    assert (openai["type"], openai["code"]) == ("insufficient_quota", "insufficient_balance")


async def test_pro_only_model(server: FakeServer, connect: Connect) -> None:
    server = FakeServer(replace(SPEC, id=ModelId("pro"), aliases=(), pro_only=True))
    basic = connect(server, await server.open())
    response = await basic.post(SPEC_URL, json={"model": "pro", "input": "hi"})
    assert response.status_code == 401
    assert response.json()["error"] == "This model is only available to Pro users"
    pro = connect(server, await server.key(is_pro=True))
    assert (await pro.post(SPEC_URL, json={"model": "pro", "input": "hi"})).status_code == 200


async def test_offline_model_and_capacity_are_503(client: Client, server: FakeServer) -> None:
    server.model.error = AtCapacity(7)
    response = await client.embed()
    assert response.status_code == 503
    assert response.json()["code"] == "MODEL_AT_CAPACITY"
    assert response.headers["retry-after"] == "7"
    server.services.models._models.clear()
    response = await client.embed()
    assert (response.status_code, response.json()["code"]) == (503, "MODEL_OFFLINE")
    assert "retry-after" not in response.headers


async def test_engine_failure_is_500_and_free(client: Client, server: FakeServer) -> None:
    server.model.error = InferenceFailed()
    before = await server.store.ledger.balance(AccountId("acct_1"))
    response = await client.embed()
    assert (response.status_code, response.json()["code"]) == (500, "INFERENCE_FAILED")
    assert await server.store.ledger.balance(AccountId("acct_1")) == before


async def test_defect_is_500_in_the_right_shape_and_quotes_nothing(
    client: Client, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.model.error = ZeroDivisionError("secret text")
    response = await client.embed("my private words")
    assert response.status_code == 500
    assert response.json() == {"error": "Internal error. Please try again.", "code": "INTERNAL_ERROR"}
    openai = await client.embed(url=OPENAI_URL)
    assert openai.json()["error"]["type"] == "server_error"
    output = "".join(capsys.readouterr())
    assert "ZeroDivisionError" in output
    assert response.headers["x-request-id"] in output
    assert "secret text" not in output
    assert "private" not in output


async def test_draining_server_refuses(client: Client, server: FakeServer) -> None:
    server.services.readiness.phase = Phase.DRAINING
    response = await client.embed()
    assert (response.status_code, response.json()["code"]) == (503, "SHUTTING_DOWN")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        'Application/JSON;charset="UTF-8"',
        "application/json ; profile=x",
        "application/json;",
    ],
)
async def test_json_content_types(client: Client, content_type: str) -> None:
    assert (await client.send_raw(embedding_body(), content_type=content_type)).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/jsonp",
        "application/json; charset=latin-1",
        "text/json",
        "multipart/form-data",
    ],
)
async def test_other_content_types_are_415(client: Client, content_type: str) -> None:
    response = await client.send_raw(embedding_body(), content_type=content_type)
    assert (response.status_code, response.json()["code"]) == (415, "INVALID_CONTENT_TYPE")
    assert (await client.post(SPEC_URL, content=embedding_body())).status_code == 415


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
async def test_compressed_request_bodies_are_415_and_say_so(client: Client, coding: str) -> None:
    response = await client.send_raw(embedding_body(), content_encoding=coding)
    assert (response.status_code, response.json()["code"]) == (415, "INVALID_CONTENT_ENCODING")
    assert "without Content-Encoding" in response.json()["error"]
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["", "identity", "Identity"])
async def test_no_content_encoding_may_be_said_in_words(client: Client, coding: str) -> None:
    assert (await client.send_raw(embedding_body(), content_encoding=coding)).status_code == 200


async def test_body_limit(connect: Connect) -> None:
    server = FakeServer(settings=limited(max_body_bytes=100))
    client = connect(server, await server.open())
    exact = embedding_body(input="x" * (100 - len(embedding_body(input=""))))
    assert len(exact) == 100
    assert (await client.send_raw(exact)).status_code == 200
    response = await client.send_raw(exact + b" ")
    assert (response.status_code, response.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")

    async def endless() -> Any:
        while True:  # without a Content-Length: only counting stops it
            yield b" " * 30

    response = await client.post(SPEC_URL, content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 413


async def test_announced_length_is_refused_before_a_byte_is_read(
    server: FakeServer, connect: Connect
) -> None:
    client = connect(server, await server.open())
    limit = server.settings.limits.max_body_bytes
    headers = {"content-type": "application/json", "content-length": str(limit + 1)}
    request = client.build_request("POST", SPEC_URL, headers=headers, content=b"{}")
    request.headers["content-length"] = str(limit + 1)
    assert (await client.send(request)).status_code == 413


async def test_idempotency_key_charges_once(client: Client, server: FakeServer) -> None:
    before = (await server.store.ledger.balance(AccountId("acct_1"))).balance
    headers = {"idempotency-key": "one"}
    body = {"model": "fake-model", "input": "hello"}
    first = await client.post(SPEC_URL, json=body, headers=headers)
    second = await client.post(SPEC_URL, json=body, headers=headers)
    assert first.content == second.content
    after = (await server.store.ledger.balance(AccountId("acct_1"))).balance
    assert before - after == SPEC.price.of(3)
    other = await client.post(SPEC_URL, json={**body, "input": "other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")


async def test_details_say_what_is_wrong_under_its_field_and_the_message_says_where(client: Client) -> None:
    answer = (await client.embed(dimensions=3)).json()
    why = "the model 'fake-model' has vectors of 8, 384 dimensions"
    assert answer["error"] == f"dimensions: {why}"
    assert answer["details"]["dimensions"]["_errors"] == [why]


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"caf\xe9", b"tab\there"])
async def test_bad_idempotency_keys_are_400(client: Client, key: bytes) -> None:
    headers = {b"content-type": b"application/json", b"idempotency-key": key}
    response = await client.post(SPEC_URL, content=embedding_body(), headers=headers)
    assert response.status_code == 400
    assert response.json()["details"]["Idempotency-Key"]["_errors"]
    assert (await client.send_raw(embedding_body(), idempotency_key="x" * 255)).status_code == 200


class Connection:
    """A client on the ASGI level that can hang up."""

    def __init__(self, body: bytes, key: str) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.sent: list[Message] = []
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": SPEC_URL,
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("10.0.0.1", 1),
        }

    def hang_up(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        self.sent.append(message)


async def test_client_that_leaves_frees_its_place_and_pays_nothing(server: FakeServer) -> None:
    server.model.gate = asyncio.Event()
    key = await server.open()
    before = await server.store.ledger.balance(AccountId("acct_1"))
    connection = Connection(embedding_body(), key)
    request = asyncio.create_task(server.app(connection.scope, connection.messages.get, connection.send))
    await server.model.started.wait()
    assert (await server.store.ledger.balance(AccountId("acct_1"))).held > 0
    assert sum(server.services.admission._in_flight.values()) == 1
    connection.hang_up()
    await request
    assert server.model.cancelled == 1
    assert await server.store.ledger.balance(AccountId("acct_1")) == before
    assert not server.services.admission._in_flight
    assert connection.sent[0]["status"] == 499
    assert b'status="499"' in server.metrics.render()


async def test_client_that_leaves_a_bought_model_keeps_its_place_until_the_call_ends_and_pays(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, answered = asyncio.Event(), asyncio.Event()

    async def buy(encodings: Sequence[Encoding], **_: Any) -> Embeddings:
        server.model.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as gone:
            left.set()
            await answered.wait()
            raise gone from BilledUsage(Usage(2), is_whole=True)
        raise AssertionError

    monkeypatch.setattr(server.model, "embed", buy)
    connection = Connection(embedding_body(), await server.open())
    before = await server.store.ledger.balance(AccountId("acct_1"))
    request = asyncio.create_task(server.app(connection.scope, connection.messages.get, connection.send))
    await server.model.started.wait()
    connection.hang_up()
    await left.wait()
    assert (await server.store.ledger.balance(AccountId("acct_1"))).held == SPEC.price.of(3)
    assert sum(server.services.admission._in_flight.values()) == 1
    answered.set()
    await request
    after = await server.store.ledger.balance(AccountId("acct_1"))
    assert (before.balance - after.balance, after.held) == (SPEC.price.of(2), 0)
    assert not server.services.admission._in_flight
    assert connection.sent[0]["status"] == 499


async def test_client_that_leaves_while_sending(server: FakeServer) -> None:
    connection = Connection(b"", await server.open())
    connection.messages = asyncio.Queue()
    connection.hang_up()
    await server.app(connection.scope, connection.messages.get, connection.send)
    assert connection.sent[0]["status"] == 499


async def test_cancellation_from_elsewhere_stays_a_cancellation(server: FakeServer) -> None:
    server.model.gate = asyncio.Event()
    connection = Connection(embedding_body(), await server.open())
    request = asyncio.create_task(server.app(connection.scope, connection.messages.get, connection.send))
    await server.model.started.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert not server.services.admission._in_flight


async def test_no_task_is_left_behind(client: Client) -> None:
    await client.embed()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@BOTH
async def test_head_and_options(client: Client, url: str) -> None:
    options = await client.options(url)
    assert (options.status_code, options.headers["allow"]) == (204, "OPTIONS, POST")
    refused = await client.get(url)
    assert (refused.status_code, refused.headers["allow"]) == (405, "OPTIONS, POST")
    head = await client.head("/api/v1/models")
    assert head.status_code == 200
