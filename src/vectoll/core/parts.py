"""One request in several parts, worked on side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from vectoll.domain.errors import VectollError

P = TypeVar("P")
T = TypeVar("T")


async def for_each(parts: Sequence[P], work: Callable[[P], Awaitable[T]], *, at_once: int) -> list[T]:
    """What ``work`` makes of each part, in order, ``at_once`` at a time.

    The first VectollError cancels the rest and is raised.
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
    except* VectollError as failures:
        failure = failures.exceptions[0]
    else:
        return [results[number] for number in range(len(parts))]
    raise failure
