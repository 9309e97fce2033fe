"""Long texts are read in threads that callers share."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from vectoll.core.reading import MAX_SLICE_CHARACTERS, MAX_SLICE_TEXTS, Readers, slices
from vectoll.domain.errors import AtCapacity
from vectoll.domain.identity import Caller

A, B = Caller.keyless("a"), Caller.keyless("b")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
async def readers(threads: ThreadPoolExecutor) -> Readers:
    return Readers(threads, 1, 60.0)


def parts(name: str, log: list[str]) -> Iterator[Sequence[str]]:
    """Three parts."""
    for number in range(3):
        log.append(name)
        yield [f"{name}{number}"]


def test_slices_hold_every_text_once_and_are_bounded() -> None:
    texts = ["a" * (MAX_SLICE_CHARACTERS + 5), *["b"] * (2 * MAX_SLICE_TEXTS + 1), "c"]
    cut = list(slices(texts))
    assert [text for few in cut for text in few] == texts
    assert [len(few) for few in cut] == [1, MAX_SLICE_TEXTS, MAX_SLICE_TEXTS, 2]
    assert list(slices(texts[:3])) == [texts[:3]]


async def test_callers_take_turns_and_each_finishes_what_has_begun(readers: Readers) -> None:
    log: list[str] = []
    names = ["a1", "a2", "a3", "a4", "b"]
    reading = [
        asyncio.create_task(readers.read(parts(name, log), 3, Caller.keyless(name[0]))) for name in names
    ]
    assert await asyncio.gather(*reading) == [[f"{name}{n}" for n in range(3)] for name in names]
    assert [log.index("b"), 14 - log[::-1].index("b")] == [2, 8]
    begun = [{name for name in names[:4] if 0 < log[:at].count(name) < 3} for at in range(len(log))]
    assert max(map(len, begun)) == 2


async def test_nobody_waits_for_a_thread_once_everything_is_there(readers: Readers) -> None:
    log: list[str] = []
    assert await readers.read(parts("a", log), 2, A) == ["a0", "a1"]
    assert log == ["a", "a"]


async def test_what_making_a_part_raises_is_raised_and_the_thread_is_free_again(readers: Readers) -> None:
    def broken() -> Iterator[Sequence[str]]:
        yield ["fine"]
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await readers.read(broken(), 2, A)
    assert await readers.run(lambda: 1, A) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_a_thread_is_taken_until_it_has_finished_however_often_who_waits_is_cancelled(
    threads: ThreadPoolExecutor, times: int
) -> None:
    readers, has_begun, may_end = Readers(threads, 1, 0.05), threading.Event(), threading.Event()

    def work() -> bool:
        has_begun.set()
        return may_end.wait(10)

    left = asyncio.create_task(readers.run(work, A))
    await asyncio.to_thread(has_begun.wait, 10)
    for _ in range(times):
        left.cancel()
        with pytest.raises(AtCapacity):
            await readers.run(lambda: 1, B)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await readers.run(lambda: 1, B) == 1
