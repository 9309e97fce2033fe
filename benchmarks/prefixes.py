"""Queries that begin alike: what a causal decoder need not compute again. One table.

    python benchmarks/prefixes.py --peers PYTHON    # eight minutes, 4 GB of memory, 1 GB of disk in the meantime

A decoder of Qwen3-0.6B's size with random weights. Each query is the same beginning and 12 tokens of its own: 20 are an
instruction, 500 some examples. Through the queue that serves, of one caller: alone, one after another, and many at a
time. PYTHON is an interpreter with torch and transformers. All take turns in every round; ratios are medians of ratios
within a round. Vectors are asserted to be those without sharing, bit by bit.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.engine import Ids, loaded  # noqa: E402
from benchmarks.large_models import VOCABULARY, Row, Torch, ratio, write_checkpoint  # noqa: E402
from benchmarks.record import RESULTS, recording, versions  # noqa: E402

from vectoll.adapters.checkpoints import Checkpoint  # noqa: E402
from vectoll.core.batching.batcher import Batcher  # noqa: E402
from vectoll.domain.identity import NOBODY  # noqa: E402
from vectoll.ports.metrics import NoMetrics  # noqa: E402

OWN_TOKENS = 12
BEGINNINGS = {20: 64, 500: 8}
"""Tokens that queries begin with, and how many queries there are at a time."""
LONE = 4
"""Queries one after another in a round."""

Compute = Callable[[Sequence[Ids]], Awaitable[object]]


def queries(beginning: int, count: int, seed: int) -> list[Ids]:
    head, rng = random.Random(beginning).choices(range(VOCABULARY), k=beginning), random.Random(seed)
    return [[*head, *rng.choices(range(VOCABULARY), k=OWN_TOKENS)] for _ in range(count)]


async def measure(compute: Compute, texts: Sequence[Ids]) -> tuple[float, float]:
    """Seconds of all texts at a time, and of a lone one."""
    started = time.perf_counter()
    await compute(texts)
    together, lone = time.perf_counter() - started, []
    for ids in texts[:LONE]:
        started = time.perf_counter()
        await compute([ids])
        lone.append(time.perf_counter() - started)
    return together, statistics.median(lone)


def served(checkpoint: Checkpoint, prefix_mib: int) -> tuple[Batcher, Compute]:
    engine = loaded(checkpoint, prefix_mib=prefix_mib)
    batcher = Batcher(
        engine.engine,
        engine.shape,
        model="benchmark",
        max_queue_tokens=10**6,
        max_wait_s=1e9,
        metrics=NoMetrics(),
    )
    return batcher, lambda texts: batcher.compute(texts, NOBODY)


async def compare(checkpoint: Checkpoint, rounds: int, peer: Torch | None) -> list[Row]:
    """Prints a row for each who and each of ``BEGINNINGS``. Ratios are to ours that shares."""
    rows: list[Row] = []
    batchers = {"vectoll": served(checkpoint, 256), "vectoll, prefix_mib = 0": served(checkpoint, 0)}
    contestants = {who: compute for who, (_, compute) in batchers.items()}
    if peer:
        contestants["transformers, torch"] = lambda texts: asyncio.to_thread(peer.together, texts)
    for beginning, count in BEGINNINGS.items():
        took: dict[str, list[tuple[float, float]]] = {who: [] for who in contestants}
        for number in range(rounds + 1):
            texts = queries(beginning, count, number)
            for who, compute in contestants.items():
                measured = await measure(compute, texts)
                if number:  # in the first, what texts begin with is not known yet
                    took[who].append(measured)
        shared, plain = [await compute(texts) for _, compute in batchers.values()]
        assert np.array_equal(np.array(shared), np.array(plain))
        ours = took["vectoll"]
        for who, seconds in took.items():
            rows.append({
                "who": who,
                "beginning_tokens": beginning,
                "queries_per_s": round(count / statistics.median(together for together, _ in seconds), 1),
                "alone_ms": round(1000 * statistics.median(lone for _, lone in seconds), 1),
                "times": ratio([a for a, _ in seconds], [a for a, _ in ours]),
                "times_alone": ratio([b for _, b in seconds], [b for _, b in ours]),
            })  # fmt: skip
            print(rows[-1], flush=True)
    for batcher, _ in batchers.values():
        await batcher.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with torch and transformers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with (
        recording("prefixes", versions("vectoll", "numpy"), options.out) as result,
        tempfile.TemporaryDirectory(prefix="vectoll-prefixes-") as folder,
        ExitStack() as stack,
    ):
        checkpoint, peer = write_checkpoint("qwen3-0.6b", Path(folder)), None
        if options.peers:
            peer = Torch(options.peers, Path(folder), "bfloat16")
            stack.callback(peer.close)
            result["versions"] |= peer.versions
        result |= {
            "own_tokens": OWN_TOKENS,
            "rows": asyncio.run(compare(checkpoint, options.rounds, peer)),
        }


if __name__ == "__main__":
    main()
