"""How far long work has come."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much, often. What it raises ends the work."""


def no_progress(_done: int, _total: int) -> None:
    """A ``Progress`` for when nobody watches."""
