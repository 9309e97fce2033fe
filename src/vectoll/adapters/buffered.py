"""Observations that cost a request little: buffered at once, counted with many others or when somebody reads them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

MAX_BUFFERED = 1000
"""As many wait for a reader at most: they are counted in 0.3 ms, and take 0.1 MB."""

T = TypeVar("T")


class Buffer(Generic[T]):
    """Observations, in the order in which they were made. Any thread may add one, or flush."""

    def __init__(self, count: Callable[[Sequence[T]], None]) -> None:
        """``count`` is given every observation once, by one thread at a time."""
        self._count = count
        self._waiting: deque[T] = deque()
        self._lock = Lock()

    def add(self, observation: T) -> None:
        """Keep it to be counted."""
        self._waiting.append(observation)
        if len(self._waiting) >= MAX_BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Count what was added so far."""
        with self.flushed():
            pass

    @contextmanager
    def flushed(self) -> Iterator[None]:
        """Within, everything added before is counted, and nothing added since is."""
        waiting = self._waiting
        with self._lock:
            self._count([waiting.popleft() for _ in range(len(waiting))])
            yield
