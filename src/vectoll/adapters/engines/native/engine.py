"""Text towers on our own kernels: no padding, no graph.

A stream has a core, or several for a large model; a batch that comes alone has all.
"""

import ctypes
import mmap
import threading
import weakref
from collections.abc import Sequence
from itertools import chain

import numpy as np

from vectoll.adapters.checkpoints import Architecture, Checkpoint, Weights
from vectoll.adapters.engines.cores import ENGINE_NICENESS, available_cores, step_back, streams_and_cores
from vectoll.adapters.engines.memory import give_back_freed
from vectoll.adapters.engines.native.packing import Array, aligned
from vectoll.adapters.engines.native.prefixes import Prefixes
from vectoll.adapters.engines.native.tower import PackedTower, unsuitable
from vectoll.domain.catalog import Pooling, Precision
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.identity import Caller
from vectoll.kernels.library import (
    AMX_BF16,
    BF16,
    F32,
    F32_AVX2,
    INT8,
    Products,
    capabilities,
    load_library,
)

TEAM_THREADS = 8
"""Most cores that a batch is spread over."""
KEPT_SCRATCH_BYTES = 16 * 2**20
"""Of a stream. What a longer batch needs is given back after it."""


class NativeEngine:
    """Implements ``vectoll.ports.engine.Engine``."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        pooling: Pooling,
        *,
        products: Products,
        streams: int,
        cores_each: int = 1,
        prefix_bytes: int = 0,
    ) -> None:
        """With ``cores_each`` above 1 every stream has its own team; else they share one, for batches that come alone.
        One call more than ``streams`` may run, with this number: on one core.

        ``prefix_bytes`` is the memory for what callers' texts begin with.
        """
        library = load_library()
        assert library is not None
        self._encode = getattr(library, f"vectoll_encode_{products}")
        self._scratch_bytes = getattr(library, f"vectoll_scratch_bytes_{products}")
        self._architecture = architecture
        self._packed: PackedTower | None = PackedTower(architecture, weights, pooling, products)
        block_bytes = self._packed.block_bytes
        self._prefixes = Prefixes(block_bytes, prefix_bytes) if 0 < block_bytes <= prefix_bytes else None
        self._scratch: list[Array] = [aligned(0)] * (streams + 1)
        self._stepped_back = threading.local()
        self._has_own_teams = cores_each > 1
        count, size = (streams, cores_each) if cores_each > 1 else (1, min(streams, available_cores()))
        self._teams = [_Team.create(library, min(size, TEAM_THREADS)) for _ in range(count)]

    @property
    def streams(self) -> int:
        """See the port."""
        return len(self._scratch) - 1

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
        callers: Sequence[Caller] = (),
    ) -> Sequence[Vector]:
        """See the port. Raises ValueError for a sequence that the model's tables do not cover."""
        packed = self._packed  # a reference until the end, so that what C reads stays alive
        assert packed is not None
        self._step_back()
        lengths = np.fromiter(map(len, batch), np.int32, len(batch))
        longest, most = int(lengths.max()), self._architecture.positions
        if lengths.min() < 1 or longest > most:
            raise ValueError(f"a sequence must have 1 to {most} tokens, one per position")
        tokens = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(batch), np.int32, tokens)
        if ids.min() < 0 or ids.max() >= self._architecture.vocab:
            raise ValueError(f"a token id must be in range({self._architecture.vocab})")
        begun = self._prefixes.begin(ids, lengths, callers) if self._prefixes and callers else None
        if begun:
            ids, lengths = begun.ids, begun.lengths
        dims = self.dims
        out = np.empty(len(batch) * dims, np.float32)
        tower = ctypes.byref(packed.tower)
        team = self._team_of(stream, is_alone=is_alone)
        members = team.size if team else 1
        scratch = self._scratch_of(stream, self._scratch_bytes(tower, len(batch), len(ids), longest, members))
        read = [ids.ctypes.data, lengths.ctypes.data, begun.pointer if begun else None]
        written = [out.ctypes.data, scratch.ctypes.data]
        self._encode(tower, *read, len(batch), *written, team.pointer if team else None)
        if self._prefixes and begun:
            self._prefixes.keep(begun)
        vectors: Vector = out.data.toreadonly()
        return [vectors[at : at + dims] for at in range(0, len(out), dims)]

    def _team_of(self, stream: int, *, is_alone: bool) -> "_Team | None":
        if self._has_own_teams:
            return self._teams[stream] if stream < self.streams else None
        return self._teams[0] if is_alone else None

    def _step_back(self) -> None:
        """Once in each thread that computes, but never in the main thread, whose children would inherit it."""
        if (
            not hasattr(self._stepped_back, "done")
            and threading.current_thread() is not threading.main_thread()
        ):
            self._stepped_back.done = True
            step_back()

    def _scratch_of(self, stream: int, size_bytes: int) -> Array:
        scratch = self._scratch[stream]
        if len(scratch) < size_bytes:
            if size_bytes > KEPT_SCRATCH_BYTES:
                # a map of its own goes back to the system, whatever its size
                return np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8)
            scratch = self._scratch[stream] = aligned(size_bytes)
        return scratch

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:
        """See the port."""
        return self._prefixes.known(ids, caller) if self._prefixes else 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """See the port."""
        return sum(lengths)

    def close(self) -> None:
        """Free the weights."""
        self._packed = None
        self._prefixes = None
        self._teams = [None] * len(self._teams)
        self._scratch = [aligned(0)] * len(self._scratch)


class _Team:
    """Threads of the kernels' own, asleep between calls. They end with this."""

    def __init__(self, library: ctypes.CDLL, pointer: int, size: int) -> None:
        self.size, self.pointer = size, pointer
        weakref.finalize(self, library.vectoll_team_free, pointer).atexit = False

    @classmethod
    def create(cls, library: ctypes.CDLL, size: int) -> "_Team | None":
        """None for one thread, and where the system has no more: a lone query then has one core."""
        pointer = library.vectoll_team_new(size, ENGINE_NICENESS) if size > 1 else None
        return cls(library, pointer, size) if pointer else None


def load_engine(
    checkpoint: Checkpoint,
    *,
    pooling: Pooling | None = None,
    precision: Precision | str = Precision.AUTO,
    streams: int = 0,
    cores: int = 0,
    prefix_bytes: int = 0,
) -> NativeEngine:
    """Pack a checkpoint's weights. ``pooling`` overrides what the checkpoint says; ``streams`` and ``cores`` are as in
    ``streams_and_cores``; ``prefix_bytes`` is the memory for what callers' texts begin with.

    Raises ConfigurationError where ``missing_for_native`` says why, or for a checkpoint that lacks a weight.
    """
    precision = Precision(precision)
    if why := missing_for_native(checkpoint, pooling, precision):
        raise ConfigurationError(f"the native CPU engine cannot be used: {why}")
    weights = checkpoint.open_weights()
    pooling = pooling or checkpoint.pooling
    assert pooling is not None
    count, cores = streams_and_cores(checkpoint.architecture.matrix_parameters, streams, cores)
    engine = NativeEngine(
        checkpoint.architecture,
        weights,
        pooling,
        products=products_of(precision),
        streams=count,
        cores_each=cores // count,
        prefix_bytes=prefix_bytes,
    )
    weights.release_pages()  # what was packed need not stay in memory twice
    give_back_freed()
    return engine


def missing_for_native(checkpoint: Checkpoint, pooling: Pooling | None, precision: Precision) -> str | None:
    """Why these kernels cannot compute a model here; None where they can."""
    has = capabilities()
    if not has:
        return "its kernels were not built (a C compiler at install time; Linux on x86_64)"
    if not has & (F32 | F32_AVX2):
        return "this CPU has neither AVX-512 nor AVX2"
    if precision is Precision.BF16 and not has & BF16:
        return "this CPU has no bf16 arithmetic"
    if precision is Precision.INT8 and not has & INT8:
        return "this CPU has no products of bytes (AVX512_VNNI) beside bf16"
    if not checkpoint.has_weights:
        return "only a graph (OpenVINO, ONNX) is published"
    return unsuitable(checkpoint.architecture, pooling or checkpoint.pooling, precision)


def is_faster(precision: Precision) -> bool:
    """Whether these kernels are faster than OpenVINO where both can compute a model. On a CPU with AMX they are not in
    bf16 and int8: OpenVINO then has several times their peak.
    """
    return precision is Precision.F32 or not capabilities() & AMX_BF16


def products_of(precision: Precision) -> Products:
    """What the products are computed in on this CPU."""
    has = capabilities()
    match precision:
        case Precision.INT8:
            return "int8"
        case Precision.BF16:
            return "bf16"
        case Precision.AUTO if has & BF16:
            return "bf16"
        case _:
            return "f32" if has & F32 else "f32_avx2"


def computes_in_f32(precision: Precision) -> bool:
    """Whether the products are in f32 on this CPU."""
    return products_of(precision).startswith("f32")
