"""Bounded calls, shared evenly."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.core.gate import FairGate
from vectoll.domain.errors import AtCapacity
from vectoll.domain.identity import Caller


async def enter(gate: FairGate, caller: str, log: list[str], hold: asyncio.Event) -> None:
    async with gate.slot(Caller.keyless(caller)):
        log.append(caller)
        await hold.wait()


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_take_turns_however_many_calls_each_has() -> None:
    gate, log, hold = FairGate(1, 100, 60), [], asyncio.Event()  # type: ignore[var-annotated]
    order = ["a", "a", "a", "a", "b", "b", "c"]
    tasks = []
    for caller in order:
        tasks.append(asyncio.create_task(enter(gate, caller, log, hold)))
        await settle()
    hold.set()
    await asyncio.gather(*tasks)
    assert log == ["a", "a", "b", "c", "a", "b", "a"]


async def test_accounts_take_turns_and_each_accounts_keys_take_those_that_it_has() -> None:
    gate, log, hold = FairGate(1, 100, 60), list[str](), asyncio.Event()

    async def enter_as(caller: Caller) -> None:
        async with gate.slot(caller):
            log.append(caller.key)
            await hold.wait()

    tasks = []
    for key in ["a1", "a1", "a1", "a2", "a3", "b1", "b1", "b1"]:
        tasks.append(asyncio.create_task(enter_as(Caller(key[0], key))))
        await settle()
    hold.set()
    await asyncio.gather(*tasks)
    assert log == ["a1", "a1", "b1", "a2", "b1", "a3", "b1", "a1"]


async def test_what_goes_on_is_before_the_rest_of_its_caller() -> None:
    gate, log, hold = FairGate(1, 100, 60), list[str](), asyncio.Event()

    async def go_on() -> None:
        async with gate.slot(Caller.keyless("a"), goes_on=True):
            log.append("goes on")

    tasks = [asyncio.create_task(enter(gate, caller, log, hold)) for caller in "aab"]
    await settle()
    tasks.append(asyncio.create_task(go_on()))
    await settle()
    hold.set()
    await asyncio.gather(*tasks)
    assert log == ["a", "goes on", "b", "a"]


async def test_full_is_refused_at_once() -> None:
    gate, hold = FairGate(1, 1, 60), asyncio.Event()
    tasks = [asyncio.create_task(enter(gate, "a", [], hold)) for _ in range(2)]
    await settle()
    with pytest.raises(AtCapacity):
        async with gate.slot(Caller.keyless("b")):
            pass
    hold.set()
    await asyncio.gather(*tasks)
    async with gate.slot(Caller.keyless("b")):
        pass


async def test_nobody_fills_it_for_others_nor_one_key_for_the_others_of_its_account() -> None:
    gate, hold = FairGate(1, 8, 60), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def let_in(account: str, key: str) -> int:
        """How many of twenty more may wait."""

        async def enter_as() -> None:
            async with gate.slot(Caller(account, key)):
                await hold.wait()

        more = [asyncio.create_task(enter_as()) for _ in range(20)]
        await settle()
        tasks.extend(task for task in more if not task.done())
        refused = [task for task in more if task.done()]
        assert all(isinstance(task.exception(), AtCapacity) for task in refused)
        return 20 - len(refused)

    assert await let_in("a", "bulk") == 1 + 8, "one has the slot, and what is free is anybody's"
    assert await let_in("a", "bulk") == 0
    assert await let_in("a", "query") == 4, "half of its account's"
    assert await let_in("b", "bulk") == 4, "half of all"
    assert [await let_in(account, "other") for account in "abcd"] == [0] * 4, "twice as many are enough"
    assert gate._waiting == 16
    hold.set()
    await asyncio.gather(*tasks)


async def test_a_wait_that_is_too_long_is_refused_and_leaves_no_trace() -> None:
    gate, hold = FairGate(1, 1, 0.01), asyncio.Event()
    task = asyncio.create_task(enter(gate, "a", [], hold))
    await settle()
    clock = asyncio.get_running_loop().time
    for _ in range(3):
        began = clock()
        with pytest.raises(AtCapacity):
            async with gate.slot(Caller.keyless("b")):
                pass
        assert clock() - began > 0.005, "not refused at once for those who wait no more"
    hold.set()
    await task
    async with gate.slot(Caller.keyless("b")):
        pass


@given(
    plan=st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 3)), min_size=1, max_size=20
    ),
    slots=st.integers(1, 3),
)
def test_no_slot_is_lost_whoever_is_cancelled_when(plan: list[tuple[str, bool, int]], slots: int) -> None:
    async def run() -> None:
        gate, log, hold = FairGate(slots, 1000, 60), [], asyncio.Event()  # type: ignore[var-annotated]
        tasks = [asyncio.create_task(enter(gate, caller, log, hold)) for caller, _, _ in plan]
        await settle()
        hold.set()
        for task, (_, is_cancelled, pauses) in zip(tasks, plan, strict=True):
            for _ in range(pauses):
                await asyncio.sleep(0)
            if is_cancelled:
                task.cancel()  # some wait, some hold a slot, some were given one and do not know yet
        await asyncio.gather(*tasks, return_exceptions=True)
        inside = [gate.slot(Caller.keyless("z")) for _ in range(slots)]
        async with asyncio.timeout(0.5):
            for slot in inside:
                await slot.__aenter__()
        for slot in inside:
            await slot.__aexit__(None, None, None)

    asyncio.run(run())


async def test_a_waiter_that_is_cancelled_as_its_turn_comes_passes_it_on() -> None:
    gate, log, hold = FairGate(1, 100, 60), [], asyncio.Event()  # type: ignore[var-annotated]
    slot = gate.slot(Caller.keyless("first"))
    await slot.__aenter__()
    second, third = (asyncio.create_task(enter(gate, name, log, hold)) for name in ("second", "third"))
    await settle()
    await slot.__aexit__(None, None, None)  # second has the slot now, and does not know
    second.cancel()
    hold.set()
    await asyncio.wait_for(third, 1)
    assert log == ["third"]
