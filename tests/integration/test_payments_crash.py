"""kill -9 between settling and crediting: the next start finds the money."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account import Account
from tests.chains.anvil import USDC, Anvil, authorize, run_anvil
from tests.integration.payments import base_option, header
from tests.live import Vectoll

from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.core.payment_header import parse_payment_header, render_payment
from vectoll.domain.payments import Intent, IntentState

GAS = Account.from_key(bytes([9]) * 32)
PAY_TO = "0x" + "5e" * 20
TEN = 10_000_000


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with run_anvil() as chain:
        chain.rpc("anvil_setBalance", GAS.address, hex(10**18))
        yield chain


@pytest.fixture
def vectoll(chain: Anvil, tmp_path: Path) -> Vectoll:
    return open_vectoll(chain, tmp_path, reconcile_interval_s=0.2)


def open_vectoll(chain: Anvil, home: Path, reconcile_interval_s: float) -> Vectoll:
    return Vectoll(
        home,
        public_url="http://127.0.0.1:1",
        x402__enabled=True,
        x402__settle_timeout_s=30,
        x402__reconcile_interval_s=reconcile_interval_s,
        x402__base__rpc_url=chain.url,
        x402__base__pay_to=PAY_TO,
        x402__base__settlement_key=GAS.key.hex(),
    )


async def left_behind(vectoll: Vectoll, payment: str) -> None:
    """A payment that was verified an hour ago by a process that then died."""
    option = base_option(USDC, PAY_TO)
    parsed = parse_payment_header(payment, [option])
    then = datetime.now(UTC) - timedelta(hours=1)
    intent = Intent(
        id=parsed.id,
        network=option.network,
        payer=parsed.payer.text,
        base_units=TEN,
        payload=render_payment(parsed),
        state=IntentState.VERIFIED,
        created_at=then,
        updated_at=then,
    )
    store = await open_sqlite(vectoll.data_dir)
    assert await store.payments.insert(intent) is None
    await store.close()


def payments(vectoll: Vectoll) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = vectoll.json("payments", "list")
    return found


async def until(vectoll: Vectoll, state: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not (found := payments(vectoll)) or found[0]["state"] != state:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.1)
    return found[0]


async def until_sent(chain: Anvil) -> None:
    async with asyncio.timeout(20):
        while not chain.rpc("txpool_content")["pending"]:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.02)


async def killed_while_settling(vectoll: Vectoll, chain: Anvil, payment: str) -> dict[str, Any]:
    """No block is made; the server is killed while it waits for one."""
    chain.set_automine(False)
    with vectoll.serve() as server, ThreadPoolExecutor(1) as threads:
        request = threads.submit(
            lambda: httpx.post(
                f"{server.url}/api/v1/x402/top-up", headers={"payment-signature": payment}, timeout=30
            )
        )
        submitted = await until(vectoll, "submitting")
        await until_sent(chain)
        server.kill()
        assert isinstance(request.exception(), httpx.TransportError)
    return submitted


@pytest.mark.parametrize("is_dropped", [False, True], ids=["it was sent", "it never left"])
async def test_a_payment_that_was_being_settled_at_the_crash_is_credited_after_it(
    vectoll: Vectoll, chain: Anvil, is_dropped: bool
) -> None:
    payer = Account.create()
    chain.fund(payer.address, TEN)
    before = chain.usdc(PAY_TO)
    payment = header(authorize(payer, PAY_TO, TEN))
    submitted = await killed_while_settling(vectoll, chain, payment)
    if is_dropped:
        chain.rpc("anvil_dropTransaction", submitted["transaction"])
    chain.set_automine(True)
    if not is_dropped:
        chain.mine()
    with vectoll.serve() as server:
        credited = await until(vectoll, "credited")
        with server.client() as client:
            again = client.post("/api/v1/x402/top-up", headers={"payment-signature": payment})
    assert credited["transaction"] == submitted["transaction"]
    assert chain.usdc(PAY_TO) - before == TEN
    assert (again.status_code, again.json()["data"]["amountCredited"]) == (200, 10)
    assert len(payments(vectoll)) == 1
    vectoll.verify()


async def test_reconcile_sends_nothing_beside_a_server_that_sends_with_the_same_key(
    chain: Anvil, tmp_path: Path
) -> None:
    vectoll = open_vectoll(chain, tmp_path, reconcile_interval_s=3600)
    payer = Account.create()
    chain.fund(payer.address, TEN)
    sent = chain.transactions_of(GAS.address)
    with vectoll.serve():
        await left_behind(vectoll, header(authorize(payer, PAY_TO, TEN)))
        assert vectoll.json("payments", "reconcile") == []
        assert chain.transactions_of(GAS.address) == sent
    assert [each["state"] for each in vectoll.json("payments", "reconcile")] == ["submitting"]
    assert [each["state"] for each in vectoll.json("payments", "reconcile")] == ["credited"]
    assert chain.transactions_of(GAS.address) == sent + 1
    vectoll.verify()
