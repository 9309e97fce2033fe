"""Model folders in the Hugging Face layout: where they are, what they say, and their weights, memory-mapped.

The engines and the tokenizer read through here. Nothing in a folder is executed.
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
from vectoll.adapters.checkpoints.hub import Fetched, fetch, gigabytes
from vectoll.adapters.checkpoints.location import locate, wanted_files, weights_bytes
from vectoll.adapters.checkpoints.progress import DownloadBar
from vectoll.adapters.checkpoints.rotary import inverse_frequencies
from vectoll.adapters.checkpoints.safetensors import DType, TensorView, Weights, open_weights
from vectoll.adapters.checkpoints.shapes import at_least, exactly

__all__ = [
    "Activation",
    "Architecture",
    "Attention",
    "Checkpoint",
    "DType",
    "DownloadBar",
    "Family",
    "Fetched",
    "Llama3Scaling",
    "Rope",
    "TensorView",
    "Weights",
    "at_least",
    "exactly",
    "fetch",
    "gigabytes",
    "inverse_frequencies",
    "locate",
    "open_weights",
    "read_checkpoint",
    "wanted_files",
    "weights_bytes",
]
