"""Runs a graph: one infer request and one thread per stream."""

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, assert_never, cast

import numpy as np

from vectoll.adapters.checkpoints import Architecture, Checkpoint, Family, Weights
from vectoll.adapters.engines.openvino.decoder import build_decoder
from vectoll.adapters.engines.openvino.encoder import build_encoder
from vectoll.adapters.engines.openvino.runtime import ov
from vectoll.domain.catalog import Pooling
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import ConfigurationError


class Precision(StrEnum):
    """The arithmetic of the matrix products. Pooling and normalisation are always float32."""

    AUTO = "auto"
    """bf16 where the CPU has instructions for it, else f32."""
    BF16 = "bf16"
    F32 = "f32"


class OpenVinoEngine:
    """Implements ``vectoll.ports.engine.Engine``."""

    def __init__(self, compiled: Any, architecture: Architecture, weights: Weights, streams: int) -> None:
        """``compiled`` reads ``weights`` in place, so both live as long as the engine."""
        self._compiled = compiled
        self._architecture = architecture
        self._weights: Weights | None = weights
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    @property
    def streams(self) -> int:
        """How many calls may run side by side, one thread each."""
        return len(self._requests)

    @property
    def dims(self) -> int:
        """The native size of a vector."""
        return self._architecture.hidden

    def embed(self, batch: Sequence[Sequence[int]], stream: int) -> Sequence[Vector]:
        """See the port. Raises ValueError for a sequence that the model's tables do not cover."""
        ids, lengths = _pad(batch)
        if lengths.min() < 1 or lengths.max() > self._architecture.positions:
            raise ValueError(
                f"a sequence must have 1 to {self._architecture.positions} tokens, one per position"
            )
        if ids.min() < 0 or ids.max() >= self._architecture.vocab:
            raise ValueError(f"a token id must be in range({self._architecture.vocab})")
        request = self._requests[stream]
        request.infer([ids, lengths], share_inputs=True, share_outputs=True)
        # One copy out of the buffer that the stream's next batch overwrites; every vector is a view into it.
        copied = memoryview(request.get_output_tensor(0).data.tobytes())
        size = 4 * self.dims
        return [cast(Vector, copied[at : at + size].cast("f")) for at in range(0, len(copied), size)]

    def close(self) -> None:
        """Free the weights."""
        self._requests.clear()
        self._compiled = self._weights = None


def _pad(batch: Sequence[Sequence[int]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """int32 ids [B, S] with zeros behind each sequence, and int32 lengths [B]."""
    lengths = np.fromiter(map(len, batch), np.int32, len(batch))
    ids = np.zeros((len(batch), lengths.max()), np.int32)
    for row, sequence in zip(ids, batch, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


def load_engine(
    checkpoint: Checkpoint,
    *,
    pooling: Pooling | None = None,
    precision: Precision | str = Precision.AUTO,
    streams: int = 0,
) -> OpenVinoEngine:
    """Build and compile a checkpoint's graph.

    ``pooling`` overrides what the checkpoint says; one of the two must say it. ``streams`` 0 is one per core that
    this process may use. Raises ConfigurationError when the checkpoint or the CPU cannot do what is asked.
    """
    pooling = pooling or checkpoint.pooling
    if pooling is None:
        raise ConfigurationError(f"{checkpoint.folder} does not say its pooling: set models.pooling")
    streams = streams or len(os.sched_getaffinity(0))
    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options = {
        "INFERENCE_PRECISION_HINT": resolve_precision(Precision(precision), capabilities).value,
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
    }
    weights = checkpoint.open_weights()
    try:
        compiled = core.compile_model(_build(checkpoint, weights, pooling), "CPU", options)
    except KeyError as error:
        raise ConfigurationError(f"{checkpoint.folder} lacks the weight {error}") from None
    return OpenVinoEngine(compiled, checkpoint.architecture, weights, streams)


def _build(checkpoint: Checkpoint, weights: Weights, pooling: Pooling) -> Any:
    match checkpoint.architecture.family:
        case Family.BERT | Family.XLM_ROBERTA:
            return build_encoder(checkpoint.architecture, weights, pooling)
        case Family.QWEN3 | Family.MISTRAL | Family.LLAMA:
            return build_decoder(checkpoint.architecture, weights, pooling)
        case other:
            assert_never(other)


def resolve_precision(precision: Precision, capabilities: Sequence[str]) -> Precision:
    """What to compute in on a CPU with these capabilities. Raises ConfigurationError for bf16 without it."""
    has_bf16 = "BF16" in capabilities
    if precision is Precision.AUTO:
        return Precision.BF16 if has_bf16 else Precision.F32
    if precision is Precision.BF16 and not has_bf16:
        raise ConfigurationError("engine.precision: this CPU has no bf16 arithmetic; use auto or f32")
    return precision
