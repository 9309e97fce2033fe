"""A compute engine: token ids in, normalised vectors out."""

from collections.abc import Sequence
from typing import Protocol

from vectoll.domain.embedding import Vector
from vectoll.domain.identity import Caller


class Engine(Protocol):
    """Runs one model. Thread-safe across distinct ``stream`` numbers; one call per stream at a time."""

    @property
    def streams(self) -> int:
        """How many calls may run side by side, from a thread each; one more, with this number, where the shape of its
        batches says so (``BatchShape.query_tokens``).
        """
        ...

    @property
    def dims(self) -> int:
        """The native size of a vector."""
        ...

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,
        *,
        is_alone: bool = True,
        callers: Sequence[Caller] = (),
    ) -> Sequence[Vector]:
        """Embed one batch on one stream. Blocks, and releases the GIL while it computes.

        ``batch[i]`` is the token ids of sequence ``i``, special tokens included, at least one each. ``is_alone``
        says that requests for this model have not overlapped lately, so that this call may use several cores.
        ``callers[i]`` is who sent sequence ``i``, where that is known: nothing is shared between two callers.
        Returns one L2-normalised float32 vector of ``dims`` per sequence, in order. Raises anything on failure:
        the caller answers every waiter with InferenceFailed.
        """
        ...

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:
        """How many of a sequence's tokens need not be computed: its first, which this caller sent before.

        Must not raise, nor block: asked under the queue's lock.
        """
        ...

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """How many tokens a batch of these lengths is computed as, padding included. Must not raise."""
        ...

    def close(self) -> None:
        """Free the weights. No call may be running or follow."""
        ...


class Backend(Protocol):
    """Where a model's sequences are computed for many callers at once: on this process's engine, or on a cluster's."""

    async def compute(self, sequences: Sequence[Sequence[int]], caller: Caller) -> Sequence[Vector]:
        """One finite, L2-normalised vector of the native size per sequence, in order.

        All requests of one ``caller`` share one place in the fair queue. Raises AtCapacity at once when the wait would
        be too long, InferenceFailed, Draining, or another Unavailable. Cancelling the await frees the place.
        """
        ...

    async def close(self, drain_s: float = 0.0) -> None:
        """Let requests in flight finish for at most ``drain_s`` seconds, fail the rest, free what is held."""
        ...
