"""Whether others have their turn on the event loop."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def turns_during(work: Awaitable[Any]) -> int:
    """How often another task had its turn until this was done."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    await work
    others.cancel()
    return turns
