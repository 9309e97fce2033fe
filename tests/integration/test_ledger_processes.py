"""The SQLite store beside other processes, and after they were killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.ledger import ALICE, TOKEN, make_credit, make_debit, make_hold, make_key

from vectoll.adapters.storage.lock import DataDirLock
from vectoll.adapters.storage.sqlite import SqliteStore, open_sqlite
from vectoll.domain.errors import ConfigurationError, InsufficientBalance
from vectoll.domain.ids import TransferId
from vectoll.domain.money import usd
from vectoll.ports.ledger import UsageQuery

ROOT = Path(__file__).parents[2]
KILLS = 20


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.integration.ledger_child", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def finish(child: "subprocess.Popen[str]") -> None:
    child.communicate()
    assert child.returncode == 0


def kill_after_lines(child: "subprocess.Popen[str]", lines: int) -> list[str]:
    """What the child wrote until it was killed, complete lines only."""
    assert child.stdout is not None
    with child:
        written = "".join(child.stdout.readline() for _ in range(lines))
        child.send_signal(signal.SIGKILL)
        written += child.stdout.read()
    return written[: written.rfind("\n") + 1].split()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path)
    yield store
    await store.close()


async def test_credit_from_another_process_is_spent_by_the_next_hold(
    store: SqliteStore, tmp_path: Path
) -> None:
    await store.ledger.post(make_credit(1))
    with pytest.raises(InsufficientBalance):
        await store.ledger.hold(make_hold(10))
    await asyncio.to_thread(finish, start("credit", tmp_path, "0.5"))
    hold = make_hold(10)
    assert await store.ledger.hold(hold) is None
    await store.ledger.charge(hold, 10, 0)
    assert (await store.ledger.balance(ALICE)).balance == usd("0.5") + 1 - 10 * TOKEN
    assert (await store.ledger.verify()).is_clean


async def test_credit_that_another_process_takes_away_is_never_overspent(
    store: SqliteStore, tmp_path: Path
) -> None:
    """What is remembered of an account may be a moment old; the file has the last word."""
    await store.ledger.post(make_credit(10 * TOKEN))
    remembered = make_hold(1)
    assert await store.ledger.hold(remembered) is None  # reads the account
    other = await open_sqlite(tmp_path)
    await other.ledger.post(make_debit(8 * TOKEN))
    await other.close()
    late = make_hold(9)
    try:
        if await store.ledger.hold(late) is None:
            await store.ledger.charge(late, 9, 0)
    except InsufficientBalance:
        pass
    else:
        pytest.fail("more was spent than there is")
    await store.ledger.charge(remembered, 1, 0)
    assert (await store.ledger.balance(ALICE)).balance == TOKEN
    assert (await store.ledger.verify()).is_clean


async def test_credit_that_this_process_takes_away_is_seen_by_the_next_hold(store: SqliteStore) -> None:
    await store.ledger.post(make_credit(10 * TOKEN))
    assert await store.ledger.hold(make_hold(1)) is None
    await store.ledger.post(make_debit(8 * TOKEN))
    with pytest.raises(InsufficientBalance):
        await store.ledger.hold(make_hold(9))


async def test_revocation_by_another_process_is_seen_by_the_next_lookup(
    store: SqliteStore, tmp_path: Path
) -> None:
    key = make_key("one")
    await store.keys.add(key)
    found = await store.keys.by_digest(key.digest)
    assert found is not None
    assert found.revoked_at is None
    await asyncio.to_thread(finish, start("revoke", tmp_path, key.id))
    found = await store.keys.by_digest(key.digest)
    assert found is not None
    assert found.revoked_at is not None


async def test_processes_write_side_by_side(store: SqliteStore, tmp_path: Path) -> None:
    """Credit arrives from three processes while this one charges: nothing is lost, nothing counted twice."""
    await store.ledger.post(make_credit("1"))
    children = [start("credit", tmp_path, "0.25") for _ in range(3)]
    charges = 0
    while any(child.poll() is None for child in children):
        holds = [make_hold(1) for _ in range(8)]
        for hold in holds:
            assert await store.ledger.hold(hold) is None
        await asyncio.gather(*(store.ledger.charge(hold, 1, 0) for hold in holds))
        charges += len(holds)
    for child in children:
        finish(child)
    assert (await store.ledger.balance(ALICE)).balance == usd("1.75") - charges * TOKEN
    assert (await store.ledger.verify()).is_clean


def test_processes_may_make_the_file_at_the_same_time(tmp_path: Path) -> None:
    for child in [start("credit", tmp_path / "new", "1") for _ in range(6)]:
        finish(child)

    async def balance() -> int:
        store = await open_sqlite(tmp_path / "new")
        try:
            return (await store.ledger.balance(ALICE)).balance
        finally:
            await store.close()

    assert asyncio.run(balance()) == usd(6)


async def test_kill_9_under_load_loses_no_acknowledged_charge(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit("5"))
    await store.close()
    acknowledged: set[str] = set()
    for round_number in range(KILLS):
        child = await asyncio.to_thread(start, "charge", tmp_path)
        acknowledged |= set(await asyncio.to_thread(kill_after_lines, child, 20 + 7 * round_number))
        store = await open_sqlite(tmp_path)
        verification = await store.ledger.verify()
        assert verification.disagreements == ()
        for charge_id in acknowledged:
            assert await store.ledger.transfer(TransferId(charge_id)) is not None
        charges = verification.transfers - 1
        assert len(acknowledged) <= charges <= len(acknowledged) + 16 * (round_number + 1)
        assert (await store.ledger.balance(ALICE)).balance == usd(5) - charges * TOKEN
        await store.close()


async def test_only_one_process_serves_a_data_directory(tmp_path: Path) -> None:
    child = start("lock", tmp_path)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "locked\n"
    with pytest.raises(ConfigurationError, match=f"process {child.pid}"), DataDirLock(tmp_path):
        pass
    finish(start("credit", tmp_path, "1"))  # a command is no server
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    with DataDirLock(tmp_path), pytest.raises(ConfigurationError, match=f"process {os.getpid()}"):
        DataDirLock(tmp_path).__enter__()
    with DataDirLock(tmp_path):
        pass


async def test_close_commits_and_answers_what_was_asked_for(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path)
    await store.ledger.post(make_credit("1"))
    holds = [make_hold(1) for _ in range(5)]
    charges = [asyncio.create_task(store.ledger.charge(hold, 1, 0)) for hold in holds]
    await asyncio.sleep(0)
    await store.close()
    answered = [charge.result() for charge in charges]
    again = await open_sqlite(tmp_path)
    assert [t.id for t in await again.ledger.usage(UsageQuery(ALICE, after_seq=1))] == [
        t.id for t in answered
    ]
    await again.close()
