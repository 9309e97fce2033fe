"""A model that can be served: local weights or an upstream."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from vectoll.domain.catalog import ModelSpec
from vectoll.domain.embedding import Embeddings, Encoding, Inputs, Usage
from vectoll.domain.identity import NOBODY, Caller


class BilledUsage(Exception):
    """The ``__cause__`` of a cancellation or refusal whose caller still owes for ``usage``: a provider billed it."""

    def __init__(self, usage: Usage, is_whole: bool) -> None:
        """``is_whole`` where the whole request was bought, not a part of it."""
        super().__init__(f"{usage.prompt_tokens} tokens were billed")
        self.usage = usage
        self.is_whole = is_whole


class EmbeddingModel(Protocol):
    """One served model."""

    @property
    def spec(self) -> ModelSpec:
        """How it is read, limited and priced."""
        ...

    async def tokenize(self, inputs: Inputs, caller: Caller = NOBODY) -> Sequence[Encoding]:
        """What the model will read, one Encoding per input, special tokens included. Callers with much text take turns.

        Raises AtCapacity, InputTooLong for the first input over ``spec.max_tokens`` (unless ``spec.truncate``) and
        InvalidRequest for token ids that the model's policy refuses.
        """
        ...

    async def embed(
        self, encodings: Sequence[Encoding], *, dimensions: int | None, caller: Caller
    ) -> Embeddings:
        """One finite, L2-normalised vector per encoding, in order.

        All requests of one ``caller`` share one place in the fair queue. Raises AtCapacity at once when the wait would
        be too long, InferenceFailed when the engine fails or a vector is not finite. Cancelling the await frees the
        place in the queue; where vectors are bought, calls that were sent run to their end first. A cancellation or
        InvalidRequest whose caller owes for what was bought by then has a BilledUsage as its ``__cause__``.
        """
        ...

    async def close(self, drain_s: float = 0.0) -> None:
        """Let requests in flight finish for at most ``drain_s`` seconds, fail the rest, free what is held."""
        ...


class Tokenizer(Protocol):
    """Text to token ids, the model's own way. Thread-safe; releases the GIL on large batches."""

    @property
    def vocab_size(self) -> int:
        """Token ids are in ``range(vocab_size)``."""
        ...

    def encode(
        self, texts: Sequence[str], *, max_tokens: int | None = None, limit: int | None = None
    ) -> Sequence[Encoding]:
        """One Encoding per text with the special tokens in place; never pads.

        A text is cut only at ``max_tokens``, and keeps its special tokens. Raises InvalidRequest for text that is not
        valid Unicode, naming its index. May raise InputTooLong for a text of more than ``limit`` tokens, without having
        read those after it, and TooFewTokens (see ``max_characters``).
        """
        ...

    def encode_in_slices(
        self, texts: Sequence[str], *, max_tokens: int | None = None, limit: int | None = None
    ) -> Iterator[Sequence[Encoding]]:
        """``encode``, lazily: each step encodes the next few texts."""
        ...


class ForeignTokens(Protocol):
    """Turns another model's token ids back into the text that they stand for. Thread-safe."""

    def decode(self, inputs: Sequence[Sequence[int]]) -> Sequence[str]:
        """The text of each array of ids, in order; bytes that are not UTF-8 become U+FFFD.

        Raises InvalidRequest for an id outside the vocabulary or one that is special, naming the input's index.
        """
        ...
