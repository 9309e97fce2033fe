"""Freed memory goes back to the system. glibc keeps what a burst of large requests took for the next one, for ever, and
resident memory would stay where the largest has brought it.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from vectoll.adapters.engines.memory import can_give_back, give_back_freed

EVERY_S = 60.0
"""Giving back takes ten to twenty milliseconds, and the next burst has to ask anew."""

WORTHWHILE_BYTES = 64 * 2**20
QUIET_BYTES = 16 * 2**20


async def give_back_after_bursts(bytes_in_flight: Callable[[], int], every_s: float = EVERY_S) -> None:
    """Until it is cancelled. Returns at once where the C library cannot give back (musl, macOS)."""
    if not can_give_back():
        return
    memory = FreedMemory(resident_bytes, bytes_in_flight)
    while True:
        await asyncio.sleep(every_s)
        if memory.is_worth_giving_back():
            await asyncio.to_thread(give_back_freed)
            memory = FreedMemory(resident_bytes, bytes_in_flight)


class FreedMemory:
    """What may have been freed since the last time: by how much resident memory has grown, and is not in use now."""

    def __init__(self, resident: Callable[[], int], in_flight: Callable[[], int]) -> None:
        """``in_flight`` is what requests take that are under way, all in bytes."""
        self._resident = resident
        self._in_flight = in_flight
        self._least_bytes = resident()

    def is_worth_giving_back(self) -> bool:
        """Whether so much has grown, and large requests are over: of what they still use nothing can be given back."""
        now = self._resident()
        self._least_bytes = min(self._least_bytes, now)
        return now - self._least_bytes >= WORTHWHILE_BYTES and self._in_flight() < QUIET_BYTES


def resident_bytes(process: int | str = "self") -> int:
    """What a process, this one unless another's number is given, has in memory (proc_pid_statm(5))."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
