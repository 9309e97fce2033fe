"""LangChain's OpenAIEmbeddings, unmodified: as text, and the token ids that it sends by default."""

from typing import Any

import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from tests.acceptance.expected import CL100K, REJECTING, TEXTS, Floats, assert_same_vectors
from tests.live import MODEL, Key, Server

pytestmark = pytest.mark.usefixtures("tiktoken_ranks")


def embeddings(server: Server, key: Key, model: str, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model=model, base_url=f"{server.url}/v1", api_key=SecretStr(key.secret), max_retries=0, **options
    )


def test_documents_and_query_as_text(server: Server, key: Key, reference: Floats) -> None:
    langchain = embeddings(server, key, MODEL, check_embedding_ctx_length=False)
    assert_same_vectors(langchain.embed_documents(TEXTS), reference)
    assert_same_vectors([langchain.embed_query(TEXTS[0])], reference[:1])


async def test_documents_as_text_async(server: Server, key: Key, reference: Floats) -> None:
    langchain = embeddings(server, key, MODEL, check_embedding_ctx_length=False)
    assert_same_vectors(await langchain.aembed_documents(TEXTS), reference)


@pytest.mark.parametrize("model", [MODEL, REJECTING])
def test_default_token_ids_are_refused_and_the_setting_to_change_is_named(
    server: Server, key: Key, model: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings(server, key, model).embed_documents(TEXTS)


def test_default_token_ids_are_read_as_the_text_they_stand_for(
    server: Server, key: Key, reference: Floats
) -> None:
    langchain = embeddings(server, key, CL100K)
    assert_same_vectors(langchain.embed_documents(TEXTS), reference)
    assert_same_vectors([langchain.embed_query(TEXTS[2])], reference[2:3])
