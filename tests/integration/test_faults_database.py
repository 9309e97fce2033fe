"""What the failure suite found out about PostgreSQL's connections, one test for each find."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from tests.cuttable import CuttableProxy, open_proxy
from tests.ledger import TOKEN, make_credit, make_hold
from tests.postgres import PostgresServer, make_schema

from vectoll.adapters.storage.postgres import PoolSettings, PostgresStore, open_postgres
from vectoll.domain.money import Amount


def message(kind: bytes, *fields: bytes) -> bytes:
    """An error or a notice, as PostgreSQL's protocol has them."""
    body = b"".join(field + b"\0" for field in fields) + b"\0"
    return kind + (len(body) + 4).to_bytes(4) + body


NOTICE = message(b"N", b"SNOTICE", b"VNOTICE", b"C00000", b"Mhear, hear")
TERMINATED = message(b"E", b"SFATAL", b"VFATAL", b"C57P01", b"Mterminating connection")


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[CuttableProxy]:
    async with open_proxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
async def store(postgres: PostgresServer, proxy: CuttableProxy) -> AsyncIterator[PostgresStore]:
    url = await asyncio.to_thread(postgres.new_database)
    await make_schema(url)
    far = urlsplit(url)._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl()
    store = await open_postgres(far, None, PoolSettings(connections=2, timeout_s=2))
    await store.ledger.post(make_credit(Amount(100 * TOKEN)))
    yield store
    await store.close()


async def test_a_connection_that_was_terminated_while_idle_is_replaced(
    store: PostgresStore, proxy: CuttableProxy
) -> None:
    """Between the server's last words and the end of the connection asyncpg raises what is no InterfaceError."""
    has_heard = asyncio.Event()
    [connection] = [holder._con for holder in store.database._pool._holders if holder._con is not None]
    connection.add_log_listener(on_notice := lambda *_: has_heard.set())
    proxy.say(NOTICE + TERMINATED)
    await has_heard.wait()
    connection.remove_log_listener(on_notice)
    hold = make_hold(1)
    assert await store.ledger.hold(hold) is None
    charge = await store.ledger.charge(hold, 1, 0)
    assert charge.amount == TOKEN
