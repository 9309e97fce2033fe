"""Vectors of any number and size as one JSON answer."""

import base64
import json
from typing import Any, cast

import numpy as np
import pytest
from tests.fakes import SPEC

from vectoll.core.embed import EmbedResult
from vectoll.domain.embedding import Embeddings, EncodingFormat, Usage
from vectoll.domain.ledger import Transfer
from vectoll.http import serialisation
from vectoll.http.serialisation import NUMBERS_AT_ONCE, stream_embeddings, write_embeddings


@pytest.fixture(params=["kernels", "orjson"], autouse=True)
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "orjson":
        monkeypatch.setattr(serialisation, "vector_writer", lambda: None)


def read(embedding: Any) -> bytes:
    """An answer's vector as float32."""
    if isinstance(embedding, str):
        return base64.b64decode(embedding)
    return np.array(embedding, np.float64).astype("<f4").tobytes()


@pytest.mark.parametrize("encoding_format", EncodingFormat)
@pytest.mark.parametrize(
    ("count", "dims"),
    [(0, 8), (1, 1), (5000, 1), (3, NUMBERS_AT_ONCE), (3, NUMBERS_AT_ONCE + 1), (2, 100_000), (600, 384)],
)
def test_every_vector_is_there_in_its_order(count: int, dims: int, encoding_format: EncodingFormat) -> None:
    vectors = np.random.default_rng(count).standard_normal((count, dims)).astype("<f4")
    embeddings = Embeddings([row.data.toreadonly() for row in vectors], dims, Usage(7))
    result = EmbedResult(SPEC, embeddings, cast(Transfer, None))
    body = write_embeddings(result, encoding_format)
    assert body == b"".join(stream_embeddings(result, encoding_format))
    answer = json.loads(body)
    assert [each["index"] for each in answer["data"]] == [*range(count)]
    assert b"".join(read(each["embedding"]) for each in answer["data"]) == vectors.tobytes()
    assert (answer["object"], answer["model"]) == ("list", SPEC.id)
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
