"""Repositories without safetensors: the graph that they publish, with our inputs, pooling and norm."""

import base64
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny_checkpoints import bge_m3

from vectoll.adapters.checkpoints import Checkpoint, open_weights, read_checkpoint
from vectoll.adapters.engines.openvino import load_engine
from vectoll.adapters.engines.openvino.runtime import ops, ov
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "tiny.json").read_text())["families"]["bge-m3"]
EXPECTED = np.frombuffer(base64.b64decode(GOLDEN["vectors_f32_base64"]), "<f4").reshape(-1, GOLDEN["dims"])


def with_onnx(folder: Path) -> None:
    (folder / "onnx").mkdir()
    shutil.copy(HERE / "bge-m3.onnx", folder / "onnx" / "model.onnx")


def with_ir(folder: Path) -> None:
    ov.save_model(ov.Core().read_model(HERE / "bge-m3.onnx"), folder / "openvino" / "openvino_model.xml")


def with_torch(folder: Path) -> None:
    """As BAAI/bge-m3 has it: all of the model, what embedding does not need included."""
    bge_m3(folder / "safe")
    weights = open_weights(folder / "safe")
    state = {n: torch.frombuffer(v.data, dtype=torch.float32).reshape(v.shape) for n, v in weights.items()}
    state |= {"pooler.dense.weight": torch.zeros(32, 32), "embeddings.position_ids": torch.arange(130)[None]}
    torch.save(OrderedDict(state), folder / "pytorch_model.bin")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    bge_m3(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    return read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("publish", "closeness"), [(with_onnx, 0.99999), (with_ir, 0.9999), (with_torch, 0.99999)]
)
def test_what_a_repository_without_safetensors_publishes_gives_the_vectors_of_transformers(
    checkpoint: Checkpoint, publish: Callable[[Path], None], closeness: float
) -> None:
    publish(checkpoint.folder)
    engine = load_engine(checkpoint, precision="f32", streams=1)
    together = np.array(engine.embed(GOLDEN["ids"], 0), np.float64)
    alone = np.concatenate([np.array(engine.embed([ids], 0)) for ids in GOLDEN["ids"]])
    assert (together * EXPECTED).sum(axis=1).min() >= closeness  # the IR is saved in half precision
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5


def test_a_published_graph_is_pooled_as_told(checkpoint: Checkpoint) -> None:
    with_onnx(checkpoint.folder)
    engine = load_engine(replace(checkpoint, pooling=Pooling.MEAN), precision="f32", streams=1)
    assert (np.array(engine.embed(GOLDEN["ids"], 0)) * EXPECTED).sum(axis=1).min() < 0.99


def test_safetensors_come_first(checkpoint: Checkpoint) -> None:
    bge_m3(checkpoint.folder)
    (checkpoint.folder / "onnx").mkdir()
    (checkpoint.folder / "onnx" / "model.onnx").write_bytes(b"broken")
    load_engine(checkpoint, streams=1)


def test_no_weights_at_all_are_said(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigurationError, match="has no weights"):
        load_engine(checkpoint)


def test_a_broken_graph_is_said(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / "onnx").mkdir()
    (checkpoint.folder / "onnx" / "model.onnx").write_bytes(b"broken")
    with pytest.raises(ConfigurationError, match="cannot read the graph"):
        load_engine(checkpoint)


@pytest.mark.parametrize(
    ("name", "output", "said"),
    [("past_key", "last_hidden_state", "past_key"), ("input_ids", "logits", "outputs")],
)
def test_a_graph_of_another_kind_is_said(checkpoint: Checkpoint, name: str, output: str, said: str) -> None:
    parameter = ops.parameter([-1, -1], np.int64, name)
    parameter.output(0).set_names({name})
    result = ops.result(ops.unsqueeze(ops.convert(parameter, "f32"), ops.constant(np.int32(2))))
    result.output(0).set_names({output})
    path = checkpoint.folder / "openvino" / "openvino_model.xml"
    ov.save_model(ov.Model([result], [parameter], "other"), path)
    with pytest.raises(ConfigurationError, match=said):
        load_engine(checkpoint)


def test_a_graph_of_another_size_than_config_json_says_is_refused(checkpoint: Checkpoint) -> None:
    with_onnx(checkpoint.folder)
    config = json.loads((checkpoint.folder / "config.json").read_text())
    (checkpoint.folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ConfigurationError, match=r"gives vectors of 32, where config\.json says 64"):
        load_engine(read_checkpoint(checkpoint.folder), streams=1)
