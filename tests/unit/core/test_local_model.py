"""LocalModel: what is tokenised, refused, shortened and counted."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from vectoll.core.batching.batcher import Batcher
from vectoll.core.batching.local import INLINE_CHARACTERS, LocalModel
from vectoll.core.batching.queue import BatchShape
from vectoll.core.reading import MAX_SLICE_TEXTS, Readers, slices
from vectoll.domain.catalog import ModelSource, ModelSpec, Pooling, TokenIdPolicy
from vectoll.domain.embedding import Encoding, Vector
from vectoll.domain.errors import InputTooLong, InvalidRequest
from vectoll.domain.identity import NOBODY, Caller
from vectoll.domain.ids import ModelId
from vectoll.domain.money import Price
from vectoll.ports.metrics import NoMetrics

SPEC = ModelSpec(ModelId("m"), "M", ModelSource(), Pooling.MEAN, 4, 8, Price(1), matryoshka_dims=(2,))


class WordTokenizer:
    """Ids are word lengths, between 1 (start) and 2 (end)."""

    vocab_size = 100

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(
        self, texts: Sequence[str], *, max_tokens: int | None = None, limit: int | None = None
    ) -> Sequence[Encoding]:
        self.seen.extend(texts)
        inner = None if max_tokens is None else max_tokens - 2
        return [Encoding([1, *[len(word) for word in text.split()][:inner], 2]) for text in texts]

    def encode_in_slices(
        self, texts: Sequence[str], *, max_tokens: int | None = None, limit: int | None = None
    ) -> Iterator[Sequence[Encoding]]:
        for few in slices(texts):
            yield self.encode(few, max_tokens=max_tokens, limit=limit)


class SpreadEngine:
    """A unit vector that depends on the ids."""

    streams = 1
    dims = 4

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths)

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,
        *,
        is_alone: bool = True,
        callers: Sequence[Caller] = (),
    ) -> Sequence[Vector]:
        rows = np.array([[len(ids), sum(ids), 1, 3] for ids in batch], dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return [row.data for row in rows]

    def close(self) -> None:
        pass


@pytest.fixture
async def tokenizer() -> WordTokenizer:
    return WordTokenizer()


@pytest.fixture
async def model(tokenizer: WordTokenizer) -> AsyncIterator[LocalModel]:
    options = {"model": "m", "max_queue_tokens": 10_000, "max_wait_s": 60.0, "metrics": NoMetrics()}
    batcher = Batcher(SpreadEngine(), BatchShape(64), **options)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as threads:
        model = LocalModel(SPEC, tokenizer, batcher, Readers(threads, 1, 60.0))
        yield model
        await model.close()


def with_spec(model: LocalModel, **changes: object) -> LocalModel:
    return LocalModel(replace(SPEC, **changes), model._tokenizer, model._backend, model._readers)  # type: ignore[arg-type]


async def test_text_is_counted_with_its_special_tokens(model: LocalModel) -> None:
    encodings = await model.tokenize(["one two", "three"])
    embeddings = await model.embed(encodings, dimensions=None, caller=NOBODY)
    assert embeddings.usage.prompt_tokens == 4 + 3
    assert embeddings.dims == 4


async def test_long_text_is_tokenised_off_the_loop_with_the_same_result(model: LocalModel) -> None:
    words = " ".join(["x" * 1000] * 3)
    assert len(words) > INLINE_CHARACTERS
    assert [e.token_count for e in await model.tokenize([words])] == [5]


async def test_one_callers_many_texts_do_not_keep_anothers_waiting(
    model: LocalModel, tokenizer: WordTokenizer
) -> None:
    bulk = ["bulk " * 5] * (10 * MAX_SLICE_TEXTS)
    waiting = [asyncio.create_task(model.tokenize(bulk, Caller.keyless("bulk"))) for _ in range(20)]
    await asyncio.sleep(0)
    single = "x" * INLINE_CHARACTERS
    await model.tokenize([single], Caller.keyless("single"))
    assert tokenizer.seen.index(single) <= 2 * MAX_SLICE_TEXTS
    assert [len(encodings) for encodings in await asyncio.gather(*waiting)] == [len(bulk)] * 20


async def test_texts_of_one_turn_fail_or_leave_apart(
    model: LocalModel, tokenizer: WordTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = tokenizer.encode

    def refuse_bad(texts: Sequence[str], *, max_tokens: int | None = None) -> Sequence[Encoding]:
        if texts == ["bad"]:
            raise InvalidRequest("bad")
        return read(texts, max_tokens=max_tokens)

    monkeypatch.setattr(tokenizer, "encode", refuse_bad)
    good, bad, left, last = (
        asyncio.create_task(_tokenized(model, text)) for text in ("good", "bad", "left", "last")
    )
    await asyncio.sleep(0)
    left.cancel()
    assert await good == await last == 3
    with pytest.raises(InvalidRequest):
        await bad
    assert tokenizer.seen == ["good", "last"]


async def _tokenized(model: LocalModel, text: str) -> int:
    return (await model.tokenize([text]))[0].token_count


async def test_prompt_goes_before_text_only(model: LocalModel, tokenizer: WordTokenizer) -> None:
    prompted = with_spec(model, prompt="query: ")
    await prompted.tokenize(["a"])
    assert tokenizer.seen == ["query: a"]
    assert (await prompted.tokenize([[5, 6]]))[0].ids == [5, 6]


async def test_over_length_names_index_count_and_limit(model: LocalModel) -> None:
    with pytest.raises(InputTooLong, match="maximum context length is 8 tokens, but input 1 has 11 tokens"):
        await model.tokenize(["fine", "a b c d e f g h i"])


@pytest.mark.parametrize("truncate", [True, False])
async def test_a_text_that_is_far_too_large_is_not_tokenised(
    model: LocalModel, tokenizer: WordTokenizer, truncate: bool
) -> None:
    most = 1024 * 1024 + 256 * SPEC.max_tokens
    model = with_spec(model, truncate=truncate)
    words = f"maximum context length is 8 tokens, but input 1 has {most + 1} characters, and at most {most}"
    with pytest.raises(InvalidRequest, match=words) as caught:
        await model.tokenize(["fine", "x" * (most + 1)])
    assert caught.value.code == "CONTEXT_LENGTH_EXCEEDED"
    assert tokenizer.seen == []
    assert [e.token_count for e in await model.tokenize(["x" * most])] == [3]


async def test_over_length_token_ids_are_refused_even_where_text_is_truncated(model: LocalModel) -> None:
    truncating = with_spec(model, truncate=True)
    assert (await truncating.tokenize(["a b c d e f g h i"]))[0].token_count == 8
    with pytest.raises(InputTooLong):
        await truncating.tokenize([[1] * 9])


@pytest.mark.parametrize("ids", [[100], [1, -1], [2**70]])
async def test_token_ids_out_of_range_name_their_input(model: LocalModel, ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="input 1 has a token id outside") as refused:
        await model.tokenize([[1, 2], ids])
    assert refused.value.issues[0].path == ("input", 1)


class FakeForeign:
    """Each id is a word of as many letters."""

    def decode(self, inputs: Sequence[Sequence[int]]) -> Sequence[str]:
        return [" ".join("x" * i for i in ids) for ids in inputs]


@pytest.mark.parametrize("policy", [TokenIdPolicy.CL100K_BASE, TokenIdPolicy.R50K_BASE])
async def test_foreign_token_ids_are_read_as_their_text_prompt_included(
    model: LocalModel, tokenizer: WordTokenizer, policy: TokenIdPolicy
) -> None:
    spec = replace(SPEC, token_ids=policy, prompt="query: ")
    foreign = LocalModel(spec, tokenizer, model._backend, model._readers, FakeForeign())
    from_ids = await foreign.tokenize([[3, 4]])
    assert from_ids == await foreign.tokenize(["xxx xxxx"])
    assert tokenizer.seen[0] == "query: xxx xxxx"
    many = await foreign.tokenize([[1]] * (INLINE_CHARACTERS + 1))
    assert len(many) == INLINE_CHARACTERS + 1


async def test_token_ids_can_be_refused_altogether(model: LocalModel) -> None:
    with pytest.raises(InvalidRequest, match="check_embedding_ctx_length"):
        await with_spec(model, token_ids=TokenIdPolicy.REJECT).tokenize([[1, 2]])


async def test_shortened_vectors_are_unit_length_again(model: LocalModel) -> None:
    encodings = await model.tokenize(["one", "two three"])
    full = await model.embed(encodings, dimensions=4, caller=NOBODY)
    short = await model.embed(encodings, dimensions=2, caller=NOBODY)
    for whole, cut in zip(full.vectors, short.vectors, strict=True):
        head = np.asarray(whole)[:2]
        np.testing.assert_allclose(np.asarray(cut), head / np.linalg.norm(head), rtol=1e-6)
