"""The cores that compute, and how their threads share them with the event loop."""

import os
import sys
import threading

ENGINE_NICENESS = 5
"""How far the computing threads step back behind the event loop."""
LARGE_PARAMETERS = 1_000_000_000
"""Parameters in matrix products. With more, a core needs a second for a sentence or two."""
CORES_PER_LARGE_STREAM = 4


def available_cores() -> int:
    """The cores that this process may use, where the system says; macOS does not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def streams_and_cores(parameters: int, streams: int, cores: int = 0) -> tuple[int, int]:
    """How many batches are computed side by side, and by how many cores in all.

    0 ``streams`` means one per core, or one per several cores for a model with many weights in its products.
    0 ``cores`` means all that this process may use, or one per stream where ``streams`` is given.
    """
    if streams:
        return streams, max(streams, cores)
    cores = cores or available_cores()
    each = min(CORES_PER_LARGE_STREAM, cores) if parameters >= LARGE_PARAMETERS else 1
    return cores // each, cores


def step_back() -> None:
    """Give this thread, and the threads that it starts, a lower priority than the event loop's.

    Otherwise the loop waits for a core while it holds the interpreter's lock, and the engine's threads for the lock:
    a quarter fewer requests/s on two cores. Linux only: elsewhere priorities are a process's.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        lowered = min(19, os.getpriority(os.PRIO_PROCESS, thread) + ENGINE_NICENESS)
        os.setpriority(os.PRIO_PROCESS, thread, lowered)
