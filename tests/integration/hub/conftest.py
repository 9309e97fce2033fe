"""A hub that serves a tiny Qwen3, and an empty cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub_server import HubServer, hub_server
from tests.tiny_checkpoints import qwen3


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """As the hub lists it: what serving needs, and what it does not."""
    folder = tmp_path / "repository"
    qwen3(folder)
    (folder / "README.md").write_text("# A model\n")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x" * 5000)
    (folder / "pytorch_model.bin").write_bytes(b"y" * 5000)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(repository: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import close_session, constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server(repository) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield server
        close_session()
