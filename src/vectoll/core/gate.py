"""Who may call next: a bounded number of calls outwards, shared evenly between accounts, and between one's keys."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vectoll.domain.errors import AtCapacity
from vectoll.domain.identity import Caller


class FairGate:
    """``slots`` calls at once; the rest wait, one per account in turn, of its keys in turn. One event loop only."""

    def __init__(self, slots: int, max_waiting: int, max_wait_s: float) -> None:
        self._free = slots
        self._max_wait_s = max_wait_s
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lines: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}
        """Who waits, by account and key, whose turn it is first."""

    @asynccontextmanager
    async def slot(self, caller: Caller, *, goes_on: bool = False) -> AsyncIterator[None]:
        """Hold one slot. Raises AtCapacity at once when too many wait already, or after ``max_wait_s``.

        ``max_waiting`` are too many, but for an account that has less than an equal share of them and for such a key of
        another; twice as many for everybody. What ``goes_on`` is before all else that waits of this caller.
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
        if self._waiting >= self._max_waiting and not self._has_share(caller):
            raise AtCapacity(1)
        turn = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(caller.account, {}).setdefault(caller.key, deque())
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

    def _has_share(self, caller: Caller) -> bool:
        """Whether one more may wait where others have taken what was free."""
        if self._waiting >= 2 * self._max_waiting:
            return False
        keys = self._lines.get(caller.account, {})
        share = self._max_waiting // (len(self._lines) + (not keys))
        if sum(map(len, keys.values())) < share:
            return True
        line = keys.get(caller.key, ())
        return len(line) < share // (len(keys) + (not line))

    def _give_up(self, caller: Caller, turn: "asyncio.Future[None]") -> None:
        """A cancelled waiter leaves the line, unless it is out already, or passes on the slot that it was given."""
        if not turn.cancelled():
            self._release()
            return
        keys = self._lines.get(caller.account, {})
        line = keys.get(caller.key)
        if line is not None and turn in line:
            line.remove(turn)
            self._waiting -= 1
            if not line:
                del keys[caller.key]
            if not keys:
                del self._lines[caller.account]

    def _release(self) -> None:
        """Give the slot to the next in turn. Free slots exist only while nobody waits."""
        while self._lines:
            turn = self._take_turn()
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._free += 1

    def _take_turn(self) -> "asyncio.Future[None]":
        """The next waiter. Its account and its key go to the end: every other comes first."""
        account, keys = next(iter(self._lines.items()))
        key, line = next(iter(keys.items()))
        turn = line.popleft()
        self._waiting -= 1
        del self._lines[account], keys[key]
        if line:
            keys[key] = line
        if keys:
            self._lines[account] = keys
        return turn
