"""Making what was written outlive the machine."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a directory's names. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
