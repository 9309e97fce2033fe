"""One request in several parts, worked on side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from vectoll.domain.errors import VectollError

P = TypeVar("P")
T = TypeVar("T")


async def for_each(parts: Sequence[P], work: Callable[[P], Awaitable[T]], *, at_once: int) -> list[T]:
    """What ``work`` makes of each part, in order, ``at_once`` at a time.

    The first failure cancels the rest and is raised; a defect rather than a VectollError, where both came at once.
    """
    if len(parts) == 1:
        return [await work(parts[0])]
    results: dict[int, T] = {}
    rest = iter(enumerate(parts))

    async def drain() -> None:
        for number, part in rest:
            results[number] = await work(part)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(parts))):
                group.create_task(drain())
    except ExceptionGroup as failures:
        failure: Exception = min(failures.exceptions, key=lambda error: isinstance(error, VectollError))
        failures.__traceback__ = None  # one of its frames has it: a cycle, with all the parts in it
    else:
        return [results[number] for number in range(len(parts))]
    raise failure
