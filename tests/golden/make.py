"""Writes the golden vectors. Run with an interpreter that has torch, transformers and vectoll's own dependencies::

PYTHONPATH=.:src python tests/golden/make.py
"""

import base64
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.golden.texts import TEXTS
from tests.minilm import minilm
from tests.reference import embed_with_transformers
from tests.tiny_checkpoints import PROMPTS, make_all

from vectoll.adapters.checkpoints import Checkpoint, read_checkpoint
from vectoll.adapters.tokenizers import load_tokenizer

HERE = Path(__file__).parent
MADE_WITH = {"transformers": transformers.__version__, "torch": torch.__version__}


def golden(checkpoint: Checkpoint, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The ids and their vectors: float32, little-endian, one after the other."""
    assert checkpoint.pooling
    vectors = embed_with_transformers(checkpoint.folder, ids, checkpoint.pooling)
    encoded = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
    return {"dims": vectors.shape[1], "ids": ids, "vectors_f32_base64": encoded}


def minilm_golden() -> dict[str, Any]:
    """Tokenised by transformers too."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm().folder)
    ids = [tokenizer(text, truncation=False, padding=False)["input_ids"] for text in TEXTS]
    return {"made_with": MADE_WITH, **golden(minilm(), ids)}


def tiny_golden() -> dict[str, Any]:
    """Every tiny checkpoint, texts cut at its longest input."""
    families = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in make_all(Path(folder)).items():
            checkpoint = read_checkpoint(path)
            texts = [*TEXTS, *(PROMPTS[name] + text for text in TEXTS[:3])]
            encodings = load_tokenizer(checkpoint).encode(texts, max_tokens=checkpoint.max_tokens)
            families[name] = golden(checkpoint, [list(encoding.ids) for encoding in encodings])
    return {"made_with": MADE_WITH, "families": families}


def export_onnx(path: Path) -> None:
    """The tiny bge-m3 as its repository publishes the real one: token states, no pooling."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    class States(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    # The last step looks for functions that these models do not have, in a package that is not needed otherwise.
    onnx_proto_utils._add_onnxscript_fn = lambda model_bytes, _: model_bytes
    axes = {0: "batch", 1: "sequence"}
    names = ["input_ids", "attention_mask"]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_all(Path(folder), ["bge-m3"])["bge-m3"]
        model = transformers.AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
        torch.onnx.export(
            States(model),
            (torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)),
            path,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=dict.fromkeys([*names, "last_hidden_state"], axes),
            opset_version=17,
            dynamo=False,
        )


def main() -> None:
    export_onnx(HERE / "bge-m3.onnx")
    for name, value in (("minilm", minilm_golden()), ("tiny", tiny_golden())):
        (HERE / f"{name}.json").write_text(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
