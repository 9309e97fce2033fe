"""The calls of one request, which a provider bills whether or not somebody still waits for them."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from vectoll.adapters.upstreams.provider import Answer
from vectoll.domain.embedding import Encoding


@dataclass(frozen=True, slots=True)
class Bought:
    """One part of a request, and what its call brought."""

    encodings: Sequence[Encoding]
    answer: Answer


class Purchase:
    """Calls that were sent run to their end even when their request is cancelled: else nobody would know the cost."""

    def __init__(self) -> None:
        self.bought: list[Bought] = []
        self.is_void = False
        """Set when the request fails through no fault of its caller's: nothing is charged, so nothing is waited for."""
        self.abandoned = asyncio.Event()
        """Set when nobody waits for it any more, or this server stops: nothing more is sent."""

    async def make(self, call: Coroutine[Any, Any, Answer], encodings: Sequence[Encoding]) -> Answer:
        """Make a call to its end. A cancellation takes effect then."""
        task = asyncio.create_task(call)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancelled = error
                self.abandoned.set()
                if self.is_void:
                    task.cancel()
        if not task.cancelled() and task.exception() is None:
            self.bought.append(Bought(encodings, task.result()))
        if cancelled is not None:
            raise cancelled
        return task.result()
