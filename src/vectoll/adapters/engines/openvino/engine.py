"""Runs a graph: one infer request and one thread per stream."""

import logging
import mmap
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, cast

from vectoll.adapters.checkpoints import Architecture, Checkpoint, Weights
from vectoll.adapters.engines.cores import step_back, streams_and_cores
from vectoll.adapters.engines.memory import give_back_freed
from vectoll.adapters.engines.openvino.decoder import build_decoder
from vectoll.adapters.engines.openvino.encoder import build_encoder
from vectoll.adapters.engines.openvino.int8 import compress_weights
from vectoll.adapters.engines.openvino.packing import PackedBatch, layout_size, pack
from vectoll.adapters.engines.openvino.readymade import read_graph
from vectoll.adapters.engines.openvino.runtime import ov
from vectoll.domain.catalog import Pooling, Precision
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.identity import Caller

WIDE_PARAMETERS = 32_000_000
"""Parameters in matrix products up to which packing the weights a second time pays for a faster lone query."""
WIDE_THREADS = 4
"""Most cores that a lone query is spread over."""
GENERATED_KERNELS = "16"
"""Kernels that a stream caches by shape. OpenVINO's default, 5,000, would cache every shape there is."""
INPUTS_PER_SCALE = 64
"""With int8 weights: how many neighbouring inputs of a product share one scale."""

log = logging.getLogger(__name__)

EMPTY = cast(Vector, memoryview(b"").cast("f"))


class OpenVinoEngine:
    """Implements ``vectoll.ports.engine.Engine``."""

    def __init__(
        self,
        compiled: Any,
        architecture: Architecture,
        streams: int,
        reads: object,
        *,
        packed: bool = True,
        wide: Future[Any] | None = None,
    ) -> None:
        """``compiled`` reads the memory of ``reads`` in place, so both live as long as the engine.

        ``wide`` will be an infer request of the same graph, compiled for one stream of several threads, or None. Once
        it is there, it computes a single sequence that comes while no other call runs; the vectors are the same, bit
        by bit.
        """
        self.packed = packed
        """Whether sequences share rows, so that a batch costs its tokens; else each costs as much as the longest."""
        self._compiled = compiled
        self._architecture = architecture
        self._reads: object = reads
        self._requests = [compiled.create_infer_request() for _ in range(streams)]
        self._wide = wide
        self._running = 0
        self._lock = threading.Lock()

    @property
    def streams(self) -> int:
        """How many calls may run side by side, one thread each."""
        return len(self._requests)

    @property
    def dims(self) -> int:
        """The native size of a vector."""
        return self._architecture.hidden

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,
        *,
        is_alone: bool = True,
        callers: Sequence[Caller] = (),  # noqa: ARG002
    ) -> Sequence[Vector]:
        """See the port. Raises ValueError for a sequence that the model's tables do not cover."""
        shape = self._architecture
        packed = pack(batch, shape.positions, shared_rows=self.packed, padding_id=shape.padding_id)
        ids = packed.ids
        if ids.min() < 0 or ids.max() >= self._architecture.vocab:
            raise ValueError(f"a token id must be in range({self._architecture.vocab})")
        copied = memoryview(self._infer(packed, stream, is_alone=is_alone))
        size = 4 * self.dims
        vectors: list[Vector] = [EMPTY] * len(batch)
        for at, index in enumerate(packed.order):
            vectors[index] = cast(Vector, copied[at * size : (at + 1) * size].cast("f"))
        return vectors

    def _infer(self, packed: PackedBatch, stream: int, *, is_alone: bool) -> bytes:
        """The vectors of a batch, in the order of its places; a copy, for the next batch overwrites the buffer."""
        with self._lock:
            is_lone = is_alone and self._running == 0 and len(packed.order) == 1
            self._running += 1
        try:
            wide = self._wide if is_lone else None
            request = (wide.result() if wide and wide.done() else None) or self._requests[stream]
            request.infer(packed.inputs, share_inputs=True, share_outputs=True)
            return cast(bytes, request.get_output_tensor(0).data.tobytes())
        finally:
            with self._lock:
                self._running -= 1

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:  # noqa: ARG002
        """See the port."""
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """See the port."""
        return layout_size(lengths, self._architecture.positions, shared_rows=self.packed)

    def close(self) -> None:
        """Free the weights."""
        if self._wide is not None and not self._wide.cancel():
            wait([self._wide])  # it reads the weights
        self._requests.clear()
        self._compiled = self._wide = self._reads = None


def load_engine(
    checkpoint: Checkpoint,
    *,
    pooling: Pooling | None = None,
    precision: Precision | str = Precision.AUTO,
    streams: int = 0,
    cores: int = 0,
) -> OpenVinoEngine:
    """Build and compile a checkpoint's graph.

    ``pooling`` overrides what the checkpoint says; one of the two must say it. ``streams`` and ``cores`` are as in
    ``streams_and_cores``. Raises ConfigurationError when the checkpoint or the CPU cannot do what is asked.
    """
    pooling = pooling or checkpoint.pooling
    if pooling is None:
        raise ConfigurationError(f"{checkpoint.folder} does not say its pooling: set models.pooling")
    threads = ThreadPoolExecutor(1, "compile", initializer=step_back)
    try:
        shared_out = streams_and_cores(checkpoint.architecture.matrix_parameters, streams, cores)
        return threads.submit(_load, checkpoint, pooling, Precision(precision), *shared_out, threads).result()
    finally:
        threads.shutdown(wait=False)  # what is still to be compiled is, after this


def _load(
    checkpoint: Checkpoint,
    pooling: Pooling,
    precision: Precision,
    streams: int,
    cores: int,
    threads: Executor,
) -> OpenVinoEngine:
    """``threads`` is one thread, this one: what is submitted to it starts when the engine is ready."""
    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options = {
        "INFERENCE_PRECISION_HINT": resolve_precision(precision, capabilities).value,
        "NUM_STREAMS": str(streams),
        "CPU_RUNTIME_CACHE_CAPACITY": GENERATED_KERNELS,
        "INFERENCE_NUM_THREADS": str(cores),
    }
    weights = checkpoint.open_weights() if checkpoint.has_weights else None
    graph = _build(core, checkpoint, weights, pooling)
    integers = None
    if precision is Precision.INT8:
        integers = compress_weights(graph)
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(INPUTS_PER_SCALE)
    release = partial(_release_pages, weights, integers)
    wide = None
    if streams > 1 and checkpoint.architecture.matrix_parameters <= WIDE_PARAMETERS:
        spread = options | {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(min(streams, WIDE_THREADS))}
        wide = threads.submit(_open_wide, core, graph, spread, release)
    engine = OpenVinoEngine(
        core.compile_model(graph, "CPU", options),
        checkpoint.architecture,
        streams,
        reads=(weights, integers),
        packed=weights is not None,
        wide=wide,
    )
    for stream in range(streams):  # the first batch packs the weights, once for all streams
        engine.embed([[0] * min(8, checkpoint.architecture.positions)], stream)
    release()
    return engine


def _open_wide(core: Any, graph: Any, options: dict[str, str], release: Callable[[], None]) -> Any:
    """An infer request that has packed its weights; None where OpenVINO fails to make one."""
    try:
        request = core.compile_model(graph, "CPU", options).create_infer_request()
        request.infer(pack([[0]], 1).inputs)
    except RuntimeError as failure:
        log.warning("lone_texts_have_one_core", exc_info=failure)
        request = None
    release()
    return request


def _release_pages(weights: Weights | None, integers: mmap.mmap | None) -> None:
    """What was packed need not stay in memory twice, nor what compiling took and freed."""
    if weights is not None:
        weights.release_pages()
    if integers is not None:
        integers.madvise(mmap.MADV_DONTNEED)
    give_back_freed()


def _build(core: Any, checkpoint: Checkpoint, weights: Weights | None, pooling: Pooling) -> Any:
    """From the weights themselves where they are published, else from a graph that is."""
    if weights is None:
        if checkpoint.graph_file is None:
            raise ConfigurationError(
                f"{checkpoint.folder} has no weights: safetensors, pytorch_model.bin, OpenVINO or ONNX"
            )
        return read_graph(core, checkpoint.graph_file, pooling, checkpoint.dims)
    build = build_encoder if checkpoint.architecture.family.is_encoder else build_decoder
    return build(checkpoint.architecture, weights, pooling)


def computes_in_f32(precision: Precision) -> bool:
    """Whether this CPU's products are in f32. Raises ConfigurationError for bf16 without it."""
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return resolve_precision(precision, capabilities) is Precision.F32


def resolve_precision(precision: Precision, capabilities: Sequence[str]) -> Precision:
    """What to compute in on a CPU with these capabilities. Raises ConfigurationError for bf16 without it."""
    has_bf16 = "BF16" in capabilities
    if precision in (Precision.AUTO, Precision.INT8):
        return Precision.BF16 if has_bf16 else Precision.F32
    if precision is Precision.BF16 and not has_bf16:
        raise ConfigurationError("engine.precision: this CPU has no bf16 arithmetic; use auto or f32")
    return precision
