"""TorchEngine: packed sequences through one network on one device."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from vectoll.adapters.checkpoints import Architecture, Checkpoint
from vectoll.adapters.engines.torch.attention import flash_attention, has_flash_kernel, segmented_attention
from vectoll.adapters.engines.torch.kernels import Kernels, can_compile, compiled_kernels, set_compiler
from vectoll.adapters.engines.torch.networks import Decoder, Encoder, Network
from vectoll.adapters.engines.torch.packing import PackedBatch, Packer
from vectoll.adapters.engines.torch.weights import CheckpointTensors
from vectoll.domain.catalog import Pooling, Precision
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.identity import Caller

BATCH_OPERATIONS = 20e12
"""Floating-point operations that make a good batch: 30 to 50 ms on a chip of the Hopper class."""
MIN_BATCH_TOKENS = 4_096
MAX_BATCH_TOKENS = 65_536
WARM_UP_TOKENS = 512
ACTIVATION_SHARE = 0.5
"""How much of the memory that the weights leave free a batch may use."""


class TorchEngine:
    """Implements ``ports.engine.Engine``.

    Two calls may run side by side: while the device computes one batch the other is packed, and queued behind it on
    the same CUDA stream, so the device does not wait for the host and memory holds the activations of one batch.
    """

    packed = True
    """A batch costs its real tokens: nothing is padded, so batching like lengths gains nothing."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        pooling: Pooling,
        *,
        device: str = "cuda",
        precision: Precision | str = Precision.AUTO,
        max_batch_tokens: int = 0,
        compile_kernels: bool | None = None,
    ) -> None:
        """Load the weights of ``checkpoint`` onto ``device``, a torch name: ``cuda``, ``cuda:1``, ``cpu``.

        ``max_batch_tokens`` 0 picks a budget that suits the model and the free memory; ``compile_kernels`` None
        fuses where a compiler is at hand. Raises ConfigurationError for a device that is not there and for a
        checkpoint that lacks weights.
        """
        self._device = torch.device(device)
        is_cuda = self._device.type == "cuda"
        if is_cuda and not torch.cuda.is_available():
            raise ConfigurationError(
                "torch sees no CUDA device: is the driver installed, and is it a CUDA build?"
            )
        dtype = _dtype(Precision(precision), self._device)
        self._is_fused = fuse = can_compile(self._device) if compile_kernels is None else compile_kernels
        shape = checkpoint.architecture
        if pooling not in (Pooling.CLS, Pooling.MEAN, Pooling.LAST):
            raise ConfigurationError(f"the torch engine does not do {pooling} pooling")
        self._pooling = pooling
        self._dims = shape.hidden
        self._network = _network(checkpoint, self._device, dtype, compiled_kernels() if fuse else Kernels())
        self._packer = Packer(shape, self._network.vocab, pooling, self._device)
        self._positions = shape.positions
        self._launching = threading.Lock()
        self._cuda_stream = torch.cuda.Stream(self._device) if is_cuda else None
        if is_cuda:
            torch.cuda.synchronize(self._device)  # the weights came over the default stream
        if fuse:
            self._warm_up()
        self.max_batch_tokens = max_batch_tokens or _batch_tokens(shape, dtype, self._device)

    def _warm_up(self) -> None:
        """Compile now rather than in someone's request: for a batch of a usual size, which the compiler tunes for, and
        for one sequence and one token, which are sizes of their own to it.
        """
        text = [0] * min(WARM_UP_TOKENS, self._positions)
        for batch in ([text] * 8, [[0, 0]], [[0]]):
            self.embed(batch, 0)

    @property
    def streams(self) -> int:
        """Two on CUDA: one batch computes while the next is packed."""
        return 2 if self._cuda_stream is not None else 1

    @property
    def dims(self) -> int:
        """The native size of a vector."""
        return self._dims

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,  # noqa: ARG002
        *,
        is_alone: bool = True,  # noqa: ARG002
        callers: Sequence[Caller] = (),  # noqa: ARG002
    ) -> Sequence[Vector]:
        """See ``Engine.embed``. Raises ValueError for ids or lengths that the model cannot read."""
        if not batch:
            return []
        if self._is_fused:
            set_compiler()
        staged = self._packer.pack(batch)
        with self._launching, self._on_stream(), torch.inference_mode():
            packed = self._packer.upload(staged, len(batch), max(map(len, batch)))
            vectors = F.normalize(self._pool(self._network(packed), packed), dim=-1)
            if self._cuda_stream is None:
                host, done = vectors, None
            else:
                host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
                host.copy_(vectors, non_blocking=True)
                done = torch.cuda.Event(blocking=True)
                done.record(self._cuda_stream)
        if done is not None:
            done.synchronize()
        return [memoryview(row).toreadonly() for row in host.numpy()]

    def _pool(self, states: torch.Tensor, packed: PackedBatch) -> torch.Tensor:
        """``[n, dims]`` float32."""
        if self._pooling is not Pooling.MEAN:
            return states.float()
        return torch.segment_reduce(
            states.float(), "mean", offsets=packed.segments.starts, axis=0, unsafe=True
        )

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._cuda_stream is None else torch.cuda.stream(self._cuda_stream)

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:  # noqa: ARG002
        """See the port."""
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """See the port."""
        return sum(lengths)

    def close(self) -> None:
        """Free the weights, if that has not been done."""
        self.__dict__.pop("_network", None)
        if self._cuda_stream is not None:
            torch.cuda.empty_cache()


def _has_bf16_units(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    major, _ = torch.cuda.get_device_capability(device)
    return int(major) >= 8


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """bf16 by itself where the chip has it: Ampere and later."""
    if precision is Precision.AUTO:
        precision = Precision.BF16 if _has_bf16_units(device) else Precision.F32
    return torch.bfloat16 if precision is Precision.BF16 else torch.float32


def _network(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, kernels: Kernels) -> Network:
    has_kernel = has_flash_kernel(checkpoint.architecture.head_dim)
    is_flash = has_kernel and dtype is torch.bfloat16 and _has_bf16_units(device)
    attention = flash_attention if is_flash else segmented_attention
    tensors = CheckpointTensors(checkpoint, device, dtype)
    kind = Encoder if checkpoint.architecture.family.is_encoder else Decoder
    return kind(checkpoint.architecture, tensors, attention, kernels)


def _batch_tokens(shape: Architecture, dtype: torch.dtype, device: torch.device) -> int:
    """Enough tokens to fill the chip, few enough that others need not wait long, and no more than fit."""
    wanted = int(BATCH_OPERATIONS / (2 * shape.matrix_parameters))
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        widest = (
            3 * shape.intermediate + 6 * shape.hidden + shape.head_dim * 3 * (shape.heads + shape.kv_heads)
        )
        wanted = min(wanted, int(free_bytes * ACTIVATION_SHARE / (widest * dtype.itemsize)))
    return min(max(wanted, MIN_BATCH_TOKENS), MAX_BATCH_TOKENS)


def load_engine(
    checkpoint: Checkpoint,
    *,
    pooling: Pooling | None = None,
    precision: Precision | str = Precision.AUTO,
    device: str = "cuda",
    max_batch_tokens: int = 0,
) -> TorchEngine:
    """A ``TorchEngine`` for a checkpoint. ``pooling`` overrides what the checkpoint says; one of the two must say it.

    Raises ConfigurationError when the checkpoint or the machine cannot do what is asked.
    """
    pooling = pooling or checkpoint.pooling
    if pooling is None:
        raise ConfigurationError(f"{checkpoint.folder} does not say its pooling: set models.pooling")
    return TorchEngine(
        checkpoint, pooling, device=device, precision=precision, max_batch_tokens=max_batch_tokens
    )
