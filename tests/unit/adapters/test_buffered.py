"""What is added is counted once, whoever adds and whoever flushes."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from threading import Barrier, Thread

import pytest

from vectoll.adapters.buffered import MAX_BUFFERED, Buffer


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_nothing_is_lost_or_counted_twice_between_threads() -> None:
    counted: list[tuple[int, int]] = []
    buffer = Buffer(counted.extend)
    start = Barrier(4)

    def work(thread: int) -> None:
        start.wait()
        for number in range(20 * MAX_BUFFERED):
            buffer.add((thread, number))
            if number % 7 == 0:
                buffer.flush()

    threads = [Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.flush()
    assert Counter(counted) == Counter(
        (thread, number) for thread in range(4) for number in range(20 * MAX_BUFFERED)
    )


def test_what_nobody_asks_for_does_not_pile_up() -> None:
    sizes: list[int] = []

    def count(observations: Sequence[int]) -> None:
        sizes.append(len(observations))

    buffer = Buffer(count)
    for number in range(3 * MAX_BUFFERED + 1):
        buffer.add(number)
    assert sizes == [MAX_BUFFERED] * 3
