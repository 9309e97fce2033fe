"""Model folders in the Hugging Face layout: where they are, what they say, and their weights, memory-mapped.

The engines and the tokenizer read through here. Nothing in a folder is executed or unpickled.
"""

from vectoll.adapters.checkpoints.architecture import (
    Activation,
    Architecture,
    Attention,
    Family,
    Llama3Scaling,
    Rope,
)
from vectoll.adapters.checkpoints.config import Checkpoint, read_checkpoint
from vectoll.adapters.checkpoints.location import locate, weights_bytes
from vectoll.adapters.checkpoints.rotary import inverse_frequencies
from vectoll.adapters.checkpoints.safetensors import DType, TensorView, Weights, open_weights

__all__ = [
    "Activation",
    "Architecture",
    "Attention",
    "Checkpoint",
    "DType",
    "Family",
    "Llama3Scaling",
    "Rope",
    "TensorView",
    "Weights",
    "inverse_frequencies",
    "locate",
    "open_weights",
    "read_checkpoint",
    "weights_bytes",
]
