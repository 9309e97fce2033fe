"""What is embedded and what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vectoll.domain.errors import InvalidRequest, TooManyCharacters
from vectoll.domain.ids import ModelId

MAX_INPUTS = 2048
"""Inputs per request, and token ids per flat array (the spec's ``maxItems``)."""

FREE_CHARACTERS = 1 << 20
CHARACTERS_PER_TOKEN = 256
"""Text is paid for by the token but read by the character, and a word of 30 MB may be a single token that takes ten
seconds to read. English has four or five characters a token."""

Inputs = Sequence[str] | Sequence[Sequence[int]]
"""One or more inputs, all text or all token ids."""

Vector = memoryview
"""One embedding: a C-contiguous, read-only view of ``dims`` little-endian float32 (format ``"f"``)."""


def max_characters(tokens: int) -> int:
    """The most characters that a text of so many tokens may have."""
    return FREE_CHARACTERS + CHARACTERS_PER_TOKEN * tokens


def check_characters(texts: Sequence[str], max_tokens: int) -> None:
    """Raises TooManyCharacters for a text that could not fit ``max_tokens`` in any case, so that nobody counts."""
    most = max_characters(max_tokens)
    for index, text in enumerate(texts):
        if len(text) > most:
            raise TooManyCharacters(index, len(text), most, max_tokens)


def check_unicode(texts: Sequence[str]) -> None:
    """Raises InvalidRequest for a text with half of a surrogate pair, which has no UTF-8 form; names its index."""
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest.of(
                ("input", index), "is not valid Unicode: it has half of a surrogate pair"
            ) from None


class EncodingFormat(StrEnum):
    """How vectors are written into the JSON answer."""

    FLOAT = "float"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A validated request: 1 to ``MAX_INPUTS`` inputs, each a non-empty string or token-id array."""

    model: ModelId
    inputs: Inputs
    dimensions: int | None = None
    encoding_format: EncodingFormat = EncodingFormat.FLOAT


@dataclass(frozen=True, slots=True)
class Encoding:
    """One input as the model reads it: token ids with the special tokens already in place.

    Where somebody else's tokenizer reads it, the input itself is kept instead: ``text``, with no ids, and
    ``bound``, a number of tokens that it cannot exceed.
    """

    ids: Sequence[int]
    text: str | None = None
    bound: int | None = None

    @property
    def token_count(self) -> int:
        """What is metered: exact where the ids are known, else the bound."""
        return len(self.ids) if self.bound is None else self.bound


@dataclass(frozen=True, slots=True)
class Usage:
    """The real number of tokens that the model read, special tokens included."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of one request in input order: ``vectors[i]`` belongs to input ``i``; each has ``dims`` floats."""

    vectors: Sequence[Vector]
    dims: int
    usage: Usage
