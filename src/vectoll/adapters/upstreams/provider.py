"""What differs from one provider's protocol to the next."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from vectoll.domain.embedding import Encoding, Vector

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not the JSON that was meant, nested without end included."""


NUMBER_BYTES = 48
"""The longest text of a float64 is 25 with its comma; the rest is room for an indentation."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call brought."""

    vectors: Sequence[Vector]
    prompt_tokens: int | None
    """What the provider bills; None when it does not say, or says nothing that can be true."""


class Provider(Protocol):
    """One model at one provider. Every method raises UpstreamFailure and nothing else of its own."""

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens in one call."""
        ...

    @property
    def cuts_silently(self) -> bool:
        """Whether it shortens an input that is too long instead of refusing it: long ones are counted first."""
        ...

    async def embed(
        self, part: Sequence[Encoding], dimensions: int | None, abandoned: asyncio.Event, deadline: float, /
    ) -> Answer:
        """One unit vector of ``dimensions`` (None: the native size) per input, in order, before the event loop's time
        is ``deadline``.

        Once ``abandoned`` is set, what was sent runs to its end and nothing more is sent.
        """
        ...

    async def count(self, part: Sequence[Encoding], deadline: float, /) -> int | None:
        """The provider's own count of tokens, without embedding; None where it has no such call."""
        ...

    async def close(self) -> None:
        """Cut every connection."""
        ...


def max_answer_bytes(vectors: int, dims: int) -> int:
    """The largest answer with so many vectors: every number with all its digits, on an indented line of its own."""
    return 65_536 + vectors * (dims * NUMBER_BYTES + 1024)


def usable_count(value: object) -> int | None:
    """A count of tokens from a provider's JSON; None for anything else, and for zero, which no request has."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53:
        return value
    return None
