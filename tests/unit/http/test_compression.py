"""Which encoding is chosen, and that what is sent is what was meant."""

import gzip
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import FakeServer
from tests.unit.http.conftest import SPEC_URL, Client, embedding_body

from vectoll.http.compression import OFFLOAD_BYTES, brotli_body, gzip_body, negotiate
from vectoll.settings import Settings

Connect = Callable[..., Client]


@pytest.mark.parametrize(
    ("accept", "coding", "identity_refused"),
    [
        ("", None, False),
        ("gzip", "gzip", False),
        ("br", "br", False),
        ("GZip", "gzip", False),
        ("x-gzip", "gzip", False),
        ("gzip, br", "gzip", False),
        ("br, gzip", "gzip", False),
        ("gzip;q=0.5, br;q=0.6", "br", False),
        ("gzip;q=0.5,br", "br", False),
        ("gzip;q=0, br;q=0", None, False),
        ("gzip;q=0", None, False),
        ("gzip;q=0, *", "br", False),
        ("*", "gzip", False),
        ("*;q=0", None, True),
        ("identity", None, False),
        ("identity;q=0", None, True),
        ("identity;q=0, gzip", "gzip", True),
        ("gzip;q=0.1, *;q=0", "gzip", True),
        ("identity;q=0.5, gzip;q=0.2", None, False),
        ("identity;q=0.5, gzip;q=0.5", "gzip", False),
        ("deflate, zstd", None, False),
        ("gzip, deflate, br, zstd", "gzip", False),
        ("gzip ; q = 0.5", "gzip", False),
        ("gzip;q=abc", None, False),
        ("gzip;q=", None, False),
        ("gzip;q=7", "gzip", False),
        ("gzip;q=-1", None, False),
        (",, ,;q=1", None, False),
    ],
)
def test_negotiation(accept: str, coding: str | None, identity_refused: bool) -> None:
    assert negotiate(accept) == (coding, identity_refused)


@pytest.mark.parametrize(
    ("lines", "coding"),
    [(["identity;q=0.5", "br"], "br"), (["gzip;q=0.1", "br;q=0.9"], "br"), (["br;q=0", "*"], "gzip")],
)
async def test_lines_of_accept_encoding_are_one_list(client: Client, lines: list[str], coding: str) -> None:
    headers = [("content-type", "application/json"), *(("accept-encoding", line) for line in lines)]
    response = await client.post(SPEC_URL, content=embedding_body(input=["x"] * 20), headers=headers)
    assert response.headers["content-encoding"] == coding


@given(st.text(max_size=40))
def test_negotiation_survives_anything(accept: str) -> None:
    assert negotiate(accept)[0] in (None, "gzip", "br")


@given(st.binary(max_size=5000))
def test_both_codings_round_trip(body: bytes) -> None:
    assert gzip.decompress(gzip_body(body)) == body
    assert brotli.decompress(brotli_body(body)) == body


@pytest.mark.parametrize("coding", ["gzip", "br"])
@pytest.mark.parametrize("count", [1, 64])
async def test_answers_are_compressed(client: Client, coding: str, count: int) -> None:
    texts = ["one two"] * count
    plain = await client.post(
        "/v1/embeddings", json={"model": "fake", "input": texts}, headers={"accept-encoding": "identity"}
    )
    assert (len(plain.content) > OFFLOAD_BYTES) is (count == 64)
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept-Encoding"
    packed = await client.post(
        "/v1/embeddings", json={"model": "fake", "input": texts}, headers={"accept-encoding": coding}
    )
    assert packed.headers["content-encoding"] == coding
    assert packed.headers["vary"] == "Accept-Encoding"
    assert int(packed.headers["content-length"]) < len(plain.content)
    assert packed.content == plain.content
    assert packed.headers["content-type"] == "application/json"


async def test_small_answers_are_left_alone(client: Client) -> None:
    response = await client.embed(dimensions=8)
    assert len(response.content) < 1024
    assert "content-encoding" not in response.headers
    response = await client.post(
        "/v1/embeddings",
        json={"model": "fake", "input": "x", "dimensions": 8},
        headers={"accept-encoding": "gzip, identity;q=0"},
    )
    assert response.headers["content-encoding"] == "gzip"
    assert response.json()["object"] == "list"


async def test_the_least_size_is_a_setting(connect: Connect) -> None:
    server = FakeServer(settings=Settings(compression_min_bytes=0))
    client = connect(
        server,
        await server.open(),
    )
    response = await client.get("/health", headers={"accept-encoding": "br"})
    assert response.headers["content-encoding"] == "br"
    assert response.json() == {"status": "ok"}
    assert (await client.options("/health", headers={"accept-encoding": "br"})).content == b""


async def test_time_is_measured(client: Client, server: FakeServer) -> None:
    await client.embed()
    text = server.metrics.render().decode()
    assert 'stage="compress"' in text
    assert 'stage="serialise"' in text
