"""What transformers computes: the yardstick for every engine. Needs torch, so it is imported only where that is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def embed_with_transformers(
    folder: Path, sequences: Sequence[Sequence[int]], pooling: str
) -> "np.ndarray[Any, Any]":
    """L2-normalised float32 vectors [len(sequences), H], each sequence computed alone: no padding, no batch."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        states = [model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0] for ids in sequences]
    pooled = [
        {"cls": lambda s: s[0], "mean": lambda s: s.mean(dim=0), "last": lambda s: s[-1]}[pooling](state)
        for state in states
    ]
    vectors = torch.nn.functional.normalize(torch.stack(pooled), dim=-1)
    return np.asarray(vectors.numpy())
