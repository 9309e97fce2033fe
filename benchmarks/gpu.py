"""Tokens per second of the torch engine, from lists of token ids to float32 vectors on the host.

    python benchmarks/gpu.py                         # the four shapes at 50 and 512 tokens, on a CUDA device
    python benchmarks/gpu.py --models bert-base --budgets 8192 16384 65536 131072
    python benchmarks/gpu.py --device cpu --layers 2 --seconds 1 --models bert-base    # a rehearsal

Weights are random, in the shapes of the real models, written to disk and read back by the real loader. The share of
peak counts the operations that are carried out, against the bf16 matrix product of 8192³ measured in the same run.
Before timing, vectors are compared with padded float32 transformers on the same device; the exit code is 1 when they
differ. Needs torch, transformers and numpy, nothing else of vectoll's: `PYTHONPATH=src` does for an installation.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import transformers

from vectoll.adapters.checkpoints import Architecture, Attention, read_checkpoint
from vectoll.adapters.engines.torch import TorchEngine
from vectoll.domain.catalog import Pooling

PUBLISHED_PEAK_TFLOPS = {"H200": 989.5, "H100": 989.5}
"""Dense bf16, by the vendor's data sheets (SXM parts)."""
QWEN3 = {
    "model_type": "qwen3", "architectures": ["Qwen3Model"], "head_dim": 128, "num_key_value_heads": 8,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1_000_000, "max_position_embeddings": 40960,
    "attention_bias": False,
}  # fmt: skip
BERT = {"hidden_act": "gelu", "initializer_range": 0.02}
MODELS: dict[str, tuple[Pooling, dict[str, Any]]] = {
    "bert-base": (Pooling.CLS, BERT | {
        "model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 12, "hidden_size": 768,
        "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522, "type_vocab_size": 2,
        "max_position_embeddings": 512, "layer_norm_eps": 1e-12,
    }),
    "bge-m3": (Pooling.CLS, BERT | {
        "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "num_hidden_layers": 24,
        "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 250002,
        "type_vocab_size": 1, "max_position_embeddings": 8194, "layer_norm_eps": 1e-5, "pad_token_id": 1,
    }),
    "qwen3-0.6b": (Pooling.LAST, QWEN3 | {
        "num_hidden_layers": 28, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 3072,
        "vocab_size": 151669,
    }),
    "qwen3-8b": (Pooling.LAST, QWEN3 | {
        "num_hidden_layers": 36, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 12288,
        "vocab_size": 151665,
    }),
}  # fmt: skip
SAME_COSINE = 0.999
"""Below this the vectors are not the model's, and the speed is of no interest."""
CHECKED_PARAMETERS = 2e9
"""Larger models are timed only: their float32 reference would not fit beside them on most chips."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table."""

    model: str
    tokens_per_sequence: int
    batch_tokens: int
    tokens_per_s: float
    tflops: float
    share_of_measured_peak: float
    share_of_published_peak: float | None


def write_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    """A folder as the hub has it: config.json and one bf16 model.safetensors, weights normal with deviation 0.02."""
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if "pooler" not in name}
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape.numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    generator = torch.Generator().manual_seed(5)
    # One block, read from a different place for each tensor: drawing billions of numbers takes minutes.
    block = (torch.randn(2**24 + 3, generator=generator) * 0.02).bfloat16()
    near_one = _raw((block[:65_536].float() + 1).bfloat16())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for index, (name, shape) in enumerate(shapes.items()):
            is_scale = "norm" in name.lower() and name.endswith("weight")
            _write_round(file, near_one if is_scale else _raw(block), 2 * 977 * index, 2 * shape.numel())


def _raw(numbers: torch.Tensor) -> memoryview:
    return memoryview(numbers.view(torch.uint8).numpy())


def _write_round(file: BinaryIO, raw: memoryview, start: int, size: int) -> None:
    """``size`` bytes of ``raw`` from ``start`` on, beginning again at its end."""
    at = start % len(raw)
    while size:
        size -= file.write(raw[at : at + size])
        at = 0


def random_batch(shape: Architecture, sequences: int, length: int, seed: int = 0) -> list[list[int]]:
    """Sequences of random ids, as lists: what the batcher hands over."""
    rng = np.random.default_rng(seed)
    rows: list[list[int]] = rng.integers(3, shape.vocab, (sequences, length)).tolist()
    return rows


def operations_per_token(shape: Architecture, length: int) -> float:
    """Floating-point operations carried out per token of sequences of ``length``, one token being pooled."""
    keys = (length + 1) / 2 if shape.attention is Attention.CAUSAL else length
    attention = 4 * shape.heads * shape.head_dim * keys
    layer = 2 * shape.matrix_parameters / shape.layers + attention
    keys_and_values = 4 * shape.hidden * shape.kv_heads * shape.head_dim
    pooled = (layer - attention - keys_and_values + 4 * shape.heads * shape.head_dim * length) / length
    return (shape.layers - 1) * layer + keys_and_values + pooled


def measured_peak_tflops(device: torch.device) -> float:
    """The best of five medians of an 8192³ bf16 matrix product on random data (1024³ without a GPU)."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return max(2 * n**3 / _seconds(device, lambda: a @ b) / 1e12 for _ in range(5))


def _seconds(device: torch.device, work: Any, repeats: int = 20) -> float:
    """Median duration of one call, after three to warm up."""
    times = []
    for _ in range(repeats + 3):
        _synchronize(device)
        start = time.perf_counter()
        work()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[3:])[repeats // 2]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def worst_cosine(engine: TorchEngine, folder: Path, pooling: Pooling, device: torch.device) -> float:
    """Against padded float32 transformers, over mixed lengths."""
    shape = read_checkpoint(folder).architecture
    rng = np.random.default_rng(1)
    lengths = [1, 2, 50, min(512, shape.positions), *rng.integers(1, min(512, shape.positions), 12).tolist()]
    batch = [random_batch(shape, 1, length, seed)[0] for seed, length in enumerate(lengths)]
    ours = torch.tensor(np.stack([np.frombuffer(vector, np.float32) for vector in engine.embed(batch, 0)]))
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    width = max(lengths)
    padding = 1
    ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in batch], device=device)
    mask = torch.arange(width, device=device) < torch.tensor(lengths, device=device)[:, None]
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    at = torch.zeros(len(batch), dtype=torch.long) if pooling is Pooling.CLS else torch.tensor(lengths) - 1
    theirs = states[torch.arange(len(batch), device=device), at.to(device)].double().cpu()
    return float(torch.nn.functional.cosine_similarity(ours.double(), theirs).min())


def tokens_per_second(engine: TorchEngine, batches: Sequence[list[list[int]]], seconds: float) -> float:
    """As many workers as the engine has streams, each taking the next batch, for about ``seconds``."""
    tokens = sum(map(len, batches[0]))
    for stream in range(engine.streams):
        engine.embed(batches[0], stream)
    start = time.perf_counter()
    engine.embed(batches[0], 0)
    rounds = max(4, math.ceil(seconds / (time.perf_counter() - start)))
    todo: Iterator[int] = iter(range(rounds))
    with ThreadPoolExecutor(engine.streams) as workers:
        start = time.perf_counter()
        list(workers.map(lambda stream: _drain(engine, batches, todo, stream), range(engine.streams)))
        return rounds * tokens / (time.perf_counter() - start)


def _drain(engine: TorchEngine, batches: Sequence[list[list[int]]], todo: Iterator[int], stream: int) -> None:
    for index in todo:
        engine.embed(batches[index % len(batches)], stream)


def measure(
    arguments: argparse.Namespace, name: str, peak: float, published: float | None
) -> tuple[float | None, list[Result]]:
    """Check one model, if its reference fits, then time it at every length and budget."""
    device = torch.device(arguments.device)
    pooling, config = MODELS[name]
    if arguments.layers:
        config = config | {"num_hidden_layers": arguments.layers}
    results = []
    cosine = None
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        write_checkpoint(folder, config)
        checkpoint = read_checkpoint(folder)
        shape = checkpoint.architecture
        start = time.perf_counter()
        engine = TorchEngine(
            checkpoint,
            pooling,
            device=arguments.device,
            compile_kernels=False if arguments.no_compile else None,
        )
        print(f"{name}: loaded in {time.perf_counter() - start:.1f} s", flush=True)
        if shape.matrix_parameters < CHECKED_PARAMETERS:
            cosine = worst_cosine(engine, folder, pooling, device)
            print(f"{name}: worst cosine to padded float32 transformers {cosine:.6f}", flush=True)
        for length in arguments.lengths:
            for budget in arguments.budgets:
                batch_tokens = budget or engine.max_batch_tokens
                sequences = max(1, batch_tokens // length)
                batches = [random_batch(shape, sequences, length, seed) for seed in range(4)]
                speed = tokens_per_second(engine, batches, arguments.seconds)
                tflops = speed * operations_per_token(shape, length) / 1e12
                result = Result(
                    name, length, sequences * length, round(speed), round(tflops, 2), round(tflops / peak, 3),
                    None if published is None else round(tflops / published, 3),
                )  # fmt: skip
                print(as_row(result), flush=True)
                results.append(result)
        engine.close()
    return cosine, results


def as_row(result: Result) -> str:
    """A line of a Markdown table."""
    published = result.share_of_published_peak
    cells = (
        result.model, result.tokens_per_sequence, f"{result.batch_tokens:,}", f"{result.tokens_per_s:,.0f}",
        result.tflops, f"{result.share_of_measured_peak:.1%}", "" if published is None else f"{published:.1%}",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Measure, print, and write a JSON and a Markdown file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[50, 512])
    parser.add_argument(
        "--budgets", nargs="+", type=int, default=[0], help="tokens per batch; 0 is the engine's own"
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers, for a rehearsal")
    parser.add_argument("--no-compile", action="store_true", help="run the steps between products unfused")
    parser.add_argument("--scratch", type=Path, help="where the checkpoints are written")
    parser.add_argument("--out", type=Path, help="a folder for cuda-DATE.json and cuda-DATE.md")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    published = next((peak for key, peak in PUBLISHED_PEAK_TFLOPS.items() if key in chip), None)
    peak = measured_peak_tflops(device)
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "chip": chip,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "measured_peak_tflops_before": round(peak, 2),
        "published_peak_tflops": published,
        "command": {key: str(value) for key, value in vars(arguments).items()},
        "worst_cosine_to_float32_transformers": {},
    }
    results: list[Result] = []
    for name in arguments.models:
        cosine, measured = measure(arguments, name, peak, published)
        facts["worst_cosine_to_float32_transformers"][name] = cosine
        results += measured
        facts["measured_peak_tflops_after"] = round(measured_peak_tflops(device), 2)
        save(arguments.out, facts, results)  # what was measured is kept, whatever becomes of the next model
    cosines = facts["worst_cosine_to_float32_transformers"]
    wrong = {name: c for name, c in cosines.items() if c is not None and not c >= SAME_COSINE}  # nan is wrong
    if wrong:
        sys.exit(f"wrong vectors: {wrong}")


def save(folder: Path | None, facts: dict[str, Any], results: Sequence[Result]) -> None:
    """Print what is known by now, and write it as cuda-DATE.json and cuda-DATE.md where a folder is given."""
    table = [
        "| model | tokens per sequence | tokens per batch | tokens/s | TFLOP/s | of measured peak | of published |",
        "|---|---|---|---|---|---|---|",
        *map(as_row, results),
    ]
    text = "\n".join([*(f"- {key}: {value}" for key, value in facts.items()), "", *table])
    print(text, flush=True)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"cuda-{facts['date']}"
        stem.with_suffix(".json").write_text(
            json.dumps(facts | {"results": list(map(asdict, results))}, indent=1)
        )
        stem.with_suffix(".md").write_text(f"# torch engine on {facts['chip']}\n\n{text}\n")


if __name__ == "__main__":
    main()
