"""litellm's OpenAI-compatible provider, unmodified: it names no encoding_format, so the default must be float."""

from typing import Any

import litellm
import pytest
from litellm.exceptions import AuthenticationError, ContextWindowExceededError
from tests.acceptance.expected import TEXTS, Floats, assert_same_vectors
from tests.live import MODEL, Key, Server


@pytest.fixture
def options(server: Server, key: Key) -> dict[str, Any]:
    return {"model": f"openai/{MODEL}", "api_base": f"{server.url}/v1", "api_key": key.secret}


def test_embedding(options: dict[str, Any], reference: Floats) -> None:
    answer = litellm.embedding(input=TEXTS, **options)
    assert_same_vectors([item["embedding"] for item in answer.data], reference)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


async def test_async_embedding(options: dict[str, Any], reference: Floats) -> None:
    answer = await litellm.aembedding(input=TEXTS, **options)
    assert_same_vectors([item["embedding"] for item in answer.data], reference)


def test_wrong_key_is_an_authentication_error(options: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationError):
        litellm.embedding(input="x", **{**options, "api_key": "vtk_wrong"})


def test_long_input_is_a_context_window_error(options: dict[str, Any]) -> None:
    with pytest.raises(ContextWindowExceededError):
        litellm.embedding(input="word " * 300, **options)
