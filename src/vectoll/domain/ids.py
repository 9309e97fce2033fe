"""Identifiers. A NewType each, so that a type checker tells one from another."""

import os
import time
from typing import NewType

ModelId = NewType("ModelId", str)
AccountId = NewType("AccountId", str)
KeyId = NewType("KeyId", str)
TransferId = NewType("TransferId", str)
RequestId = NewType("RequestId", str)


def new_id(prefix: str) -> str:
    """``prefix_`` and 32 hex digits: 48 bits of Unix milliseconds, then 80 random bits.

    Ids sort by time, so a database index on them grows at its end and an insert costs the same at any size
    (the layout of UUIDv7, RFC 9562 §5.7, without its version bits).
    """
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
