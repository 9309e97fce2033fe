"""The part of the composition root that brings one model's weights into memory, on the device that settings name.

Heavy libraries are imported when they are needed: torch only once it is known that a GPU is there.
"""

import ctypes
import importlib.util
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vectoll.adapters.checkpoints import (
    Attention,
    Checkpoint,
    DownloadBar,
    locate,
    read_checkpoint,
    weights_bytes,
)
from vectoll.core.batching.queue import BatchShape
from vectoll.domain.catalog import ModelSpec, Pooling, Precision
from vectoll.domain.errors import ConfigurationError, Draining
from vectoll.ports.engine import Engine
from vectoll.settings import EngineSettings

NATIVE_BATCH_TOKENS = 256
OPENVINO_BATCH_TOKENS = 384
"""Tokens per batch: the fastest on a core with 1 MiB of its own cache (docs/decisions/cpu-engine.md)."""
QUERY_TOKENS = 128
"""A request of so many is computed beside larger ones, where the native engine computes: a sentence or a paragraph."""

WIDENED = 4
"""Memory of 16-bit weights that OpenVINO computes with in f32, as a multiple of their size on disk: two f32 copies.
Measured: 3.5 times, everything included."""
WIDENED_NATIVE = 2
"""The same where our own kernels compute: one copy."""

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine in memory, and what whoever feeds it must know."""

    engine: Engine
    shape: BatchShape
    vocab_size: int
    """Token ids must be in ``range(vocab_size)``."""
    runtime: str
    """What computes: ``native``, ``openvino`` or ``torch``."""


def load_engine(spec: ModelSpec, settings: EngineSettings) -> LoadedEngine:
    """A model's weights on this machine. Blocks. Raises ModelOffline, ConfigurationError, and what engines raise."""
    checkpoint = open_checkpoint(spec)
    if choose_device(settings) == "cuda" and _suits_gpu(spec, checkpoint, settings):
        return _load_on_gpu(spec, checkpoint, settings)
    if _is_native(spec, checkpoint, settings):
        return _load_native(spec, checkpoint, settings)
    return _load_openvino(spec, checkpoint, settings)


def _load_openvino(spec: ModelSpec, checkpoint: Checkpoint, settings: EngineSettings) -> LoadedEngine:
    from vectoll.adapters.engines.openvino import load_engine as load_openvino

    precision = precision_of(spec, settings)
    engine = load_openvino(
        checkpoint,
        pooling=spec.pooling,
        precision=precision,
        streams=settings.streams,
        cores=settings.cores,
    )
    shape = BatchShape(settings.batch_tokens or OPENVINO_BATCH_TOKENS, padded=not engine.packed)
    return LoadedEngine(engine, shape, checkpoint.architecture.vocab, "openvino")


def _load_native(spec: ModelSpec, checkpoint: Checkpoint, settings: EngineSettings) -> LoadedEngine:
    from vectoll.adapters.engines.native import load_engine as load_own

    precision = precision_of(spec, settings)
    engine = load_own(
        checkpoint,
        pooling=spec.pooling,
        precision=precision,
        streams=settings.streams,
        cores=settings.cores,
        prefix_bytes=settings.prefix_mib * 2**20,
    )
    budget = settings.batch_tokens or NATIVE_BATCH_TOKENS
    shape = BatchShape(budget, padded=False, alike=False, query_tokens=min(QUERY_TOKENS, budget // 2))
    return LoadedEngine(engine, shape, checkpoint.architecture.vocab, "native")


def _is_native(spec: ModelSpec, checkpoint: Checkpoint, settings: EngineSettings) -> bool:
    """Whether our own kernels compute a model. Raises ConfigurationError where the operator insists and they cannot."""
    if settings.cpu_engine == "openvino":
        return False
    from vectoll.adapters.engines.native import is_faster, missing_for_native

    precision = precision_of(spec, settings)
    why = missing_for_native(checkpoint, spec.pooling, precision)
    if settings.cpu_engine == "auto":
        return why is None and is_faster(precision)
    if why is not None:
        raise ConfigurationError(f"model {spec.id!r}: {why}, and setting engine.cpu_engine is native")
    return True


def _load_on_gpu(spec: ModelSpec, checkpoint: Checkpoint, settings: EngineSettings) -> LoadedEngine:
    from vectoll.adapters.engines.torch import load_engine as load_torch

    engine = load_torch(
        checkpoint,
        pooling=spec.pooling,
        precision=precision_of(spec, settings),
        max_batch_tokens=settings.batch_tokens,
    )
    shape = BatchShape(engine.max_batch_tokens, padded=not engine.packed)
    return LoadedEngine(engine, shape, checkpoint.architecture.vocab, "torch")


def precision_of(spec: ModelSpec, settings: EngineSettings) -> Precision:
    """The configured precision: the model's own, else that of all models."""
    return Precision(settings.precision) if spec.precision is Precision.AUTO else spec.precision


def _suits_gpu(spec: ModelSpec, checkpoint: Checkpoint, settings: EngineSettings) -> bool:
    """Whether the GPU engine can run a model. Raises ConfigurationError where the operator insists and it cannot."""
    if precision_of(spec, settings) is Precision.INT8:
        why = "precision int8 is for the CPU"
    elif not checkpoint.has_weights:
        why = "only a graph (OpenVINO, ONNX) is published, which is for the CPU"
    else:
        return True
    if settings.device == "cuda":
        raise ConfigurationError(f"model {spec.id!r}: {why}, and setting engine.device is cuda")
    return False


def choose_device(settings: EngineSettings) -> Device:
    """``auto`` is the GPU where torch can use one. Raises ConfigurationError for ``cuda`` where it cannot."""
    if settings.device == "cpu":
        return "cpu"
    why = missing_for_cuda()
    if why is None:
        return "cuda"
    if settings.device == "cuda":
        raise ConfigurationError(f"setting engine.device: cuda cannot be used: {why}")
    return "cpu"


def missing_for_cuda() -> str | None:
    """What keeps torch from using a GPU here; None when nothing does. Imports torch only where a GPU is."""
    if importlib.util.find_spec("torch") is None:
        return 'torch is not installed; pip install ".[cuda]" in vectoll\'s checkout'
    if not _gpus():
        return "no NVIDIA GPU is visible (driver, CUDA_VISIBLE_DEVICES)"
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} is not built for this GPU's driver"


def _gpus() -> int:
    """How many GPUs the driver shows to this process, without torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    is_there = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if is_there else 0


def weights_size(spec: ModelSpec, stop: threading.Event | None = None) -> int:
    """Bytes of a model's weights on disk, which are fetched if need be. Setting ``stop`` ends the download.

    Blocks. Raises ModelOffline, ConfigurationError, and Draining when stopped.
    """
    return weights_bytes(_located(spec, stop))


def memory_need(spec: ModelSpec, settings: EngineSettings, stop: threading.Event | None = None) -> int:
    """Bytes that a model's weights take when loaded. Blocks. Raises what ``weights_size`` raises.

    On the GPU a weight of the text tower takes the bytes of the arithmetic's type. On the CPU it takes about what it
    does on disk, except for 16-bit weights computed in f32: those are widened (see ``WIDENED``).
    """
    on_disk = weights_size(spec, stop)
    checkpoint = open_checkpoint(spec)
    if choose_device(settings) == "cpu" or not _suits_gpu(spec, checkpoint, settings):
        return on_disk * _widening(spec, checkpoint, settings)
    return checkpoint.open_weights().element_count * (
        4 if precision_of(spec, settings) is Precision.F32 else 2
    )


def _widening(spec: ModelSpec, checkpoint: Checkpoint, settings: EngineSettings) -> int:
    """A weight's memory on the CPU as a multiple of its size on disk, above 1 for 16-bit weights computed in f32."""
    if not checkpoint.has_weights:
        return 1
    weights, precision = checkpoint.open_weights(), precision_of(spec, settings)
    if weights.size_bytes >= 4 * weights.element_count:
        return 1
    if _is_native(spec, checkpoint, settings):
        from vectoll.adapters.engines.native import computes_in_f32

        return WIDENED_NATIVE if computes_in_f32(precision) else 1
    from vectoll.adapters.engines.openvino import computes_in_f32 as openvino_computes_in_f32

    return WIDENED if openvino_computes_in_f32(precision) else 1


def memory_budget(settings: EngineSettings) -> int:
    """Bytes that all loaded weights may take together: as configured, else three quarters of the device's memory."""
    if settings.memory_mib:
        return settings.memory_mib * 2**20
    if choose_device(settings) == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[1]) * 3 // 4
    return machine_bytes() * 3 // 4


def open_checkpoint(spec: ModelSpec) -> Checkpoint:
    """A model's folder, read, and fetched first if need be. Blocks. Raises ModelOffline, ConfigurationError."""
    checkpoint = read_checkpoint(_located(spec, None))
    if checkpoint.dims != spec.dims:
        raise ConfigurationError(
            f"model {spec.id!r}, setting dims: its vectors have {checkpoint.dims}, not {spec.dims}"
        )
    if spec.max_tokens > checkpoint.architecture.positions:
        raise ConfigurationError(
            f"model {spec.id!r}, setting max_tokens: {spec.max_tokens} is more than its checkpoint's "
            f"{checkpoint.architecture.positions} positions"
        )
    if spec.pooling is Pooling.CLS and checkpoint.architecture.attention is Attention.CAUSAL:
        raise ConfigurationError(
            f"model {spec.id!r}, setting pooling: cls reads the first token, which in a causal model sees no other"
        )
    if checkpoint.default_prompt and spec.prompt is None:
        prompt = json.dumps(checkpoint.default_prompt, ensure_ascii=False)
        raise ConfigurationError(
            f"model {spec.id!r}, setting prompt: its checkpoint's default_prompt_name puts one before every text: set "
            f'prompt = {prompt}, or prompt = "" where callers send texts with theirs'
        )
    if spec.prompt and spec.pooling is Pooling.MEAN and not checkpoint.pools_prompt:
        raise ConfigurationError(
            f"model {spec.id!r}, setting prompt: its checkpoint's pooling leaves a prompt out (include_prompt), which "
            'is not computed: set prompt = ""'
        )
    return checkpoint


def _located(spec: ModelSpec, stop: threading.Event | None) -> Path:
    """A model's folder, fetched first if need be, with a bar."""
    bar = DownloadBar(spec.id)

    def progress(done: int, total: int) -> None:
        if stop is not None and stop.is_set():
            raise Draining
        bar(done, total)

    try:
        return locate(spec.id, spec.source, progress=progress)
    finally:
        bar.close()


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process is confined to."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(machine, int(text)) if text.isdigit() else machine
