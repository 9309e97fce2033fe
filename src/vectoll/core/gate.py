"""Who may call next: a bounded number of calls outwards, shared evenly between callers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vectoll.domain.errors import AtCapacity
from vectoll.domain.identity import Caller


class FairGate:
    """``slots`` calls at once; the rest wait, one per caller in turn. One event loop only."""

    def __init__(self, slots: int, max_waiting: int, max_wait_s: float) -> None:
        self._free = slots
        self._max_wait_s = max_wait_s
        self._max_waiting = max_waiting
        self._waiting = 0
        self._waiters: dict[Caller, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def slot(self, caller: Caller, *, goes_on: bool = False) -> AsyncIterator[None]:
        """Hold one slot. Raises AtCapacity at once when ``max_waiting`` wait already, or after ``max_wait_s``.

        What ``goes_on`` is before all else that waits of this caller.
        """
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._acquire(caller, goes_on=goes_on)
        except TimeoutError:
            raise AtCapacity(1) from None
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, caller: Caller, *, goes_on: bool) -> None:
        if self._free:
            self._free -= 1
            return
        if self._waiting >= self._max_waiting:
            raise AtCapacity(1)
        turn = asyncio.get_running_loop().create_future()
        line = self._waiters.setdefault(caller, deque())
        if goes_on:
            line.appendleft(turn)
        else:
            line.append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            self._give_up(caller, turn)
            raise

    def _give_up(self, caller: Caller, turn: "asyncio.Future[None]") -> None:
        """A cancelled waiter leaves the line, unless it is out already, or passes on the slot that it was given."""
        if not turn.cancelled():
            self._release()
            return
        line = self._waiters.get(caller)
        if line is not None and turn in line:
            line.remove(turn)
            self._waiting -= 1
            if not line:
                del self._waiters[caller]

    def _release(self) -> None:
        """Give the slot to the next caller in turn. Free slots exist only while nobody waits."""
        while self._waiters:
            caller = next(iter(self._waiters))
            line = self._waiters.pop(caller)
            turn = line.popleft()
            self._waiting -= 1
            if line:
                self._waiters[caller] = line  # to the end: every other caller comes first
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._free += 1
