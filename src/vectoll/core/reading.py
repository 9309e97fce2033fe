"""Long texts are read in threads, a slice at a time: callers take turns, and none waits for all that another sent."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from vectoll.core.gate import FairGate
from vectoll.domain.identity import Caller

FEW_TEXTS = 4
"""Fewer are one slice."""

MAX_SLICE_TEXTS = 256
MAX_SLICE_CHARACTERS = 1_000_000
"""What a tokenizer reads at once. Per token it makes a hundred bytes beside the id, and frees them with the slice."""

MAX_WAITING = 4096
"""Requests that may wait for a thread, after which the answer is 503."""

T = TypeVar("T")


def slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, a few at a time. One that is longer than a slice goes alone or last."""
    if len(texts) < FEW_TEXTS:
        yield texts
        return
    begin = characters = 0
    for index, text in enumerate(texts):
        characters += len(text)
        if characters >= MAX_SLICE_CHARACTERS or index + 1 - begin == MAX_SLICE_TEXTS:
            yield texts[begin : index + 1]
            begin, characters = index + 1, 0
    if begin < len(texts):
        yield texts[begin:]


class Readers:
    """Threads that accounts share evenly, and an account's keys its share, however much each of them has sent."""

    def __init__(self, threads: Executor, count: int, max_wait_s: float) -> None:
        """``threads`` are ``count``; for one of them nobody waits longer than ``max_wait_s``."""
        self._threads = threads
        self._gate = FairGate(count, MAX_WAITING, max_wait_s)

    async def read(self, parts: Iterable[Sequence[T]], count: int, caller: Caller) -> Sequence[T]:
        """All parts as one, which has ``count``, each made in a thread when it is its turn. Raises AtCapacity, and what
        making one raises.

        Between two of them others have theirs; those of the same caller that have begun go before those that have not.
        """
        make_next: Callable[[], Sequence[T]] = partial(next, iter(parts), ())
        found: list[T] = []
        while len(found) < count and (part := await self.run(make_next, caller, goes_on=bool(found))):
            found += part
        return found

    async def run(self, work: Callable[[], T], caller: Caller, *, goes_on: bool = False) -> T:
        """What ``work`` returns, or raises, in a thread. Raises AtCapacity."""
        async with self._gate.slot(caller, goes_on=goes_on):
            done = asyncio.get_running_loop().run_in_executor(self._threads, work)
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:
                while not done.done():  # its thread is taken until then, however often this is cancelled
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait((done,))
                raise
