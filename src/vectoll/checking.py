"""Whether a model on this machine is what it should be: one report, of what was verified and what was measured."""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Checkpoint, locate, read_checkpoint, weights_bytes
from vectoll.adapters.tokenizers import CheckpointTokenizer, load_tokenizer
from vectoll.check_report import Report
from vectoll.core.batching.batcher import Batcher
from vectoll.domain.catalog import ModelSpec, Precision
from vectoll.domain.identity import NOBODY
from vectoll.engines import LoadedEngine, choose_device, load_engine, precision_of
from vectoll.loading import open_model
from vectoll.ports.metrics import NoMetrics
from vectoll.settings import Settings

SHORT_TOKENS = 16
LONG_TOKENS = 512
MEASURE_S = 1.5
"""How long each speed is measured. A model that takes longer for one text is measured on that one."""
SAME_F32 = 1e-5
"""Largest difference of a component between batches, in f32."""
SAME_COSINE = 0.999
"""Smallest cosine between batches, and to the full precision, in the other precisions."""
INT8_COSINE = 0.95
"""An int8 model below this, on any text, is no longer the same model."""

TEXTS = (
    "How do I reset my password?",
    "The quick brown fox jumps over the lazy dog.",
    "东京は日本の首都です。",
    "Привет, мир",
    "def add(a, b):\n    return a + b",
    "Embeddings place texts that mean the same close to each other. " * 6,
    "a",
    "naïve café — 🙂",
)

Tell = Callable[[str], None]
"""Told what is being done now."""
Matrix = np.ndarray[Any, np.dtype[np.float32]]


async def check_model(spec: ModelSpec, settings: Settings, tell: Tell, *, offline: bool = False) -> Report:
    """Load a model, or ask its upstream unless ``offline``, and look at what comes. Downloads nothing."""
    report = Report(spec.id, spec.kind)
    if spec.upstream is not None:
        if offline:
            report.note("answers", None, "left out: --offline")
        else:
            tell("asking the upstream")
            with report.expecting("answers"):
                await _ask(spec, settings, report)
        return report
    with report.expecting("weights"):
        checkpoint = _find(spec, report)
        tokenizer = None
        with report.expecting("special tokens"):
            tokenizer = _check_tokens(spec, checkpoint, report)
        _check_pooling(spec, checkpoint, report)
        if tokenizer is not None:
            with report.expecting("loads"):
                await _check_vectors(spec, settings, tokenizer, report, tell)
    return report


def _find(spec: ModelSpec, report: Report) -> Checkpoint:
    folder = locate(spec.id, spec.source)
    report.disk_bytes = weights_bytes(folder)
    return read_checkpoint(folder)


def _check_tokens(spec: ModelSpec, checkpoint: Checkpoint, report: Report) -> CheckpointTokenizer:
    """Raises ConfigurationError where the token that the pooling reads is missing."""
    tokenizer = load_tokenizer(checkpoint, spec.pooling)
    first, last = tokenizer.first_id, tokenizer.last_id
    encoded = [e.ids for e in tokenizer.encode(TEXTS)]
    is_everywhere = all((first in (None, ids[0])) and (last in (None, ids[-1])) for ids in encoded)
    is_encoder = checkpoint.architecture.family.is_encoder
    has_needed = not is_encoder or None not in (first, last)
    detail = f"{tokenizer.show(first)} A {tokenizer.show(last)}".strip()
    if not is_everywhere:
        detail += ": not around every text"
    elif not has_needed:
        detail += ": an encoder needs one at each end"
    report.note("special tokens", is_everywhere and has_needed, detail)
    return tokenizer


def _check_pooling(spec: ModelSpec, checkpoint: Checkpoint, report: Report) -> None:
    said = checkpoint.pooling
    if said is None:
        report.note("pooling", True, f"{spec.pooling}; the checkpoint does not say")
    else:
        agrees = said is spec.pooling
        report.note(
            "pooling", agrees, f"{spec.pooling}, {'as' if agrees else 'but'} the checkpoint says {said}"
        )


async def _check_vectors(
    spec: ModelSpec, settings: Settings, tokenizer: CheckpointTokenizer, report: Report, tell: Tell
) -> None:
    precision = precision_of(spec, settings.engine)
    sequences = [
        list(e.ids)
        for e in tokenizer.encode([(spec.prompt or "") + t for t in TEXTS], max_tokens=spec.max_tokens)
    ]
    tell("loading")
    before, started = memory_bytes(), time.perf_counter()
    loaded = await asyncio.to_thread(load_engine, spec, settings.engine)
    async with _closing(loaded) as computing:
        report.engine = f"{choose_device(settings.engine)}, {loaded.runtime}, {precision}"
        report.load_s = time.perf_counter() - started
        report.memory_bytes = memory_bytes() - before
        report.note("loads", True, f"in {report.load_s:.1f} s")
        tell("comparing vectors")
        together = await asyncio.to_thread(_vectors, computing, sequences)
        alone = await asyncio.to_thread(lambda: np.concatenate([_vectors(computing, [s]) for s in sequences]))
        _check_numbers(together, alone, report)
        _check_invariance(precision, together, alone, report)
        await _measure(spec, settings, tokenizer, computing, report, tell)
    if precision is Precision.INT8:
        tell("loading without int8")
        await _check_int8(spec, settings, sequences, together, report)


def _check_numbers(together: Matrix, alone: Matrix, report: Report) -> None:
    both = np.concatenate([together, alone])
    finite = bool(np.isfinite(both).all())
    report.note("finite", finite, f"{len(both)} vectors of {both.shape[1]}")
    error = float(np.abs(np.linalg.norm(both.astype(np.float64), axis=1) - 1).max())
    report.note("norm", finite and error < 1e-4, f"1, at most {error:.0e} from it")


def _check_invariance(precision: Precision, together: Matrix, alone: Matrix, report: Report) -> None:
    """A text's vector must not depend on what is computed beside it."""
    difference = float(np.abs(together - alone).max())
    cosine = float(_cosines(together, alone).min())
    same = difference <= SAME_F32 if precision is Precision.F32 else cosine >= SAME_COSINE
    report.note(
        "batch", same, f"alone or among others: cosine {cosine:.6f} or more, difference {difference:.0e}"
    )


async def _check_int8(
    spec: ModelSpec, settings: Settings, sequences: Sequence[Sequence[int]], ours: Matrix, report: Report
) -> None:
    """What 8 bits cost: cosine to the same weights in the engine's own precision."""
    gc.collect()
    loaded = await asyncio.to_thread(load_engine, replace(spec, precision=Precision.AUTO), settings.engine)
    async with _closing(loaded) as full:
        cosines = _cosines(ours, await asyncio.to_thread(_vectors, full, sequences))
    report.int8_cosine_min, report.int8_cosine_mean = float(cosines.min()), float(cosines.mean())
    report.note(
        "int8",
        report.int8_cosine_min >= INT8_COSINE,
        f"cosine to full precision {cosines.mean():.4f} on average, {cosines.min():.4f} at worst",
    )


async def _measure(
    spec: ModelSpec,
    settings: Settings,
    tokenizer: CheckpointTokenizer,
    loaded: LoadedEngine,
    report: Report,
    tell: Tell,
) -> None:
    """Tokens per second through the same queue that serves."""
    batcher = Batcher(
        loaded.engine,
        loaded.shape,
        model=spec.id,
        max_queue_tokens=settings.queue.max_tokens,
        max_wait_s=3600.0,
        metrics=NoMetrics(),
    )
    report.long_tokens = min(LONG_TOKENS, spec.max_tokens)
    try:
        tell("measuring short texts")
        report.short_tokens_per_s = await _speed(batcher, tokenizer, min(SHORT_TOKENS, spec.max_tokens))
        tell("measuring long texts")
        report.long_tokens_per_s = await _speed(batcher, tokenizer, report.long_tokens)
    finally:
        await batcher.close()


async def _speed(batcher: Batcher, tokenizer: CheckpointTokenizer, length: int) -> float:
    """Rounds, each of twice as many texts or more, until one lasts ``MEASURE_S``, which counts."""
    rng = random.Random(length)  # noqa: S311 - not for secrets
    count = 1
    while True:
        batch = [[rng.randrange(tokenizer.vocab_size) for _ in range(length)] for _ in range(count)]
        started = time.perf_counter()
        await batcher.compute(batch, NOBODY)
        seconds = time.perf_counter() - started
        if seconds >= MEASURE_S or count >= 65_536:
            return count * length / seconds
        count = min(65_536, max(count * 2, int(count * MEASURE_S * 1.2 / max(seconds, 1e-3))))


async def _ask(spec: ModelSpec, settings: Settings, report: Report) -> None:
    """One small request, like a caller's. The adapter itself refuses vectors of another size or not finite."""
    async with open_model(settings, spec.id) as model:
        started = time.perf_counter()
        encodings = await model.tokenize(list(TEXTS[:2]))
        answer = await model.embed(encodings, dimensions=None, caller=NOBODY)
        seconds = time.perf_counter() - started
    bought = answer.usage.prompt_tokens
    found = f"vectors of {spec.dims} in {seconds * 1000:.0f} ms; {bought} tokens were bought for it"
    report.note("answers", True, found)


@asynccontextmanager
async def _closing(loaded: LoadedEngine) -> AsyncIterator[LoadedEngine]:
    """Weights are freed whatever happens; closing twice does nothing."""
    try:
        yield loaded
    finally:
        await asyncio.to_thread(loaded.engine.close)


def _vectors(loaded: LoadedEngine, sequences: Sequence[Sequence[int]]) -> Matrix:
    return np.stack([np.frombuffer(vector, np.float32) for vector in loaded.engine.embed(sequences, 0)])


def _cosines(a: Matrix, b: Matrix) -> "np.ndarray[Any, np.dtype[np.float64]]":
    cosines: np.ndarray[Any, np.dtype[np.float64]] = np.einsum("ij,ij->i", a.astype(np.float64), b)
    return cosines


def memory_bytes() -> int:
    """On Linux the memory of this process that no file backs; elsewhere its largest size so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415 - POSIX only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
