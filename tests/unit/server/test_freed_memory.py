"""Memory that a burst took goes back to the system when it is over."""

import platform
import subprocess
import sys
from dataclasses import dataclass

import pytest

from vectoll.adapters.engines import memory
from vectoll.server.freed_memory import QUIET_BYTES, WORTHWHILE_BYTES, FreedMemory, give_back_after_bursts

MIB = 2**20
GROWN = 100 * MIB + WORTHWHILE_BYTES


@dataclass
class Process:
    """What it has in memory, and what of it requests take."""

    resident: int = 100 * MIB
    in_flight: int = 0


@pytest.mark.parametrize(
    ("steps", "is_worth_it"),
    [
        ([], False),
        ([(GROWN - 1, 0)], False),
        ([(GROWN, 0)], True),
        ([(GROWN, QUIET_BYTES)], False),
        ([(GROWN, QUIET_BYTES), (GROWN, QUIET_BYTES - 1)], True),
        ([(50 * MIB, 0), (GROWN - 50 * MIB, 0)], True),
        ([(GROWN, QUIET_BYTES), (100 * MIB, 0)], False),
    ],
)
def test_it_is_given_back_once_it_has_grown_and_large_requests_are_over(
    steps: list[tuple[int, int]], is_worth_it: bool
) -> None:
    process = Process()
    freed = FreedMemory(lambda: process.resident, lambda: process.in_flight)
    verdicts = []
    for resident, in_flight in ((100 * MIB, 0), *steps):
        process.resident, process.in_flight = resident, in_flight
        verdicts.append(freed.is_worth_giving_back())
    assert verdicts == [False] * len(steps) + [is_worth_it]


async def test_where_the_library_cannot_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_trim", lambda: None)
    assert not memory.can_give_back()
    memory.give_back_freed()
    await give_back_after_bursts(lambda: 0)


BURST = """
from vectoll.adapters.engines.memory import give_back_freed
from vectoll.server.freed_memory import resident_bytes
taken = [bytes(20_000) for _ in range(5_000)]
kept = taken[::500]  # among what is freed, and after it
del taken
before = resident_bytes()
give_back_freed()
print(before - resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what other libraries keep is their own affair")
def test_what_glibc_keeps_of_a_burst_is_given_back() -> None:
    """In a process of its own, whose memory nothing else has used."""
    done = subprocess.run([sys.executable, "-c", BURST], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80 * MIB
