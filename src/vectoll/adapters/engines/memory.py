"""Memory that loading took and has no more use for."""

import ctypes
import sys


def give_back_freed() -> None:
    """Hand what has been freed, in whatever thread, back to the system: glibc keeps tens of MB of a load for later."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
