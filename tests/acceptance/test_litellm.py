"""litellm's OpenAI-compatible provider, unmodified: it names no encoding_format, so the default must be float."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.expected import TEXTS, Floats, assert_same_vectors
from tests.live import MODEL, Key, Server

CLIENT = Path(__file__).with_name("litellm_client.py")


@pytest.fixture(scope="module")
def seen(server: Server, key: Key) -> dict[str, Any]:
    """What a program that uses litellm sees."""
    options = {"model": f"openai/{MODEL}", "api_base": f"{server.url}/v1", "api_key": key.secret}
    done = subprocess.run(
        [sys.executable, CLIENT],
        input=json.dumps({"options": options, "texts": TEXTS}),
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # else it fetches a price list
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # it prints advice as well
    return result


def test_embedding(seen: dict[str, Any], reference: Floats) -> None:
    assert_same_vectors(seen["vectors"], reference)
    assert seen["usage"]["prompt_tokens"] == seen["usage"]["total_tokens"] > 0


def test_async_embedding(seen: dict[str, Any], reference: Floats) -> None:
    assert_same_vectors(seen["async_vectors"], reference)


def test_wrong_key_is_an_authentication_error(seen: dict[str, Any]) -> None:
    assert seen["wrong_key"] == "AuthenticationError"


def test_long_input_is_a_context_window_error(seen: dict[str, Any]) -> None:
    assert seen["long_input"] == seen["endless_input"] == "ContextWindowExceededError"
