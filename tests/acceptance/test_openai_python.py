"""openai-python, unmodified, against /v1."""

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.acceptance.expected import NATIVE, TEXTS, Floats, assert_same_vectors
from tests.live import DIMS, MODEL, Key, Server, Vectoll


@pytest.fixture
def client(server: Server, key: Key) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=key.secret, max_retries=0) as client:
        yield client


def test_default_call_gives_floats_that_went_over_the_wire_as_base64(
    client: OpenAI, reference: Floats
) -> None:
    raw = client.embeddings.with_raw_response.create(model=MODEL, input=TEXTS)
    wire = [item["embedding"] for item in raw.http_response.json()["data"]]
    parsed = raw.parse()
    assert all(len(base64.b64decode(text)) == 4 * DIMS for text in wire)
    assert [item.index for item in parsed.data] == [0, 1, 2, 3]
    assert_same_vectors([item.embedding for item in parsed.data], reference)


def test_float_and_base64_are_the_same_float32(client: OpenAI) -> None:
    create = client.embeddings.with_raw_response.create
    floats = create(model=MODEL, input="One text", encoding_format="float").http_response.json()
    packed = create(model=MODEL, input="One text", encoding_format="base64").http_response.json()
    from_numbers = np.array(floats["data"][0]["embedding"], np.float32)
    from_base64 = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert from_numbers.tobytes() == from_base64.tobytes()
    assert np.linalg.norm(from_numbers) == pytest.approx(1, abs=1e-6)


def test_usage_counts_the_models_own_tokens(client: OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["hello world", "hello"])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4 + 3  # [CLS] and [SEP] are read too
    assert answer.model == MODEL


def test_native_token_ids_are_read_verbatim(client: OpenAI) -> None:
    ids = [101, 7592, 2088, 102]
    of_text = client.embeddings.create(model=NATIVE, input="hello world").data[0].embedding
    flat = client.embeddings.create(model=NATIVE, input=ids)
    nested = client.embeddings.create(model=NATIVE, input=[[101, 7592, 102], ids])
    assert flat.usage.prompt_tokens == 4
    assert nested.usage.prompt_tokens == 7
    assert_same_vectors(
        [flat.data[0].embedding, nested.data[1].embedding], np.array([of_text, of_text], np.float32)
    )


def test_native_dimensions_are_accepted(client: OpenAI) -> None:
    assert len(client.embeddings.create(model=MODEL, input="x", dimensions=DIMS).data[0].embedding) == DIMS


def test_other_dimensions_raise_bad_request_that_names_the_parameter(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=str(DIMS)) as refused:
        client.embeddings.create(model=MODEL, input="x", dimensions=64)
    assert refused.value.param == "dimensions"


def test_long_input_raises_bad_request_in_the_words_that_clients_parse(client: OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match="This model's maximum context length is 256 tokens"
    ) as refused:
        client.embeddings.create(model=MODEL, input=["short", "word " * 300])
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "input[1]"


def test_empty_text_raises_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model=MODEL, input="")
    assert refused.value.param == "input"


def test_unknown_model_raises_not_found_and_says_what_is_served(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL) as refused:
        client.embeddings.create(model="no-such-model", input="x")
    assert refused.value.code == "model_not_found"


def test_wrong_key_raises_authentication_error(server: Server) -> None:
    stranger = OpenAI(base_url=f"{server.url}/v1", api_key="vtk_wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.embeddings.create(model=MODEL, input="x")
    assert refused.value.code == "invalid_api_key"


def test_missing_credit_raises_status_402_and_is_not_retried(server: Server, vectoll: Vectoll) -> None:
    statuses: list[int] = []
    hooks = {"response": [lambda response: statuses.append(response.status_code)]}
    broke = vectoll.create_key("0")
    with openai.DefaultHttpxClient(event_hooks=hooks) as http_client:
        client = OpenAI(base_url=f"{server.url}/v1", api_key=broke.secret, http_client=http_client)
        with pytest.raises(openai.APIStatusError) as refused:
            client.embeddings.create(model=MODEL, input="x")
    assert refused.value.code == "insufficient_balance"
    assert statuses == [402]


def test_request_id_comes_back(client: OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input="x", extra_headers={"x-request-id": "mine-1"})
    assert answer._request_id == "mine-1"
    assert client.embeddings.create(model=MODEL, input="x")._request_id
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model=MODEL, input="")
    assert refused.value.request_id


def test_models_can_be_listed_and_looked_up(client: OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


async def test_async_client_keeps_answers_apart(server: Server, key: Key, reference: Floats) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key.secret, max_retries=0) as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model=MODEL, input=TEXTS[i % len(TEXTS)]) for i in range(40))
        )
    assert_same_vectors([answer.data[0].embedding for answer in answers], np.concatenate([reference] * 10))


def test_rate_limit_error_says_when_and_the_retry_waits_for_it(tmp_path: Path) -> None:
    """Where one request may be in flight, a second is told to come back after a second, and then succeeds."""
    installation = Vectoll(tmp_path, limits__requests_in_flight=1)
    with installation.serve() as server:
        key = installation.create_key()
        answers: list[tuple[int, float]] = []
        refused = threading.Event()

        def observe(response: httpx.Response) -> None:
            answers.append((response.status_code, time.monotonic()))
            if response.status_code == 429:
                refused.set()

        occupant = threading.Thread(target=_keep_busy, args=(server, key, refused))
        with openai.DefaultHttpxClient(event_hooks={"response": [observe]}) as http_client:
            client = OpenAI(base_url=f"{server.url}/v1", api_key=key.secret, http_client=http_client)
            occupant.start()
            while not refused.is_set():
                client.embeddings.create(model=MODEL, input="x")
        occupant.join()
    (before, first), (after, second) = answers[-2:]
    assert (before, after) == (429, 200)
    assert second - first >= 1


def _keep_busy(server: Server, key: Key, until: threading.Event) -> None:
    with server.client(key) as client:
        while not until.is_set():
            client.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS * 50})
