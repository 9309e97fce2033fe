"""LangChain's OpenAIEmbeddings, unmodified: as text, and the token ids that it sends by default."""

from collections.abc import Callable
from functools import partial
from typing import Any

import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from tests.acceptance.expected import NATIVE, REJECTING, TEXTS, Floats, assert_same_vectors
from tests.live import MODEL, Key, Server

pytestmark = pytest.mark.usefixtures("tiktoken_ranks")


@pytest.fixture
def embeddings(server: Server, key: Key, connections: dict[str, Any]) -> Callable[..., OpenAIEmbeddings]:
    base_url, api_key = f"{server.url}/v1", SecretStr(key.secret)
    return partial(OpenAIEmbeddings, base_url=base_url, api_key=api_key, max_retries=0, **connections)


@pytest.fixture
def of_text(embeddings: Callable[..., OpenAIEmbeddings]) -> OpenAIEmbeddings:
    return embeddings(model=MODEL, check_embedding_ctx_length=False)


def test_documents_and_query_as_text(of_text: OpenAIEmbeddings, reference: Floats) -> None:
    assert_same_vectors(of_text.embed_documents(TEXTS), reference)
    assert_same_vectors([of_text.embed_query(TEXTS[0])], reference[:1])


async def test_documents_as_text_async(of_text: OpenAIEmbeddings, reference: Floats) -> None:
    assert_same_vectors(await of_text.aembed_documents(TEXTS), reference)


@pytest.mark.parametrize("model", [NATIVE, REJECTING])
def test_default_token_ids_are_refused_and_the_setting_to_change_is_named(
    embeddings: Callable[..., OpenAIEmbeddings], model: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings(model=model).embed_documents(TEXTS)


def test_default_token_ids_are_read_as_the_text_they_stand_for(
    embeddings: Callable[..., OpenAIEmbeddings], reference: Floats
) -> None:
    by_default = embeddings(model=MODEL)
    assert_same_vectors(by_default.embed_documents(TEXTS), reference)
    assert_same_vectors([by_default.embed_query(TEXTS[2])], reference[2:3])
