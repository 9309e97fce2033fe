"""Micro-batching: many small operations in one statement. What gathers while a call is under way goes into the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from vectoll.domain.errors import Draining, Unavailable

MAX_WAITING = 65_536
MAX_GROUP = 500
"""Operations in one call, so that it holds its locks for milliseconds."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """One call at a time, for one event loop.

    ``run`` gets a group and returns an outcome for each item, in order: its result, or the exception that its waiter
    gets. When ``run`` itself raises Unavailable, every waiter gets that. When it raises anything else, each item is
    run by itself, so that only a broken one fails. With ``name_of``, no name occurs twice in one group.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        name_of: Callable[[Item], Hashable] = id,
    ) -> None:
        self._run = run
        self._name_of = name_of
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Run an operation in the next group, even when the future is cancelled meanwhile.

        Raises Draining after ``close``, Unavailable when too much waits.
        """
        if self._is_closed:
            raise Draining
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("The database is busy. Please try again.", retry_after_s=1)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return future

    async def close(self) -> None:
        """Run what was submitted; nothing may be submitted afterwards."""
        self._is_closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _serve(self) -> None:
        try:
            while self._waiting:
                group = self._take_group()
                outcomes = await self._outcomes([item for item, _ in group])
                for (_, future), outcome in zip(group, outcomes, strict=True):
                    _deliver(future, outcome)
        finally:
            self._task = None

    def _take_group(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """As many as a call may have, up to the first whose name is in the group already."""
        group: list[tuple[Item, asyncio.Future[Result]]] = []
        names: set[Hashable] = set()
        while self._waiting and len(group) < MAX_GROUP:
            name = self._name_of(self._waiting[0][0])
            if name in names:
                break
            names.add(name)
            group.append(self._waiting.popleft())
        return group

    async def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            return await self._run(items)
        except Unavailable as error:
            return [error] * len(items)
        except Exception as error:  # noqa: BLE001  every waiter must get an answer
            if len(items) == 1:
                return [error]
            return [outcome for item in items for outcome in await self._outcomes([item])]


def _deliver(future: "asyncio.Future[Result]", outcome: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
