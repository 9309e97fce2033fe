"""A client that leaves, and a cancellation from elsewhere, told apart."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from vectoll.http.disconnect import WATCH_AFTER_S, CancelledOnDisconnect, client_left


async def test_disconnect_cancels_the_body_and_says_so() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        async with CancelledOnDisconnect(receive):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_server_that_knows_at_once_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectoll.http.disconnect.WATCH_AFTER_S", 3600)

    class Cycle:
        async def receive(self) -> Message:
            await asyncio.Event().wait()
            raise AssertionError

    cycle, other = Cycle(), Cycle()
    asyncio.get_running_loop().call_soon(client_left, other.receive)
    asyncio.get_running_loop().call_soon(client_left, cycle.receive)
    asyncio.get_running_loop().call_soon(client_left, cycle.receive)
    with pytest.raises(ClientDisconnect):
        async with asyncio.timeout(10), CancelledOnDisconnect(cycle.receive):
            await asyncio.Event().wait()
    client_left(cycle.receive)  # nobody is there any more
    await asyncio.sleep(0)


async def test_body_that_ends_first_is_left_alone() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async with CancelledOnDisconnect(receive):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_errors_of_the_body_pass() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ZeroDivisionError):
        async with CancelledOnDisconnect(receive):
            raise ZeroDivisionError


async def test_cancellation_from_elsewhere_wins_over_a_disconnect() -> None:
    async def receive() -> Message:
        asyncio.get_running_loop().call_soon(task.cancel)  # runs before the cancelled body does
        return {"type": "http.disconnect"}

    async def work() -> None:
        async with CancelledOnDisconnect(receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_each_is_watched_in_its_time_whoever_began_or_ended_before_it() -> None:
    watched: list[int] = []

    async def work(number: int, seconds: float) -> None:
        async def receive() -> Message:
            watched.append(number)
            await asyncio.Event().wait()
            raise AssertionError

        async with CancelledOnDisconnect(receive):
            await asyncio.sleep(seconds)

    first = [work(number, 5 * WATCH_AFTER_S if number % 2 else 0) for number in range(6)]
    tasks = [asyncio.create_task(body) for body in first]
    await asyncio.sleep(WATCH_AFTER_S / 2)
    late = asyncio.create_task(work(99, 3 * WATCH_AFTER_S))
    await asyncio.gather(*tasks, late)
    assert watched == [1, 3, 5, 99]
