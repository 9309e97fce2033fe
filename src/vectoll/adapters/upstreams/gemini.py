"""Google's native batch endpoint: one ``requests[]`` item, and one vector, per input."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from vectoll.adapters.upstreams.failures import BadAnswer, InputRefused, TooLong, UpstreamFailure
from vectoll.adapters.upstreams.provider import NOT_JSON, Answer, max_answer_bytes, usable_count
from vectoll.adapters.upstreams.transport import Transport
from vectoll.adapters.upstreams.vectors import to_vectors
from vectoll.domain.embedding import Encoding

MAX_BATCH_TOKENS = 300_000
"""Google states no limit on the tokens of one batch; this keeps one call's answer within its time."""

MAX_COUNT_BYTES = 65_536


class _Embedding(Struct):
    values: list[float]


class _Metadata(Struct, rename="camel"):
    prompt_token_count: Any = None


class _Body(Struct, rename="camel"):
    embeddings: list[_Embedding]
    usage_metadata: _Metadata | None = None


class _Count(Struct, rename="camel"):
    total_tokens: Any = None


_decoder = msgspec.json.Decoder(_Body)
_count_decoder = msgspec.json.Decoder(_Count)


class GeminiProvider:
    """Implements ``Provider``."""

    max_batch_tokens = MAX_BATCH_TOKENS
    cuts_silently = True

    def __init__(self, transport: Transport, model: str, native_dims: int) -> None:
        self._transport = transport
        self._name = f"models/{model}"
        self._path = f"/models/{quote(model, safe='')}"
        self._native_dims = native_dims

    async def embed(
        self, part: Sequence[Encoding], dimensions: int | None, abandoned: asyncio.Event, deadline: float
    ) -> Answer:
        """See ``Provider.embed``. Several parts in one content would give one vector for all of them."""
        dims = dimensions or self._native_dims
        requests = [
            {"model": self._name, "content": _content(encoding), "outputDimensionality": dims}
            for encoding in part
        ]

        def parse(data: bytes) -> Answer:
            return self._parse(data, len(part), dims)

        return await self._transport.post(
            f"{self._path}:batchEmbedContents",
            msgspec.json.encode({"requests": requests}),
            parse,
            classify,
            max_answer_bytes(len(part), self._native_dims),
            abandoned,
            deadline,
        )

    def _parse(self, data: bytes, count: int, dims: int) -> Answer:
        try:
            body = _decoder.decode(data)
        except NOT_JSON:
            raise BadAnswer("an answer that is not a batch of embeddings") from None
        if len(body.embeddings) != count:
            raise BadAnswer(f"{len(body.embeddings)} vectors for {count} inputs")
        vectors = to_vectors([embedding.values for embedding in body.embeddings], dims, self._native_dims)
        metadata = body.usage_metadata
        return Answer(vectors, usable_count(metadata.prompt_token_count) if metadata else None)

    async def count(self, part: Sequence[Encoding], deadline: float, /) -> int | None:
        """See ``Provider.count``: one call for all inputs together."""
        body = msgspec.json.encode({"contents": [_content(encoding) for encoding in part]})
        path, abandoned = f"{self._path}:countTokens", asyncio.Event()
        return await self._transport.post(
            path, body, _parse_count, classify, MAX_COUNT_BYTES, abandoned, deadline
        )

    async def close(self) -> None:
        """Cut every connection."""
        await self._transport.close()


def _content(encoding: Encoding) -> dict[str, Any]:
    return {"parts": [{"text": encoding.text}]}


def _parse_count(data: bytes) -> int | None:
    try:
        return usable_count(_count_decoder.decode(data).total_tokens)
    except NOT_JSON:
        raise BadAnswer("an answer that is not a count of tokens") from None


def classify(status: int, body: bytes) -> UpstreamFailure | None:
    """See ``Classify``. Google answers 400 to a key that is wrong and to a region that it does not serve, too."""
    if status != 400 or b"API_KEY" in body or b"FAILED_PRECONDITION" in body:
        return None
    if b"token" in body and (b"exceed" in body or b"too long" in body):
        return TooLong(None, None)
    return InputRefused("HTTP 400")
