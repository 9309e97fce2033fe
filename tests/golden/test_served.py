"""Every family as it is served: text in, through settings, tokenizer, queue and engine, vectors out.

What test_families.py shows of the engine, this shows of the whole; and that no mixture of lengths, callers and
cancellations makes it hang or mix up who gets what.
"""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cpu import needs_avx2
from tests.golden.texts import TEXTS
from tests.minilm import minilm
from tests.tiny_checkpoints import MAKERS, PROMPTS

from vectoll.adapters.checkpoints import read_checkpoint
from vectoll.adapters.engines import native, openvino
from vectoll.adapters.engines import torch as torch_engines
from vectoll.core.batching.batcher import Batcher
from vectoll.core.batching.queue import BatchShape
from vectoll.domain.catalog import Pooling, TokenIdPolicy
from vectoll.domain.errors import ConfigurationError, Draining, InputTooLong, InvalidRequest, TokenIdsRefused
from vectoll.domain.identity import NOBODY, Caller
from vectoll.loading import open_model
from vectoll.ports.metrics import NoMetrics
from vectoll.ports.model import EmbeddingModel
from vectoll.settings import EngineSettings, ModelSettings, Settings

GOLDEN = json.loads(Path(__file__).with_name("tiny.json").read_text())["families"]
NAMES = list(MAKERS)
DIMS = 32
BOUND_S = 30.0
"""Nothing here takes two seconds; a deadlock takes for ever."""

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture
def folder(name: str, folders: Path) -> Path:
    if name == "minilm":
        return minilm().folder
    if not (folders / name).exists():
        MAKERS[name](folders / name)
    return folders / name


@asynccontextmanager
async def served(folder: Path, precision: str = "f32", **how: Any) -> AsyncIterator[EmbeddingModel]:
    entry = ModelSettings(id="tiny", path=str(folder), truncate=True, **how)
    settings = Settings(models=(entry,), engine=EngineSettings(precision=precision, device="cpu"))  # type: ignore[arg-type]
    async with open_model(settings, "tiny") as model:
        yield model


async def embed(
    model: EmbeddingModel, inputs: Any, dimensions: int | None = None, caller: Caller = NOBODY
) -> Array:
    encodings = await model.tokenize(inputs)
    answer = await model.embed(encodings, dimensions=dimensions, caller=caller)
    assert answer.usage.prompt_tokens == sum(len(e.ids) for e in encodings)
    return np.stack([np.frombuffer(vector, np.float32) for vector in answer.vectors])


def golden(name: str, dims: int = DIMS) -> Array:
    """What transformers gives, cut to ``dims`` and normalised again."""
    whole = np.frombuffer(base64.b64decode(GOLDEN[name]["vectors_f32_base64"]), "<f4").reshape(-1, DIMS)
    cut = whole[:, :dims].astype(np.float64)
    return np.asarray(cut / np.linalg.norm(cut, axis=1, keepdims=True))


def cosines(a: Array, b: Array) -> Array:
    return np.asarray((a.astype(np.float64) * b).sum(axis=1))


@pytest.mark.parametrize("name", NAMES)
async def test_texts_get_the_vectors_of_transformers(name: str, folder: Path) -> None:
    plain, prompted = golden(name)[: len(TEXTS)], golden(name)[len(TEXTS) :]
    async with served(folder) as model:
        together = await embed(model, TEXTS)
        alone = np.concatenate([await embed(model, [text]) for text in TEXTS])
        backwards = (await embed(model, TEXTS[::-1]))[::-1]
    assert cosines(together, plain).min() >= 0.99999
    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(together - backwards).max() <= 1e-5
    async with served(folder, prompt=PROMPTS[name]) as model:
        assert cosines(await embed(model, TEXTS[:3]), prompted).min() >= 0.99999
    assert max(map(len, GOLDEN[name]["ids"])) == read_checkpoint(folder).max_tokens, "the longest input, too"


@pytest.mark.parametrize("name", NAMES)
async def test_the_precision_that_serves_stays_close(name: str, folder: Path) -> None:
    async with served(folder, "auto") as model:
        vectors = await embed(model, TEXTS)
    assert cosines(vectors, golden(name)[: len(TEXTS)]).min() >= 0.999
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [1, 8, 31, DIMS])
async def test_every_matryoshka_size_is_cut_and_normalised_again(name: str, dims: int, folder: Path) -> None:
    async with served(folder, matryoshka_any=True) as model:
        vectors = await embed(model, TEXTS, dims)
    assert vectors.shape == (len(TEXTS), dims)
    assert cosines(vectors, golden(name, dims)[: len(TEXTS)]).min() >= 0.99999
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
async def test_the_longest_input_is_served_and_one_token_more_refused(name: str, folder: Path) -> None:
    longest = read_checkpoint(folder).max_tokens
    async with served(folder) as model:
        assert np.isfinite(await embed(model, [[5] * longest])).all()
        with pytest.raises(InputTooLong, match=f"input 1 has {longest + 1} tokens"):
            await model.tokenize([[5], [5] * (longest + 1)])
        with pytest.raises(InvalidRequest, match="outside 0"):
            await model.tokenize([[10**6]])


@pytest.mark.parametrize("name", ["qwen3"])
async def test_the_operators_max_tokens_and_token_ids_hold(name: str, folder: Path) -> None:
    gpt2_ids = [1212, 318, 257, 1332, 13]
    async with served(folder, token_ids=TokenIdPolicy.R50K_BASE) as model:
        ids, text = await embed(model, [gpt2_ids]), await embed(model, ["This is a test."])
    assert (ids == text).all()
    async with served(folder, max_tokens=5) as model:
        assert np.isfinite(await embed(model, [[5] * 5])).all()
        with pytest.raises(InputTooLong, match="input 0 has 6 tokens"):
            await model.tokenize([[5] * 6])
    async with served(folder, token_ids=TokenIdPolicy.REJECT) as model:
        with pytest.raises(TokenIdsRefused):
            await model.tokenize([[5]])


@pytest.mark.parametrize("name", NAMES)
async def test_another_pooling_than_the_checkpoints_would_be_noticed(name: str, folder: Path) -> None:
    right = read_checkpoint(folder).pooling
    for pooling in {Pooling.CLS, Pooling.MEAN, Pooling.LAST} - {right}:
        try:
            async with served(folder, pooling=pooling) as model:
                wrong = await embed(model, TEXTS)
        except ConfigurationError:  # the tokenizer does not put the token there that would be read
            continue
        assert cosines(wrong, golden(name)[: len(TEXTS)]).min() < 0.99


# The mixed-length fuzz.


def fuzz(seed: str, longest: int, vocab: int) -> list[list[list[int]]]:
    """Requests of 1 to 40 inputs, of 1 to ``longest`` tokens, short and extreme lengths more often."""
    rng = random.Random(seed)

    def length() -> int:
        return rng.choice(
            [1, 2, rng.randint(1, 9), rng.randint(1, longest), rng.randint(1, longest), longest]
        )

    return [
        [[rng.randrange(vocab) for _ in range(length())] for _ in range(rng.choice([1, 1, 3, 12, 40]))]
        for _ in range(40)
    ]


async def flood(backend: Batcher, requests: Sequence[list[list[int]]]) -> list[list[memoryview]]:
    """All at once from six callers, while as many again begin and leave."""

    async def leave(number: int, request: list[list[int]]) -> None:
        task = asyncio.create_task(backend.compute(request, Caller.keyless(f"leaver-{number % 3}")))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        answers = [
            group.create_task(backend.compute(request, Caller.keyless(f"caller-{number % 6}")))
            for number, request in enumerate(requests)
        ]
        for number, request in enumerate(requests):
            group.create_task(leave(number, request))
    return [task.result() for task in answers]


def batcher(engine: Any, budget_tokens: int, padded: bool, alike: bool = True) -> Batcher:
    return Batcher(
        engine,
        BatchShape(budget_tokens, padded=padded, alike=alike),
        model="fuzz",
        max_queue_tokens=10_000_000,
        max_wait_s=1e9,
        metrics=NoMetrics(),
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in [*NAMES, "minilm"] for kind in ("openvino", "openvino-padded", "torch")),
        *(pytest.param(name, "native", marks=needs_avx2) for name in ("bge-m3", "e5", "minilm")),
    ],
)
async def test_no_mixture_of_lengths_hangs_or_mixes_up_who_gets_what(
    name: str, kind: str, folder: Path
) -> None:
    checkpoint = read_checkpoint(folder)
    if kind == "torch":
        engine: Any = torch_engines.load_engine(
            checkpoint, device="cpu", precision="f32", max_batch_tokens=512
        )
        backend = batcher(engine, engine.max_batch_tokens, padded=False)
    elif kind == "native":
        engine = native.load_engine(checkpoint, precision="f32", streams=2)
        backend = batcher(engine, 256, padded=False, alike=False)
    else:
        engine = openvino.load_engine(checkpoint, precision="f32", streams=2)
        engine.packed = kind == "openvino"
        backend = batcher(engine, 384, padded=not engine.packed)
    requests = fuzz(name, checkpoint.max_tokens, checkpoint.architecture.vocab)
    if name == "minilm":
        requests = [request[:3] for request in requests[:10]]  # a real model: a hundred times the work
    alone = {}
    for request in requests:
        for ids in request:
            alone[tuple(ids)] = np.frombuffer(engine.embed([ids], 0)[0], np.float32)
    answers = await flood(backend, requests)
    for request, vectors in zip(requests, answers, strict=True):
        assert len(vectors) == len(request)
        actual = np.stack([np.frombuffer(vector, np.float32) for vector in vectors])
        assert np.isfinite(actual).all()
        assert np.abs(actual - np.stack([alone[tuple(ids)] for ids in request])).max() <= 1e-5
    async with asyncio.timeout(BOUND_S):
        await backend.close()


@pytest.mark.parametrize("name", ["bge-m3", "qwen3"])
async def test_closing_in_the_middle_of_a_flood_answers_everyone(name: str, folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    backend = batcher(openvino.load_engine(checkpoint, precision="f32", streams=2), 384, padded=False)
    requests = fuzz(name, checkpoint.max_tokens, checkpoint.architecture.vocab)
    tasks = [asyncio.create_task(backend.compute(request, NOBODY)) for request in requests]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    async with asyncio.timeout(BOUND_S):
        await backend.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, list | Draining) for result in results)
