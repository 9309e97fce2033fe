"""What transformers computes: the yardstick for every engine. Needs torch, so it is imported only where that is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def embed_with_transformers(folder: Path, sequences: Sequence[Sequence[int]], pooling: str) -> Array:
    """L2-normalised float32 vectors [len(sequences), H], each sequence computed alone: no padding, no batch."""
    import torch

    model, sees_everything = _load(folder)
    with torch.inference_mode():
        states = [_states(model, ids, sees_everything) for ids in sequences]
    vectors = torch.nn.functional.normalize(torch.stack([_pool(state, pooling) for state in states]), dim=-1)
    return np.asarray(vectors.numpy())


def _pool(state: Any, pooling: str) -> Any:
    if pooling == "mean":
        return state.mean(dim=0)
    return state[{"cls": 0, "last": -1}[pooling]]


def _states(model: Any, ids: Sequence[int], sees_everything: bool) -> Any:
    """The last hidden states [S, H] of one sequence."""
    import torch

    options = {}
    if sees_everything:  # said as a mask, whatever the library makes of a configuration
        options["attention_mask"] = torch.zeros(1, 1, len(ids), len(ids))
    return model(input_ids=torch.tensor([list(ids)]), **options).last_hidden_state[0]


def _load(folder: Path) -> tuple[Any, bool]:
    """The model in float32, and whether a decoder must be told to see everything."""
    import torch
    from transformers import AutoModel

    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] == "llama_nemotron_vl":
        return _load_text_tower(folder, config["llm_config"]), True
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), False


def _load_text_tower(folder: Path, config: dict[str, Any]) -> Any:
    """A plain Llama with the weights below ``language_model.``: transformers has no class for the whole."""
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaModel

    weights = load_file(folder / "model.safetensors")
    prefix = "language_model."
    mine = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    del config["model_type"]
    model = LlamaModel(LlamaConfig(**config, attn_implementation="eager"))
    model.load_state_dict({name: value.to(torch.float32) for name, value in mine.items()})
    return model.eval()
