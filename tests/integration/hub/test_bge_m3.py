"""bge-m3 as its repository has it: no safetensors, a pytorch_model.bin, an ONNX export and what is not needed."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tests.hub_server import HubServer
from tests.tiny_checkpoints import bge_m3

from vectoll.adapters.checkpoints import open_weights
from vectoll.cli.root import cli

CONFIG = """
[[models]]
id = "text-embedding-bge-m3"
repo = "owner/name"
dims = 32
max_tokens = 128
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    bge_m3(folder)
    weights = open_weights(folder)
    state = {n: torch.frombuffer(v.data, dtype=torch.float32).reshape(v.shape) for n, v in weights.items()}
    torch.save(OrderedDict(state), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    for name in ("model.onnx", "model.onnx_data", "Constant_7_attr__value"):
        (folder / "onnx" / name).write_bytes(b"x" * 3000)
    for name in ("colbert_linear.pt", "sparse_linear.pt"):
        torch.save({"weight": torch.ones(2)}, folder / name)
    return folder


def test_it_is_pulled_checked_and_embeds(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vectoll.checking.MEASURE_S", 0.005)
    (tmp_path / "vectoll.toml").write_text(CONFIG)
    pulled = CliRunner().invoke(cli, ["models", "pull", "text-embedding-ada-002", "--json"])
    assert pulled.exit_code == 0, pulled.output
    (one,) = json.loads(pulled.stdout)
    assert (one["id"], one["state"]) == ("text-embedding-bge-m3", "fetched")
    names = {str(f.relative_to(one["folder"])) for f in Path(one["folder"]).rglob("*") if f.is_file()}
    assert names == {
        "1_Pooling/config.json", "config.json", "modules.json", "pytorch_model.bin", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    checked = CliRunner().invoke(cli, ["models", "check", "text-embedding-bge-m3"])
    assert checked.exit_code == 0, checked.output
    assert "special tokens  <s> (0) A </s> (2)" in checked.stdout
    embedded = CliRunner().invoke(cli, ["embed", "a text", "--model", "text-embedding-ada-002"])
    assert len(json.loads(embedded.stdout)["embedding"]) == 32
