"""/api/v1 over a socket: the spec's shapes, and the line that people paste first."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.acceptance.expected import TEXTS, Floats, assert_same_vectors
from tests.live import DIMS, MODEL, Key, Server, Vectoll

PATH = "/api/v1/embeddings"


def post(server: Server, key: Key | None, body: Any, **headers: str) -> httpx.Response:
    with server.client(key) as client:
        return client.post(PATH, json=body, headers=headers)


def test_answer_has_the_specs_shape(server: Server, key: Key, reference: Floats) -> None:
    answer = post(server, key, {"model": MODEL, "input": TEXTS, "user": "ignored"})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert (body["object"], body["model"]) == ("list", MODEL)
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", i) for i in range(4)]
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"]
    assert_same_vectors([item["embedding"] for item in body["data"]], reference)


def test_largest_batch_is_taken_whole_and_kept_in_order(server: Server, key: Key) -> None:
    texts = [TEXTS[i % 3] for i in range(2048)]
    answer = post(server, key, {"model": MODEL, "input": texts}).json()
    assert [item["index"] for item in answer["data"]] == list(range(2048))
    vectors = [item["embedding"] for item in answer["data"]]
    assert all(len(vector) == DIMS for vector in vectors)
    assert max(abs(a - b) for a, b in zip(vectors[0], vectors[3 * 600], strict=True)) < 0.01


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_answers_are_compressed_as_asked(server: Server, key: Key, coding: str) -> None:
    answer = post(server, key, {"model": MODEL, "input": TEXTS}, **{"accept-encoding": coding})
    assert answer.headers["content-encoding"] == coding
    assert len(answer.json()["data"]) == len(TEXTS)


def test_a_wrong_field_is_a_detailed_error(server: Server, key: Key) -> None:
    answer = post(server, key, {"model": MODEL, "input": ["fine", ""]})
    assert answer.status_code == 400
    body = answer.json()
    assert isinstance(body["error"], str)
    assert body["details"]["input"]["1"]["_errors"]


def test_an_unknown_model_is_400_and_lists_what_is_served(server: Server, key: Key) -> None:
    answer = post(server, key, {"model": "nope", "input": "x"})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_MODEL")
    assert MODEL in answer.json()["error"]


def test_nobody_and_a_wrong_key_are_standard_errors(server: Server) -> None:
    for key in (None, Key("", "vtk_wrong"), Key("", "not-one-of-ours")):
        answer = post(server, key, {"model": MODEL, "input": "x"})
        assert answer.status_code == 401
        assert isinstance(answer.json()["error"], str)


def test_missing_credit_is_402(server: Server, vectoll: Vectoll) -> None:
    answer = post(server, vectoll.create_key("0"), {"model": MODEL, "input": "x"})
    assert (answer.status_code, answer.json()["code"]) == (402, "INSUFFICIENT_BALANCE")


def test_what_is_no_json_is_415_or_400(server: Server, key: Key) -> None:
    with server.client(key) as client:
        assert client.post(PATH, content="input=x").status_code == 415
        json_header = {"content-type": "application/json"}
        assert client.post(PATH, content='{"model":', headers=json_header).status_code == 400


def test_the_printed_curl_line_works_as_pasted(tmp_path: Path) -> None:
    """From an empty data directory: the first start makes a key and prints what to paste."""
    installation = Vectoll(tmp_path)
    with installation.serve():
        lines = installation.banner[installation.banner.index("curl ") :]
        done = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=False, timeout=60)
    assert '"object":"list"' in done.stdout, done.stderr
