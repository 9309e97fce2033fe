"""A model whose tokenizer is here, and whose weights are here or on a cluster."""

import asyncio
from collections.abc import Sequence
from typing import cast

from vectoll.core.batching.vectors import shorten
from vectoll.core.inputs import check_ids, check_lengths, read_texts
from vectoll.core.reading import Readers
from vectoll.domain.catalog import ModelSpec, TokenIdPolicy
from vectoll.domain.embedding import Embeddings, Encoding, Inputs, Usage, check_characters
from vectoll.domain.identity import NOBODY, Caller
from vectoll.ports.engine import Backend
from vectoll.ports.model import ForeignTokens, Tokenizer

INLINE_CHARACTERS = 2_000
"""Less text than this is tokenised on the event loop: a thread's round trip would cost more (measured)."""


class _ShortTexts:
    """Reads on the event loop, one after the other, what came in in one turn of it.

    Between the other work of two requests a tokenizer's code has left the core's caches, and reads half as fast.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int | None) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._waiting: list[tuple[Sequence[str], asyncio.Future[Sequence[Encoding]]]] = []

    def encode(self, texts: Sequence[str]) -> "asyncio.Future[Sequence[Encoding]]":
        """See ``Tokenizer.encode``."""
        loop = asyncio.get_running_loop()
        encodings: asyncio.Future[Sequence[Encoding]] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._encode_all)
        self._waiting.append((texts, encodings))
        return encodings

    def _encode_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for texts, encodings in waiting:
            if encodings.cancelled():
                continue
            try:
                encodings.set_result(self._tokenizer.encode(texts, max_tokens=self._max_tokens))
            except Exception as error:  # noqa: BLE001 - the waiter gets it
                encodings.set_exception(error)


class LocalModel:
    """A tokenizer, and what computes its tokens behind a fair queue. Implements ``ports.model.EmbeddingModel``."""

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        backend: Backend,
        readers: Readers,
        foreign: ForeignTokens | None = None,
    ) -> None:
        """``foreign`` reads the token ids of a policy that is neither native nor reject."""
        self._spec = spec
        self._max_tokens = spec.max_tokens if spec.truncate else None
        self._tokenizer = tokenizer
        self._short = _ShortTexts(tokenizer, self._max_tokens)
        self._backend = backend
        self._readers = readers
        self._foreign = foreign

    @property
    def spec(self) -> ModelSpec:
        """How it is read, limited and priced."""
        return self._spec

    async def tokenize(self, inputs: Inputs, caller: Caller = NOBODY) -> Sequence[Encoding]:
        """See ``EmbeddingModel.tokenize``."""
        if self._spec.token_ids is TokenIdPolicy.NATIVE and not isinstance(inputs[0], str):
            sequences = cast("Sequence[Sequence[int]]", inputs)
            await check_ids(sequences, self._spec, self._tokenizer.vocab_size)
            encodings: Sequence[Encoding] = [Encoding(ids) for ids in sequences]
        else:
            texts = await read_texts(inputs, self._spec, self._foreign, self._readers, caller)
            encodings = await self._encode(texts, caller)
        check_lengths([len(encoding.ids) for encoding in encodings], self._spec)
        return encodings

    async def _encode(self, texts: Sequence[str], caller: Caller) -> Sequence[Encoding]:
        if sum(map(len, texts)) < INLINE_CHARACTERS:
            return await self._short.encode(texts)
        check_characters(texts, self._spec.max_tokens)
        limit = None if self._spec.truncate else self._spec.max_tokens
        encodings = self._tokenizer.encode_in_slices(texts, max_tokens=self._max_tokens, limit=limit)
        return await self._readers.read(encodings, len(texts), caller)

    async def embed(
        self, encodings: Sequence[Encoding], *, dimensions: int | None, caller: Caller
    ) -> Embeddings:
        """See ``EmbeddingModel.embed``."""
        sequences = [encoding.ids for encoding in encodings]
        vectors: Sequence[memoryview] = await self._backend.compute(sequences, caller)
        dims = dimensions or self._spec.dims
        if dims < self._spec.dims:
            vectors = shorten(vectors, dims)
        return Embeddings(vectors, dims, Usage(sum(map(len, sequences))))

    async def close(self, drain_s: float = 0.0) -> None:
        """Answer or fail every waiter, then free the weights."""
        await self._backend.close(drain_s)
