"""LlamaIndex's OpenAIEmbedding, unmodified."""

from typing import Any

import pytest
from llama_index.embeddings.openai import OpenAIEmbedding  # type: ignore[import-untyped]
from tests.acceptance.expected import TEXTS, Floats, assert_same_vectors
from tests.live import MODEL, Key, Server


@pytest.fixture
def embedding(server: Server, key: Key, connections: dict[str, Any]) -> OpenAIEmbedding:
    return OpenAIEmbedding(
        model_name=MODEL,
        api_base=f"{server.url}/v1",
        api_key=key.secret,
        max_retries=0,
        http_client=connections["http_client"],
        async_http_client=connections["http_async_client"],
    )


def test_batch(embedding: OpenAIEmbedding, reference: Floats) -> None:
    assert_same_vectors(embedding.get_text_embedding_batch(TEXTS), reference)


def test_query(embedding: OpenAIEmbedding, reference: Floats) -> None:
    assert_same_vectors([embedding.get_query_embedding(TEXTS[1])], reference[1:2])


async def test_async_batch(embedding: OpenAIEmbedding, reference: Floats) -> None:
    assert_same_vectors(await embedding.aget_text_embedding_batch(TEXTS), reference)
