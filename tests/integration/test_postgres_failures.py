"""The PostgreSQL store when its server, its network or its operator misbehaves."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.cuttable import CuttableProxy, open_proxy
from tests.integration.test_ledger_processes import kill_after_lines, start
from tests.ledger import ALICE, BOB, TOKEN, make_credit, make_hold, make_key
from tests.live import MODEL, Vectoll
from tests.postgres import PostgresServer, emptied, execute, make_schema, run_apart, run_postgres

from vectoll.adapters.storage.postgres import PoolSettings, PostgresStore, holds, open_postgres, upkeep
from vectoll.adapters.storage.postgres.database import Database, Row
from vectoll.adapters.storage.postgres.ledger import PostgresLedger
from vectoll.adapters.storage.postgres.reachability import Reachability
from vectoll.domain.errors import (
    ConfigurationError,
    Draining,
    InsufficientBalance,
    InvalidRequest,
    OutcomeUnknown,
    Unavailable,
)
from vectoll.domain.ids import TransferId
from vectoll.domain.ledger import Balance, Hold, TransferCode
from vectoll.domain.money import ZERO, Amount, usd
from vectoll.ports.ledger import UsageQuery

QUICK = PoolSettings(connections=4, timeout_s=0.5)
FUNDS = Amount(100 * TOKEN)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own: it is stopped and started."""
    with run_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def url(server: PostgresServer) -> str:
    url = server.new_database()
    run_apart(make_schema(url))
    return url


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = await open_postgres(await emptied(url), None, QUICK)
    await store.ledger.post(make_credit(FUNDS))
    yield store
    await store.close()


@pytest.fixture
async def proxy(server: PostgresServer) -> AsyncIterator[CuttableProxy]:
    async with open_proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def far(url: str, proxy: CuttableProxy, tmp_path: Path) -> AsyncIterator[PostgresStore]:
    """A store whose way to the database can be cut."""
    parts = urlsplit(await emptied(url))
    store = await open_postgres(
        parts._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl(),
        None,
        QUICK,
        tmp_path / "undecided",
    )
    await store.ledger.post(make_credit(FUNDS + TOKEN))
    await store.ledger.charge(make_hold(1), 1, 0)  # the statement is known from here on
    yield store
    await store.close()


async def held(store: PostgresStore, count: int = 1, **options: bytes) -> list[Hold]:
    found = [make_hold(1, **options) for _ in range(count)]  # type: ignore[arg-type]
    for hold in found:
        assert await store.ledger.hold(hold) is None
    return found


async def test_a_stopped_server_charges_nobody_answers_everybody_and_passes(
    store: PostgresStore, server: PostgresServer
) -> None:
    taken = await held(store, 8)
    await asyncio.to_thread(server.stop, signal.SIGQUIT)
    try:
        calls = [store.ledger.charge(hold, 1, 0) for hold in taken]
        calls += [store.ledger.hold(make_hold(1)), store.ledger.balance(ALICE), store.keys.add(make_key())]  # type: ignore[list-item]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 11
        for hold in taken:
            await store.ledger.release(hold)
    finally:
        await asyncio.to_thread(server.start)
    assert (await store.ledger.balance(ALICE)).balance == FUNDS
    for hold in taken:
        assert await store.ledger.hold(hold) is None
        await store.ledger.charge(hold, 1, 0)
    assert (await store.ledger.balance(ALICE)).balance == FUNDS - 8 * TOKEN
    assert (await store.ledger.verify()).is_clean


def is_lost(store: PostgresStore) -> bool:
    return store.database.reachability.is_lost


async def test_a_lost_database_is_told_once_and_once_that_it_is_back(
    store: PostgresStore, server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vectoll.storage")
    await asyncio.to_thread(server.stop, signal.SIGQUIT)
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await store.ledger.balance(ALICE)
        assert is_lost(store)
    finally:
        await asyncio.to_thread(server.start)
    for _ in range(3):
        await store.ledger.balance(ALICE)
    assert not is_lost(store)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("ERROR", "database_lost"), ("INFO", "database_back")]
    assert server.url() not in str([vars(record) for record in caplog.records])


async def test_an_idle_gateway_sees_that_its_database_is_lost(
    url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vectoll.storage")
    monkeypatch.setattr(upkeep, "EVERY_S", 0.05)
    store = await open_postgres(url, None, QUICK)
    await asyncio.to_thread(server.stop, signal.SIGQUIT)
    try:
        async with asyncio.timeout(10):
            while not is_lost(store):  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # some more rounds, which say nothing
    finally:
        await asyncio.to_thread(server.start)
    async with asyncio.timeout(10):
        while is_lost(store):  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.05)
    await store.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


async def test_a_busy_database_is_not_lost() -> None:
    patient, late = Reachability(60), Reachability(0)
    for each in (patient, late):
        each.failed(TimeoutError(), "no answer in time")
    assert (patient.is_lost, late.is_lost) == (False, True)


async def test_a_charge_outlives_a_short_restart(url: str, server: PostgresServer) -> None:
    store = await open_postgres(await emptied(url), None, PoolSettings(timeout_s=20))
    await store.ledger.post(make_credit(FUNDS))
    [hold] = await held(store)
    await asyncio.to_thread(server.stop, signal.SIGQUIT)
    charging = asyncio.create_task(store.ledger.charge(hold, 1, 0))
    await asyncio.sleep(0)
    await asyncio.to_thread(server.start)
    charge = await charging
    assert await store.ledger.transfer(hold.id) == charge
    assert (await store.ledger.balance(ALICE)).balance == FUNDS - TOKEN
    await store.close()


async def test_a_charge_whose_answer_was_lost_is_made_once(far: PostgresStore, proxy: CuttableProxy) -> None:
    [hold] = await held(far)
    proxy.mute()
    charging = asyncio.create_task(far.ledger.charge(hold, 1, 0))
    await proxy.has_swallowed.wait()
    await proxy.reset()
    charge = await charging
    assert charge.amount == TOKEN
    assert len(await far.ledger.usage(UsageQuery(ALICE, code=TransferCode.CHARGE))) == 2
    assert await far.ledger.balance(ALICE) == Balance(Amount(FUNDS - TOKEN), ZERO)


async def lose(store: PostgresStore, proxy: CuttableProxy, hold: Hold, tokens: int = 1) -> None:
    """The database makes the charge, and nobody hears of it until it was given up."""
    proxy.mute()
    charging = asyncio.create_task(store.ledger.charge(hold, tokens, 0))
    await proxy.has_swallowed.wait()
    await proxy.cut()
    with pytest.raises(Unavailable):
        await charging
    await proxy.open()


async def test_a_charge_that_was_given_up_and_made_is_given_back(
    far: PostgresStore, proxy: CuttableProxy
) -> None:
    [hold] = await held(far)
    await lose(far, proxy, hold)
    assert (await far.ledger.balance(ALICE)).balance == FUNDS - TOKEN
    await far.ledger.undo_undelivered()
    await far.ledger.undo_undelivered()
    assert (await far.ledger.balance(ALICE)).balance == FUNDS
    refund = await far.ledger.transfer(TransferId(f"undelivered_{hold.id}"))
    assert refund is not None
    assert (refund.code, refund.amount) == (TransferCode.REFUND, TOKEN)
    assert (await far.ledger.verify()).is_clean


async def test_what_an_allowance_had_paid_goes_back_to_its_day(
    far: PostgresStore, proxy: CuttableProxy
) -> None:
    await far.allowances.grant(ALICE, Amount(2 * TOKEN))
    hold = make_hold(5)
    await far.ledger.hold(hold)
    await lose(far, proxy, hold, 5)
    assert await far.ledger.balance(ALICE) == Balance(
        Amount(FUNDS - 3 * TOKEN), ZERO, ZERO, Amount(2 * TOKEN)
    )
    await far.ledger.undo_undelivered()
    assert await far.ledger.balance(ALICE) == Balance(FUNDS, ZERO, Amount(2 * TOKEN), Amount(2 * TOKEN))
    assert (await far.ledger.verify()).is_clean
    await far.ledger.charge(make_hold(2), 2, 0)
    assert (await far.ledger.balance(ALICE)).balance == FUNDS
    assert (await far.ledger.verify()).is_clean


async def test_a_charge_that_was_given_up_outlives_the_process_that_gave_it_up(
    far: PostgresStore, proxy: CuttableProxy, url: str, tmp_path: Path
) -> None:
    [hold] = await held(far)
    await lose(far, proxy, hold)
    written = [file.read_text() for file in (tmp_path / "undecided").iterdir()]
    next_one = await open_postgres(url, None, QUICK, tmp_path / "undecided")
    await next_one.close()
    assert await next_balance(url) == FUNDS
    assert not list((tmp_path / "undecided").iterdir())
    assert [hold.id in text for text in written] == [True]


async def test_a_charge_whose_answer_was_lost_twice_is_given_back(
    far: PostgresStore, proxy: CuttableProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt finds the charge of the first, and cannot read it."""
    [hold] = await held(far)
    fetch = Database.fetch

    async def fetch_no_transfers(database: Database, name: str, *parameters: object) -> Sequence[Row]:
        if name == "transfers":
            raise Unavailable("The database cannot be reached right now. Please try again.")
        return await fetch(database, name, *parameters)

    monkeypatch.setattr(Database, "fetch", fetch_no_transfers)
    proxy.mute()
    charging = asyncio.create_task(far.ledger.charge(hold, 1, 0))
    await proxy.has_swallowed.wait()
    await proxy.reset()
    with pytest.raises(Unavailable):
        await charging
    monkeypatch.undo()
    assert (await far.ledger.balance(ALICE)).balance == FUNDS - TOKEN
    await far.ledger.undo_undelivered()
    assert (await far.ledger.balance(ALICE)).balance == FUNDS


async def test_a_charge_that_cannot_be_written_down_is_given_back_all_the_same(
    far: PostgresStore, proxy: CuttableProxy, tmp_path: Path
) -> None:
    (tmp_path / "undecided").write_text("in the way")
    [hold] = await held(far)
    await lose(far, proxy, hold)
    await far.ledger.undo_undelivered()
    assert (await far.ledger.balance(ALICE)).balance == FUNDS


async def test_what_is_no_list_of_charges_is_left_and_stops_nobody(
    far: PostgresStore, proxy: CuttableProxy, tmp_path: Path
) -> None:
    (tmp_path / "undecided").mkdir()
    (tmp_path / "undecided" / "group_0.json").write_text("[{")
    [hold] = await held(far)
    await lose(far, proxy, hold)
    await far.ledger.undo_undelivered()
    assert (await far.ledger.balance(ALICE)).balance == FUNDS
    assert [file.name for file in (tmp_path / "undecided").iterdir()] == ["group_0.json"]


async def next_balance(url: str) -> int:
    [[balance]] = await execute(url, "SELECT balance FROM vectoll.accounts WHERE id = 'alice'")
    return int(balance)


async def test_a_charge_with_an_idempotency_key_is_kept_for_its_retry(
    far: PostgresStore, proxy: CuttableProxy
) -> None:
    hold = make_hold(1, charge_id="idem_1", fingerprint=b"f" * 32)
    await far.ledger.hold(hold)
    await lose(far, proxy, hold)
    await far.ledger.undo_undelivered()
    again = replace(hold, request_id=type(hold.request_id)("req_again"))
    charge = await far.ledger.hold(again)
    assert charge is not None
    assert charge.amount == TOKEN
    assert (await far.ledger.balance(ALICE)).balance == FUNDS - TOKEN


async def test_a_charge_that_was_given_up_and_not_made_cannot_be_made_later(
    far: PostgresStore, proxy: CuttableProxy
) -> None:
    [hold] = await held(far)
    far._charges._undecided.add([hold])
    await far.ledger.undo_undelivered()
    late = await far.ledger.charge(hold, 1, 0)
    assert late.amount == 0
    assert await far.ledger.balance(ALICE) == Balance(FUNDS, ZERO)


async def test_holds_that_could_not_be_given_back_are_when_the_database_is_back(
    far: PostgresStore, proxy: CuttableProxy
) -> None:
    released, charged = await held(far, 2)
    lost = make_hold(1)
    proxy.mute()
    holding = asyncio.create_task(far.ledger.hold(lost))
    await proxy.has_swallowed.wait()
    await proxy.cut()
    with pytest.raises(Unavailable):
        await holding
    await far.ledger.release(released)
    with pytest.raises(Unavailable):
        await far.ledger.charge(charged, 1, 0)
    await proxy.open()
    assert (await far.ledger.balance(ALICE)).held == 3 * TOKEN
    await far._holds.renew()
    assert await far.ledger.balance(ALICE) == Balance(FUNDS, ZERO)


async def test_after_an_outage_holds_are_renewed_before_lost_ones_are_deleted_and_these_together(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "RENEW_S", -1)
    [hold] = await held(store)
    store._holds._orphans.extend(holds.key_of(make_hold(1)) for _ in range(1200))
    fetch, asked, is_away = Database.fetch, [], True

    async def fetch_slowly(database: Database, name: str, *parameters: list[str]) -> Sequence[Row]:
        asked.append((name, len(parameters[0])))
        if is_away and asked[-1] == ("release_holds", 200):
            raise Unavailable("The database cannot be reached right now. Please try again.")
        return await fetch(database, name, *parameters)

    monkeypatch.setattr(Database, "fetch", fetch_slowly)
    with pytest.raises(Unavailable):
        await store._holds.renew()
    assert asked == [("renew_holds", 1), *[("release_holds", n) for n in (500, 500, 200)]]
    assert len(store._holds._orphans) == 200
    is_away = False
    await store._holds.renew()
    assert not store._holds._orphans
    monkeypatch.undo()
    await store.ledger.release(hold)


async def test_payments_whose_answer_was_lost_advance_once(far: PostgresStore, proxy: CuttableProxy) -> None:
    from tests.contract.storage.test_payments_and_nonces import intent

    await far.payments.insert(intent("other"))
    await far.payments.advance(intent("other"), intent("other"))  # the statement is known from here on
    first = intent()
    await far.payments.insert(first)
    proxy.mute()
    advancing = asyncio.create_task(far.payments.advance(first, replace(first, reason="new")))
    await proxy.has_swallowed.wait()
    await proxy.reset()
    advanced = await advancing
    assert advanced is not None
    assert (advanced.version, await far.payments.get(first.id)) == (1, advanced)


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_payment_of_which_nobody_knows_whether_it_is_written_is_not_taken_for_written(
    store: PostgresStore, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.contract.storage.test_payments_and_nonces import intent

    database = store.payments._database
    fetch, asked = database.fetch, []

    async def lose_the_answer(name: str, *values: object, is_repeatable: bool = True) -> Sequence[Row]:
        asked.append(name)
        if is_repeatable or is_written:
            rows = await fetch(name, *values, is_repeatable=is_repeatable)
        if not is_repeatable:
            raise OutcomeUnknown("")
        return rows

    monkeypatch.setattr(database, "fetch", lose_the_answer)
    if is_written:
        assert await store.payments.insert(intent()) is None
    else:
        with pytest.raises(Unavailable):
            await store.payments.insert(intent())
    assert asked == ["insert_payment", "payment"]


async def test_a_lock_that_is_not_given_back_is_unavailable_not_a_hang(
    store: PostgresStore, url: str
) -> None:
    [hold] = await held(store)
    intruder = await asyncpg.connect(url)
    await intruder.execute("BEGIN; SELECT 1 FROM vectoll.accounts FOR UPDATE")
    async with asyncio.timeout(5):
        for call in (
            store.ledger.charge(hold, 1, 0),
            store.ledger.hold(make_hold(1)),
            store.ledger.post(make_credit(1)),
        ):
            with pytest.raises(Unavailable):
                await call
    await intruder.close()
    await store.ledger.undo_undelivered()
    assert (await store.ledger.balance(ALICE)).balance == FUNDS
    await store.ledger.post(make_credit(1))


async def test_a_database_that_became_a_standby_is_unavailable(url: str, server: PostgresServer) -> None:
    store = await open_postgres(await emptied(url), None, QUICK)
    name = urlsplit(url).path[1:]
    await execute(server.url(), f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await store.database._pool.expire_connections()
    try:
        with pytest.raises(Unavailable):
            await store.ledger.post(make_credit(1))
        assert await store.ledger.balance(ALICE) == Balance(ZERO, ZERO)
    finally:
        await execute(server.url(), f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await store.database._pool.expire_connections()
    await store.ledger.post(make_credit(1))
    await store.close()


async def test_what_the_database_isolates_transactions_by_does_not_matter(
    url: str, server: PostgresServer
) -> None:
    """A hold must see those that were committed while it waited for its account's lock."""
    name = urlsplit(url).path[1:]
    await execute(
        server.url(), f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    try:
        stores = [await open_postgres(await emptied(url), None, QUICK) for _ in range(2)]
        await stores[0].ledger.post(make_credit(TOKEN))
        intruder = await asyncpg.connect(url)
        await intruder.execute("BEGIN; SELECT 1 FROM vectoll.accounts FOR UPDATE")
        holding = [asyncio.create_task(store.ledger.hold(make_hold(1))) for store in stores]
        async with asyncio.timeout(5):
            while len(await execute(url, WAITING)) < 2:  # noqa: ASYNC110 - a lock that is waited for has no event
                await asyncio.sleep(0.01)
        await intruder.execute("COMMIT")
        outcomes = await asyncio.gather(*holding, return_exceptions=True)
    finally:
        await execute(server.url(), f"ALTER DATABASE {name} RESET default_transaction_isolation")
    await intruder.close()
    assert {type(outcome) for outcome in outcomes} == {type(None), InsufficientBalance}
    for store in stores:
        await store.close()


WAITING = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'vectoll' AND wait_event_type = 'Lock'
"""


async def test_connections_are_bounded(server: PostgresServer) -> None:
    url = server.new_database()
    await make_schema(url)
    store = await open_postgres(url, None, QUICK)
    await asyncio.gather(*(store.ledger.balance(ALICE) for _ in range(200)))
    others = "datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'vectoll'"
    [[connections]] = await execute(url, f"SELECT count(*) FROM pg_stat_activity WHERE {others}")
    assert connections == QUICK.connections
    await store.close()


async def test_holds_of_two_gateways_count_together(store: PostgresStore, url: str) -> None:
    other = await open_postgres(url, None, QUICK)
    await store.ledger.hold(make_hold(60))
    with pytest.raises(InsufficientBalance):
        await other.ledger.hold(make_hold(41))
    theirs = make_hold(40)
    await other.ledger.hold(theirs)
    assert (await store.ledger.balance(ALICE)).held == FUNDS
    await store.ledger.release(theirs)  # not ours to release
    assert (await store.ledger.balance(ALICE)).held == FUNDS
    await other.close()


async def test_a_hold_waits_for_one_that_another_gateway_is_taking(store: PostgresStore, url: str) -> None:
    other = await asyncpg.connect(url)
    transaction = other.transaction()
    await transaction.start()
    take = "SELECT vectoll.take_holds($1, $1, '{alice}', $2, '{x}', '{null}', '{null}', '{null}', '{null}', 'd', 60)"
    await other.fetch(take, ["chg_theirs"], [60 * TOKEN])
    holding = asyncio.create_task(store.ledger.hold(make_hold(60)))
    async with asyncio.timeout(5):
        while not await other.fetch(WAITING):  # noqa: ASYNC110 - a lock that is waited for has no event
            await asyncio.sleep(0.005)
    await transaction.commit()
    with pytest.raises(InsufficientBalance):
        await holding
    await other.close()


WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted"


async def test_a_hold_lapses_unless_it_is_renewed(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "HOLD_S", 0.2)
    monkeypatch.setattr(holds, "RENEW_S", 0.0)
    renewed = make_hold(1)
    await store.ledger.hold(renewed)
    monkeypatch.setattr(holds, "HOLD_S", 60.0)
    await store._holds.renew()
    monkeypatch.setattr(holds, "HOLD_S", 0.2)
    await store.ledger.hold(make_hold(2))
    async with asyncio.timeout(5):
        while (await store.ledger.balance(ALICE)).held != TOKEN:  # noqa: ASYNC110 - the database's clock has no event
            await asyncio.sleep(0.02)
    assert await store.ledger.hold(make_hold(99)) is None  # what lapsed is free before it is swept
    await store.database.fetch("sweep_holds")
    assert (await store.ledger.balance(ALICE)).held == FUNDS


async def test_a_hold_that_a_clock_set_back_would_keep_for_an_hour_lapses(
    store: PostgresStore, url: str
) -> None:
    await store.ledger.hold(make_hold(2))
    await execute(url, "UPDATE vectoll.holds SET expires_at = expires_at + interval '1 hour'")
    await store.ledger.hold(make_hold(1))
    await store.database.fetch("sweep_holds")
    assert (await store.ledger.balance(ALICE)).held == TOKEN


async def test_a_defect_in_one_round_of_upkeep_does_not_end_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, sweeps = asyncio.Event(), asyncio.Event()

    async def fail(rows: holds.HoldRows) -> None:
        raise RuntimeError("a defect")

    async def undo(ledger: PostgresLedger) -> None:
        goes_on.set()

    async def fetch(database: Database, name: str) -> None:
        if name == "sweep_limits":
            sweeps.set()

    monkeypatch.setattr(upkeep, "EVERY_S", 0.01)
    monkeypatch.setattr(upkeep, "SWEEP_EVERY", 2)
    monkeypatch.setattr(holds.HoldRows, "renew", fail)
    monkeypatch.setattr(PostgresLedger, "undo_undelivered", undo)
    store = await open_postgres(await emptied(url), None, QUICK)
    monkeypatch.setattr(Database, "fetch", fetch)
    async with asyncio.timeout(5):
        await goes_on.wait()
        await sweeps.wait()
    await store.close()
    assert store.database.is_closed


async def test_everything_is_closed_though_something_cannot_be(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_postgres(await emptied(url), None, QUICK)

    async def fail() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(store.limiter, "close", fail)
    with pytest.raises(RuntimeError):
        await store.close()
    assert store.database.is_closed


async def test_after_close_everything_is_draining(url: str) -> None:
    store = await open_postgres(url, None, QUICK)
    await store.close()
    await store.close()
    hold = make_hold(1)
    for call in (
        store.ledger.hold(hold),
        store.ledger.charge(hold, 1, 0),
        store.ledger.post(make_credit("1")),
        store.ledger.balance(ALICE),
        store.ledger.verify(),
        store.keys.list(),
    ):
        with pytest.raises(Draining):
            await call


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("postgresql://me:hush@127.0.0.1:1/x", "connection refused"),
        ("postgresql://me:hush@nowhere.invalid/x", "database.url"),
        ("mysql://me:hush@127.0.0.1/x", "not a URL such as"),
        ("postgresql://me:hush@127.0.0.1:port/x", "not a URL such as"),
        ("{server}/nothing", "does not exist"),
        ("postgresql://me:hush@nowhere.invalid/x", r"\(nowhere\.invalid\)"),
        ("postgresql://me:hush@127.0.0.1:1,127.0.0.1:2/x", r"\(127\.0\.0\.1:1,127\.0\.0\.1:2\)"),
        ("postgresql://me:p@hush@127.0.0.1/x", "@ is %40"),
        ("postgresql://me:p@hush/p@127.0.0.1/x", "@ is %40"),
        ("postgresql://me:hush/p@127.0.0.1/x", "@ is %40"),
        ("postgresql://me:hush?p@127.0.0.1/x", "@ is %40"),
    ],
)
async def test_what_cannot_be_connected_to_is_one_line_without_a_secret(
    server: PostgresServer, address: str, why: str
) -> None:
    address = address.replace("{server}", f"postgresql://postgres:hush@127.0.0.1:{server.port}")
    with pytest.raises(ConfigurationError, match=why) as refused:
        await open_postgres(address, None, QUICK)
    assert "hush" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_text_that_the_database_cannot_hold_is_a_bad_request(store: PostgresStore) -> None:
    with pytest.raises(InvalidRequest):
        await store.keys.add(replace(make_key(), name="a\x00b"))


async def tampered(store: PostgresStore, url: str, *statements: str) -> dict[str, tuple[str, str]]:
    """What verify finds, afterwards."""
    await execute(url, "SET session_replication_role = replica", *statements)
    return {d.subject: (d.expected, d.found) for d in (await store.ledger.verify()).disagreements}


async def test_a_customer_s_many_reads_leave_connections_to_everybody_s_charges(
    store: PostgresStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = await open_postgres(url, None, PoolSettings(connections=4, timeout_s=10))
    locker = await asyncpg.connect(url)
    await locker.execute("SELECT pg_advisory_lock(7)")
    fetch, stuck = Database.fetch, asyncio.Semaphore(0)

    async def fetch_slowly(self: Database, name: str, *parameters: Any) -> Sequence[Row]:
        if name in ("charges", "newest_transfers"):
            stuck.release()
            await self.run(lambda db: db.execute("SELECT pg_advisory_xact_lock_shared(7)"), True)
        return await fetch(self, name, *parameters)

    monkeypatch.setattr(Database, "fetch", fetch_slowly)
    reads = [
        asyncio.create_task(read)
        for _ in range(10)
        for read in (patient.ledger.charges(UsageQuery(BOB)), patient.history.page(BOB, 1, 0))
    ]
    for _ in range(2):
        await stuck.acquire()
    hold = make_hold(1)
    async with asyncio.timeout(5):
        await patient.ledger.hold(hold)
        await patient.ledger.charge(hold, 1, 1)
    await locker.close()
    await asyncio.gather(*reads)
    await patient.close()


async def test_verify_finds_a_balance_that_was_changed(store: PostgresStore, url: str) -> None:
    found = await tampered(store, url, "UPDATE vectoll.accounts SET balance = balance + 5 WHERE id = 'alice'")
    assert found == {f"balance of {ALICE}": (str(FUNDS), str(FUNDS + 5)), "sum of all balances": ("0", "5")}


async def test_verify_finds_transfers_that_were_changed_or_deleted(store: PostgresStore, url: str) -> None:
    for n in range(4):
        await store.ledger.post(make_credit(n, BOB))
    found = await tampered(
        store,
        url,
        "UPDATE vectoll.transfers SET amount = 7 WHERE seq = 2",
        "DELETE FROM vectoll.transfers WHERE seq IN (3, 5)",
        "UPDATE vectoll.key_spend SET spent = 1",
    )
    assert {"balance of bob", "transfers after seq 2", "head of the ledger"} <= found.keys()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vectoll.transfers SET amount = 1",
        "DELETE FROM vectoll.transfers",
        "TRUNCATE vectoll.transfers",
        "UPDATE vectoll.accounts SET balance = -1 WHERE id = 'alice'",
    ],
)
async def test_the_database_itself_keeps_the_books(store: PostgresStore, url: str, statement: str) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await execute(url, statement)


async def test_kill_9_of_a_gateway_loses_no_acknowledged_charge_and_its_holds_lapse(
    store: PostgresStore, url: str
) -> None:
    await store.ledger.post(make_credit("1"))
    acknowledged: set[str] = set()
    for lines in (20, 60, 100):
        child = await asyncio.to_thread(start, "charge", "-", url)
        acknowledged |= set(await asyncio.to_thread(kill_after_lines, child, lines))
        async with asyncio.timeout(5):
            while await execute(url, BUSY):  # noqa: ASYNC110 - a server that notices has no event
                await asyncio.sleep(0.01)
        for charge_id in acknowledged:
            assert await store.ledger.transfer(TransferId(charge_id)) is not None
    assert len(acknowledged) > 100  # some ids are repeated
    await execute(url, "UPDATE vectoll.holds SET expires_at = now()")  # a minute later
    balance = await store.ledger.balance(ALICE)
    verification = await store.ledger.verify()
    assert verification.disagreements == ()
    assert balance == Balance(Amount(FUNDS + usd(1) - (verification.transfers - 2) * TOKEN), ZERO)


BUSY = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'vectoll' AND state <> 'idle'
"""


def test_a_gateway_answers_503_while_the_database_is_away_and_goes_on_by_itself(
    server: PostgresServer, tmp_path: Path
) -> None:
    vectoll = Vectoll(tmp_path, database__url=server.new_database(), database__timeout_s=0.5)
    vectoll.run("db", "migrate")
    key = vectoll.create_key()
    body = {"model": MODEL, "input": "one text"}
    with vectoll.serve() as gateway, gateway.client(key) as client:
        assert client.post("/api/v1/embeddings", json=body).status_code == 200
        server.stop(signal.SIGQUIT)
        try:
            away = client.post("/api/v1/embeddings", json=body)
            also_away = client.post("/v1/embeddings", json=body)
            not_ready = client.get("/ready")
        finally:
            server.start()
        back = client.post("/api/v1/embeddings", json=body)
        assert (away.status_code, away.json()["code"]) == (503, "UNAVAILABLE")
        assert away.headers["retry-after"] == "1"
        assert (also_away.status_code, also_away.json()["error"]["type"]) == (503, "server_error")
        assert back.status_code == 200
        assert (not_ready.status_code, not_ready.json()["reason"]) == (503, "the database cannot be reached")
        assert client.get("/ready").status_code == 200
        assert len(gateway.charges(key)) == 2
    vectoll.verify()
