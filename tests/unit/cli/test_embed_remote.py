"""RemoteEmbedder against a server that misbehaves."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from vectoll.cli.embed_remote import ATTEMPTS, open_remote
from vectoll.domain.errors import VectollError

Answer = Callable[[dict[str, Any]], web.Response]


@asynccontextmanager
async def serving(answers: list[Answer]) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """Answers the calls one after the other, the last one for ever; keeps what was asked."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return answers[min(len(seen), len(answers)) - 1](await request.json())

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", seen
    finally:
        await runner.cleanup()


def vector(text: str) -> bytes:
    return np.array([len(text), 0.5], np.float32).tobytes()


def right(body: dict[str, Any]) -> web.Response:
    """The vectors, last first: only ``index`` says which is whose."""
    data = [
        {"object": "embedding", "index": i, "embedding": base64.b64encode(vector(text)).decode()}
        for i, text in enumerate(body["input"])
    ]
    return web.json_response({"object": "list", "data": data[::-1], "usage": {"prompt_tokens": 1}})


def refusing(status: int, retry_after: str = "0", body: Any = None) -> Answer:
    refusal = {"error": "come later", "code": "X"} if body is None else body
    return lambda _: web.json_response(refusal, status=status, headers={"retry-after": retry_after})


async def test_vectors_come_back_in_the_order_of_the_texts() -> None:
    async with serving([right]) as (url, seen), open_remote(url, "vtk_k", "m", 2) as remote:
        vectors = await remote.embed(["a", "bbb", "cc"])
    assert [bytes(v) for v in vectors] == [vector("a"), vector("bbb"), vector("cc")]
    assert [float(v[0]) for v in vectors] == [1, 3, 2]
    assert seen[0].path == "/api/v1/embeddings"
    assert seen[0].headers["authorization"] == "Bearer vtk_k"
    assert await seen[0].json() == {
        "model": "m",
        "input": ["a", "bbb", "cc"],
        "encoding_format": "base64",
        "dimensions": 2,
    }


@pytest.mark.parametrize(
    ("suffix", "path"), [("", "/api/v1"), ("/", "/api/v1"), ("/v1", "/v1"), ("/x/api/v1/", "/x/api/v1")]
)
async def test_url_is_a_server_or_a_base_url(suffix: str, path: str) -> None:
    async with serving([right]) as (url, seen), open_remote(url + suffix, None, "m", None) as remote:
        await remote.embed(["a"])
    assert seen[0].path == f"{path}/embeddings"
    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize("status", [429, 503])
async def test_busy_server_is_asked_again_when_it_says(status: int) -> None:
    async with (
        serving([refusing(status), refusing(status), right]) as (url, seen),
        open_remote(url, None, "m", None) as remote,
    ):
        assert len(await remote.embed(["a"])) == 1
    assert len(seen) == 3


async def test_server_that_stays_busy_is_given_up() -> None:
    async with serving([refusing(503)]) as (url, seen), open_remote(url, None, "m", None) as remote:
        with pytest.raises(VectollError, match="the server answered 503: come later"):
            await remote.embed(["a"])
    assert len(seen) == ATTEMPTS


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusing(401), "the server answered 401: come later"),
        (refusing(402, body=[1]), "the server answered 402: an answer that is not one of vectoll's"),
        (
            refusing(500, body={"error": {"message": "OpenAI's shape"}}),
            "the server answered 500: OpenAI's shape",
        ),
        (lambda _: web.Response(text="<html>"), "one vector for each text"),
        (lambda _: web.json_response({"data": []}), "one vector for each text"),
        (lambda _: right({"input": ["a", "b", "c"]}), "one vector for each text"),
        (lambda _: web.json_response({"data": [{"index": 0, "embedding": "AAAAAA=="}] * 2}), "one vector"),
        (
            lambda _: web.json_response({"data": [{"index": i, "embedding": "!"} for i in (0, 1)]}),
            "one vector",
        ),
        (
            lambda _: web.json_response({"data": [{"index": i, "embedding": "AAA="} for i in (0, 1)]}),
            "one vector",
        ),
    ],
)
async def test_bad_answer_is_one_line_and_no_retry(answer: Answer, says: str) -> None:
    async with serving([answer]) as (url, seen), open_remote(url, None, "m", None) as remote:
        with pytest.raises(VectollError) as error:
            await remote.embed(["a", "b"])
    assert says in str(error.value)
    assert len(seen) == 1
