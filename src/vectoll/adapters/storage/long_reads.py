"""Reads that may visit many rows: few at once, so that all others find a thread or a connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vectoll.core.gate import FairGate
from vectoll.domain.errors import AtCapacity, Unavailable
from vectoll.domain.identity import Caller

MAX_WAITING = 1_000


class LongReads:
    """Turns at reading, fair among readers."""

    def __init__(self, at_once: int, max_wait_s: float, busy: str) -> None:
        """``busy`` is the message for a reader who waited too long, or finds too many waiting."""
        self._gate = FairGate(at_once, MAX_WAITING, max_wait_s)
        self._busy = busy

    @asynccontextmanager
    async def turn(self, reader: str) -> AsyncIterator[None]:
        """Wait for a turn. Readers take turns, each with its own queue. Raises Unavailable."""
        try:
            async with self._gate.slot(Caller.keyless(reader)):
                yield
        except AtCapacity:
            raise Unavailable(self._busy, retry_after_s=1) from None
