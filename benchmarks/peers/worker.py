"""One way to embed texts, as a process that ``engine_peers.py`` talks to. Needs nothing of vectoll.

    python benchmarks/peers/worker.py KIND FOLDER THREADS

Reads one JSON object per line, ``{"texts": […], "save": PATH or null}``, embeds the texts and writes the seconds that
took as one line; with ``save`` also the vectors. Batches are of the size that is fastest on the first texts seen,
out of SIZES, where the library leaves the choice to its user.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (8, 16, 32, 64)
Embed = Callable[[Sequence[str], int], Any]
Texts = Sequence[str]


def sentence_transformers(folder: str, _threads: int) -> tuple[Embed, Sequence[int]]:
    """Its defaults: float32, batches of 32, sorted by length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    return lambda texts, _: model.encode(list(texts)), [32]


def transformers_f32(folder: str, _threads: int) -> tuple[Embed, Sequence[int]]:
    """What all are compared with: one text at a time, no padding, masked mean, norm."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(texts: Texts, _size: int) -> Any:
        vectors = []
        with torch.inference_mode():
            for text in texts:
                state = model(
                    **tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
                ).last_hidden_state
                vectors.append(torch.nn.functional.normalize(state.double().mean(1), dim=1)[0].numpy())
        return np.array(vectors)

    return embed, [1]


def torch_bf16(folder: str, _threads: int) -> tuple[Embed, Sequence[int]]:
    """Weights and arithmetic in bfloat16, batches of neighbours in length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def run(ids: Any, mask: Any) -> Any:
        with torch.inference_mode():
            state = model(
                input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
            ).last_hidden_state
            return state.float().numpy()

    return lambda texts, size: _sorted(texts, size, tokenizer, run), SIZES


def onnxruntime_f32(folder: str, threads: int) -> tuple[Embed, Sequence[int]]:
    """The encoder exported by torch.onnx, all graph optimisations, batches of neighbours in length."""
    import onnxruntime  # type: ignore[import-not-found]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # without it idle threads keep the cores busy while another contestant has its turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    graph = export(folder)
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(ids: Any, mask: Any) -> Any:
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    return lambda texts, size: _sorted(texts, size, tokenizer, run), SIZES


def export(folder: str) -> Path:
    """The encoder as an ONNX file, made once and kept in the system's temporary directory."""
    import tempfile

    import torch
    from transformers import AutoModel

    path = Path(tempfile.gettempdir(), "vectoll-benchmark-encoder.onnx")
    if path.is_file():
        return path

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids, mask = torch.randint(1000, 2000, (3, 9)), torch.ones((3, 9), dtype=torch.int64)
    mask[1, 5:] = mask[2, 7:] = 0  # without padding in the example the mask would be left out of the graph
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    program = torch.onnx.export(
        Encoder(),
        (ids, mask),
        input_names=["input_ids", "attention_mask"],
        dynamic_shapes=(dynamic, dynamic),
        dynamo=True,
        verbose=False,
    )
    program.save(str(path))
    return path


def _sorted(texts: Texts, size: int, tokenizer: Any, run: Callable[[Any, Any], Any]) -> Any:
    """Tokenise, run in batches of ``size`` from the longest to the shortest, mean over the tokens, norm."""
    encoded = tokenizer(list(texts), truncation=True, max_length=256)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    vectors = None
    for at in range(0, len(order), size):
        part = order[at : at + size]
        longest = len(encoded[part[0]])
        ids = np.zeros((len(part), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(part):
            ids[row, : len(encoded[index])] = encoded[index]
            mask[row, : len(encoded[index])] = 1
        state = run(ids, mask)
        mean = (state * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        if vectors is None:
            vectors = np.empty((len(texts), mean.shape[1]), np.float32)
        vectors[part] = mean
    return vectors


def infinity(folder: str, _threads: int) -> tuple[Embed, Sequence[int]]:
    """infinity-emb's asynchronous engine with its torch defaults, all texts in one call."""
    from infinity_emb import AsyncEngineArray, EngineArgs  # type: ignore[import-not-found]

    loop = asyncio.new_event_loop()
    arguments = EngineArgs(model_name_or_path=folder, engine="torch", device="cpu", model_warmup=True)
    engine = AsyncEngineArray.from_args([arguments])[0]
    loop.run_until_complete(engine.astart())

    def embed(texts: Texts, _size: int) -> Any:
        return np.array(loop.run_until_complete(engine.embed(sentences=list(texts)))[0])

    return embed, [32]


KINDS: dict[str, Callable[[str, int], tuple[Embed, Sequence[int]]]] = {
    "sentence-transformers": sentence_transformers,
    "transformers-f32": transformers_f32,
    "torch-bf16": torch_bf16,
    "onnxruntime-f32": onnxruntime_f32,
    "infinity-emb": infinity,
}


def main() -> None:
    kind, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    embed, sizes = KINDS[kind](folder, threads)
    best: dict[int, int] = {}
    print(json.dumps(_versions()), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        texts = request["texts"]
        if len(sizes) > 1 and len(texts) not in best:
            tries = [(_seconds(embed, texts, size)[0], size) for size in (*sizes, *sizes)]
            best[len(texts)] = min(tries[len(sizes) :])[1]  # the second time all is warm
        seconds, vectors = _seconds(embed, texts, best.get(len(texts), sizes[0]))
        if request.get("save"):
            np.save(request["save"], np.asarray(vectors, np.float64))
        print(
            json.dumps({"seconds": seconds, "batch": best.get(len(texts), sizes[0])}),
            file=answers,
            flush=True,
        )


def _seconds(embed: Embed, texts: Texts, size: int) -> tuple[float, Any]:
    started = time.perf_counter()
    vectors = embed(texts, size)
    return time.perf_counter() - started, vectors


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torch", "transformers", "sentence-transformers", "onnxruntime", "infinity-emb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
