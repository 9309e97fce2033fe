"""kill -9 between settling and crediting: the next start finds the money."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account import Account
from tests.chains.anvil import Anvil, authorize, run_anvil
from tests.integration.payments import header
from tests.live import Vectoll

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
    return Vectoll(
        tmp_path,
        public_url="http://127.0.0.1:1",
        x402__enabled=True,
        x402__settle_timeout_s=30,
        x402__reconcile_interval_s=0.2,
        x402__base__rpc_url=chain.url,
        x402__base__pay_to=PAY_TO,
        x402__base__settlement_key=GAS.key.hex(),
    )


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
    assert (again.status_code, again.json()["data"]["newBalance"]) == (200, 10)
    assert len(payments(vectoll)) == 1
    vectoll.verify()
