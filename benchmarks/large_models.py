"""The CPU engines on large models whose weights are random: speed needs no others. One table.

    python benchmarks/large_models.py --peers PYTHON    # twenty minutes, 8 GB of memory, 1 GB of disk in the meantime
    python benchmarks/large_models.py --model qwen3-0.6b --rounds 1         # a look, our two engines alone

Tokens/s of all on texts of several lengths, all cores busy, and the time of one text alone. PYTHON is an interpreter
with torch and transformers. All take turns in every round; ratios are medians of ratios within a round. Cosines are to
transformers in f32, of the first two texts of each length.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.engine import Ids, batched, flops, loaded, run  # noqa: E402
from benchmarks.peak import Peak, best_precision  # noqa: E402
from benchmarks.record import RESULTS, recording, versions  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

from vectoll.adapters.checkpoints import Checkpoint, read_checkpoint  # noqa: E402
from vectoll.adapters.engines.cores import available_cores  # noqa: E402
from vectoll.domain.catalog import Pooling  # noqa: E402
from vectoll.engines import LoadedEngine  # noqa: E402

VOCABULARY = 1000
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "bge-m3": {
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 8194,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "pad_token_id": 1,
        "type_vocab_size": 1,
        "vocab_size": VOCABULARY,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 32768,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": VOCABULARY,
    },
}
"""As the repositories of these models have them, but for the vocabulary."""
POOLINGS = {"bge-m3": "cls_token", "qwen3-0.6b": "lasttoken"}
Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Any]
LENGTHS = {16: 32, 128: 8, 512: 4, 2048: 2}
"""Tokens of a text, and how many texts: all streams have work, and a round takes seconds."""


def encoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (1, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    square, attention = (hidden, hidden), "attention.self."
    blocks = {f"{attention}{name}": square for name in ("query", "key", "value")}
    blocks |= {
        "attention.output.dense": square,
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        for name, shape in blocks.items():
            found |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for norm in ("attention.output", "output"):
            found |= {f"{prefix}{norm}.LayerNorm.{part}": (hidden,) for part in ("weight", "bias")}
    return found


def decoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    width, kv_width = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (VOCABULARY, hidden),
        "norm.weight": (hidden,),
    }
    blocks: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (width, hidden),
        "self_attn.k_proj": (kv_width, hidden),
        "self_attn.v_proj": (kv_width, hidden),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "self_attn.o_proj": (hidden, width),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for layer in range(config["num_hidden_layers"]):
        found |= {f"layers.{layer}.{name}.weight": shape for name, shape in blocks.items()}
    return found


def write_checkpoint(model: str, folder: Path) -> Checkpoint:
    """Random weights of a size that keeps activations near 1, in f16."""
    config = CONFIGS[model]
    shapes = (encoder_shapes if model == "bge-m3" else decoder_shapes)(config)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling").mkdir()
    pooling = json.dumps({f"pooling_mode_{POOLINGS[model]}": True})
    (folder / "1_Pooling" / "config.json").write_text(pooling)
    modules = [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    rng, text = np.random.default_rng(1), json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = rng.standard_normal(shape, np.float32) * (0.5 if "embed" in name else shape[-1] ** -0.5)
            file.write((values + (name.endswith("orm.weight"))).astype(np.float16).tobytes())
    return read_checkpoint(folder)


def texts_of(length: int, count: int) -> list[Ids]:
    rng = random.Random(length)
    return [[rng.randrange(VOCABULARY) for _ in range(length)] for _ in range(count)]


class Contestant(Protocol):
    """Methods return the seconds that it took."""

    def together(self, texts: Sequence[Ids]) -> float: ...

    def alone(self, ids: Ids) -> float: ...


@dataclass(frozen=True)
class Own:
    """An engine of this process."""

    loaded: LoadedEngine

    def together(self, texts: Sequence[Ids]) -> float:
        return run(self.loaded.engine, batched(texts, self.loaded.shape))

    def alone(self, ids: Ids) -> float:
        started = time.perf_counter()
        self.loaded.engine.embed([ids], 0)
        return time.perf_counter() - started

    def vectors(self, texts: Sequence[Ids], _pooling: Pooling) -> Array:
        return np.array(self.loaded.engine.embed(texts, 0), np.float64)


class Torch:
    """transformers in another interpreter (``peers/from_ids.py``), with as many threads."""

    def __init__(self, python: str, folder: Path, dtype: str) -> None:
        self._worker = Worker(python, "from_ids.py", [str(folder), dtype], available_cores())
        self.versions = self._worker.versions
        self.close = self._worker.close

    def together(self, texts: Sequence[Ids]) -> float:
        return float(self._ask(texts)["seconds"])

    def alone(self, ids: Ids) -> float:
        return self.together([ids])

    def vectors(self, texts: Sequence[Ids], pooling: Pooling) -> Array:
        found = np.array(self._ask(texts, pooling.value)["vectors"])
        vectors: Array = found / np.linalg.norm(found, axis=1, keepdims=True)
        return vectors

    def _ask(self, texts: Sequence[Ids], vectors: str | None = None) -> Any:
        return self._worker.ask({"batch": texts, "vectors": vectors})


def compare(
    contestants: Mapping[str, Contestant],
    checkpoint: Checkpoint,
    precision: str,
    lengths: Mapping[int, int],
    rounds: int,
    exact: Torch | None = None,
) -> list[Row]:
    """Prints a row for each contestant and each of ``lengths``. The first is ours, and what others are held against."""
    rows, ours = [], next(iter(contestants))
    peak = Peak(precision, available_cores())
    for length, count in lengths.items():
        texts = texts_of(length, count)
        work = flops(checkpoint.architecture, texts, checkpoint.pooling) / 1e9
        seconds: dict[str, list[float]] = {who: [] for who in contestants}
        lone: dict[str, list[float]] = {who: [] for who in contestants}
        shares: dict[str, list[float]] = {who: [] for who in contestants}
        for number in range(rounds + 1):
            best = peak.gflops(2)
            for who, contestant in contestants.items():
                took, took_alone = contestant.together(texts), contestant.alone(texts[0])
                if number:  # the first warms up
                    seconds[who].append(took)
                    lone[who].append(took_alone)
                    shares[who].append(work / took / best)
        assert checkpoint.pooling
        wanted = exact.vectors(texts[:2], checkpoint.pooling) if exact else None
        for who, contestant in contestants.items():
            rows.append({
                "who": who,
                "tokens_per_text": length,
                "tokens_per_s": round(length * count / statistics.median(seconds[who])),
                "share_of_peak": round(statistics.median(shares[who]), 3),
                "alone_ms": round(1000 * statistics.median(lone[who]), 1),
                "times": ratio(seconds[who], seconds[ours]),
                "times_alone": ratio(lone[who], lone[ours]),
                "min_cosine": cosine(contestant, texts[:2], checkpoint.pooling, wanted),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def cosine(
    contestant: Contestant, texts: Sequence[Ids], pooling: Pooling, wanted: Array | None
) -> float | None:
    if wanted is None or not isinstance(contestant, Own | Torch):
        return None
    return round(float((contestant.vectors(texts, pooling) * wanted).sum(1).min()), 6)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2)


def contest(model: str, precision: str, rounds: int, peers: str | None) -> tuple[list[Row], dict[str, str]]:
    """A model's rows, and the versions of what it was held against."""
    with tempfile.TemporaryDirectory(prefix="vectoll-large-") as folder, ExitStack() as stack:

        def transformers(dtype: str) -> Torch:
            assert peers
            worker = Torch(peers, Path(folder), dtype)
            stack.callback(worker.close)
            return worker

        checkpoint = write_checkpoint(model, Path(folder))
        contestants: dict[str, Contestant] = {}
        for who, cpu_engine in (("vectoll", "native"), ("vectoll, on OpenVINO", "openvino")):
            started = time.perf_counter()
            contestants[who] = Own(loaded(checkpoint, cpu_engine=cpu_engine, precision=precision))
            print(f"{model}, {who}: loaded in {time.perf_counter() - started:.1f} s", flush=True)
        exact, found = None, {}
        if peers:
            exact = transformers("float32")
            found = exact.versions
            contestants["transformers, torch"] = transformers("bfloat16") if precision == "bf16" else exact
        return compare(contestants, checkpoint, precision, LENGTHS, rounds, exact), found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=["bf16", "f32"], default=best_precision())
    parser.add_argument("--model", choices=CONFIGS, help="one of them; else all")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with torch and transformers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    models = [options.model] if options.model else list(CONFIGS)
    with recording("large", versions("vectoll", "openvino", "numpy"), options.out) as result:
        result |= {"precision": options.precision, "rounds": options.rounds, "models": {}}
        for model in models:
            rows, found = contest(model, options.precision, options.rounds, options.peers)
            result["models"][model] = rows
            result["versions"] |= found


if __name__ == "__main__":
    main()
