"""The CPU engines on an encoder of bge-m3's size (24 layers of 1,024), whose weights are random: speed needs no others.

    python benchmarks/large_encoder.py              # three minutes, 4 GB of memory, 1 GB of disk in the meantime

Tokens/s of both engines on texts of several lengths, all streams busy, and the time of one sequence alone. They take
turns in every round; ratios are medians of ratios within a round. The cosine is between the two, in bf16.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.engine import Ids, batched, flops, loaded, run  # noqa: E402
from benchmarks.peak import Peak, best_precision  # noqa: E402

from vectoll.adapters.checkpoints import Checkpoint, read_checkpoint  # noqa: E402
from vectoll.adapters.engines.cores import available_cores  # noqa: E402
from vectoll.engines import LoadedEngine  # noqa: E402

LAYERS, HIDDEN, INNER, HEADS, POSITIONS, VOCABULARY = 24, 1024, 4096, 16, 8194, 1000
CONFIG = {
    "model_type": "xlm-roberta",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "vocab_size": VOCABULARY,
}
LENGTHS = {16: 32, 128: 8, 512: 4, 2048: 2}
"""Tokens of a text, and how many texts: all streams have work, and a round takes seconds."""


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (1, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
    }
    square, attention = (HIDDEN, HIDDEN), "attention.self."
    blocks = {f"{attention}{name}": square for name in ("query", "key", "value")}
    blocks |= {
        "attention.output.dense": square,
        "intermediate.dense": (INNER, HIDDEN),
        "output.dense": (HIDDEN, INNER),
    }
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for name, shape in blocks.items():
            found |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for norm in ("attention.output", "output"):
            found |= {f"{prefix}{norm}.LayerNorm.{part}": (HIDDEN,) for part in ("weight", "bias")}
    return found


def write_checkpoint(folder: Path) -> Checkpoint:
    """Random weights of a size that keeps activations near 1, in f16."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    modules = [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    header, end = {}, 0
    for name, shape in shapes().items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    rng, text = np.random.default_rng(1), json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes().items():
            values = rng.standard_normal(shape, np.float32) * (
                0.5 if "embeddings" in name else shape[-1] ** -0.5
            )
            file.write((values + ("LayerNorm.weight" in name)).astype(np.float16).tobytes())
    return read_checkpoint(folder)


def texts_of(length: int, count: int) -> list[Ids]:
    rng = random.Random(length)
    return [[rng.randrange(VOCABULARY) for _ in range(length)] for _ in range(count)]


def alone(own: LoadedEngine, ids: Ids) -> float:
    started = time.perf_counter()
    own.engine.embed([ids], 0)
    return time.perf_counter() - started


def compare(
    engines: Mapping[str, LoadedEngine],
    checkpoint: Checkpoint,
    precision: str,
    lengths: Mapping[int, int],
    rounds: int,
) -> list[dict[str, Any]]:
    """Prints a row for each of the engines and ``lengths``. The first engine is ours, and what others are held against;
    the cosine is between it and the second.
    """
    rows, ours = [], next(iter(engines))
    peak = Peak(precision, available_cores())
    for length, count in lengths.items():
        texts = texts_of(length, count)
        work = flops(checkpoint.architecture, texts, checkpoint.pooling) / 1e9
        batches = {who: batched(texts, own.shape) for who, own in engines.items()}
        seconds: dict[str, list[float]] = {who: [] for who in engines}
        lone: dict[str, list[float]] = {who: [] for who in engines}
        shares: dict[str, list[float]] = {who: [] for who in engines}
        vectors = [np.array(own.engine.embed(texts[:2], 0), np.float64) for own in engines.values()]
        for number in range(rounds + 1):
            best = peak.gflops(2)
            for who, own in engines.items():
                took, took_alone = run(own.engine, batches[who]), alone(own, texts[0])
                if number:  # the first warms up
                    seconds[who].append(took)
                    lone[who].append(took_alone)
                    shares[who].append(work / took / best)
        for who in engines:
            rows.append({
                "who": who,
                "tokens_per_text": length,
                "tokens_per_s": round(length * count / statistics.median(seconds[who])),
                "share_of_peak": round(statistics.median(shares[who]), 3),
                "alone_ms": round(1000 * statistics.median(lone[who]), 1),
                f"{ours}_is_times": ratio(seconds[who], seconds[ours]),
                f"{ours}_alone_is_times": ratio(lone[who], lone[ours]),
                "min_cosine": round(float((vectors[0] * vectors[1]).sum(1).min()), 6),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["bf16", "f32"], default=best_precision())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vectoll-large-") as folder:
        checkpoint = write_checkpoint(Path(folder))
        engines = {}
        for who in ("native", "openvino"):
            started = time.perf_counter()
            engines[who] = loaded(checkpoint, cpu_engine=who, precision=options.precision)
            print(f"{who}: loaded in {time.perf_counter() - started:.1f} s", flush=True)
        compare(engines, checkpoint, options.precision, LENGTHS, options.rounds)


if __name__ == "__main__":
    main()
