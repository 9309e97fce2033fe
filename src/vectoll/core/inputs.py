"""What a model is given to read of a request's inputs, wherever it is computed."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import cast

from vectoll.core.reading import Readers
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.embedding import Inputs
from vectoll.domain.errors import InputTooLong, InvalidRequest, TokenIdsRefused
from vectoll.domain.identity import Caller
from vectoll.ports.model import ForeignTokens

IDS_AT_ONCE = 65_536
"""About a millisecond and a half."""

INLINE_IDS = 2_000
"""Fewer token ids than this are turned into text on the event loop: a thread's round trip would cost more."""


async def read_texts(
    inputs: Inputs, spec: ModelSpec, foreign: ForeignTokens | None, readers: Readers, caller: Caller
) -> Sequence[str]:
    """The texts, or what another model's token ids stand for, the model's prompt before each.

    ``foreign`` reads the ids; None refuses them. Raises TokenIdsRefused, AtCapacity and what ``foreign`` raises.
    """
    texts = cast("Sequence[str]", inputs)
    if not isinstance(inputs[0], str):
        sequences = cast("Sequence[Sequence[int]]", inputs)
        if foreign is None:
            raise TokenIdsRefused(spec.id)
        if sum(map(len, sequences)) < INLINE_IDS:
            texts = foreign.decode(sequences)
        else:
            texts = await readers.run(partial(foreign.decode, sequences), caller)
    return [spec.prompt + text for text in texts] if spec.prompt else texts


async def check_ids(sequences: Sequence[Sequence[int]], spec: ModelSpec, vocab_size: int) -> None:
    """Raises InvalidRequest for an id that is none of the model's own. Others have their turn between many."""
    seen = 0
    for index, ids in enumerate(sequences):
        seen += len(ids)
        if seen >= IDS_AT_ONCE:
            seen = 0
            await asyncio.sleep(0)
        if min(ids) < 0 or max(ids) >= vocab_size:
            raise InvalidRequest.at(
                ("input", index),
                f"input {index} has a token id outside 0..{vocab_size - 1}, the vocabulary of "
                f"'{spec.id}'. Send text instead of another model's token ids "
                "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)).",
            )


def check_lengths(counts: Sequence[int], spec: ModelSpec) -> None:
    """Raises InputTooLong for the first input of more tokens than the model reads."""
    limit = spec.max_tokens
    if max(counts) > limit:
        raise next(
            InputTooLong(index, tokens, limit) for index, tokens in enumerate(counts) if tokens > limit
        )
