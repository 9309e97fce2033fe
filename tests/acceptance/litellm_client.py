"""A program that uses litellm, which leaves its connections open to the end: what it sees, as JSON.

Standard input: {"options": arguments of every call, "texts": [...]}.
"""

import asyncio
import json
import sys
from typing import Any

import litellm
from openai import OpenAIError


def failure_of(**arguments: Any) -> str:
    """The class of what a call raises."""
    try:
        litellm.embedding(**arguments)
    except OpenAIError as error:
        return type(error).__name__
    return "nothing"


def main() -> None:
    job = json.load(sys.stdin)
    options, texts = job["options"], job["texts"]
    answer = litellm.embedding(input=texts, **options)
    later = asyncio.run(litellm.aembedding(input=texts, **options))
    seen = {
        "vectors": [item["embedding"] for item in answer.data],
        "usage": answer.usage.model_dump(),
        "async_vectors": [item["embedding"] for item in later.data],
        "wrong_key": failure_of(**{**options, "api_key": "vtk_wrong"}, input="x"),
        "long_input": failure_of(**options, input="word " * 300),
        "endless_input": failure_of(**options, input="word " * 300_000),
    }
    json.dump(seen, sys.stdout)


main()
