"""A model that can be served: local weights or an upstream."""

from collections.abc import Sequence
from typing import Protocol

from vectoll.domain.catalog import ModelSpec
from vectoll.domain.embedding import Embeddings, Encoding, Inputs


class EmbeddingModel(Protocol):
    """One served model."""

    @property
    def spec(self) -> ModelSpec:
        """How it is read, limited and priced."""
        ...

    async def tokenize(self, inputs: Inputs) -> Sequence[Encoding]:
        """What the model will read, one Encoding per input, special tokens included.

        Raises InputTooLong for the first input over ``spec.max_tokens`` (unless ``spec.truncate``) and
        InvalidRequest for token ids that the model's policy refuses.
        """
        ...

    async def embed(
        self, encodings: Sequence[Encoding], *, dimensions: int | None, caller: str
    ) -> Embeddings:
        """One finite, L2-normalised vector per encoding, in order. ``caller`` shares one fair place in the queue.

        Raises AtCapacity at once when the wait would be too long, InferenceFailed when the engine fails or a
        vector is not finite. Cancelling the await frees the place in the queue.
        """
        ...

    async def close(self) -> None:
        """Answer or fail every waiter, then free what is held."""
        ...


class Tokenizer(Protocol):
    """Text to token ids, the model's own way. Thread-safe; releases the GIL on large batches."""

    @property
    def vocab_size(self) -> int:
        """Token ids are in ``range(vocab_size)``."""
        ...

    def encode(self, texts: Sequence[str]) -> Sequence[Encoding]:
        """One Encoding per text with the special tokens in place; never truncates, never pads."""
        ...
