"""What is noted is counted once, whoever notes and whoever asks."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from threading import Barrier, Thread

import pytest

from vectoll.adapters.gathered import MANY, Gathered


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
    gathered = Gathered(counted.extend)
    start = Barrier(4)

    def work(thread: int) -> None:
        start.wait()
        for number in range(20 * MANY):
            gathered.note((thread, number))
            if number % 7 == 0:
                gathered.count()

    threads = [Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gathered.count()
    assert Counter(counted) == Counter((thread, number) for thread in range(4) for number in range(20 * MANY))


def test_what_nobody_asks_for_does_not_pile_up() -> None:
    sizes: list[int] = []

    def count(notes: Sequence[int]) -> None:
        sizes.append(len(notes))

    gathered = Gathered(count)
    for number in range(3 * MANY + 1):
        gathered.note(number)
    assert sizes == [MANY] * 3
