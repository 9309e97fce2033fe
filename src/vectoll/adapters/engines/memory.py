"""Memory that loading, or a burst of large requests, took and has no more use for."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def can_give_back() -> bool:
    """Whether ``give_back_freed`` does anything here."""
    return _trim() is not None


def give_back_freed() -> None:
    """Hand what has been freed, in whatever thread, back to the system: glibc keeps tens of MB of a load for later.

    Does nothing where the C library has no such function. Blocks, without the GIL.
    """
    if trim := _trim():
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
